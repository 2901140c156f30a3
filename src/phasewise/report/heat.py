"""One number over one or two settings as a picture: a heat map, or a line over a single setting.

It is given names and numbers, and knows neither how they were found nor what they mean. Colours are those of cividis: they grow
steadily lighter, for readers with any colour vision. Matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from phasewise.core.errors import InputError
from phasewise.report.figures import COLOURS, DPI, figure_class, style
from phasewise.report.rows import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, FAINT, PALE, BEST = "#333333", "#8A8A8A", "#F3F3F3", "#D55E00"
HELD, MISSED, FAILED, BLANK = "held", "missed", "failed", "blank"
_HATCHES = {MISSED: "////", FAILED: "xxxx"}
_SMALLEST_PT, _MOST_TICKS, _MOST_LETTERS = 6.0, 30, 110


class Setting(msgspec.Struct, frozen=True):
    """What is varied, and its values as written."""

    name: str
    values: tuple[str, ...]


class Cell(msgspec.Struct, frozen=True):
    """One combination of values. `state`: within the limits, beyond them, or never run for an error; `value` is None if there
    is no number; `under` stands in small letters below it."""

    state: str
    value: float | None
    under: str = ""
    best: bool = False


class Words(msgspec.Struct, frozen=True):
    """What a picture says: its title, the name and unit of the number, what each state is called; `limit` separates held from
    missed (None: there is no such number), and `low_is_good` says on which side of it it is better; `under` is what stands in
    small letters in the cells, said where there is room for them."""

    title: str
    quantity: str
    states: dict[str, str]
    best: str
    limit: float | None = None
    low_is_good: bool = False
    under: str = ""


def heat_map(across: Setting, up: Setting, cells: Sequence[Sequence[Cell | None]], words: Words) -> Figure:
    """`cells[i][j]` at `up.values[i]`, `across.values[j]`; None: left out, and blank. What missed or failed is hatched."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    rows, columns = len(up.values), len(across.values)
    there = [cell for row in cells for cell in row if cell is not None]
    if not there:
        raise InputError("nothing to draw; give at least one point")
    held = [cell.value for cell in there if cell.state == HELD and cell.value is not None]
    ends = (min(held, default=0.0), max(held, default=1.0))
    # One value alone stands in the middle of the scale.
    low, high = ends if ends[0] < ends[1] else (ends[0] * 0.9, ends[1] * 1.1 or 1.0)
    colours = colormaps["cividis_r" if words.low_is_good else "cividis"]
    with style():
        figure = figure_class()(figsize=(12, _height(rows)), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        grid = [[c.value if c is not None and c.state == HELD and c.value is not None else np.nan for c in row]
                for row in cells]  # fmt: skip
        scale = Normalize(low, high)
        image = axes.imshow(
            np.ma.masked_invalid(np.array(grid, dtype=float)), cmap=colours, norm=scale, origin="lower", aspect="auto"
        )
        letters_pt = _letters_pt(rows, columns, there)
        for i, row in enumerate(cells):
            for j, cell in enumerate(row):
                if cell is not None:
                    _cell(axes, (j, i), cell, colours(scale(cell.value or 0.0)), letters_pt)
        if letters_pt[1]:
            axes.set_title(words.under, loc="right", fontsize=9, color=FAINT)
        _ticks(axes.xaxis, across, wide=True)
        _ticks(axes.yaxis, up, wide=False)
        axes.grid(False)
        axes.set_xlim(-0.5, columns - 0.5)
        axes.set_ylim(-0.5, rows - 0.5)
        if held:
            bar = figure.colorbar(image, ax=axes, pad=0.015, fraction=0.06, format=lambda value, _: number(value))
            bar.set_label(words.quantity)
            bar.outline.set_visible(False)
            bar.ax.grid(False)
        _legend(figure, there, words, blanks=len(there) < rows * columns)
        figure.suptitle(words.title, x=0.01, ha="left", fontsize=11.5)
    return figure


def lines(over: Setting, quantities: Sequence[tuple[str, Sequence[Cell]]], words: Words) -> Figure:
    """Each quantity, `(name and unit, a cell for every value)`, over one setting, one panel above the other: a line over
    numbers, bars over names. `words.limit` is that of the first."""
    if not over.values:
        raise InputError("nothing to draw; give at least one point")
    at = _places(over)
    with style():
        figure = figure_class()(figsize=(12, 1.3 + 3.0 * len(quantities)), dpi=DPI, layout="constrained")
        panels = figure.subplots(len(quantities), 1, sharex=True, squeeze=False)[:, 0]
        for which, (axes, (name, cells)) in enumerate(zip(panels, quantities, strict=True)):
            _line(axes, at if at is not None else list(range(len(cells))), cells, words, at is None)
            axes.set_ylabel(name)
            if which == 0 and words.limit is not None:
                _limit(axes, words.limit)
        _over(panels[-1], over, at)
        _legend(figure, quantities[0][1], words, line=True)
        figure.align_ylabels(panels)
        figure.suptitle(words.title, x=0.01, ha="left", fontsize=11.5)
    return figure


def _height(rows: int) -> float:
    return min(11.0, 2.1 + rows * (0.55 if rows <= 10 else 0.3))


def _letters_pt(rows: int, columns: int, cells: Sequence[Cell]) -> tuple[float, float]:
    """The sizes of the figures in the cells and of what stands below them; 0 where there is no room to read them."""
    width_pt, height_pt = 72 * 9.8 / columns, 72 * (_height(rows) - 1.7) / rows
    longest = max(len(number(cell.value)) for cell in cells)
    size = min(11.0, width_pt / (0.62 * longest + 0.6), height_pt / 1.6)
    below = max(len(cell.under) for cell in cells)
    small = min(0.8 * size, width_pt / (0.6 * below + 0.6), height_pt / 3.0)
    fits = small >= _SMALLEST_PT and below > 0
    return (size if size >= _SMALLEST_PT else 0.0), (small if fits else 0.0)


def _cell(axes: Axes, place: tuple[int, int], cell: Cell, fill: Any, letters_pt: tuple[float, float]) -> None:
    """Its hatching, its figures, the frame of the best."""
    from matplotlib.patches import Rectangle

    x, y = place
    corner = (x - 0.5, y - 0.5)
    if cell.state != HELD:
        look: dict[str, Any] = {"facecolor": PALE, "edgecolor": "#BDBDBD", "hatch": _HATCHES[cell.state]}
        axes.add_patch(Rectangle(corner, 1, 1, linewidth=0.0, **look))
    if cell.best:
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="white", linewidth=6.0, zorder=4, clip_on=False))
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=BEST, linewidth=3.0, zorder=5, clip_on=False))
    size, small = letters_pt
    if not size or cell.value is None:
        return
    red, green, blue = fill[:3]
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
    ink = INK if cell.state != HELD else "white" if dark else "black"
    # On hatching, figures need a ground of their own.
    ground = {"facecolor": PALE, "edgecolor": "none", "pad": 1.0} if cell.state != HELD else None
    up = 0.16 if small else 0.0
    weight = "bold" if cell.state == HELD else "normal"
    axes.text(x, y + up, number(cell.value), ha="center", va="center", color=ink, fontsize=size,
              fontweight=weight, bbox=ground, zorder=6)  # fmt: skip
    if small:
        axes.text(x, y - 0.2, cell.under, ha="center", va="center", color=ink, fontsize=small,
                  bbox=ground, zorder=6)  # fmt: skip


