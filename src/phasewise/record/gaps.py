"""Times between tokens of one request, pooled over a run, in closed form: no token time is ever written out.

Within a leap all residents' gaps are one arithmetic progression, so a run's gaps are a mixture of progressions with
weights. Percentiles of the mixture are exact (inverted distribution function: the smallest gap that at least the share q
of all gaps does not exceed) at the cost of sorting rows, not tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasewise.record.columns import ADOPTED

Floats = NDArray[np.float64]


class Mixture:
    """Values `low + i * slope`, i < `count`, each weighing `weight`; one entry a progression. No count or weight is 0."""

    def __init__(self, low: Floats, slope: Floats, count: NDArray[np.int64], weight: NDArray[np.int64]) -> None:
        self.low, self.slope, self.count, self.weight = low, slope, count, weight
        self.high = low + slope * (count - 1)
        self.mass = count * weight
        self.total = int(self.mass.sum())

    @staticmethod
    def pooled(parts: Sequence[Mixture]) -> Mixture:
        """All values of several mixtures together."""
        if len(parts) == 1:
            return parts[0]
        return Mixture(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("low", "slope", "count", "weight")))

    @property
    def mean(self) -> float:
        """Weighted mean of all values; nan if there are none."""
        if not self.total:
            return float("nan")
        sums = self.count * self.low + self.slope * (self.count * (self.count - 1) / 2)
        return float((sums * self.weight).sum() / self.total)

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """The value at each share of the weight, exactly; nan if there are none."""
        if not self.total:
            return [float("nan")] * len(shares)
        mass = self.mass
        by_low, by_high = np.argsort(self.low), np.argsort(self.high)
        low, high = self.low[by_low], self.high[by_high]
        # At most so much weight lies at or below a low end, at least so much at or below a high end.
        most, least = np.cumsum(mass[by_low]), np.cumsum(mass[by_high])
        found = []
        for share in shares:
            rank = max(1, int(np.ceil(share * self.total - 1e-9)))
            floor = float(low[np.searchsorted(most, rank)])
            ceiling = float(high[np.searchsorted(least, rank)])
            found.append(self._between(floor, ceiling, rank))
        return found

    def _between(self, floor: float, ceiling: float, rank: int) -> float:
        """The value of a rank that is known to lie between two values: only progressions that reach in are written out."""
        below = int(self.mass[self.high < floor].sum())
        reach = np.flatnonzero((self.high >= floor) & (self.low <= ceiling))
        count = self.count[reach]
        starts = np.cumsum(count) - count
        index = np.arange(int(count.sum())) - np.repeat(starts, count)
        values = np.repeat(self.low[reach], count) + index * np.repeat(self.slope[reach], count)
        weights = np.repeat(self.weight[reach], count)
        order = np.argsort(values)
        at = int(np.searchsorted(below + np.cumsum(weights[order]), rank))
        return float(values[order[min(at, len(order) - 1)]])


class Iterations:
    """The decode iterations of one cohort: where each row's first one ends, and which rows have any (`decoding`; None: all)."""

    def __init__(self, steps: NDArray[Any], decoding: NDArray[np.bool_] | None = None) -> None:
        n = steps["steps"].astype(np.int64)
        self.slope: Floats = steps["slope_ns"]
        self.end_ns = steps["end_ns"]
        spent = self.end_ns - steps["start_ns"]
        self.first_ns: Floats = (spent - self.slope * (n * (n - 1) / 2)) / n
        self.first_end_ns: Floats = steps["start_ns"] + self.first_ns
        self.steps = n
        if decoding is None:
            decoding = steps["decodes"] > 0
        self.rows = np.flatnonzero(decoding)
        self.done_after = np.cumsum(n * decoding)
        self._upto = np.concatenate([[0], np.cumsum(decoding)])
        self._done = np.concatenate([[0], self.done_after])

    def next_row(self, row: NDArray[Any]) -> NDArray[np.int64]:
        """Index into `rows` of the first row with decodes after each given row (-1: of all)."""
        upto: NDArray[np.int64] = self._upto[row + 1]
        return upto

    def done_by(self, row: NDArray[Any]) -> NDArray[np.int64]:
        """Iterations up to the end of each given row (-1: none)."""
        done: NDArray[np.int64] = self._done[row + 1]
        return done


Part = tuple[Iterations, NDArray[np.int64] | slice]


def by_cohort(steps: NDArray[Any], spans: NDArray[Any]) -> list[Part]:
    """The iterations of each cohort of a replica, and which spans are its own."""
    used = int(np.bitwise_or.reduce(steps["cohorts"], initial=0))
    if not used & (used - 1):
        return [(Iterations(steps), slice(None))]
    parts: list[Part] = []
    for cohort in np.unique(spans["cohort"]).tolist():
        mine = np.flatnonzero(spans["cohort"] == cohort)
        parts.append((Iterations(steps, (steps["cohorts"] & np.uint64(1 << cohort)) > 0), mine))
    return parts


def continues(spans: NDArray[Any]) -> NDArray[np.bool_]:
    """Which spans continue an earlier one of their request, in another cohort or on another replica."""
    first = spans["first_token"]
    after: NDArray[np.bool_] = ((first >= 0) & (spans["first_chunk"] > first)) | (first == ADOPTED)
    return after


def _since(spans: NDArray[Any]) -> NDArray[np.int64]:
    """The row after which each span's decode iterations begin."""
    row: NDArray[np.int64] = np.maximum(spans["first_token"], spans["first_chunk"] - 1)
    return row


