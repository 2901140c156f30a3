"""The room of one replica, event by event: queue, chunks, growth, preemption, cancellation, interrupts, lanes."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hands import Greedy, Hand, Script, whole
from phasewise.core.action import Forget, Interrupt, Run
from phasewise.core.errors import PlanError
from phasewise.core.message import Cancelled, Finished, Refused
from phasewise.core.resident import Cohort
from phasewise.core.step import ALL, Chunk, StepPlan
from phasewise.core.view import InstanceState

LEAP = StepPlan((), (ALL,), repeat=None)


def kinds(actions: list[Any]) -> list[str]:
    return [type(action).__name__ for action in actions]


def empty(hand: Hand) -> None:
    """Nothing is left of anybody."""
    state = hand.state
    assert not state.waiting
    assert not state.running
    assert not state.prefilling
    assert hand.ledger.free == hand.ledger.blocks
    for cohort in state.cohorts.values():
        cohort.check([])


# A life -----------------------------------------------------------------------------------------------------------------


def test_a_request_from_the_queue_to_its_end() -> None:
    hand = Hand(Greedy())
    assert hand.submit(0, 6) == [Run(0, StepPlan((whole(0, 6),)), 1, 0, 0)]
    assert hand.ledger.free == 32 - 2
    [leap] = hand.done()
    assert (leap.decodes, leap.context, leap.plan.cohorts) == (1, 6, (ALL,))
    assert hand.ledger.free == 32 - 2, "a leap's blocks are taken when it is over"
    assert hand.done(0, steps=5) == [Finished(0, 0, 6)]
    empty(hand)


def test_a_request_of_one_token_ends_with_its_prompt() -> None:
    hand = Hand(Greedy())
    hand.submit(0, 5)
    assert hand.done(0) == [Finished(0, 0, 1)]
    empty(hand)


def test_a_prompt_that_leaves_no_room_for_a_token_is_refused() -> None:
    hand = Hand(Greedy(), max_context=16)
    [refused] = hand.submit(0, 16, epoch=3)
    assert refused == Refused(0, 3, "a prompt of 16 tokens and one output token exceed the 16 that fit")
    assert kinds(hand.submit(1, 15)) == ["Run"]
    # It is not there any more: its cancellation is nobody's.
    assert hand.cancel(0, epoch=3) == []


def test_prefill_in_chunks_holds_as_told_and_joins_at_the_end() -> None:
    hand = Hand(Script(*(StepPlan((c,)) for c in (Chunk(0, 0, 3, 3), Chunk(0, 3, 3, 9), Chunk(0, 6, 3, 9, ALL)))))
    hand.submit(0, 9)
    assert (hand.ledger.free, hand.state.running[0].remaining) == (31, 9)
    hand.done()
    assert (hand.ledger.free, hand.state.running[0].remaining) == (29, 6)
    hand.done()
    assert list(hand.state.prefilling) == [0]
    hand.done()
    assert not hand.state.prefilling
    assert hand.state.cohorts[ALL].count == 1


def test_a_leap_is_clamped_to_the_blocks_and_takes_what_it_used() -> None:
    hand = Hand(Greedy(), blocks=5)
    hand.submit(0, 8)
    [run] = hand.done()
    # 3 free blocks of 4 tokens, and not one token of room in the last held.
    assert run.repeat == 12
    hand.submit(1, 1)
    # The newcomer interrupts it after 5 steps: 2 blocks are gone.
    hand.done(steps=5)
    assert hand.ledger.free == 5 - 4 - 1


def test_a_leap_that_may_take_one_step_is_one_step() -> None:
    hand = Hand(Greedy(), blocks=3)
    hand.submit(0, 11)
    hand.done(steps=1)
    assert hand.flying[0].repeat == 1
    assert hand.ledger.free == 0
    hand.done(0)
    empty(hand)


def test_a_resident_with_the_whole_context_never_grows() -> None:
    hand = Hand(Script(StepPlan((Chunk(0, 0, 8, 64, ALL),)), LEAP), blocks=16)
    hand.submit(0, 8)
    assert hand.ledger.free == 0
    [run] = hand.done()
    assert run.repeat is None, "no end of blocks in sight"
    assert hand.done(0, steps=40) == [Finished(0, 0, 41)]
    empty(hand)


def test_the_preempted_are_recomputed_from_the_front_of_the_queue() -> None:
    start = StepPlan((whole(0, 4), whole(1, 6), whole(2, 5)))
    leap = StepPlan((), (ALL,), repeat=3)
    hand = Hand(Script((), (), (), start, leap, StepPlan((), (ALL,), (2, 1)), ()), blocks=32)
    for request, prompt in ((0, 4), (1, 6), (2, 5), (3, 7)):
        hand.submit(request, prompt)
    assert [r.id for r in hand.state.waiting] == [3]
    hand.done()
    [run] = hand.done()
    assert run.plan.preempt == (2, 1)
    assert run.decodes == 1
    assert [r.id for r in hand.state.waiting] == [1, 2, 3]
    first = hand.state.waiting[0]
    # One token from the prompt and three from the leap; all of its context is to be computed anew.
    assert (first.generated, first.known, first.computed, first.blocks) == (4, 10, 0, 0)
    assert hand.ledger.free == 32 - 2


def test_preempted_while_prefilling_nothing_was_generated() -> None:
    start = StepPlan((whole(0, 4), Chunk(1, 0, 3, 6)))
    hand = Hand(Script((), start, StepPlan((), (ALL,), (1,)), StepPlan((whole(1, 6),), (ALL,))))
    hand.submit(0, 4)
    hand.submit(1, 6)
    hand.done()
    assert (hand.state.waiting[0].known, hand.state.waiting[0].computed) == (6, 0)
    assert not hand.state.prefilling
    hand.done()
    assert list(hand.state.prefilling) == [1]
    hand.done(0, 1)
    empty(hand)


def test_a_preempted_request_counts_its_tokens_on() -> None:
    plans = (
        StepPlan((whole(0, 4), whole(1, 4))),
        StepPlan((), (ALL,), repeat=2),
        StepPlan((), (ALL,), (1,)),
        StepPlan((whole(1, 7),), (ALL,)),
        StepPlan((), (ALL,), repeat=2),
    )
    hand = Hand(Script((), *plans))
    hand.submit(0, 4)
    hand.submit(1, 4)
    hand.done()
    hand.done()
    hand.done()
    hand.done()
    assert hand.done(1) == [Finished(1, 0, 6)]


# Leaving ------------------------------------------------------------------------------------------------------------------


def test_cancelled_while_waiting() -> None:
    hand = Hand(Script())
    hand.submit(0, 4)
    hand.submit(1, 4)
    assert hand.cancel(0) == [Cancelled(0, 0, 0, 0)], "the executor never heard of it"
    assert [r.id for r in hand.state.waiting] == [1]


def test_cancelled_while_waiting_after_a_preemption() -> None:
    hand = Hand(Script((), StepPlan((whole(0, 4), whole(1, 4))), LEAP, StepPlan((), (ALL,), (1,))))
    hand.submit(0, 4)
    hand.submit(1, 4)
    hand.done()
    hand.done(steps=2)
    assert hand.cancel(1) == [Forget(1), Cancelled(1, 0, 3, 0)]


def test_cancelled_while_prefilling() -> None:
    hand = Hand(Script(StepPlan((Chunk(0, 0, 2, 4),))))
    hand.submit(0, 4)
    assert hand.cancel(0) == [], "a step is not cut short"
    assert hand.done() == [Forget(0), Cancelled(0, 0, 0, 0)]
    empty(hand)


def test_cancelled_in_the_step_of_its_first_token() -> None:
    hand = Hand(Script(StepPlan((whole(0, 4),))))
    hand.submit(0, 4)
    assert hand.cancel(0) == []
    assert hand.done() == [Forget(0), Cancelled(0, 0, 1, 0)]
    empty(hand)


def test_cancelled_while_decoding_cuts_the_leap_short() -> None:
    hand = Hand(Greedy())
    hand.submit(0, 4)
    hand.submit(1, 4)
    hand.done()
    hand.done()
    assert hand.cancel(0) == [Interrupt(0)]
    out = hand.done(steps=3)
    assert out[:2] == [Forget(0), Cancelled(0, 0, 5, 0)]
    assert kinds(out) == ["Forget", "Cancelled", "Run"]
    hand.done(1, steps=1)
    empty(hand)


def test_cancelled_in_the_step_that_ends_it_it_has_finished() -> None:
    hand = Hand(Greedy())
    hand.submit(0, 4)
    hand.done()
    hand.cancel(0)
    assert hand.done(0, steps=3) == [Finished(0, 0, 4)]
    empty(hand)
    assert hand.cancel(0) == []


def test_cancelled_twice_is_cancelled_once() -> None:
    hand = Hand(Greedy())
    hand.submit(0, 4)
    hand.done()
    assert hand.cancel(0) == [Interrupt(0)]
    assert hand.cancel(0) == []
    assert hand.done(steps=1) == [Forget(0), Cancelled(0, 0, 2, 0)]
    assert hand.cancel(0) == []


def test_a_cancellation_of_another_epoch_is_stale() -> None:
    hand = Hand(Greedy())
    hand.submit(0, 4, epoch=2)
    assert hand.cancel(0, epoch=1) == []
    hand.done()
    assert hand.cancel(0, epoch=1) == []
    assert hand.cancel(9) == []
    assert hand.done(0, steps=2) == [Finished(0, 2, 3)]


def test_a_cancelled_one_is_not_planned_again() -> None:
    hand = Hand(Greedy())
    hand.submit(0, 4)
    hand.submit(1, 4)
    hand.done()
    hand.cancel(1)
    out = hand.done()
    assert isinstance(out[-1], Run)
    assert out[-1].decodes == 1


def test_a_cancelled_head_of_the_queue_lets_the_next_one_in() -> None:
    """The first in line does not fit; once it is gone, the one behind it does, in the middle of a closed leap."""

    def fitting(state: InstanceState) -> StepPlan:
        head = state.waiting[0] if state.waiting else None
        if head is not None and state.ledger.need(head.known) <= state.ledger.free:
            return StepPlan((whole(head.id, head.known),), (ALL,))
        return StepPlan((), (ALL,), repeat=None, closed=True)

    hand = Hand(Script(StepPlan((whole(0, 8),)), fitting, fitting), blocks=6)
    hand.submit(0, 8)
    hand.submit(1, 40)
    hand.submit(2, 4)
    hand.done()
    assert hand.cancel(1) == [Cancelled(1, 0, 0, 0), Interrupt(0)]
    out = hand.done(steps=1)
    assert [c.request for c in out[-1].plan.chunks] == [2]


# Interrupts -----------------------------------------------------------------------------------------------------------------


def test_a_run_is_interrupted_once() -> None:
    hand = Hand(Greedy())
    hand.submit(0, 4)
    hand.done()
    assert hand.submit(1, 4) == [Interrupt(0)]
    assert hand.submit(2, 4) == []
    assert hand.cancel(1) == [Cancelled(1, 0, 0, 0)]
    assert hand.cancel(0) == []
    hand.done(steps=1)
    assert [c.request for c in hand.flying[0].plan.chunks] == [2]


def test_the_next_run_can_be_interrupted_again() -> None:
    hand = Hand(Script(StepPlan((whole(0, 4),)), LEAP, LEAP))
    hand.submit(0, 4)
    hand.done()
    assert hand.submit(1, 4) == [Interrupt(0)]
    hand.done(steps=1)
    assert hand.submit(2, 4) == [Interrupt(0)]


def test_a_closed_run_is_interrupted_by_a_cancellation_only() -> None:
    hand = Hand(Greedy(closed=True))
    hand.submit(0, 4)
    hand.done()
    assert hand.submit(1, 4) == []
    assert hand.submit(2, 4) == []
    assert hand.cancel(1) == [Cancelled(1, 0, 0, 0), Interrupt(0)]


def test_a_closed_run_is_interrupted_by_the_cancellation_of_one_that_runs() -> None:
    hand = Hand(Greedy(closed=True))
    hand.submit(0, 4)
    hand.done()
    assert hand.cancel(0) == [Interrupt(0)]


def test_a_single_step_is_never_interrupted() -> None:
    hand = Hand(Greedy(repeat=1))
    hand.submit(0, 4)
    assert hand.submit(1, 4) == []
    hand.done()
    assert hand.submit(2, 4) == []
    assert hand.cancel(0) == []


def test_a_replica_that_waits_is_asked_again_when_something_changes() -> None:
    batcher = Script((), (), StepPlan((whole(1, 4),)))
    hand = Hand(batcher)
    assert hand.submit(0, 4) == []
    assert hand.submit(1, 4) == []
    assert batcher.asked == 2
    out = hand.cancel(0)
    assert out[0] == Cancelled(0, 0, 0, 0)
    assert kinds(out) == ["Cancelled", "Run"]


def test_an_empty_replica_is_not_asked() -> None:
    batcher = Script(StepPlan((whole(0, 4),)))
    hand = Hand(batcher)
    hand.submit(0, 4)
    hand.done(0)
    assert batcher.asked == 1


# Random lives ---------------------------------------------------------------------------------------------------------------


class Wild:
    """A batcher that does anything that is allowed, drawn at random."""

    watermark = 0.0

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def plan(self, state: InstanceState, now_ns: int) -> tuple[StepPlan, ...]:
        draw, ledger, cohort = self.random, state.ledger, state.cohorts[ALL]
        victims = [r for r in state.running.values() if draw.random() < 0.05]
        free = ledger.free + sum(ledger.held(r) for r in victims)
        decodes = cohort.count - sum(r.cohort is not None for r in victims)
        need = cohort.crossing(1) - sum(cohort.crosses(r) for r in victims if r.cohort is not None)
        others = [r for r in reversed(state.running.values()) if r not in victims]
        while need > free:
            victim = others.pop(0)
            free += ledger.held(victim)
            if victim.cohort is not None:
                need -= cohort.crosses(victim)
                decodes -= 1
            victims.append(victim)
        runs = decodes > 0 and draw.random() < 0.8
        free -= need if runs else 0
        chunks = []
        for resident in [*state.prefilling.values(), *state.waiting]:
            tokens = draw.randint(1, resident.remaining)
            hold = resident.known if draw.random() < 0.5 else resident.computed + tokens
            extra = ledger.need(hold) - resident.blocks
            if resident in victims or extra > free or draw.random() < 0.3:
                continue
            free -= max(0, extra)
            last = resident.computed + tokens == resident.known
            chunks.append(Chunk(resident.id, resident.computed, tokens, hold, ALL if last else None))
        preempt = tuple(r.id for r in victims)
        if chunks:
            return (StepPlan(tuple(chunks), (ALL,) if runs else (), preempt),)
        if runs:
            return (StepPlan((), (ALL,), preempt, draw.choice([1, 2, 5, None]), draw.random() < 0.3),)
        # Never idle while somebody is there: the head of the queue always fits an empty replica.
        if decodes:
            return (StepPlan((), (ALL,), preempt, 1),)
        if victims or not (state.prefilling or state.waiting):
            return ()
        return self.plan(state, now_ns)


@given(seed=st.integers(0, 1 << 30), size=st.sampled_from([1, 3, 4, 16]))
@settings(max_examples=120, deadline=None)
def test_books_stay_true_whatever_is_planned(seed: int, size: int) -> None:
    draw = random.Random(seed)
    hand = Hand(Wild(seed + 1), blocks=-(-64 // size), block_tokens=size, max_context=64)
    told: dict[int, int] = {}
    over: dict[int, int] = {}
    left: dict[int, int] = {}
    epoch = {}

    def heard(actions: list[Any]) -> None:
        for action in actions:
            if isinstance(action, Finished | Cancelled):
                assert action.request not in over
                assert action.epoch == epoch[action.request]
                over[action.request] = action.tokens

    for _ in range(120):
        move = draw.random()
        if move < 0.25 and len(told) < 12:
            request = len(told)
            epoch[request] = draw.randint(0, 3)
            told[request] = draw.randint(1, 40)
            left[request] = draw.randint(1, 64 - told[request])
            heard(hand.submit(request, told[request], epoch[request]))
        elif move < 0.32 and told:
            request = draw.randrange(len(told))
            heard(hand.cancel(request, epoch[request]))
        elif 0 in hand.flying:
            run = hand.flying[0]
            cohort = hand.state.cohorts[ALL]
            members = [r.id for r in hand.state.running.values() if r.cohort is cohort]
            decoding = members if run.plan.cohorts else []
            assert run.decodes == len(decoding)
            steps = min([run.repeat or 1 << 30, draw.randint(1, 9), *(left[r] for r in decoding)])
            for request in [*decoding, *(c.request for c in run.plan.chunks if c.joins)]:
                left[request] -= steps
            ended = [r for r in [*decoding, *(c.request for c in run.plan.chunks if c.joins)] if left[r] == 0]
            heard(hand.done(*ended, steps=steps))
        audit(hand)
    for request in told:
        if request not in over:
            heard(hand.cancel(request, epoch[request]))
    if 0 in hand.flying:
        heard(hand.done(steps=1))
    assert set(over) == set(told)
    empty(hand)


def audit(hand: Hand) -> None:
    """Every block is free or held, or paid by the step in flight; every resident is in one place."""
    state, ledger, cohort = hand.state, hand.ledger, hand.state.cohorts[ALL]
    members = [r for r in state.running.values() if r.cohort is cohort]
    cohort.check(members)
    run = hand.flying.get(0)
    paid = cohort.crossing(1) if run is not None and run.plan.cohorts and run.repeat == 1 else 0
    assert ledger.free + sum(ledger.held(r) for r in state.running.values()) + paid == ledger.blocks
    assert ledger.free >= 0
    assert set(state.prefilling) == {r.id for r in state.running.values() if r.cohort is None}
    assert not {r.id for r in state.waiting} & set(state.running)
    assert all(r.blocks == 0 and r.computed == 0 for r in state.waiting)


# Two lanes ------------------------------------------------------------------------------------------------------------------


class Pipeline:
    """Two micro-batches, as a pipeline of two stages has them: even and odd requests, each on its own lane."""

    watermark = 0.0

    def plan(self, state: InstanceState, now_ns: int) -> tuple[StepPlan, ...]:
        out = []
        free = state.ledger.free
        for lane in state.free_lanes:
            name = ("even", "odd")[lane]
            cohort = state.cohorts[name]
            decodes = cohort.count > 0 and cohort.crossing(1) <= free
            free -= cohort.crossing(1) if decodes else 0
            chunks = []
            mine = [r for r in [*state.prefilling.values(), *state.waiting] if r.id % 2 == lane]
            for resident in mine[:2]:
                tokens = min(5, resident.remaining)
                extra = state.ledger.need(resident.known) - resident.blocks
                if extra <= free:
                    free -= extra
                    joins = name if tokens == resident.remaining else None
                    chunks.append(Chunk(resident.id, resident.computed, tokens, resident.known, joins))
            if chunks or decodes:
                out.append(StepPlan(tuple(chunks), (name,) if decodes else (), lane=lane))
        return tuple(out)


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=60, deadline=None)
def test_two_lanes_keep_apart_what_flies_on_each(seed: int) -> None:
    draw = random.Random(seed)
    hand = Hand(Pipeline(), blocks=200, block_tokens=4, max_context=64, lanes=2)
    hand.state.cohorts.update({name: Cohort(name, 4) for name in ("even", "odd")})
    prompts = [draw.randint(1, 20) for _ in range(8)]
    left = {request: draw.randint(1, 12) for request in range(len(prompts))}
    over: dict[int, type] = {}
    gone = {request for request in left if draw.random() < 0.25}
    waiting = list(range(len(prompts)))
    for _ in range(2000):
        out: list[Any] = []
        if waiting and draw.random() < 0.3:
            request = waiting.pop(0)
            out = hand.submit(request, prompts[request])
        elif gone - set(waiting) - set(over) and draw.random() < 0.2:
            out = hand.cancel(min(gone - set(waiting) - set(over)))
        elif hand.flying:
            lane = draw.choice(sorted(hand.flying))
            run = hand.flying[lane]
            flying = [c.request for other in hand.flying.values() for c in other.plan.chunks]
            assert len(flying) == len(set(flying))
            assert run.repeat == 1
            assert all(c.request % 2 == lane for c in run.plan.chunks)
            who = [r.id for r in hand.state.running.values() if r.cohort and r.cohort.name in run.plan.cohorts]
            assert run.decodes == len(who)
            who += [c.request for c in run.plan.chunks if c.joins]
            for request in who:
                left[request] -= 1
            out = hand.done(*(r for r in who if not left[r]), lane=lane)
        for action in out:
            if isinstance(action, Finished | Cancelled):
                over[action.request] = type(action)
        if len(over) == len(prompts):
            break
    assert {r for r in left if r not in gone} <= {r for r, kind in over.items() if kind is Finished}
    assert len(over) == len(prompts)
    empty(hand)


def test_a_leap_is_one_step_when_there_are_two_lanes() -> None:
    hand = Hand(Script(StepPlan((whole(0, 4),)), (), StepPlan((), (ALL,), repeat=None)), lanes=2)
    hand.submit(0, 4)
    hand.done()
    hand.submit(1, 4)
    assert hand.flying[0].repeat == 1


def test_a_request_that_is_inside_cannot_be_submitted_again() -> None:
    hand = Hand(Greedy())
    hand.submit(0, 4)
    with pytest.raises(PlanError, match="still inside"):
        hand.submit(0, 4, epoch=1)
