"""Deployments side by side as pictures: latency against rate with the capacity marked, and how latencies are distributed.

One colour a deployment, the same in every picture. It is given names and numbers, and knows neither how a capacity was found
nor what an objective is for. Matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from phasewise.core.errors import InputError
from phasewise.core.units import NS_PER_S
from phasewise.record.metrics import Scored, rank
from phasewise.record.runlog import RunLog
from phasewise.report.figures import COLOURS, DPI, colour, figure_class, style
from phasewise.report.rows import NONE, duration, number, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# More lines than colours are dashed.
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
INK, FAINT = "#333333", "#777777"
GUIDES = (0.5, 0.9, 0.99)


class Point(msgspec.Struct, frozen=True):
    """A value at a rate, requests/s; `steady` if the backlog did not grow there."""

    rate: float
    value: float
    steady: bool


class Line(msgspec.Struct, frozen=True):
    """One deployment over rates: a list of points for every panel, in order of their rate; its capacity, if one was found."""

    name: str
    points: tuple[tuple[Point, ...], ...]
    capacity: float | None


class Panel(msgspec.Struct, frozen=True):
    """One quantity over rates: a time in seconds, a share of 1, or neither; `limit` is what it is held against (None:
    nothing)."""

    name: str
    limit: float | None
    seconds: bool = False
    share: bool = False


def rate_curves(panels: Sequence[Panel], lines: Sequence[Line], title: str) -> Figure:
    """Each quantity against the rate, one panel above the other, and the capacities as bars on the same axis."""
    if not lines or not any(points for line in lines for points in line.points):
        raise InputError("no rates to draw; give at least one")
    with style():
        bars = 0.55 + 0.3 * len(lines)
        figure = figure_class()(figsize=(12, 0.9 + 3.1 * len(panels) + bars), dpi=DPI, layout="constrained")
        *upper, below = figure.subplots(len(panels) + 1, 1, height_ratios=[3.1] * len(panels) + [bars], sharex=True)
        for which, (axes, panel) in enumerate(zip(upper, panels, strict=True)):
            _curves(axes, panel, which, lines)
        _bars(below, lines)
        last = max(p.rate for line in lines for points in line.points for p in points)
        below.set_xlim(0, last * 1.04)
        below.set_xlabel("rate, requests/s")
        said = "faint and hollow: the backlog grows there, so a latency depends on how long one looks"
        if any(not p.steady for line in lines for points in line.points for p in points):
            upper[0].set_title(said, loc="right", fontsize=9, color=FAINT)
        figure.align_ylabels([*upper, below])
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5)
    return figure


def distributions(runs: Sequence[tuple[str, RunLog]], title: str) -> Figure:
    """TTFT by request and TBT by token: which share is slower than so long, both axes logarithmic, over a key of figures."""
    if not runs:
        raise InputError("no runs to compare; give at least one")
    names = [name for name, _ in runs]
    scored = [Scored(log.tables) for _, log in runs]
    ttft, tbt = [_of_samples(s.ttft_s) for s in scored], [_of_gaps(s) for s in scored]
    with style():
        keys = 0.45 + 0.24 * len(runs)
        figure = figure_class()(figsize=(12, 6.0 + keys), dpi=DPI, layout="constrained")
        (left, right), (under_left, under_right) = figure.subplots(2, 2, height_ratios=[5.4, keys])
        _survivals(left, ttft, "time to first token (TTFT), by request")
        _survivals(right, tbt, "time between tokens (TBT), by token")
        _key(under_left, names, ttft)
        _key(under_right, names, tbt)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5)
    return figure


def _look(index: int, lines: int) -> dict[str, Any]:
    """Colour, dash and width by place: earlier lines are wider, so that one that is covered can still be seen."""
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    return {"color": colour(index), "linestyle": dash, "linewidth": 2.8 - 1.3 * index / max(1, lines - 1)}


def _curves(axes: Axes, panel: Panel, which: int, lines: Sequence[Line]) -> None:
    for index, line in enumerate(lines):
        points = line.points[which]
        x, y = np.array([p.rate for p in points]), np.array([p.value for p in points])
        steady = np.array([p.steady for p in points], bool)
        look = _look(index, len(lines))
        upto = len(steady) if steady.all() else int(np.argmin(steady))
        axes.plot(x[:upto], y[:upto], **look)
        # Where the backlog grows, a value depends on how long one looks: faint, and hollow.
        axes.plot(x[max(0, upto - 1) :], y[max(0, upto - 1) :], alpha=0.45, **{**look, "linewidth": 1.0})
        axes.plot(x[steady], y[steady], ".", color=look["color"], markersize=5)
        axes.plot(x[~steady], y[~steady], "o", color=look["color"], markersize=4, markerfacecolor="white", alpha=0.6)
        if line.capacity is not None and line.capacity in x.tolist():
            at = y[x.tolist().index(line.capacity)]
            axes.plot([line.capacity], [at], "D", color=look["color"], markersize=8, markeredgecolor="white", zorder=5)
            axes.axvline(line.capacity, color=look["color"], linewidth=0.8, linestyle=":", alpha=0.8)
    _scale(axes, panel, [p.value for line in lines for p in line.points[which]])
    axes.set_ylabel(panel.name)


def _scale(axes: Axes, panel: Panel, values: Sequence[float]) -> None:
    """The objective as a dashed line, and a scale on which both it and the lines can be read."""
    ends = [v for v in values if v > 0] + ([] if panel.limit is None else [panel.limit])
    if not panel.share and ends and max(ends) > 20 * min(ends):
        axes.set_yscale("log")
        axes.grid(True, which="minor", linewidth=0.25)
        top = max(ends) if panel.limit is None else min(max(ends), panel.limit * 20)
        axes.set_ylim(min(ends) / 1.5, top * 1.5)
        _fine(axes.yaxis, top / min(ends))
    elif not panel.share:
        axes.set_ylim(0, max(ends, default=1.0) * 1.12)
    else:
        axes.set_ylim(min([0.5, *values]) - 0.02, 1.03)
    shown = duration if panel.seconds else share if panel.share else number
    axes.yaxis.set_major_formatter(lambda value, _: shown(value) if value else "0")
    if panel.limit is not None:
        axes.axhline(panel.limit, color=INK, linestyle="--", linewidth=1.1)
        axes.annotate(
            f"objective {shown(panel.limit)}",
            (0.004, panel.limit),
            xycoords=("axes fraction", "data"),
            xytext=(0, -11 if panel.share else 3),
            textcoords="offset points",
            fontsize=9,
            color=INK,
        )


def _fine(axis: Axis, span: float) -> None:
    """A logarithmic axis over less than three decades has marks at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator

    if span < 1000:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))


