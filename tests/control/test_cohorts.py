"""Several cohorts in one room: regrouping, and the alarms of a batcher that waits; each rule of the mechanism by hand."""

from __future__ import annotations

from typing import Any

import pytest

from hands import Hand, Script, whole
from phasewise.core.action import Forget, Regroup, Run, WakeAt
from phasewise.core.errors import PlanError
from phasewise.core.event import Woken
from phasewise.core.message import Cancelled, Finished
from phasewise.core.step import StepPlan
from phasewise.core.view import InstanceState


def both(hand: Hand) -> Hand:
    """Two requests of 4 tokens, whose prompts run."""
    hand.submit(0, 4)
    hand.submit(1, 4)
    return hand


START = ((), StepPlan((whole(0, 4, "a"), whole(1, 4, "b"))))


def test_only_the_planned_cohort_moves_and_the_other_keeps_its_blocks() -> None:
    hand = both(Hand(Script(*START, StepPlan((), ("a",), repeat=5), ())))
    [run] = hand.done()
    assert (run.decodes, run.context) == (1, 4)
    hand.done(steps=5)
    a, b = hand.state.cohorts["a"], hand.state.cohorts["b"]
    one, two = hand.state.running[0], hand.state.running[1]
    assert (a.computed(one), a.generated(one), hand.ledger.held(one)) == (9, 6, 3)
    assert (b.computed(two), b.generated(two), hand.ledger.held(two)) == (4, 1, 1)
    assert hand.ledger.free == 32 - 4


def test_the_moved_keep_their_tokens_and_blocks_and_count_on() -> None:
    moves = Regroup(((0, "c"),))
    plans = (*START, StepPlan((), ("a", "b"), repeat=3), (moves, StepPlan((), ("c",), repeat=2)), ())
    hand = both(Hand(Script(*plans)))
    hand.done()
    out = hand.done()
    assert out[0] == moves
    assert (out[1].decodes, out[1].context) == (1, 7)
    moved = hand.state.running[0]
    cohort = hand.state.cohorts["c"]
    assert moved.cohort is cohort
    assert (cohort.computed(moved), cohort.generated(moved), hand.ledger.held(moved)) == (7, 4, 2)
    for name, members in (("a", []), ("b", [hand.state.running[1]]), ("c", [moved])):
        hand.state.cohorts[name].check(members)
    assert hand.done(0) == [Finished(0, 0, 6)]


def test_moved_and_preempted_at_once_is_recomputed_whole() -> None:
    plans = (*START, StepPlan((), ("a", "b"), repeat=2), (Regroup(((1, "a"),)), StepPlan((), ("a",), (1,))))
    hand = both(Hand(Script(*plans)))
    hand.done()
    [_, run] = hand.done()
    assert run.decodes == 1
    back = hand.state.waiting[0]
    assert (back.id, back.known, back.generated, back.computed, back.blocks) == (1, 7, 3, 0, 0)


def test_a_moved_request_may_leave() -> None:
    hand = both(Hand(Script(*START, (Regroup(((0, "b"),)), StepPlan((), ("b",))), ())))
    hand.done()
    assert hand.cancel(0) == []
    assert hand.done() == [Forget(0), Cancelled(0, 0, 2, 0)]
    assert hand.state.cohorts["b"].count == 1


@pytest.mark.parametrize(
    ("moves", "says"),
    [
        (((7, "b"),), "request 7 is to change its cohort but does not decode"),
        (((2, "b"),), "request 2 is to change its cohort but does not decode"),
    ],
)
def test_only_those_who_decode_can_be_moved(moves: Any, says: str) -> None:
    hand = both(Hand(Script(*START, (), (Regroup(moves), StepPlan((), ("a",))))))
    hand.done()
    with pytest.raises(PlanError, match=says):
        hand.submit(2, 4)


@pytest.mark.parametrize("moves", [((0, "b"),), ((1, "a"),)], ids=["out of", "into"])
def test_nobody_is_moved_out_of_a_cohort_in_flight_or_into_it(moves: Any) -> None:
    plans = (*START, StepPlan((), ("a",)), (Regroup(moves), StepPlan((whole(2, 4, "c"),), lane=1)))
    hand = both(Hand(Script(*plans), lanes=2))
    hand.done()
    assert hand.flying[0].plan.cohorts == ("a",)
    with pytest.raises(PlanError, match="is to change its cohort in flight"):
        hand.submit(2, 4)


def test_a_replica_keeps_64_cohorts() -> None:
    """`all` is one of them."""

    def next_one(state: InstanceState) -> tuple[StepPlan, ...]:
        return tuple(StepPlan((whole(r.id, 1, f"c{r.id}"),)) for r in state.waiting)

    hand = Hand(Script(*[next_one] * 130), blocks=200)
    for request in range(63):
        hand.submit(request, 1)
        hand.done()
    assert len(hand.state.cohorts) == 64
    hand.submit(63, 1)
    with pytest.raises(PlanError, match="cohort 'c63' would be the 65th; a replica keeps 64"):
        hand.done()


@pytest.mark.parametrize("name", ["b", "nowhere"])
def test_a_planned_cohort_has_somebody_in_it(name: str) -> None:
    says = "nobody decodes in cohort 'b'" if name == "b" else "there is no cohort 'nowhere'"
    plans = (*START, (Regroup(((1, "a"),)), StepPlan((), ("a", name))))
    hand = both(Hand(Script(*plans)))
    with pytest.raises(PlanError, match=says):
        hand.done()


def test_a_cohort_is_planned_once() -> None:
    hand = both(Hand(Script(*START, StepPlan((), ("a", "a")))))
    with pytest.raises(PlanError, match="cohort 'a' is planned twice"):
        hand.done()


# Alarms -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_ns", [0, 10])
def test_an_alarm_lies_ahead(at_ns: int) -> None:
    hand = Hand(Script((WakeAt(at_ns),)))
    with pytest.raises(PlanError, match=f"to be woken at {at_ns} ns, and it is 10 ns already"):
        hand.submit(0, 4)


def test_an_alarm_is_set_once_for_an_instant_and_asks_again_then() -> None:
    batcher = Script((WakeAt(500),), (WakeAt(500),), (WakeAt(700),), StepPlan((whole(0, 4),)))
    hand = Hand(batcher)
    assert hand.submit(0, 4) == [WakeAt(500)]
    assert hand.submit(1, 4) == [], "it is set already"
    assert hand.wake(500) == [WakeAt(700)]
    assert [type(action) for action in hand.wake(700)] == [Run]
    assert batcher.asked == 4


def test_an_alarm_that_finds_the_replica_at_work_or_empty_asks_nobody() -> None:
    batcher = Script((WakeAt(500),), StepPlan((whole(0, 4),)))
    hand = Hand(batcher)
    hand.submit(0, 4)
    hand.submit(1, 4)
    assert batcher.asked == 2
    assert hand.take(Woken()) == []
    hand.cancel(1)
    hand.done(0)
    assert hand.take(Woken()) == []
    assert batcher.asked == 2
