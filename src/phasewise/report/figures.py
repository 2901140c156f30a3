"""The phase timeline: what a replica did over a stretch of a run, its prompts, its decodes, its queue and its pauses.

Three panels share one time axis: prompt tokens computed per iteration (blocks), requests decoding (area) and waiting
(line), and the time between the tokens of those who decode. Matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phasewise.core.errors import InputError
from phasewise.record.runlog import RunLog
from phasewise.report.phases import Counts, Floats, Phases, busiest, phases
from phasewise.report.rows import degrees, duration, policy_text, workload_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Window = tuple[float, float]
SUFFIXES = (".png", ".svg", ".pdf")
DPI = 100
# Okabe and Ito's palette: told apart by colour-blind readers, and by lightness in grey.
PREFILL, DECODE, WAITING, GAP, GREY = "#E69F00", "#56B4E9", "#D55E00", "#0072B2", "#999999"
# For deployments side by side; the yellow left out: it is too light for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLE: Any = {
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#666666",
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "path.simplify": False,
}


def check_figure(path: str | Path) -> None:
    """InputError, before any work is done, if a picture cannot be drawn here or under this name."""
    _check_suffix(Path(path))
    figure_class()


def timeline(log: RunLog, replica: int = 0, window: Window | None = None) -> Figure:
    """The phase timeline of one replica over `window`, seconds since the first arrival (None: the busiest stretch),
    under a strip that shows the whole run. InputError for a replica or a window that the run does not have."""
    series = phases(log, replica)
    shown = _checked(window, series)
    with style():
        figure = figure_class()(figsize=(12, 7.4), dpi=DPI, layout="constrained")
        strip, *panels = figure.subplots(4, 1, height_ratios=[0.7, 1.5, 1.7, 1.5])
        _strip(strip, series, shown)
        _panels(panels, series, shown)
        _objective(panels[-1:], log)
        _legends(panels)
        panels[-1].set_xlabel("time since the first arrival, s")
        figure.align_ylabels([strip, *panels])
        which = f", replica {replica} of {len(log.tables.steps)}" if len(log.tables.steps) > 1 else ""
        _title(figure, f"{policy_text(log.header.resolved.deployment.batcher)}{which}", log)
    return figure


def compare_timelines(
    runs: Sequence[tuple[str, RunLog]],
    replica: int = 0,
    window: Window | None = None,
    only: Sequence[int] | None = None,
) -> Figure:
    """The timelines of several runs, one above the other, over one window, on one scale where that leaves all legible.

    Each has the colour of its place; `only` those at these places are drawn (None: all).
    """
    places = range(len(runs)) if only is None else only
    runs = [runs[i] for i in places]
    if not runs:
        raise InputError("no runs to compare; give at least one")
    all_series = [phases(log, replica) for _, log in runs]
    shown = _checked(window, max(all_series, key=lambda s: s.length_s)) if window else busiest(all_series[0])
    with style():
        figure = figure_class()(figsize=(12, 0.8 + 3.9 * len(runs)), dpi=DPI, layout="constrained")
        every = list(figure.subplots(3 * len(runs), 1, height_ratios=[1.2, 1.4, 1.2] * len(runs)))
        for i, (series, (name, _)) in enumerate(zip(all_series, runs, strict=True)):
            panels = every[3 * i : 3 * i + 3]
            _panels(panels, series, shown)
            panels[0].set_title(name, loc="left", fontsize=11, fontweight="bold", color=colour(places[i]))
        _objective(every[2::3], runs[0][1])
        for kind in range(3):
            _share_scale(every[kind::3])
        _legends(every)
        every[-1].set_xlabel("time since the first arrival, s")
        figure.align_ylabels(every)
        _title(
            figure,
            "Phase timelines of one workload (one time axis; the scales of prompts and requests may differ)",
            runs[0][1],
        )
    return figure


def colour(index: int) -> str:
    """The colour of a deployment among several, by its place: the same in every picture."""
    return COLOURS[index % len(COLOURS)]


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as .png, .svg or .pdf, whole or not at all."""
    path = Path(path)
    kind = _check_suffix(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    undated = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    try:
        with style():
            figure.savefig(partial, format=kind, dpi=DPI, metadata=undated)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", str(path)) from None
    finally:
        partial.unlink(missing_ok=True)


def _check_suffix(path: Path) -> str:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"not a kind of picture that can be drawn; end the name in {', '.join(SUFFIXES)}", str(path))
    return path.suffix.lower()[1:]


def figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("a figure needs matplotlib; pip install 'phasewise[plot]'") from None
    return Figure


def style() -> Any:
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def _checked(window: Window | None, series: Phases) -> Window:
    if window is None:
        return busiest(series)
    low, high = window
    if not 0 <= low < high or low >= series.length_s:
        raise InputError(
            f"window {low:g} to {high:g} s; give two instants of the run, from 0 to {series.length_s:.1f} s"
        )
    return low, min(high, series.length_s)


def _title(figure: Figure, what: str, log: RunLog) -> None:
    resolved = log.header.resolved
    first = resolved.replicas[0]
    device = f"{first.device.name}{degrees(first)}"
    basis = f"simulated times: {resolved.basis}"
    text = f"{what}\n{resolved.model.name} on {device} · {workload_text(log.header)} · {basis}"
    figure.suptitle(text, x=0.01, ha="left", fontsize=11.5)


def _strip(axes: Axes, series: Phases, shown: Window) -> None:
    """The whole run, narrow: how many requests were inside, and which stretch of it is shown below."""
    # A strip is about a thousand pixels wide: the most in each of 600 slots says as much as every change.
    edges = np.linspace(0, max(series.length_s, 1e-9), 601)
    slot = np.clip(np.searchsorted(edges, series.inside_at_s, side="right") - 1, 0, 599)
    held = np.concatenate([[0], series.inside])[np.searchsorted(series.inside_at_s, edges[:-1], side="right")]
    np.maximum.at(held, slot, series.inside)
    length = series.length_s
    unit, scale = ("s", 1) if length <= 600 else ("min", 60) if length <= 36_000 else ("h", 3600)
    top = max(1, int(held.max())) * 1.05
    low, high = shown[0] / scale, shown[1] / scale
    axes.fill_between(edges[:-1] / scale, held, step="post", color=GREY, linewidth=0, label="inside")
    axes.axvspan(low, high, color=PREFILL, alpha=0.45, linewidth=1.0)
    # In a long run the stretch is thinner than a hair: an arrow shows where.
    axes.plot([(low + high) / 2], [top], marker="v", markersize=7, color=WAITING, clip_on=False)
    axes.set_xlim(0, edges[-1] / scale)
    axes.set_ylim(0, top)
    axes.set_ylabel("requests\ninside")
    axes.set_xlabel(f"whole run, {unit}; the stretch under the arrow is shown below", fontsize=9)


def _panels(panels: Sequence[Axes], series: Phases, shown: Window) -> None:
    low, high = shown
    rows = np.flatnonzero((series.end_s > low) & (series.start_s < high))
    _prefill(panels[0], series, rows)
    _requests(panels[1], series, rows, shown)
    _gaps(panels[2], series, rows)
    for axes in panels:
        axes.set_xlim(low, high)
        axes.yaxis.set_major_formatter("{x:,g}")
        # Of the gaps there are fractions, of tokens and requests there are none.
        axes.locator_params(axis="y", nbins=4, integer=axes is not panels[-1])
        axes.tick_params(labelbottom=axes is panels[-1])


def _legends(panels: Iterable[Axes]) -> None:
    for axes in panels:
        # Beside the scale on the right, if there is one.
        beside = 1.06 if any("right" in name for name in axes.get_legend_handles_labels()[1]) else 1.0
        axes.legend(loc="upper left", bbox_to_anchor=(beside, 1.0), borderaxespad=0.2, handlelength=1.2)


def _prefill(axes: Axes, series: Phases, rows: Any) -> None:
    rows = rows[series.prefill[rows] > 0]
    start, end, tokens = series.start_s[rows], series.end_s[rows], series.prefill[rows]
    x = np.column_stack([start, start, end, end]).ravel()
    y = np.column_stack([tokens * 0, tokens, tokens, tokens * 0]).ravel()
    axes.fill_between(x, y, color=PREFILL, linewidth=0.4, edgecolor=PREFILL, label="prefill")
    axes.set_ylim(0, max(1, int(tokens.max(initial=0))) * 1.08)
    axes.set_ylabel("prompt tokens\nper iteration")