def _ticks(axis: Axis, setting: Setting, wide: bool) -> None:
    """A mark at every value, or at every so many if they would run into each other; long names across lean over."""
    count, longest = len(setting.values), max(len(value) for value in setting.values)
    leans = wide and longest > 6 and longest * count > _MOST_LETTERS
    most = min(_MOST_TICKS, max(1, _MOST_LETTERS // longest)) if wide and not leans else _MOST_TICKS
    every = -(-count // most)
    shown = range(0, count, every)
    axis.set_ticks(list(shown), [setting.values[i] for i in shown])
    axis.set_label_text(setting.name)
    axis.set_tick_params(length=2 if every > 1 else 0)
    if leans:
        axis.set_tick_params(rotation=35)


def _legend(figure: Figure, cells: Sequence[Cell], words: Words, line: bool = False, blanks: bool = False) -> None:
    """What hatching, hollow points and frames mean; only what is there."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if any(cell.best for cell in cells):
        plain = Line2D([], [], marker="D", linestyle="", color=BEST, markersize=9, label=words.best)
        handles.append(plain if line else Patch(fill=False, edgecolor=BEST, linewidth=3.0, label=words.best))
    for state, hatch in _HATCHES.items():
        if not any(cell.state == state for cell in cells):
            continue
        mark = Line2D([], [], linestyle="", color=FAINT, label=words.states[state], markerfacecolor="white",
                      marker="o" if state == MISSED else "x", markersize=7)  # fmt: skip
        patch = Patch(facecolor=PALE, edgecolor="#BDBDBD", hatch=hatch, label=words.states[state], linewidth=0.0)
        handles.append(mark if line else patch)
    if blanks:
        handles.append(Patch(facecolor="white", edgecolor="#BDBDBD", label=words.states[BLANK], linewidth=0.8))
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), handlelength=1.8)


def _places(over: Setting) -> list[float] | None:
    """The values as numbers; None if one of them is none."""
    try:
        return [float(value) for value in over.values]
    except ValueError:
        return None


def _line(axes: Axes, at: Sequence[float], cells: Sequence[Cell], words: Words, bars: bool) -> None:
    colour = COLOURS[0]
    pairs = [(x, cell) for x, cell in zip(at, cells, strict=True) if cell.value is not None]
    known = sorted(pairs, key=lambda pair: pair[0])
    values = [cell.value or 0.0 for _, cell in known]
    # What is beyond a limit is often so by far: then a logarithmic scale, on which the limit can be seen.
    ends = [v for v in values if v > 0]
    if words.limit is not None and ends and max(ends) > 20 * min(*ends, words.limit):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max([*values, words.limit or 0.0]) * 1.15 or 1.0)
    axes.yaxis.set_major_formatter(lambda value, _: number(value) if value else "0")
    if bars:
        axes.bar([x for x, _ in known], values, width=0.5, color=colour, alpha=0.25)
    else:
        axes.plot([x for x, _ in known], values, color=colour, linewidth=1.8)
    for (x, cell), value in zip(known, values, strict=True):
        ink, inside = (BEST, BEST) if cell.best else (FAINT, "white") if cell.state == MISSED else (colour, colour)
        marker, size = ("D", 10) if cell.best else ("o", 6)
        axes.plot([x], [value], marker, color=ink, markerfacecolor=inside, markersize=size, zorder=5)
    for x, cell in zip(at, cells, strict=True):
        if cell.value is None:
            mark = "x" if cell.state == FAILED else "o"
            axes.plot([x], [0.03], mark, color=FAINT, markerfacecolor="white", markersize=7,
                      transform=axes.get_xaxis_transform(), clip_on=False)  # fmt: skip
    if len(known) <= 24:
        for x, cell in known:
            axes.annotate(number(cell.value), (x, cell.value or 0.0), xytext=(0, 9), textcoords="offset points",
                          ha="center", fontsize=9, color=INK)  # fmt: skip


def _limit(axes: Axes, limit: float) -> None:
    axes.axhline(limit, color=INK, linestyle="--", linewidth=1.1)


def _over(axes: Axes, over: Setting, at: Sequence[float] | None) -> None:
    """The axis of the setting: its own values as marks, evenly apart where they are doubled rather than added to."""
    places = list(range(len(over.values))) if at is None else list(at)
    if at is not None and _doubles(at):
        axes.set_xscale("log")
        axes.minorticks_off()
    every = -(-len(places) // _MOST_TICKS)
    axes.set_xticks(places[::every], over.values[::every])
    axes.set_xlabel(over.name)
    if at is None:
        axes.set_xlim(-0.6, len(places) - 0.4)


def _doubles(at: Sequence[float]) -> bool:
    """Whether values are evener by their ratios than by their differences."""
    values = np.unique(at)
    if len(values) < 3 or values[0] <= 0:
        return False
    steps, ratios = np.diff(values), np.diff(np.log(values))
    return bool(ratios.max() / ratios.min() < steps.max() / steps.min())
