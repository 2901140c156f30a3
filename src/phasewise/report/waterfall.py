"""Requests' lives as bars: what each waited for, where it ran, and for how long, from its arrival on.

To the left the beginning, until decoding, on a scale of its own; to the right all of it. Matplotlib is imported when the first
picture is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from phasewise.core.action import Outcome
from phasewise.core.errors import InputError
from phasewise.core.units import NS_PER_S
from phasewise.record.metrics import Scored, rank
from phasewise.record.runlog import RunLog
from phasewise.record.stages import AGAIN, BEREFT, DECODE, KINDS, Stage, life
from phasewise.report.figures import DECODE as DECODE_COLOUR
from phasewise.report.figures import DPI, PREFILL, WAITING, figure_class, style
from phasewise.report.fleetfigure import GONE, HANDED, MOVING, SEATED
from phasewise.report.rows import duration, share, workload_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SLOWEST = 15
MOST_STAGES = 40
MOST_BESIDE = 8
TYPICAL = (0.5, 0.9, 0.99)
COLOURS = dict(
    zip(KINDS, (WAITING, PREFILL, HANDED, MOVING, SEATED, DECODE_COLOUR, "#999999", GONE, PREFILL), strict=True)
)
NAMES = {
    "queue": "queue",
    "prefill": "prompt",
    "prefill again": "computed again",
    "hand-over": "waits for a hand-over",
    "transfer": "transfer",
    "seat": "waits for a seat",
    "decode": "decode",
    "preempted": "preempted, waits",
    "lost": "replica lost, waits",
}


class Bar(NamedTuple):
    """One request: its name to the left, its stages, and when its first token was out, seconds after its arrival (None:
    never)."""

    name: str
    stages: tuple[Stage, ...]
    first_token_s: float | None


def waterfall(log: RunLog, request: int | None = None) -> Figure:
    """The life of one request, stage by stage; without one, those at P50, P90 and P99 of E2E and the slowest, a bar each.

    InputError for a request that is not there or was turned away at once, and for a run in which none finished.
    """
    with style():
        return _many(log, chosen(log)) if request is None else _one(log, _bar(log, request, ""))


def _many(log: RunLog, bars: Sequence[Bar]) -> Figure:
    early = max(_begins(bar) for bar in bars)
    last = max(_seconds(bar, bar.stages[-1].end_ns) for bar in bars)
    figure = figure_class()(figsize=(12, 1.75 + 0.3 * len(bars)), dpi=DPI, layout="constrained")
    if early > last / 3:
        # Waiting is most of it: one scale shows all.
        panels = [(figure.subplots(), "", last)]
    else:
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.35], sharey=True)
        panels = [(left, "until decoding begins", early), (right, "all of it", last)]
    for axes, title, upto in panels:
        _bars(axes, bars, upto)
        axes.set_title(title, loc="left", fontsize=10)
    panels[0][0].set_yticks(range(len(bars)), [bar.name for bar in reversed(bars)], fontsize=9)
    panels[0][0].set_ylim(-0.6, len(bars) - 0.4)
    _legend(figure, bars)
    _title(figure, "Where the time of requests went: at p50, p90, p99 of E2E, and the slowest", log)
    return figure


def _one(log: RunLog, bar: Bar) -> Figure:
    """A step for each stage; of a life with very many, the longest."""
    longest = sorted(bar.stages, key=lambda stage: stage.begin_ns - stage.end_ns)[:MOST_STAGES]
    shown = sorted(longest, key=lambda stage: stage.begin_ns)
    total = _seconds(bar, bar.stages[-1].end_ns)
    scale, unit = (1e3, "ms") if total < 1 else (1.0, "s")
    figure = figure_class()(figsize=(12, 1.6 + 0.34 * len(shown)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    names = []
    for place, stage in enumerate(reversed(shown)):
        begin, end = (_seconds(bar, at) * scale for at in (stage.begin_ns, stage.end_ns))
        _piece(axes, place, stage.kind, begin, end)
        axes.annotate(f"{duration(stage.length_s)} · {share(stage.length_s / total)}", (end, place), xytext=(5, 0),
                      textcoords="offset points", va="center", fontsize=9, color="#555555")  # fmt: skip
        lost = stage.kind == KINDS[BEREFT]
        where = f"{' ' if lost else ', replica '}{stage.replica}" if stage.replica >= 0 else ""
        names.append(f"waits, lost replica{where}" if lost else f"{NAMES[stage.kind]}{where}")
    if bar.first_token_s is not None:
        axes.axvline(bar.first_token_s * scale, color="black", linewidth=1.0, linestyle=":")
        axes.annotate("first token", (bar.first_token_s * scale, 1), xycoords=("data", "axes fraction"), xytext=(4, -2),
                      textcoords="offset points", va="top", fontsize=8.5)  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, total * scale * 1.15)
    axes.set_ylim(-0.6, len(names) - 0.2)
    axes.set_xlabel(f"time since its arrival, {unit}")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    left_out = f" · {len(bar.stages) - len(shown)} short stages left out" if len(shown) < len(bar.stages) else ""
    _title(figure, f"Request {bar.name}: {duration(total)} in all{left_out}", log)
    return figure


def _title(figure: Figure, what: str, log: RunLog) -> None:
    resolved = log.header.resolved
    text = f"{what}\n{resolved.model.name} · {workload_text(log.header)} · simulated times: {resolved.basis}"
    figure.suptitle(text, x=0.01, ha="left", fontsize=11)


def chosen(log: RunLog) -> list[Bar]:
    """The requests at P50, P90 and P99 of E2E, and then the slowest, of those that finished. InputError if none did."""
    scored = Scored(log.tables)
    if not len(scored.requests):
        raise InputError("no request finished; there is no life to draw")
    order = np.argsort(scored.e2e_s, kind="stable")
    ids = scored.requests["request"][order].tolist()
    bars = [_bar(log, ids[rank(q, len(ids))], f"p{q * 100:g}  ") for q in TYPICAL]
    shown = {ids[rank(q, len(ids))] for q in TYPICAL}
    return bars + [_bar(log, one, "") for one in reversed(ids[-SLOWEST:]) if one not in shown]


def _bar(log: RunLog, request: int, mark: str) -> Bar:
    found = life(log.tables, request)
    if not found:
        raise InputError(f"request {request} was turned away when it came; there is no life to draw")
    row = log.tables.requests[int(np.searchsorted(log.tables.requests["request"], request))]
    outcome = Outcome(row["outcome"])
    said = "" if outcome == Outcome.FINISHED else f", {outcome.name.lower()}"
    answered = next((stage for stage in found if stage.kind in ("hand-over", "transfer", "seat", "decode")), None)
    first = None if answered is None else (answered.begin_ns - int(row["arrival_ns"])) / NS_PER_S
    return Bar(f"{mark}#{request}  {row['prompt']:,} in, {row['tokens']:,} out{said}", found, first)


def _seconds(bar: Bar, at_ns: int) -> float:
    return (at_ns - bar.stages[0].begin_ns) / NS_PER_S


def _begins(bar: Bar) -> float:
    """When a request begins to decode; if it never does, when its last stage begins, or ends if it is the only one."""
    at = next((s.begin_ns for s in bar.stages if s.kind == KINDS[DECODE]), None)
    if at is None or at == bar.stages[0].begin_ns:
        at = bar.stages[-1].begin_ns if len(bar.stages) > 1 else bar.stages[-1].end_ns
    return _seconds(bar, at)


def _bars(axes: Axes, bars: Sequence[Bar], last_s: float) -> None:
    """All stages that begin before `last_s`, and a little of what follows."""
    span = last_s * 1.06
    scale, unit = (1e3, "ms") if span < 1 else (1.0, "s")
    for place, bar in enumerate(reversed(bars)):
        for stage in bar.stages:
            begin = _seconds(bar, stage.begin_ns)
            end = min(_seconds(bar, stage.end_ns), span)
            if begin >= span:
                break
            _piece(axes, place, stage.kind, begin * scale, end * scale)
            if end - begin > 0.028 * span and stage.replica >= 0:
                ink = "white" if stage.kind in ("lost", "transfer") else "black"
                axes.text(
                    (begin + end) / 2 * scale,
                    place,
                    str(stage.replica),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=ink,
                )
        if bar.first_token_s is not None and bar.first_token_s < span:
            x = bar.first_token_s * scale
            axes.plot([x, x], [place - 0.47, place + 0.47], color="black", linewidth=1.2)
        if (end := _seconds(bar, bar.stages[-1].end_ns)) <= span:
            axes.annotate(duration(end), (end * scale, place), xytext=(3, 0), textcoords="offset points", va="center",
                          fontsize=8, color="#555555")  # fmt: skip
    axes.set_xlim(0, span * scale)
    axes.set_xlabel(f"time since its arrival, {unit}")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def _piece(axes: Axes, place: int, kind: str, begin: float, end: float) -> None:
    """A bar; a short one is at least a hair wide."""
    shade = COLOURS[kind]
    axes.barh(place, end - begin, left=begin, height=0.72, color=shade, edgecolor=shade, linewidth=0.6)
    if kind == KINDS[AGAIN]:
        axes.barh(
            place, end - begin, left=begin, height=0.72, facecolor="none", edgecolor="white", hatch="////", linewidth=0
        )


def _legend(figure: Figure, bars: Sequence[Bar]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    there = {stage.kind for bar in bars for stage in bar.stages}
    handles: list[Any] = []
    for kind in NAMES:
        if kind in there:
            hatch = "////" if kind == KINDS[AGAIN] else None
            edge = "white" if hatch else COLOURS[kind]
            handles.append(Patch(facecolor=COLOURS[kind], edgecolor=edge, hatch=hatch, label=NAMES[kind], linewidth=0))
    handles.append(
        Line2D([], [], color="black", linewidth=0, marker="|", markersize=11, markeredgewidth=1.4, label="first token")
    )
    handles.append(Line2D([], [], linewidth=0, marker="$2$", color="black", markersize=6, label="on replica 2"))
    # More in a row would not fit the width.
    rows = -(-len(handles) // MOST_BESIDE)
    figure.legend(
        handles=handles, loc="outside lower left", ncols=-(-len(handles) // rows), handlelength=1.2, columnspacing=1.3
    )