def _requests(axes: Axes, series: Phases, rows: Any, shown: Window) -> None:
    start, end, count = series.start_s[rows], series.end_s[rows], series.decodes[rows]
    # Back to nothing between two rows, which changes something only where the replica stood idle.
    x = np.column_stack([start, start, end, end]).ravel()
    y = np.column_stack([count * 0, count, count, count * 0]).ravel()
    axes.fill_between(x, y, color=DECODE, linewidth=0.4, edgecolor=DECODE, label="decoding")
    axes.set_ylabel("requests")
    at, waiting = _within(series.waiting_at_s, series.waiting, shown)
    decoding, queue = max(1, int(count.max(initial=0))), int(waiting.max(initial=0))
    line: dict[str, Any] = {"where": "post", "color": WAITING, "linewidth": 1.3}
    if queue <= 6 * decoding:
        axes.step(at, waiting, label="waiting", **line)
        axes.set_ylim(0, max(decoding, queue) * 1.08)
        return
    # A long queue would press the decodes flat: it gets a scale of its own, in its own colour.
    axes.set_ylim(0, decoding * 1.08)
    axes.plot([], [], color=WAITING, linewidth=1.3, label="waiting\n(right scale)")
    aside = axes.twinx()
    aside.step(at, waiting, **line)
    aside.set_ylim(0, queue * 1.08)
    aside.grid(False)
    aside.tick_params(axis="y", colors=WAITING, labelcolor=WAITING)
    aside.yaxis.set_major_formatter("{x:,.0f}")
    aside.locator_params(axis="y", nbins=4, integer=True)


def _within(at_s: Floats, counts: Counts, shown: Window) -> tuple[Floats, Counts]:
    """A step function over a window: from the last change before it, to its end."""
    first = max(0, int(np.searchsorted(at_s, shown[0], side="right")) - 1)
    last = int(np.searchsorted(at_s, shown[1], side="right"))
    if first >= last:
        return np.empty(0), np.empty(0, np.int64)
    return np.append(at_s[first:last], shown[1]), np.append(counts[first:last], counts[last - 1])


def _gaps(axes: Axes, series: Phases, rows: Any) -> None:
    first, second, last = (gap[rows] * 1e3 for gap in (series.first_gap_s, series.second_gap_s, series.last_gap_s))
    start, middle, end = series.start_s[rows], series.first_end_s[rows], series.end_s[rows]
    x = np.column_stack([start, middle, middle, end, end]).ravel()
    # A row without decodes is nan already; the last point of each breaks the line where the replica stood idle.
    idle = np.append(start[1:] > end[:-1], True)
    y = np.column_stack([first, first, second, last, np.where(idle, np.nan, last)]).ravel()
    axes.plot(x, y, color=GAP, linewidth=0.9, label="time between\ntokens")
    highest = float(np.nanmax(y)) if np.isfinite(y).any() else 1.0
    axes.set_ylim(0, highest * 1.08)
    axes.set_ylabel("ms")


def _share_scale(panels: Sequence[Axes]) -> None:
    """One scale for all, unless it would press one of them flat."""
    tops = [axes.get_ylim()[1] for axes in panels]
    if max(tops) <= 4 * min(tops):
        for axes in panels:
            axes.set_ylim(0, max(tops))


def _objective(panels: Sequence[Axes], log: RunLog) -> None:
    """The objective for the mean time between tokens, where it is not so far away that it would flatten the rest."""
    tpot_s = log.header.resolved.deployment.slo.tpot_s
    highest = max(axes.get_ylim()[1] for axes in panels)
    if tpot_s is None or tpot_s * 1e3 > 3 * highest:
        return
    for axes in panels:
        axes.axhline(
            tpot_s * 1e3, color=GREY, linestyle="--", linewidth=1.0, label=f"objective\n(mean {duration(tpot_s)})"
        )
        axes.set_ylim(0, max(highest, tpot_s * 1.08e3))
