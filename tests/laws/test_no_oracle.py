"""No oracle: what a policy decides before the first answer ends does not depend on how long any answer will be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasewise.core.action import Run
from phasewise.core.event import Arrived, StepDone
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load
from phasewise.workload.workload import Workload
from worlds import ARMS, ToyLatency, mixed, random_rows, toy_resolved, workload


def first_end_ns(log: RunLog) -> int:
    ends = [at for room in range(1, log.rooms) for at, e, _ in log.records(room) if type(e) is StepDone and e.ended]
    return min(ends, default=1 << 60)


def actions_before(log: RunLog, room: int, end_ns: int) -> list[tuple[int, Any]]:
    return [(at_ns, action) for at_ns, _, actions in log.records(room) if at_ns < end_ns for action in actions]


def assert_blind(a: RunLog, b: RunLog) -> None:
    """Two runs of requests that differ in their true lengths alone do the same until the first answer ends."""
    end_ns = min(first_end_ns(a), first_end_ns(b))
    for room in range(a.rooms):
        assert actions_before(a, room, end_ns) == actions_before(b, room, end_ns)


def permuted(load: Workload, seed: int) -> Workload:
    return replace(load, truth=load.truth.permuted(seed))


@pytest.mark.parametrize("arm", ARMS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 3)
def test_permuting_the_true_lengths_changes_no_action_before_the_first_end(arm: str, data: st.DataObject) -> None:
    rows = [(at, p, o + 5) for at, p, o in data.draw(random_rows(most=14, prompt=40, output=60))]
    resolved = toy_resolved(*ARMS[arm], data.draw(st.integers(16, 40)), 8, max_context=120, replicas=2)
    one = mixed(rows)
    other = permuted(one, data.draw(st.integers(0, 99)))
    a, b = (simulate(resolved, w, physics=lambda i: ToyLatency()) for w in (one, other))
    assert_blind(a, b)


def test_the_test_can_see_an_oracle() -> None:
    """A run does differ once an answer has ended, so the comparison above is not of nothing."""
    one = workload([(0, 10, 5), (10, 10, 50), (20, 10, 20)])
    other = permuted(one, 2)
    assert one.truth.column().tolist() != other.truth.column().tolist()
    a, b = (simulate(toy_resolved(), w, physics=lambda i: ToyLatency()) for w in (one, other))
    assert actions_before(a, 1, 1 << 60) != actions_before(b, 1, 1 << 60)
    assert any(type(action) is Run for _, action in actions_before(a, 1, first_end_ns(a)))


def test_max_tokens_never_tells_the_true_length() -> None:
    built_in = load("azure-conv", requests=500)
    assert {request.max_tokens for request in built_in.requests()} == {None}
    capped = msgspec.structs.asdict(next(workload([(0, 5, 3), (1, 5, 400)], max_tokens=100).requests()))
    assert capped["max_tokens"] == 100
    log = simulate(toy_resolved(), workload([(0, 30, 5), (1_000, 30, 7)]), physics=lambda i: ToyLatency())
    assert {e.request.max_tokens for _, e, _ in log.records(0) if type(e) is Arrived} == {None}
