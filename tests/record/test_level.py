"""Levels and slopes have the values and means that counting by hand gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.record.level import Level, Slopes

INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(1, 9)), max_size=12)
EDGES = np.array([0.0, 7.0, 7.5, 30.0, 99.0, 150.0])


def counted(intervals: list[tuple[int, int, int]], at: int) -> int:
    return sum(value for begin, length, value in intervals if begin <= at < begin + length)


@given(INTERVALS)
def test_a_level_counts_what_there_is(intervals: list[tuple[int, int, int]]) -> None:
    begin, length, value = (np.array([i[k] for i in intervals], np.int64) for k in range(3))
    level = Level.during(begin, begin + length, value)
    instants = np.arange(-2, 110)
    assert level.at(instants).tolist() == [counted(intervals, at) for at in instants.tolist()]
    assert level.at(instants, "left").tolist() == [counted(intervals, at - 1) for at in instants.tolist()]
    # Everything changes at whole instants, so halves sum up to the integral.
    halves = np.arange(0, 150, 0.5)
    at_halves = np.array([counted(intervals, int(at)) for at in halves])
    for low, high, mean in zip(EDGES[:-1], EDGES[1:], level.means(EDGES), strict=True):
        assert mean == pytest.approx(at_halves[(halves >= low) & (halves < high)].mean())


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_slopes_are_straight(stretches: list[tuple[int, int, int, int]]) -> None:
    begin, end, at = [], [], 0
    for gap, length, _, _ in stretches:
        begin.append(at + gap)
        end.append(at := at + gap + length)
    low, high = (np.array([s[k] for s in stretches], np.float64) for k in (2, 3))
    slopes = Slopes(np.array(begin, np.int64), np.array(end, np.int64), low, high)
    fine = np.arange(0, 150, 0.001) + 0.0005

    def value(x: float) -> float:
        for b, e, lo, hi in zip(begin, end, low, high, strict=True):
            if b <= x < e:
                return float(lo + (hi - lo) * (x - b) / (e - b))
        return 0.0

    for x in range(0, 60, 7):
        assert slopes.at(np.array([x]))[0] == pytest.approx(value(x))
    values = slopes.at(fine)
    for a, b, mean in zip(EDGES[:-1], EDGES[1:], slopes.means(EDGES), strict=True):
        assert mean == pytest.approx(values[(fine >= a) & (fine < b)].mean(), abs=1e-3)