def _bars(axes: Axes, lines: Sequence[Line]) -> None:
    """The capacities, each on the axis of rates, named and in figures; they are the legend as well."""
    place = np.arange(len(lines))[::-1]
    for index, (line, y) in enumerate(zip(lines, place.tolist(), strict=True)):
        known = line.capacity or 0.0
        axes.barh(y, known, height=0.55, color=colour(index), alpha=0.9)
        if line.capacity is not None:
            axes.plot([known], [y], "D", color=colour(index), markersize=8, markeredgecolor="white", zorder=5)
        text = number(line.capacity) if line.capacity is not None else "no capacity found"
        axes.annotate(text, (known, y), xytext=(9, 0), textcoords="offset points", va="center", fontsize=10,
                      color=INK)  # fmt: skip
    axes.set_yticks(place, [line.name for line in lines])
    for index, label in enumerate(axes.get_yticklabels()):
        label.set_color(colour(index))
        label.set_fontweight("bold")
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("capacity")


def _of_samples(samples: Any) -> tuple[Any, Any, list[float]]:
    """Values in order, the share of samples above each, and the values at the guides."""
    values = np.sort(samples[~np.isnan(samples)])
    above = 1 - np.arange(1, len(values) + 1) / max(1, len(values))
    return values, above, [float(values[rank(q, len(values))]) for q in GUIDES] if len(values) else []


def _of_gaps(scored: Scored) -> tuple[Any, Any, list[float]]:
    """The same of the gaps between tokens, at 300 shares."""
    gaps = scored.gaps_ns
    if not gaps.total:
        return np.empty(0), np.empty(0), []
    above = np.concatenate([np.linspace(1, 0.1, 100), np.geomspace(0.1, 1 / gaps.total, 200)])
    values = np.array(gaps.quantiles((1 - above).tolist())) / NS_PER_S
    return values, above, [value / NS_PER_S for value in gaps.quantiles(list(GUIDES))]


def _survivals(axes: Axes, found: Sequence[tuple[Any, Any, list[float]]], title: str) -> None:
    low = min((float(v[0]) for v, _, _ in found if len(v)), default=1e-3)
    high = max((float(v[-1]) for v, _, _ in found if len(v)), default=1.0)
    for index, (values, above, marks) in enumerate(found):
        look = _look(index, len(found))
        axes.plot(values, above, drawstyle="steps-post", **look)
        axes.plot(marks, [1 - q for q in GUIDES[: len(marks)]], ".", color=look["color"], markersize=11)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low / 1.1, high * 1.1)
    axes.set_ylim(5e-4, 1.15)
    _fine(axes.xaxis, high / low)
    axes.xaxis.set_major_formatter(lambda value, _: duration(value))
    labels = ["all", "half (p50)", "10 % (p90)", "1 % (p99)", "0.1 %"]
    axes.set_yticks([1.0, *(1 - q for q in GUIDES), 1e-3], labels)
    axes.minorticks_off()
    axes.set_ylabel("share that is slower")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")


def _key(axes: Axes, names: Sequence[str], found: Sequence[tuple[Any, Any, list[float]]]) -> None:
    """Names in their colours with what each comes to: a legend that is read without looking back and forth."""
    axes.set_axis_off()
    heads = [("", 0.0, "left"), *((f"p{q * 100:g}", 0.66 + 0.17 * i, "right") for i, q in enumerate(GUIDES))]
    rows = [[head for head, _, _ in heads]]
    for name, (_, _, marks) in zip(names, found, strict=True):
        rows.append([name, *((duration(at) for at in marks) if marks else [NONE] * len(GUIDES))])
    for i, row in enumerate(rows):
        ink, weight = (FAINT, "normal") if i == 0 else (colour(i - 1), "bold")
        for text, (_, x, side) in zip(row, heads, strict=True):
            y = 1 - (i + 0.5) / len(rows)
            axes.text(
                x, y, text, transform=axes.transAxes, ha=side, va="center", fontsize=10, color=ink, fontweight=weight
            )
