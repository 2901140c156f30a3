"""A replica's phases over time, as series to draw: a pure function of the columns. It does not know how they are drawn.

All times are seconds since the first arrival of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasewise.core.action import Outcome
from phasewise.core.errors import InputError
from phasewise.core.units import NS_PER_S
from phasewise.record.columns import PREEMPTED
from phasewise.record.gaps import Iterations, by_cohort, continues, decoding
from phasewise.record.runlog import RunLog

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Phases:
    """What one replica did. One entry a row of `steps`: from `start_s` to `end_s` it computed `prefill` prompt tokens an
    iteration beside `decodes` decoding requests. `first_gap_s` is the gap before the token of its first iteration, which is
    over at `first_end_s`; those after it run straight from `second_gap_s` to `last_gap_s` (nan if nobody was decoding, all
    the same if there was one iteration). `waiting` and `inside` are counts of requests from an instant on.
    """

    start_s: Floats
    end_s: Floats
    prefill: Counts
    decodes: Counts
    first_end_s: Floats
    first_gap_s: Floats
    second_gap_s: Floats
    last_gap_s: Floats
    waiting_at_s: Floats
    waiting: Counts
    inside_at_s: Floats
    inside: Counts
    arrival_s: Floats
    prompt: Counts

    @property
    def length_s(self) -> float:
        """When the replica's last step or the run's last arrival was over, whichever is later."""
        return max(float(self.end_s.max(initial=0.0)), float(self.arrival_s.max(initial=0.0)))


def phases(log: RunLog, replica: int = 0) -> Phases:
    """The series of one replica. InputError if the run has no such replica, or nothing ran on it."""
    if not 0 <= replica < len(log.tables.steps):
        raise InputError(f"there is no replica {replica}; the run has 0 to {len(log.tables.steps) - 1}")
    requests, steps, spans = log.tables.requests, log.tables.steps[replica], log.tables.spans[replica]
    if not len(steps):
        raise InputError(f"nothing ran on replica {replica}; there is nothing to draw")
    origin = int(requests["arrival_ns"].min())
    start, end = _seconds(steps["start_ns"], origin), _seconds(steps["end_ns"], origin)
    first_end = _seconds(Iterations(steps).first_end_ns, origin)
    gaps = _gaps(steps, spans)
    mine = _routed_here(log, replica)
    waits = _waits(mine, steps, spans)
    waiting_at, waiting = _level(waits[:, 0], waits[:, 1], origin)
    ended = mine["end_ns"][mine["end_ns"] >= 0]
    inside_at, inside = _level(mine["arrival_ns"], ended, origin)
    arrival = _seconds(mine["arrival_ns"], origin)
    counts = (steps["prefill"].astype(np.int64), steps["decodes"].astype(np.int64))
    return Phases(
        start,
        end,
        *counts,
        first_end,
        *gaps,
        waiting_at,
        waiting,
        inside_at,
        inside,
        arrival,
        mine["prompt"].astype(np.int64),
    )


def busiest(series: Phases) -> tuple[float, float]:
    """The stretch, in seconds, in which the most prompt tokens arrive: 10 to 60 s, about a hundred requests long.

    It depends on the arrivals alone, so that runs of one workload under several policies show the same stretch.
    """
    length, n = series.length_s, len(series.arrival_s)
    if not n:
        return 0.0, length
    width = min(60.0, max(10.0, 100 * float(series.arrival_s[-1]) / n))
    if length <= 1.5 * width:
        return 0.0, length
    tokens = np.concatenate([[0], np.cumsum(series.prompt)])
    arrived = tokens[np.searchsorted(series.arrival_s, series.arrival_s + 0.8 * width)] - tokens[:n]
    first = float(series.arrival_s[int(np.argmax(arrived))])
    # A little before the load comes, and a little after it.
    low = max(0.0, first - 0.1 * width)
    return low, min(low + width, length)


def _seconds(ns: NDArray[Any], origin: int) -> Floats:
    at: Floats = (ns - origin) / NS_PER_S
    return at


def _gaps(steps: NDArray[Any], spans: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """The gap before the first token of each row, before its second and before its last, seconds; nan where nobody decodes.

    Of those who were decoding before, if there are any: an iteration that left them out counts into their gap. Where several
    cohorts decode, the longest.
    """
    first, second, last = (np.full(len(steps), np.nan) for _ in range(3))
    for iterations, mine in by_cohort(steps, spans):
        rows, n = iterations.rows, iterations.steps[iterations.rows]
        _, veterans = decoding(iterations, spans[mine])
        between = iterations.first_end_ns[rows] - np.concatenate([[0], iterations.end_ns[rows[:-1]]])[: len(rows)]
        begin = np.where(veterans > 0, between, iterations.first_ns[rows])
        body = iterations.first_ns[rows] + iterations.slope[rows]
        end = np.where(n > 1, iterations.first_ns[rows] + iterations.slope[rows] * (n - 1), begin)
        first[rows], last[rows] = np.fmax(first[rows], begin), np.fmax(last[rows], end)
        second[rows] = np.fmax(second[rows], np.where(n > 1, body, begin))
    return first / NS_PER_S, second / NS_PER_S, last / NS_PER_S


def _routed_here(log: RunLog, replica: int) -> NDArray[Any]:
    """Rows of the requests that this replica served; of a lone replica, all that were not rejected."""
    requests = log.tables.requests
    served = np.isin(requests["request"], log.tables.spans[replica]["request"])
    mine: NDArray[Any] = requests[requests["outcome"] != Outcome.REJECTED if len(log.tables.steps) == 1 else served]
    return mine


def _waits(mine: NDArray[Any], steps: NDArray[Any], spans: NDArray[Any]) -> Counts:
    """From when to when somebody waited, in ns: each request before its first chunk, and after each preemption.

    The columns do not say when a request was preempted before its first token, or while it stood still: it is taken to wait
    from the end of the step of its first chunk, or of its last token.
    """
    spans = spans[np.lexsort((spans["first_chunk"], spans["request"]))]
    begins = steps["start_ns"][spans["first_chunk"]]
    row = np.searchsorted(mine["request"], spans["request"])
    since = mine["arrival_ns"][row]
    again = np.flatnonzero((spans["request"][1:] == spans["request"][:-1]) & (spans["left"][:-1] == PREEMPTED))
    stood = np.where(spans["last"] >= 0, spans["last"], spans["first_chunk"])
    since[again + 1] = steps["end_ns"][stood[again]]
    begun = ~continues(spans)
    never = ~np.isin(mine["request"], spans["request"]) & (mine["end_ns"] >= 0)
    unserved = np.column_stack([mine["arrival_ns"][never], mine["end_ns"][never]])
    return np.concatenate([np.column_stack([since, begins])[begun], unserved])


def _level(ups: NDArray[Any], downs: NDArray[Any], origin: int) -> tuple[Floats, Counts]:
    """Instants in seconds, and how many more ups than downs there have been by each."""
    at = np.concatenate([ups, downs])
    change = np.concatenate([np.ones(len(ups), np.int64), -np.ones(len(downs), np.int64)])
    instants, index = np.unique(at, return_inverse=True)
    return _seconds(instants, origin), np.cumsum(np.bincount(index, change, len(instants))).astype(np.int64)
