"""A rate that changes with time, and its exact inversion. It draws nothing and knows no request.

An arrival process with rate r(t) is one with rate 1 on the axis of its cumulative rate R(t) = integral of r: the k-th point
at x_k there arrives at R^-1(x_k). r is straight between its points, so R is quadratic and its inverse a closed form.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class RateCurve:
    """Pieces that begin at `start_s` (the first at 0) and end where the next begins, the last at `end_s`.

    The rate in a piece runs straight from `first` to `last`, requests/s, both 0 or more. `total` is R(end_s).
    """

    def __init__(self, start_s: Floats, end_s: float, first: Floats, last: Floats) -> None:
        self._start = start_s
        self._first = first
        length = np.diff(start_s, append=end_s)
        self._slope = (last - first) / length
        self._upto = np.concatenate([[0.0], np.cumsum((first + last) / 2 * length)])
        self.end_s = end_s
        self.total = float(self._upto[-1])

    @property
    def mean_rate(self) -> float:
        """Requests/s over the whole curve."""
        return self.total / self.end_s

    def times(self, amounts: Floats) -> Floats:
        """R^-1 of each amount in 0..total: seconds at which so many requests have been due."""
        # Of equal amounts (a stretch at rate 0) the first piece counts: the one that reached them.
        piece = np.maximum(np.searchsorted(self._upto[1:], amounts, side="left"), 0)
        piece = np.minimum(piece, len(self._start) - 1)
        rest = np.maximum(amounts - self._upto[piece], 0.0)
        first, slope = self._first[piece], self._slope[piece]
        # The root of first t + slope t^2 / 2 = rest that cancels nothing; where the rate is 0 at both ends, rest is 0.
        root = first + np.sqrt(np.maximum(first * first + 2 * slope * rest, 0.0))
        spent = np.divide(2 * rest, root, out=np.zeros_like(rest), where=root > 0)
        found: Floats = self._start[piece] + spent
        return found

    def repeated(self, amounts: Floats) -> Floats:
        """As `times`, the curve beginning again whenever it is over."""
        rounds = np.floor(amounts / self.total)
        return rounds * self.end_s + self.times(amounts - rounds * self.total)


def linear(points: list[tuple[float, float]], end_s: float) -> RateCurve:
    """Straight lines through `(t_s, rate)`, the first at 0; from the last back to the first rate at `end_s`."""
    at, rate = (np.array(column, np.float64) for column in zip(*points, strict=True))
    if at[-1] >= end_s:
        return RateCurve(at[:-1], float(at[-1]), rate[:-1], rate[1:])
    return RateCurve(at, end_s, rate, np.append(rate[1:], rate[0]))


def steps(points: list[tuple[float, float]], end_s: float) -> RateCurve:
    """Each rate holds from its `t_s`, the first at 0, to the next one's; the last to `end_s`."""
    at, rate = (np.array(column, np.float64) for column in zip(*points, strict=True))
    return RateCurve(at, end_s, rate, rate)