def decoding(it: Iterations, spans: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """In each row with decodes, how many of these spans decode, and how many of them did so in an earlier one already."""
    some = spans["tokens"] > 1 - continues(spans)
    return _decoding(it, it.next_row(_since(spans)[some]), spans["last"][some])


def _decoding(
    it: Iterations, joined: NDArray[np.int64], last: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`decoding` of spans that have a gap: each begins to decode in the row `joined` of those with decodes."""
    joining = np.bincount(joined, minlength=len(it.rows) + 1)
    leaving = np.bincount(it.next_row(last), minlength=len(it.rows) + 1)
    residents = np.cumsum(joining - leaving)[: len(it.rows)]
    return residents, residents - joining[: len(it.rows)]


def token_gaps(it: Iterations, spans: NDArray[Any]) -> Mixture:
    """The gaps between consecutive tokens within the stays of one cohort, in nanoseconds, of the requests in `spans`.

    Three kinds: a request's first gap, from the end of the row of its first token to its first decode; the gap to a row's
    first iteration, for all who were decoding before; and the gaps inside a leap. `spans` may be those of some requests only: a
    row weighs as many as it has of them.
    """
    rows = it.rows
    some = spans["tokens"] > 1 - continues(spans)
    joined = it.next_row(_since(spans)[some])
    residents, veterans = _decoding(it, joined, spans["last"][some])
    here = spans["first_token"][some] != ADOPTED
    first_gaps = it.first_end_ns[rows[joined[here]]] - it.end_ns[spans["first_token"][some][here]]
    # The first row with decodes has no veterans, so it matters not that its gap reaches back to nothing.
    kept = np.flatnonzero(veterans)
    between = it.first_end_ns[rows[kept]] - it.end_ns[rows[kept - 1]]
    long = np.flatnonzero((it.steps[rows] > 1) & (residents > 0))
    leaps = rows[long]
    slope = it.slope[leaps]
    alone = len(first_gaps)
    points = alone + len(between)
    return Mixture(
        np.concatenate([first_gaps, between, it.first_ns[leaps] + slope]),
        np.concatenate([np.zeros(points), slope]),
        np.concatenate([np.ones(points, np.int64), it.steps[leaps] - 1]),
        np.concatenate([np.ones(alone, np.int64), veterans[kept], residents[long]]),
    )


def first_tokens(it: Iterations, spans: NDArray[Any]) -> NDArray[np.float64]:
    """When each span's first token is out, nanoseconds; one without a token gives nan. Of a moved one, the last before it."""
    out = np.full(len(spans), np.nan)
    some = spans["tokens"] > 0
    here = np.flatnonzero(some & (spans["first_token"] >= 0))
    out[here] = it.end_ns[spans["first_token"][here]]
    came = np.flatnonzero(some & (spans["first_token"] == ADOPTED))
    out[came] = it.first_end_ns[it.rows[it.next_row(_since(spans)[came])]]
    return out


def resumptions(spans: NDArray[Any], first_ns: Floats, last_ns: Floats) -> Mixture:
    """The gaps between the stays of one request, from the last token of one to the first of the next, ns.

    `spans` of all replicas, those of a request together and in order of time. After a preemption a gap holds the time in the
    queue and the recomputation, after a hand-over the way to the other replica and the wait there.
    """
    stays = np.flatnonzero(spans["tokens"] > 0)
    spans, first_ns, last_ns = spans[stays], first_ns[stays], last_ns[stays]
    moved = continues(spans) & (spans["first_token"] != ADOPTED)
    again = np.flatnonzero((spans["request"][1:] == spans["request"][:-1]) & ~moved[1:])
    once = np.ones(len(again), np.int64)
    return Mixture(first_ns[again + 1] - last_ns[again], np.zeros(len(again)), once, once)


def latest_tokens(it: Iterations, spans: NDArray[Any], delivered: NDArray[np.int64], tpot_ns: float) -> Floats:
    """For each span, the largest `t_i - i * tpot_ns` of its tokens, token i of the request being out at `t_i`.

    `delivered` counts the request's tokens before the span; spans without a token give -inf. Between the ends of a row the
    quantity is convex in i (steps only get longer), so a row's two ends and a range maximum over rows suffice.
    """
    rows = it.rows
    steps = it.steps[rows]
    done = it.done_after[rows]
    lateness = np.maximum(it.first_end_ns[rows] - (done - steps + 1) * tpot_ns, it.end_ns[rows] - done * tpot_ns)
    out = np.full(len(spans), -np.inf)
    some = np.flatnonzero(spans["tokens"] > 0)
    goes_on = continues(spans)[some]
    after = _since(spans)[some]
    before = it.done_by(after) - (delivered[some] - goes_on)
    out[some] = np.where(goes_on, -np.inf, it.end_ns[after] - delivered[some] * tpot_ns)
    many = spans["tokens"][some] > 1 - goes_on
    begin = it.next_row(after[many])
    end = it.next_row(spans["last"][some][many])
    out[some[many]] = np.maximum(out[some[many]], _range_max(lateness, begin, end) + before[many] * tpot_ns)
    return out


def _range_max(values: Floats, begin: NDArray[Any], end: NDArray[Any]) -> Floats:
    """Maximum of `values[begin:end]` for each pair, by doubling (a sparse table, one level at a time)."""
    out = np.full(len(begin), -np.inf)
    length = end - begin
    level, width = values, 1
    while len(begin) and width <= int(length.max()):
        fits = (length >= width) & (length < 2 * width)
        out[fits] = np.maximum(level[begin[fits]], level[end[fits] - width])
        level = np.maximum(level[:-width], level[width:]) if len(level) > width else level[:0]
        width *= 2
    return out
