"""What is brought about, and what it costs: drained replicas stay out, and what is over weighs nothing."""

from __future__ import annotations

import pytest

from fleets import tight_fleet
from phasewise.control.replay import replay
from phasewise.core.action import Outcome
from phasewise.core.event import Lost
from phasewise.core.fault import Cuts, Dies, Drains, Fault, Scenario, Slows, Starts, holds
from phasewise.core.message import Ready, Submit
from phasewise.record.runlog import RunLog
from phasewise.sim import mishaps
from phasewise.sim.simulate import simulate
from worlds import ConstantLatency, ToyLatency, workload

US = 1_000
COLD_US = 20
ROWS = [(i * 10 * US, 10, 5) for i in range(60)]


def ran(*faults: Fault, wire_s: float = 0.0, patience_s: float | None = None) -> RunLog:
    """Two mixed replicas that take turns, which boot in 20 us; arrivals go on for 600 us."""
    resolved = tight_fleet(
        ["mixed", "mixed"], wire_s=wire_s, patience_s=patience_s, cold_start_s=COLD_US / 1e6, max_context=48
    )
    log = simulate(resolved, workload(ROWS), physics=lambda i: ToyLatency(), scenario=Scenario(faults))
    replay(log, lambda i: ToyLatency())
    return log


def last_given_ns(log: RunLog, replica: int) -> int:
    """When the last request came that a replica was given."""
    return max(given_ns(log, replica))


def given_ns(log: RunLog, replica: int) -> list[int]:
    """When those requests came that a replica was given, in the order of the orders."""
    orders = [a for _, _, actions in log.records(0) for a in actions if type(a) is Submit and a.replica == replica]
    return [order.request.arrival_ns for order in orders]


DIES, BACK = 200 * US, 240 * US
CASES = {
    "drained before it dies": 100 * US,
    "drained when it dies": DIES,
    "drained while it is gone": 220 * US,
    "drained when it is started": BACK,
    "drained while it boots": 250 * US,
}


@pytest.mark.parametrize("patience_s", [None, 30e-6], ids=["reliable wire", "patient"])
@pytest.mark.parametrize("wire_s", [0.0, 2e-6])
@pytest.mark.parametrize("drained_ns", CASES.values(), ids=CASES)
def test_a_death_does_not_bring_back_what_was_drained(drained_ns: int, wire_s: float, patience_s: float | None) -> None:
    log = ran(Drains(drained_ns, 1), Dies(DIES, 1, BACK), wire_s=wire_s, patience_s=patience_s)
    assert (log.tables.requests["outcome"] == Outcome.FINISHED).all()
    assert last_given_ns(log, 1) <= min(drained_ns, DIES + 4 * US)
    assert not any(type(event) is Ready for _, event, _ in log.records(0))


def test_without_the_drain_it_comes_back() -> None:
    log = ran(Dies(DIES, 1, BACK))
    assert last_given_ns(log, 1) > 500 * US
    assert [event.returns for _, event, _ in log.records(0) if type(event) is Lost] == [True]


def test_what_was_drained_can_be_started_again() -> None:
    """By an operator: it is absent at first, is started, drained, and started once more."""
    log = ran(Starts(50 * US, 1), Drains(150 * US, 1), Starts(400 * US, 1))
    assert (log.tables.requests["outcome"] == Outcome.FINISHED).all()
    assert last_given_ns(log, 1) > 500 * US
    given = given_ns(log, 1)
    assert any(at < 150 * US for at in given)
    assert not any(150 * US < at < 400 * US for at in given)


def test_nobody_waits_for_what_was_drained() -> None:
    """It was to return, and is drained meanwhile: no replica will come, so whoever waits fails at once."""
    log = ran(Dies(DIES, 0), Dies(DIES, 1, 500 * US), Drains(300 * US, 1))
    outcomes = log.tables.requests["outcome"]
    assert set(outcomes.tolist()) == {Outcome.FINISHED, Outcome.FAILED}
    assert int(log.tables.requests["end_ns"][outcomes == Outcome.FAILED].min()) == 300 * US


def test_each_fault_is_looked_at_twice_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def counted(fault: Slows | Cuts, at_ns: int) -> bool:
        looks.append(fault)
        return holds(fault, at_ns)

    monkeypatch.setattr(mishaps, "holds", counted)
    slows = [Slows(i * US, i % 2, 1.5, (i + 3) * US) for i in range(200)]
    cuts = [Cuts(i * US, 0, 1, 2.0, (i + 3) * US) for i in range(200)]
    ran(*slows, *cuts)
    assert len(looks) == 2 * 400


def test_overlapping_slow_times_multiply_and_end() -> None:
    """Two of a kind count twice. Steps of 1 us, of which the first after a change may have begun before it."""
    twice = Slows(200 * US, 0, 2.0, 300 * US)
    faults = (Slows(0, 0, 2.0, 100 * US), Slows(50 * US, 0, 3.0, 150 * US), twice, twice)
    resolved = tight_fleet(["mixed"], max_context=48)
    log = simulate(resolved, workload(ROWS), physics=lambda i: ConstantLatency(US), scenario=Scenario(faults))
    steps = log.tables.steps[0]
    factors = {(0, 50): 2, (50, 100): 6, (100, 150): 3, (150, 200): 1, (200, 300): 4, (300, 1000): 1}
    for (low, high), factor in factors.items():
        mine = steps[(steps["start_ns"] >= low * US) & (steps["end_ns"] < high * US)]
        assert len(mine)
        assert ((mine["end_ns"] - mine["start_ns"]) == factor * US * mine["steps"]).all()
