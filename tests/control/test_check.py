"""Every rule of the mechanism, broken once: a plan that asks for what cannot be is an error, at once and by name."""

from __future__ import annotations

import pytest

from hands import Hand, Script, whole
from phasewise.core.errors import PlanError
from phasewise.core.event import StepDone
from phasewise.core.step import ALL, Chunk, StepPlan

LEAP = StepPlan((), (ALL,), repeat=None)


def broken(match: str, *plans: StepPlan | tuple[StepPlan, ...], blocks: int = 32, lanes: int = 1) -> None:
    """The last plan is refused; those before it are fine. Requests 0, 1 and 2 have prompts of 8, 8 and 12 tokens."""
    hand = Hand(Script((), (), *plans), blocks, 4, 64, lanes)
    hand.submit(0, 8)
    hand.submit(1, 8)
    with pytest.raises(PlanError, match=match) as error:
        play(hand, len(plans))
    assert "\n" not in str(error.value)


def play(hand: Hand, plans: int) -> None:
    hand.submit(2, 12)
    for _ in range(plans):
        hand.done(steps=1)


def chunks(*found: Chunk) -> StepPlan:
    return StepPlan(found)


def test_a_chunk_starts_where_the_last_one_ended() -> None:
    broken("begin after 4 tokens, and there is no prefix cache", chunks(Chunk(0, 4, 4, 8, ALL)))
    broken("but 4 of 8 tokens are computed", chunks(Chunk(0, 0, 4, 8)), chunks(Chunk(0, 0, 8, 8, ALL)))


def test_a_chunk_has_tokens_and_no_more_than_are_known() -> None:
    broken("chunk 0[+]0", chunks(Chunk(0, 0, 0, 8)))
    broken("chunk 0[+]-1", chunks(Chunk(0, 0, -1, 8)))
    broken("chunk 0[+]9", chunks(Chunk(0, 0, 9, 9, ALL)))


def test_the_last_chunk_and_no_other_names_a_cohort() -> None:
    broken("names a cohort", chunks(Chunk(0, 0, 8, 8)))
    broken("names a cohort", chunks(Chunk(0, 0, 4, 8, ALL)))


def test_an_early_chunk_names_no_cohort_not_even_an_unknown_one() -> None:
    broken("names a cohort", chunks(Chunk(0, 0, 4, 8, "nobody")))


def test_a_chunk_holds_what_it_computes() -> None:
    broken("holds 7 tokens", chunks(Chunk(0, 0, 8, 7, ALL)))
    broken("holds 3 tokens", chunks(Chunk(0, 0, 4, 3)))


def test_at_its_end_a_prompt_holds_itself_or_the_whole_context() -> None:
    broken("holds 12 tokens", chunks(Chunk(0, 0, 8, 12, ALL)))


def test_what_an_early_chunk_held_too_much_is_seen_at_the_last() -> None:
    """Blocks beyond the request's own tokens would keep it from ever growing, and the book would run dry unseen."""
    broken("holds", chunks(Chunk(0, 0, 4, 40)), chunks(Chunk(0, 4, 4, 8, ALL)))


def test_the_blocks_must_be_free() -> None:
    broken("3 blocks wanted, 1 of 5 free", chunks(whole(0, 8), whole(1, 8), whole(2, 12)), blocks=5)


def test_growth_must_be_free() -> None:
    broken("the decodes need 2 blocks, 0 are free", chunks(whole(0, 8), whole(1, 8)), LEAP, blocks=4)


def test_a_request_has_one_chunk_in_a_plan() -> None:
    broken("request 0", chunks(Chunk(0, 0, 4, 8), Chunk(0, 0, 4, 8)))
    broken("request 0", chunks(Chunk(0, 0, 4, 8), Chunk(0, 4, 4, 8, ALL)))
    broken("request 0", chunks(whole(0, 8), whole(0, 8)))


def test_only_what_waits_or_has_a_prompt_left_is_chunked() -> None:
    broken("request 7 neither waits", chunks(whole(7, 8)))
    broken("request 0 neither waits", chunks(whole(0, 8)), chunks(Chunk(0, 8, 1, 9, ALL)))


