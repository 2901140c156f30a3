"""Swapping: a decode that finds no block goes to host memory, and back first; it is recomputed only where there is no room."""

from __future__ import annotations

from math import ceil

from fleets import tight_fleet
from phasewise.control.replay import replay
from phasewise.core.action import Pull, Run
from phasewise.core.event import HOST, Pulled
from phasewise.core.fault import Cuts, Scenario
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from worlds import ToyLatency, workload

ROWS = [(0, 16, 30), (10, 16, 30), (20, 16, 30)]
"""Three that need 46 tokens each, on nine blocks of eight."""


def run(host_blocks: int) -> RunLog:
    resolved = tight_fleet(["mixed"], "distserve", blocks=9, host_blocks=host_blocks)
    return simulate(resolved, workload(ROWS), physics=lambda i: ToyLatency())


def prompts_computed(log: RunLog) -> int:
    steps = log.tables.steps[0]
    return int((steps["prefill"] * steps["steps"]).sum())


def pulls(log: RunLog) -> list[Pull]:
    return [a for _, _, actions in log.records(1) for a in actions if type(a) is Pull]


def test_without_host_memory_what_is_preempted_is_computed_again() -> None:
    log = run(0)
    assert log.summary["preemptions"] > 0
    assert prompts_computed(log) > 48
    assert not pulls(log)


def test_with_host_memory_nothing_is_computed_twice() -> None:
    log = run(100)
    assert log.summary["completed"] == 3
    assert log.summary["tokens_out"] == 90
    assert log.summary["preemptions"] > 0
    assert prompts_computed(log) == 48
    assert {pull.source for pull in pulls(log)} == {HOST}
    assert len(pulls(log)) == log.summary["preemptions"]
    assert not len(log.tables.transfers[0])  # nothing came from another replica
    replay(log)


def test_what_does_not_fit_into_host_memory_is_recomputed() -> None:
    log = run(1)
    assert log.summary["completed"] == 3
    assert not pulls(log)
    assert prompts_computed(log) > 48


def test_the_way_back_takes_the_time_of_the_copy() -> None:
    """A toy token weighs 256 bytes (two layers, two heads of 16, two bytes), and PCIe 4.0 carries 31.5 a nanosecond."""
    log = run(100)
    asked = {}
    for at_ns, event, actions in log.records(1):
        if type(event) is Pulled:
            tokens = asked.pop(event.request)
            assert at_ns - event.began_ns == ceil(tokens * 256 / 31.5)
        for action in actions:
            if type(action) is Pull:
                asked[action.request] = action.tokens
    assert not asked


def test_the_first_to_be_let_in_is_who_came_back() -> None:
    log = run(100)
    runs = [a for _, _, actions in log.records(1) for a in actions if type(a) is Run]
    assert any(run.plan.preempt for run in runs)
    spans = log.tables.spans[0]
    assert sorted(spans["request"].tolist()) == sorted([0, 1, 2, *(p.request for p in pulls(log))])


def test_a_link_between_replicas_has_no_part_in_it() -> None:
    """Every link is lost just when something is on its way back."""
    began = [e.began_ns for _, e, _ in run(100).records(1) if type(e) is Pulled]
    resolved = tight_fleet(["mixed"], "distserve", blocks=9, host_blocks=100)
    cut = Scenario((Cuts(began[0], None, None),))
    log = simulate(resolved, workload(ROWS), physics=lambda i: ToyLatency(), scenario=cut)
    assert log.summary["completed"] == 3
    assert log.summary["tokens_out"] == 90
