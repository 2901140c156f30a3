"""Pools over time, from tables that are written by hand."""

from __future__ import annotations

import msgspec
import numpy as np

from phasewise.core.spec import DECODE, MIXED, PREFILL
from phasewise.record.columns import CHANGES, REQUESTS, STEPS, WHAT
from phasewise.record.header import Header, Tables
from phasewise.record.pools import mean_mixed, mixed_over_time, pool_sizes
from pools import pooled

HEADER = Header("0", pooled((PREFILL, DECODE, DECODE)), {}, 0)


def tables(*changes: tuple[int, int, str], first_ns: int = 0, last_ns: int = 100) -> Tables:
    rows = np.array([(at, replica, WHAT.index(what)) for at, replica, what in changes], CHANGES)
    requests, steps = np.zeros(1, REQUESTS), np.zeros(1, STEPS)
    requests["arrival_ns"], steps["end_ns"] = first_ns, last_ns
    return Tables(requests, (steps,), (), (), rows)


def test_steps_of_sizes() -> None:
    found = tables((10, 1, MIXED), (20, 2, MIXED), (20, 1, DECODE), (40, 2, DECODE))
    at_ns, sizes = pool_sizes(HEADER, found)
    assert at_ns.tolist() == [0, 10, 40], "at 20 one returns as the other comes"
    assert sizes.tolist() == [[1, 2, 0], [1, 1, 1], [1, 2, 0]]
    assert mixed_over_time(HEADER, found)[1].tolist() == [0, 1, 0]
    assert mean_mixed(HEADER, found) == 0.3


def test_only_those_that_are_there_count() -> None:
    found = tables(
        (10, 1, MIXED), (20, 1, "lost"), (30, 1, "booting"), (50, 1, "serving"), (60, 1, "draining"), (70, 1, "stopped")
    )
    at_ns, sizes = pool_sizes(HEADER, found)
    assert at_ns.tolist() == [0, 10, 20, 50, 70]
    assert sizes[:, 2].tolist() == [0, 1, 0, 1, 0]
    assert sizes.sum(axis=1).tolist() == [3, 3, 2, 3, 2]


def test_the_mean_is_over_the_run() -> None:
    found = tables((10, 1, MIXED), first_ns=50, last_ns=90)
    assert mean_mixed(HEADER, found) == 1.0
    assert mean_mixed(HEADER, msgspec.structs.replace(tables(), requests=np.zeros(0, REQUESTS))) == 0.0