def test_only_the_running_are_preempted_once_and_not_run() -> None:
    start = chunks(whole(0, 8), Chunk(1, 0, 4, 8))
    broken("request 2 is to be preempted but does not run", start, StepPlan((), (ALL,), (2,)))
    broken("request 9 is to be preempted but does not run", start, StepPlan((), (ALL,), (9,)))
    broken("cannot be preempted and run", start, StepPlan((Chunk(1, 4, 4, 8, ALL),), (ALL,), (1,)))
    broken("cannot be preempted and run, or preempted twice", start, StepPlan((), (ALL,), (1, 1)))


def test_a_plan_with_chunks_says_how_often_and_a_last_chunk_runs_once() -> None:
    broken("cannot repeat None", StepPlan((whole(0, 8),), repeat=None))
    broken("chunk 0\\+8 x 2", StepPlan((whole(0, 8),), repeat=2))
    broken("a last chunk runs once", StepPlan((Chunk(0, 0, 4, 8, ALL),), repeat=2))
    broken("names a cohort to join", StepPlan((Chunk(0, 0, 4, 8),), repeat=2))
    broken("holds 4 tokens", StepPlan((Chunk(0, 0, 2, 4),), repeat=3))


@pytest.mark.parametrize("repeat", [0, -1])
def test_a_plan_runs_at_least_once(repeat: int) -> None:
    broken("repeat", chunks(whole(0, 8)), StepPlan((), (ALL,), repeat=repeat))


def test_a_plan_runs_something() -> None:
    broken("runs nothing", StepPlan())
    broken("runs nothing", LEAP)
    broken("runs nothing", chunks(whole(0, 8)), StepPlan((), (ALL,), (0,)))


def test_a_cohort_that_nobody_knows() -> None:
    broken("no cohort 'odd'", chunks(whole(0, 8)), StepPlan((), ("odd",)))


def test_a_cohort_is_planned_once() -> None:
    broken("cohort 'all'", chunks(whole(0, 8)), StepPlan((), (ALL, ALL)))


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("lane", [-1, 2])
def test_a_lane_that_there_is_not(lane: int, lanes: int) -> None:
    broken(f"no lane {lane}", StepPlan((whole(0, 8),), lane=lane), lanes=lanes)


def test_a_lane_runs_one_plan() -> None:
    broken("lane 0 is not free", (chunks(whole(0, 8)), chunks(whole(1, 8))))
    broken("lane 0 is not free", (chunks(whole(0, 8)), chunks(whole(1, 8))), lanes=2)


def test_nothing_is_in_flight_twice() -> None:
    first = chunks(Chunk(0, 0, 4, 8))
    broken("request 0 is in flight", (first, StepPlan((Chunk(0, 0, 4, 8),), lane=1)), lanes=2)
    broken("request 0 is in flight", (first, StepPlan((whole(1, 8),), (), (0,), lane=1)), lanes=2)
    both = chunks(whole(0, 8), whole(1, 8))
    broken("cohort 'all' is in flight", both, (StepPlan((), (ALL,)), StepPlan((), (ALL,), lane=1)), lanes=2)
    broken(
        "cohort 'all' is in flight", both, (StepPlan((), (ALL,)), StepPlan((whole(2, 12),), (), (1,), lane=1)), lanes=2
    )


def test_joining_a_cohort_in_flight_on_another_lane_is_refused_or_booked_right() -> None:
    """A prompt beside decodes: the step in flight was launched without the newcomer, and may not be charged to it."""
    beside = (StepPlan((), (ALL,)), StepPlan((whole(1, 8),), lane=1))
    hand = Hand(Script((), (), chunks(whole(0, 8)), beside), lanes=2)
    hand.submit(0, 8)
    hand.submit(1, 8)
    hand.submit(2, 12)
    try:
        hand.done()
    except PlanError:
        return
    hand.done(lane=1)
    assert hand.flying[0].decodes == 1
    hand.done()
    computed = hand.state.cohorts[ALL].computed
    assert computed(hand.state.running[0]) == 9
    assert computed(hand.state.running[1]) == 8


def test_word_of_a_run_that_is_not() -> None:
    hand = Hand(Script(chunks(whole(0, 8))))
    hand.submit(0, 8)
    with pytest.raises(PlanError, match="run 5 is reported done on lane 0"):
        hand.take(StepDone(0, 5, ((1.0, 0.0, 1),)))
    idle = Hand(Script())
    with pytest.raises(PlanError, match="not running it"):
        idle.take(StepDone(0, 0, ((1.0, 0.0, 1),)))
