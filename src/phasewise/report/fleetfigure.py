"""A fleet's run as a picture: what each replica did, what its memory held, who waited for what, and what the links carried.

All panels share one axis of time; each pixel across is a mean over its slot (`slots`). Matplotlib is imported when the first
picture is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phasewise.core.spec import MIXED
from phasewise.core.spec import PREFILL as PREFILL_ROLE
from phasewise.record.runlog import RunLog
from phasewise.record.states import ABSENT, BOOTING, DRAINING
from phasewise.report.figures import DECODE, DPI, GREY, PREFILL, WAITING, Window, figure_class, style
from phasewise.report.rows import number, workload_text
from phasewise.report.slots import Fleet, Floats, Memory, fleet_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, as everywhere; what the panels share has one colour in all of them.
BOTH, HANDED, MOVING, SEATED, GONE, IDLE = "#0072B2", "#CC79A7", "#009E73", "#B8A800", "#333333", "#F2F2F2"
WORK = (("prefill", PREFILL), ("both in one step", BOTH), ("decode", DECODE))
QUEUES = (WAITING, HANDED, SEATED, GONE)
SENDERS = (MOVING, "#56B4E9", "#0072B2", "#E69F00", "#CC79A7", "#D55E00")
AWAY: dict[str, dict[str, Any]] = {
    ABSENT: {"facecolor": GONE, "linewidth": 0},
    BOOTING: {"facecolor": "white", "edgecolor": GREY, "hatch": "////", "linewidth": 0},
    DRAINING: {"facecolor": "none", "edgecolor": GONE, "hatch": "...", "linewidth": 0},
}
LEGEND = ("decode", "both in one step", "prefill", "idle", DRAINING, BOOTING, ABSENT)
TALL = 0.84
MOST_ROWS = 40
"""Replicas that get a row each; of more, each role gets one for all of them."""


def fleet_timeline(log: RunLog, window: Window | None = None, sends: Sequence[float] = (), name: str = "") -> Figure:
    """What all replicas did over a run, or over a window of it in seconds since the first arrival.

    `sends` is what each replica can send at most, bytes/s, where that is to be shown; `name` what the fleet is called among
    several. InputError for a window that the run does not have, or a run in which nothing happened.
    """
    series = fleet_series(log, window)
    rows = _rows(log, series)
    with style():
        tall = min(8.0, max(1.0, 0.3 * len(rows))) if len(rows[0][1]) == 1 else 0.65 * len(rows)
        panels = len(series.memory)
        heights = [tall, *[1.15] * panels, 1.35, *([1.35] if series.sent else [])]
        figure = figure_class()(figsize=(12, sum(heights) + 0.35 * len(heights) + 0.9), dpi=DPI, layout="constrained")
        every = list(figure.subplots(len(heights), 1, height_ratios=heights, sharex=True))
        scale, unit = _unit(float(series.edges_s[-1]))
        edges = series.edges_s / scale
        _work(every[0], log, series, rows, edges, scale)
        for axes, mine, memory in zip(every[1 : 1 + panels], series.groups, series.memory, strict=True):
            _memory(axes, log, mine, memory, edges)
        _waits(every[1 + panels], series, edges)
        if series.sent:
            _links(every[-1], series, edges, sends)
        for axes in every:
            axes.set_xlim(edges[0], edges[-1])
            _legend(axes)
        every[-1].set_xlabel(f"time since the first arrival, {unit}")
        figure.align_ylabels(every)
        figure.suptitle(_title(log, name), x=0.01, ha="left", fontsize=11.5)
    return figure


def _title(log: RunLog, name: str) -> str:
    resolved, scenario = log.header.resolved, log.header.scenario
    deployment = resolved.deployment
    batchers = dict.fromkeys(resolved.batcher(i).name for i in range(len(resolved.replicas)))
    fleet = " + ".join(
        f"{g.count} × {g.device}{f', tp {g.tp}' if g.tp > 1 else ''}{f' for {g.role}' if g.role != MIXED else ''}"
        for g in deployment.replicas
    )
    first = f"{' and '.join(batchers)} behind {deployment.router.name} · {resolved.model.name} on {fleet}"
    faults = f" · faults: {scenario.name}" if scenario is not None and scenario.name else ""
    called = f"{name}: " if name else ""
    return f"{called}{first}\n{workload_text(log.header)}{faults} · simulated times: {resolved.basis}"


def _unit(length_s: float) -> tuple[float, str]:
    return (1.0, "s") if length_s <= 600 else (60.0, "min") if length_s <= 36_000 else (3600.0, "h")


def _rows(log: RunLog, series: Fleet) -> list[tuple[str, list[int]]]:
    """What gets a row: each replica; of a large fleet, each role."""
    replicas = log.header.resolved.replicas
    order = sorted(range(len(replicas)), key=lambda i: (replicas[i].role != PREFILL_ROLE, replicas[i].group))
    if len(order) <= MOST_ROWS:
        return [(f"{replicas[i].role} {i}", [i]) for i in order]
    found: dict[str, list[int]] = {}
    for i in order:
        found.setdefault(replicas[i].role, []).append(i)
    return [(f"{len(mine)} × {role}", mine) for role, mine in found.items()]


def _steps(edges: Floats, values: Floats) -> tuple[Any, Any]:
    """A mean over each slot as the corners of a line."""
    return np.repeat(edges, 2)[1:-1], np.repeat(values, 2)


def _stack(axes: Axes, edges: Floats, parts: list[tuple[Floats, str, str]], base: float | None = None) -> None:
    """Values on top of one another, each filled in its colour: `(values, colour, label)`. With a `base`, shares of a row."""
    low, tall = (0.0, 1.0) if base is None else (base, TALL)
    under = np.zeros(len(edges) - 1)
    for values, shade, label in parts:
        if values.any():
            x, floor = _steps(edges, low + tall * under)
            axes.fill_between(
                x, floor, _steps(edges, low + tall * (under + values))[1], color=shade, linewidth=0, label=label
            )
        under = under + values


def _work(
    axes: Axes, log: RunLog, series: Fleet, rows: list[tuple[str, list[int]]], edges: Floats, scale: float
) -> None:
    """A row a replica: how much of each moment went to which phase, from the bottom up; and when it was not there."""
    for place, (_, mine) in enumerate(rows):
        y = len(rows) - 1 - place - TALL / 2
        axes.fill_between(edges[[0, -1]], y, y + TALL, color=IDLE, linewidth=0, label="idle")
        work = np.mean([series.work[i] for i in mine], axis=0)
        _stack(axes, edges, [(work[k], shade, name) for k, (name, shade) in enumerate(WORK)], y)
        if len(mine) == 1:
            for state, begin, end in series.away[mine[0]]:
                axes.broken_barh([(begin / scale, (end - begin) / scale)], (y, TALL), label=state, **AWAY[state])
        else:
            gone = np.mean([_absent(series, i) for i in mine], axis=0)
            x, share = _steps(edges, gone)
            if gone.any():
                axes.fill_between(x, y + TALL * (1 - share), y + TALL, label=ABSENT, **AWAY[ABSENT])
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)], fontsize=10 if len(rows) <= 16 else 7.5)
    axes.set_ylim(-0.55, len(rows) - 0.45)
    axes.grid(False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("replicas" if len(rows[0][1]) == 1 else "replicas,\nas shares")


def _absent(series: Fleet, replica: int) -> Floats:
    """The share of each slot in which a replica was not there."""
    begin, end = series.edges_s[:-1], series.edges_s[1:]
    gone = np.zeros(len(begin))
    for state, low, high in series.away[replica]:
        if state != DRAINING:
            gone += np.clip(np.minimum(end, high) - np.maximum(begin, low), 0, None) / (end - begin)
    return gone


def _memory(axes: Axes, log: RunLog, mine: list[int], memory: Memory, edges: Floats) -> None:
    """A group's KV memory: who holds how much of it, on average over its replicas, and what the fullest one holds."""
    spec = log.header.resolved.replicas[mine[0]]
    parts: list[tuple[Floats, str, str]] = [(memory.running, GREY, "running")]
    parts += [(memory.parked, HANDED, "parked after\nthe prompt"), (memory.arriving, MOVING, "arriving")]
    _stack(axes, edges, [(values * 100, shade, name) for values, shade, name in parts])
    if len(mine) > 1:
        axes.plot(*_steps(edges, memory.fullest * 100), color=GONE, linewidth=0.7, label="fullest replica")
    axes.set_ylim(0, max(0.1, float(memory.fullest.max()) * 108))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.locator_params(axis="y", nbins=4)
    axes.set_ylabel(f"KV memory,\n{spec.role}")
    note = f"{len(mine)} × {spec.device.name}, {memory.room:,} tokens each"
    axes.set_title(note, loc="left", pad=2, fontsize=8.5, color="#555555")


