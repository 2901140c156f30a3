"""Classes of bubbles on rows by hand."""

from __future__ import annotations

import numpy as np
import pytest

from phasewise.record.bubbles import bubbles, busy_ns
from phasewise.record.columns import STEPS
from phasewise.record.header import Header, Tables
from phasewise.sim.simulate import simulate
from worlds import ToyLatency, toy_resolved, workload


def rows(*found: tuple[int, int, int, int]) -> np.ndarray:
    """Rows of `steps` from (start, end, prompt tokens, bubble)."""
    steps = np.zeros(len(found), STEPS)
    for i, (start, end, prefill, bubble) in enumerate(found):
        steps[i]["start_ns"], steps[i]["end_ns"], steps[i]["prefill"], steps[i]["bubble_ns"] = (
            start,
            end,
            prefill,
            bubble,
        )
    return steps


def test_each_pair_has_its_class() -> None:
    steps = rows(
        (0, 10, 0, 0),
        (2, 20, 5, 1),  # a prompt after a decode
        (10, 30, 7, 2),  # prompts of different sizes
        (20, 40, 7, 4),  # of equal ones
        (30, 50, 0, 8),  # a decode after a prompt
        (40, 60, 0, 16),  # decodes
        (50, 70, 0, 32),
        (70, 80, 0, 64),  # alone in flight
        (90, 99, 3, 0),  # after a rest
    )
    tables = Tables(np.zeros(0), (steps, steps), (np.zeros(0), np.zeros(0)), (), np.zeros(0))
    header = Header("test", toy_resolved(replicas=2, pp=2), {}, 0)
    found = bubbles(header, tables)
    assert found is not None
    seconds = {name: pytest.approx(2 * ns * 1e-9) for name, ns in zip(found, (0, 2, 9, 52, 64), strict=True)}
    assert {k: v for k, v in found.items() if k != "share"} == {k: v for k, v in seconds.items() if k != "share"}
    assert busy_ns(steps) == 89
    assert found["share"] == pytest.approx((2 + 9 + 52) / (2 * 89))


def test_nothing_is_said_where_there_is_no_pipeline() -> None:
    log = simulate(toy_resolved(), workload([(0, 10, 5)]), physics=lambda i: ToyLatency())
    assert "bubbles" not in log.summary
    assert not log.tables.steps[0]["bubble_ns"].any()


def test_nothing_ran() -> None:
    empty = rows()
    tables = Tables(np.zeros(0), (empty,), (np.zeros(0),), (), np.zeros(0))
    found = bubbles(Header("test", toy_resolved(pp=2), {}, 0), tables)
    assert found == {"share": None, "pb1_s": 0, "pb2_s": 0, "pb3_s": 0, "unfilled_s": 0}
