"""The batchers of split fleets, shown what a hand-over leaves: blocks that wait to be pulled, decodes from elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from phasewise.core.action import Regroup
from phasewise.core.kv import BlockLedger
from phasewise.core.request import Request
from phasewise.core.resident import Resident
from phasewise.core.step import ALL, Chunk, StepPlan
from phasewise.core.view import InstanceState
from phasewise.policy.batching.distserve import BATCH, DistServe
from phasewise.policy.batching.splitwise import Splitwise

BATCHERS = [DistServe(), DistServe(decode_tokens=100), Splitwise()]


def replica(blocks: int = 20, parked: int = 0) -> InstanceState:
    """An empty replica with blocks of four tokens, `parked` of them held by requests that are not its own any more."""
    state = InstanceState(BlockLedger(blocks, 4), 64)
    state.ledger.free -= parked
    return state


def adopt(state: InstanceState, request: int, tokens: int, cohort: str = ALL) -> None:
    """Seat a request whose first token was made elsewhere."""
    resident = Resident(Request(request, 0, tokens), 0)
    resident.computed = tokens
    state.ledger.hold(resident, tokens)
    state.running[request] = resident
    (state.cohorts.get(cohort) or state.open(cohort)).join(resident)


def queue(state: InstanceState, request: int, tokens: int) -> None:
    state.waiting.append(Resident(Request(request, 0, tokens), 0))


@pytest.mark.parametrize("batcher", BATCHERS)
def test_with_nobody_but_the_parked_there_is_nothing_to_run(batcher: Any) -> None:
    assert batcher.plan(replica(parked=5), 0) == ()


@pytest.mark.parametrize("batcher", BATCHERS)
def test_parked_prompts_keep_others_out(batcher: Any) -> None:
    state = replica(parked=5)
    queue(state, 0, 61)
    assert batcher.plan(state, 0) == ()
    state.ledger.free += 1
    assert batcher.plan(state, 0) == (StepPlan((Chunk(0, 0, 61, 61, ALL),)),)


@pytest.mark.parametrize("batcher", BATCHERS)
def test_the_adopted_decode_until_something_happens(batcher: Any) -> None:
    state = replica()
    adopt(state, 0, 8)
    adopt(state, 1, 5)
    *moves, plan = batcher.plan(state, 0)
    names = (BATCH,) if batcher == BATCHERS[1] else (ALL,)
    assert (plan.cohorts, plan.repeat, plan.closed) == (names, None, False)
    assert moves == ([Regroup(((0, BATCH), (1, BATCH)))] if names == (BATCH,) else [])


@pytest.mark.parametrize("batcher", BATCHERS)
def test_one_to_be_recomputed_goes_first(batcher: Any) -> None:
    state = replica()
    adopt(state, 0, 8)
    queue(state, 1, 9)
    [plan] = batcher.plan(state, 0)
    assert [chunk.request for chunk in plan.chunks] == [1]
    assert plan.cohorts == ((ALL,) if isinstance(batcher, Splitwise) else ())


@pytest.mark.parametrize("batcher", BATCHERS)
def test_what_the_memory_cannot_hold_is_taken_from_the_last(batcher: Any) -> None:
    """Three at the edge of their blocks and one block left: the last gives up its own."""
    state = replica(blocks=7)
    for request in range(3):
        adopt(state, request, 8, BATCH if batcher == BATCHERS[1] else ALL)
    [plan] = batcher.plan(state, 0)
    assert (plan.preempt, plan.repeat) == ((2,), 1)


@pytest.mark.parametrize("batcher", BATCHERS)
def test_one_that_lacks_a_block_beside_the_parked_waits_for_it(batcher: Any) -> None:
    state = replica(parked=18)
    adopt(state, 0, 8, BATCH if batcher == BATCHERS[1] else ALL)
    assert batcher.plan(state, 0) == ()
    state.ledger.free += 1
    assert batcher.plan(state, 0)


def test_under_splitwise_the_adopted_go_last_and_count_as_left_out() -> None:
    """Room for two of a blocked one, one that was served and one from elsewhere."""
    state = replica()
    adopt(state, 0, 4)
    state.cohorts[ALL].clock += 1
    adopt(state, 1, 4)
    adopt(state, 2, 4, "blocked 1")
    moves, plan = Splitwise(token_budget=2).plan(state, 0)
    assert moves == Regroup(((2, "preempted 1"), (1, "blocked 1")))
    assert plan == StepPlan((), (ALL, "preempted 1"))
