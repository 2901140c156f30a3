"""Heat maps and lines over a setting: every number is at its values, and what holds, misses or failed can be told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from phasewise.core.errors import InputError
from phasewise.report.heat import BEST, BLANK, FAILED, HELD, MISSED, Cell, Setting, Words, heat_map, lines

pytest.importorskip("matplotlib")
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

NAMES = {MISSED: "beyond", FAILED: "cannot be run", BLANK: "not asked for"}
WORDS = Words("title", "goodput per device, requests/s", NAMES, "the best", under="small: capacity")
ACROSS, UP = Setting("replicas.decode", ("1", "2", "3")), Setting("replicas.prefill", ("4", "5"))
CELLS = [
    [Cell(HELD, 1.5, "3.00"), Cell(HELD, 2.5, "7.50", best=True), None],
    [Cell(MISSED, 0.75, "tbt@p99"), Cell(FAILED, None), Cell(HELD, 0.5, "2.00")],
]


def patches(axes: Any, hatch: str | None) -> list[Rectangle]:
    return [p for p in axes.patches if isinstance(p, Rectangle) and p.get_hatch() == hatch]


def middle(patch: Rectangle) -> tuple[float, float]:
    return patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2


def test_every_number_is_at_its_values() -> None:
    figure = heat_map(ACROSS, UP, CELLS, WORDS)
    axes, bar = figure.axes
    shown = axes.images[0].get_array()
    assert shown is not None
    np.testing.assert_array_equal(shown.filled(np.nan), [[1.5, 2.5, np.nan], [np.nan, np.nan, 0.5]])
    assert axes.images[0].origin == "lower"
    assert axes.images[0].get_clim() == (0.5, 2.5)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "3"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["4", "5"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("replicas.decode", "replicas.prefill")
    written = {text.get_text(): (round(text.get_position()[0]), round(text.get_position()[1])) for text in axes.texts}
    assert written == {
        "1.50": (0, 0), "3.00": (0, 0), "2.50": (1, 0), "7.50": (1, 0), "0.750": (0, 1), "tbt@p99": (0, 1),
        "0.500": (2, 1), "2.00": (2, 1),
    }  # fmt: skip
    assert bar.get_ylabel() == "goodput per device, requests/s"
    assert (figure.get_suptitle(), axes.get_title(loc="right")) == ("title", "small: capacity")


def test_what_does_not_hold_is_hatched_and_the_best_is_framed() -> None:
    figure = heat_map(ACROSS, UP, CELLS, WORDS)
    axes = figure.axes[0]
    assert [middle(p) for p in patches(axes, "////")] == [(0, 1)]
    assert [middle(p) for p in patches(axes, "xxxx")] == [(1, 1)]
    frames = [p for p in patches(axes, None) if to_hex(p.get_edgecolor()).upper() == BEST]
    assert [middle(p) for p in frames] == [(1, 0)]
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["the best", "beyond", "cannot be run", "not asked for"]
    plain = heat_map(ACROSS, UP, [[Cell(HELD, 1.0 + i + j) for i in range(3)] for j in range(2)], WORDS)
    assert plain.legends == []


def test_light_is_good_on_both_kinds_of_scale() -> None:
    def lightness(low_is_good: bool) -> list[float]:
        words = Words("t", "q", NAMES, "b", low_is_good=low_is_good)
        image = (
            heat_map(ACROSS, Setting("a", ("1",)), [[Cell(HELD, v) for v in (1.0, 2.0, 3.0)]], words).axes[0].images[0]
        )
        rgb = image.cmap(image.norm(np.array([1.0, 2.0, 3.0])))
        return list(rgb[:, :3] @ [0.299, 0.587, 0.114])

    assert lightness(False) == sorted(lightness(False))
    assert lightness(True) == sorted(lightness(True), reverse=True)


def test_figures_in_cells_can_be_read_on_their_colour() -> None:
    """Dark letters on light cells, light ones on dark."""
    cells = [[Cell(HELD, float(v)) for v in range(1, 10)]]
    axes = heat_map(Setting("a", tuple("123456789")), Setting("b", ("1",)), cells, WORDS).axes[0]
    inks = [text.get_color() for text in axes.texts]
    assert inks == sorted(inks, reverse=True)
    assert {"black", "white"} == set(inks)


def test_a_large_map_has_no_figures_and_not_every_mark() -> None:
    values = tuple(str(i) for i in range(1, 61))
    cells = [[Cell(HELD, i * j / 7, "small") for i in range(60)] for j in range(60)]
    figure = heat_map(Setting("a", values), Setting("b", values), cells, WORDS)
    axes = figure.axes[0]
    assert len(axes.texts) == 0
    assert axes.get_title(loc="right") == ""
    assert [t.get_text() for t in axes.get_xticklabels()] == list(values[::2])
    assert figure.get_figheight() <= 11


def test_nothing_held_has_no_scale_and_one_value_alone_has_one() -> None:
    nothing = heat_map(ACROSS, Setting("a", ("1",)), [[Cell(MISSED, 2.0), Cell(MISSED, None), None]], WORDS)
    assert len(nothing.axes) == 1
    one = heat_map(ACROSS, Setting("a", ("1",)), [[Cell(HELD, 2.0), None, None]], WORDS).axes[0].images[0]
    low, high = one.get_clim()
    assert low is not None
    assert high is not None
    assert low < 2.0 < high
    with pytest.raises(InputError, match="nothing to draw"):
        heat_map(ACROSS, Setting("a", ("1",)), [[None, None, None]], WORDS)


def test_a_line_over_numbers() -> None:
    cells = [Cell(HELD, 2.0), Cell(HELD, 3.0, best=True), Cell(MISSED, 0.5), Cell(FAILED, None)]
    over = Setting("batcher.token_budget", ("512", "128", "1024", "2048"))
    figure = lines(over, [("first", cells), ("second", cells)], WORDS)
    first, second = figure.axes
    for axes in (first, second):
        assert list(axes.lines[0].get_xdata()) == [128, 512, 1024]
        assert list(axes.lines[0].get_ydata()) == [3.0, 2.0, 0.5]
    (best,) = [line for line in first.lines if line.get_marker() == "D"]
    assert (list(best.get_xdata()), list(best.get_ydata())) == ([128.0], [3.0])
    (failed,) = [line for line in first.lines if line.get_marker() == "x"]
    assert list(failed.get_xdata()) == [2048.0]
    assert sorted(t.get_text() for t in first.texts) == ["0.500", "2.00", "3.00"]
    # Doubled rather than added to: a logarithmic axis, marked with the values themselves.
    assert second.get_xscale() == "log"
    assert [t.get_text() for t in second.get_xticklabels()] == ["512", "128", "1024", "2048"]
    assert (first.get_ylabel(), second.get_xlabel()) == ("first", "batcher.token_budget")


def test_a_line_with_a_limit_far_from_it_is_logarithmic() -> None:
    far = Words("t", "q", NAMES, "b", limit=1.0, low_is_good=True)
    near = lines(Setting("a", ("1", "2", "3")), [("q", [Cell(HELD, v) for v in (0.7, 0.8, 0.9)])], far).axes[0]
    assert near.get_yscale() == "linear"
    assert near.get_ylim()[1] > 1.0
    cells = [Cell(MISSED, 400.0), Cell(MISSED, 30.0), Cell(HELD, 0.5)]
    axes = lines(Setting("a", ("1", "2", "3")), [("q", cells)], far).axes[0]
    assert (axes.get_yscale(), axes.get_xscale()) == ("log", "linear")
    (limit,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert set(limit.get_ydata()) == {1.0}


def test_names_are_bars_and_a_sweep_without_any_number_is_still_drawn() -> None:
    over = Setting("batcher", ("sarathi", "vllm-v1"))
    axes = lines(over, [("q", [Cell(HELD, 2.0), Cell(HELD, 3.0)])], WORDS).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [2.0, 3.0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["sarathi", "vllm-v1"]
    empty = lines(over, [("q", [Cell(MISSED, None), Cell(MISSED, None)])], WORDS).axes[0]
    assert [line.get_marker() for line in empty.lines if len(line.get_xdata()) == 1] == ["o", "o"]