def _waits(axes: Axes, series: Fleet, edges: Floats) -> None:
    for (name, values), shade in zip(series.waits.items(), QUEUES, strict=True):
        if values.any():
            axes.plot(*_steps(edges, values), color=shade, linewidth=1.1, label=name)
    axes.set_ylim(0, max(1.0, max(float(values.max()) for values in series.waits.values()) * 1.08))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.locator_params(axis="y", nbins=4)
    axes.set_ylabel("requests\nthat wait")


def _links(axes: Axes, series: Fleet, edges: Floats, sends: Sequence[float]) -> None:
    """Bytes under way, by who sends them; of many senders, all together. The capacity, unless it is far above."""
    parts = [(values / 1e9, f"from replica {i}") for i, values in series.sent.items()]
    if len(parts) > len(SENDERS):
        parts = [(np.sum([values for values, _ in parts], axis=0), f"from {len(parts)} replicas")]
    _stack(axes, edges, [(v, shade, name) for (v, name), shade in zip(parts, SENDERS, strict=False)])
    top = float(np.sum([values for values, _ in parts], axis=0).max())
    room = sum(sends[i] for i in series.sent) / 1e9 if sends else float("inf")
    if room <= 4 * top:
        axes.axhline(room, color=GONE, linestyle="--", linewidth=1.0, label="they can send")
        top = max(top, room)
    elif np.isfinite(room):
        axes.plot([], [], color=GONE, linestyle="--", linewidth=1.0, label=f"they can send\n{number(room)} GB/s")
    axes.set_ylim(0, top * 1.08)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.locator_params(axis="y", nbins=4)
    axes.set_ylabel("links,\nGB/s")


def _legend(axes: Axes) -> None:
    """Each name once, in the order in which it stands in a stack, the top first."""
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    order = [name for name in LEGEND if name in once] or list(once)
    axes.legend(
        [once[name] for name in order],
        order,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.04),
        borderaxespad=0.2,
        handlelength=1.2,
        labelspacing=0.35,
    )
