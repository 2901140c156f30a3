"""Quantities over time, and their exact means over slots of time: what a picture is made of, however long the run.

Two kinds: a `Level` changes at instants and stands still between them; `Slopes` are stretches that do not overlap, straight
from one value to another, and nothing in between. Time is in nanoseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Instants = NDArray[np.int64]


class Level:
    """A step function: `value[i]` from `at_ns[i]` on, nothing before the first. The instants ascend."""

    def __init__(self, at_ns: Instants, value: Floats) -> None:
        self.at_ns, self.value = at_ns, value

    @staticmethod
    def of(changes: list[tuple[Any, Any]]) -> Level:
        """From arrays of instants and of by how much it rises at each (a number: all the same)."""
        at = [np.asarray(a, np.int64) for a, _ in changes]
        by = [np.broadcast_to(np.asarray(b, np.float64), x.shape) for x, (_, b) in zip(at, changes, strict=True)]
        instants, index = np.unique(np.concatenate(at) if at else np.empty(0, np.int64), return_inverse=True)
        rises = np.bincount(index, np.concatenate(by) if by else None, len(instants))
        return Level(instants, np.cumsum(rises))

    @staticmethod
    def during(begin_ns: Instants, end_ns: Instants, value: Any = 1.0) -> Level:
        """How much there is at once of what lasts from `begin_ns` to `end_ns`."""
        return Level.of([(begin_ns, value), (end_ns, -np.asarray(value, np.float64))])

    def at(self, at_ns: Instants, side: Any = "right") -> Floats:
        """The value at instants: after what happens then (right), or before (left)."""
        found: Floats = np.concatenate([[0.0], self.value])[np.searchsorted(self.at_ns, at_ns, side=side)]
        return found

    def means(self, edges_ns: Floats) -> Floats:
        """The mean over time between each edge and the next, exactly."""
        if not len(self.at_ns):
            return np.zeros(len(edges_ns) - 1)
        spent = np.diff(self.at_ns.astype(np.float64))
        upto = np.concatenate([[0.0], np.cumsum(self.value[:-1] * spent)])
        place = np.searchsorted(self.at_ns, edges_ns, side="right") - 1
        known = np.maximum(place, 0)
        since = np.where(place >= 0, edges_ns - self.at_ns[known], 0.0)
        return _rates(upto[known] + self.value[known] * since, edges_ns)


class Slopes:
    """Stretches in order: from `begin_ns[i]` to `end_ns[i]` straight from `low[i]` to `high[i]`, 0 outside."""

    def __init__(self, begin_ns: Instants, end_ns: Instants, low: Floats, high: Floats) -> None:
        some = end_ns > begin_ns
        self.begin_ns, self.end_ns = begin_ns[some], end_ns[some]
        self.low, self.high = low[some].astype(np.float64), high[some].astype(np.float64)

    def at(self, at_ns: Instants) -> Floats:
        """The value at instants; at one where a stretch ends and the next begins, of the next."""
        place = np.searchsorted(self.begin_ns, at_ns, side="right") - 1
        known = np.maximum(place, 0)
        if not len(self.begin_ns):
            return np.zeros(len(at_ns))
        inside = (place >= 0) & (at_ns < self.end_ns[known])
        gone = (at_ns - self.begin_ns[known]) / (self.end_ns - self.begin_ns)[known]
        return np.where(inside, self.low[known] + (self.high - self.low)[known] * gone, 0.0)

    def means(self, edges_ns: Floats) -> Floats:
        """The mean over time between each edge and the next, exactly."""
        if not len(self.begin_ns):
            return np.zeros(len(edges_ns) - 1)
        length = (self.end_ns - self.begin_ns).astype(np.float64)
        upto = np.concatenate([[0.0], np.cumsum((self.low + self.high) / 2 * length)[:-1]])
        place = np.searchsorted(self.begin_ns, edges_ns, side="right") - 1
        known = np.maximum(place, 0)
        since = np.where(place >= 0, np.clip(edges_ns - self.begin_ns[known], 0.0, length[known]), 0.0)
        rise = (self.high - self.low)[known] / length[known]
        return _rates(upto[known] + (self.low[known] + rise * since / 2) * since, edges_ns)


def _rates(total: Floats, edges_ns: Floats) -> Floats:
    means: Floats = np.diff(total) / np.diff(edges_ns)
    return means
