"""A part of a run: the requests of its middle, and whether its backlog grew. Pure functions of the columns.

The first arrivals find an empty house, and the last ones leave an emptying one: what a rate does to requests shows in
between. Nobody is cut off: the run goes on until all are served, and a request counts whole or not at all. It does not know
how long a run must be: `backlog_growth` says what its length lets it see.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasewise.core.action import Outcome
from phasewise.record.header import Tables

MIDDLE = 0.8
SIGNIFICANT = 2.0


def middle(tables: Tables, share: float = MIDDLE) -> NDArray[np.bool_]:
    """Which rows of `requests` arrived in the middle `share` of all arrivals, by number; at least one."""
    n = len(tables.requests)
    cut = min(int(n * (1 - share) / 2 + 1e-9), (n - 1) // 2)
    place = np.empty(n, np.int64)
    place[np.argsort(tables.requests["arrival_ns"], kind="stable")] = np.arange(n)
    chosen: NDArray[np.bool_] = (place >= cut) & (place < n - cut)
    return chosen


def part(tables: Tables, chosen: NDArray[np.bool_]) -> Tables:
    """The tables of the chosen rows of `requests` alone, among all the steps that ran: what a `Scored` scores."""
    requests = tables.requests[chosen]
    kept = np.zeros(int(tables.requests["request"].max(initial=-1)) + 1, bool)
    kept[requests["request"]] = True
    spans, transfers = (tuple(t[kept[t["request"]]] for t in kind) for kind in (tables.spans, tables.transfers))
    return Tables(requests, tables.steps, spans, transfers, tables.changes)


def backlog_growth(tables: Tables, share: float = MIDDLE) -> float:
    """How far the number of requests inside grew while the middle `share` of them arrived; above 1, it grew for good.

    A least-squares line through the number inside, seen just before each of the n middle arrivals, rises by so many
    requests; 1 stands for a rise of 2 sqrt(n). The arrivals of a Poisson process alone scatter by sqrt(n) about their mean,
    so less than that is chance, and an overload shows from a share of 2 / sqrt(n) of the arrivals on: 5 % with 2,000 requests,
    1.6 % with 20,000. Rejected requests are never inside. 0 with fewer than three arrivals.
    """
    requests = tables.requests
    arrival = np.sort(requests["arrival_ns"][middle(tables, share)])
    n = len(arrival)
    if n < 3:
        return 0.0
    inside = _inside(requests[requests["outcome"] != Outcome.REJECTED], arrival)
    # Against the number of the arrival, not its time: a pause in the arrivals then neither weighs nor counts.
    x = np.arange(n) - (n - 1) / 2
    rise = float((x * inside).sum() / (x * x).sum()) * (n - 1)
    return rise / (SIGNIFICANT * math.sqrt(n))


def _inside(requests: NDArray[Any], at_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Requests that had arrived before each instant and were not over yet."""
    ended = np.sort(requests["end_ns"][requests["end_ns"] >= 0])
    arrived = np.sort(requests["arrival_ns"])
    inside = np.searchsorted(arrived, at_ns, side="left") - np.searchsorted(ended, at_ns, side="right")
    return inside.astype(np.float64)
