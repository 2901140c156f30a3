"""The room of a pipeline, event by event: who is asked, what goes out under which name, whose blocks are taken."""

from __future__ import annotations

from typing import Any

import pytest

from hands import Greedy, Script, whole
from phasewise.control.pipeline import PipelineControl
from phasewise.control.setup import Setup
from phasewise.core.action import Action, Regroup, Run, WakeAt
from phasewise.core.errors import PlanError
from phasewise.core.event import StepDone, Woken
from phasewise.core.kv import BlockLedger
from phasewise.core.message import Cancel, Cancelled, Finished, Submit
from phasewise.core.request import Request
from phasewise.core.spec import PolicySpec
from phasewise.core.step import ALL, StepPlan
from phasewise.policy import catalog


class Room:
    """A pipeline with levers."""

    def __init__(self, batcher: Any, pipes: int = 2, blocks: int = 32) -> None:
        self.ledger = BlockLedger(blocks, 4)
        self.room = PipelineControl(Setup(batcher, self.ledger, 64), pipes)
        self.now_ns = 0
        self.flying: dict[int, Run] = {}

    def take(self, event: Any) -> list[Action]:
        self.now_ns += 10
        actions = self.room.handlers[type(event)](event, self.now_ns)
        if actions and actions[-1] == WakeAt(self.now_ns):
            actions.pop()
            actions += self.room.handlers[Woken](Woken(), self.now_ns)
        self.flying.update({action.plan.lane: action for action in actions if isinstance(action, Run)})
        return list(actions)

    def submit(self, request: int, prompt: int = 8) -> list[Action]:
        return self.take(Submit(0, Request(request, self.now_ns, prompt), 0))

    def done(self, lane: int, *ended: int) -> list[Action]:
        run = self.flying.pop(lane)
        return self.take(StepDone(lane, run.id, ((10.0, 0.0, 1),), ended))


def test_a_newcomer_takes_a_free_pipe_and_stays_there() -> None:
    room = Room(Greedy())
    (first,) = room.submit(0)
    (second,) = room.submit(1)
    assert (first.plan.lane, second.plan.lane) == (0, 1)
    assert [chunk.joins for run in (first, second) for chunk in run.plan.chunks] == ["all/0", "all/1"]
    assert room.submit(2) == []
    # The pipe that returns takes whoever waits, and decodes its own residents alone.
    (third,) = room.done(1)
    assert third.plan == StepPlan((whole(2, 8, "all/1"),), ("all/1",), lane=1)
    (fourth,) = room.done(0)
    assert (fourth.plan.cohorts, fourth.decodes, fourth.context, fourth.repeat) == (("all/0",), 1, 8, 1)


def test_a_plan_runs_once_however_often_it_may() -> None:
    room = Room(Greedy(repeat=None))
    room.submit(0)
    (run,) = room.done(0)
    assert run.repeat == run.plan.repeat == 1


def test_an_end_in_one_pipe_lets_another_go_on() -> None:
    """Blocks for one prompt: who waits is served by whichever pipe is free when they are."""
    room = Room(catalog.build("batcher", PolicySpec("orca")), blocks=16)
    (run,) = room.submit(0)
    assert room.submit(1) == []
    actions = room.done(0, 0)
    assert [type(action) for action in actions] == [Finished, Run]
    assert actions[1].plan.chunks[0].request == 1
    assert run.id != actions[1].id


def test_whoever_is_in_flight_leaves_at_the_end_of_its_own_step() -> None:
    room = Room(Greedy())
    room.submit(0)
    room.submit(1)
    assert room.take(Cancel(0, 0, 0)) == []
    assert Cancelled not in map(type, room.done(1))
    assert Cancelled in map(type, room.done(0))


def test_leaving_the_queue_wakes_a_pipe_that_is_free() -> None:
    """The head of the queue has been too large; without it the next one fits."""
    room = Room(catalog.build("batcher", PolicySpec("vllm-v0")), blocks=16)
    room.submit(0, 30)
    room.submit(1, 60)
    room.submit(2, 8)
    assert list(room.flying) == [0]
    actions = room.take(Cancel(0, 1, 0))
    assert [type(action) for action in actions] == [Cancelled, Run]
    assert room.flying[1].plan.chunks[0].request == 2


def test_pipes_cannot_be_had_by_others() -> None:
    room = Room(Greedy())
    room.submit(0)
    with pytest.raises(PlanError, match="on lane 2, which is not running it"):
        room.take(StepDone(2, 0, ((1.0, 0.0, 1),)))
    with pytest.raises(PlanError, match="run 0 is reported done on lane 1, which is not running it"):
        room.take(StepDone(1, 0, ((1.0, 0.0, 1),)))


def test_regrouped_residents_stay_in_their_pipe() -> None:
    moved = (Regroup(((0, "b"),)), StepPlan((), ("b",)))
    room = Room(Script(StepPlan((whole(0, 8),)), moved))
    room.submit(0)
    actions = room.done(0)
    assert actions[0] == Regroup(((0, "b/0"),))
    assert actions[1].plan.cohorts == ("b/0",)


def test_a_replica_keeps_64_cohorts() -> None:
    room = Room(Greedy()).room
    names = {room._name(f"c{i}", i % 2) for i in range(64)}
    assert len(names) == 64
    assert room._name("c5", 1) in names
    with pytest.raises(PlanError, match="cohort 'c5' of lane 0 would be the 65th of its replica"):
        room._name("c5", 0)


def test_a_pipe_that_rests_for_a_block_is_asked_before_one_that_returns() -> None:
    """An end in pipe 0 frees three blocks, just as many as the newcomer wants; a decode of pipe 1 has waited for one."""
    room = Room(catalog.build("batcher", PolicySpec("sarathi", {"watermark": 0.0})), blocks=5)
    room.submit(0)
    room.submit(1)
    room.done(0)
    assert room.ledger.free == 0
    assert room.done(1) == []
    assert room.submit(2, 12) == []
    actions = room.done(0, 0)
    assert [type(action) for action in actions] == [Finished, Run]
    assert (actions[1].plan.lane, actions[1].plan.cohorts) == (1, ("all/1",))
    assert [r.id for r in room.room.states[0].waiting] == [2]


def test_both_grow_until_no_block_is_left() -> None:
    """Two residents, one in each pipe, and five blocks of four tokens: the later one goes, and its run is told so."""
    room = Room(catalog.build("batcher", PolicySpec("vllm-v0", {"watermark": 0.0})), blocks=5)
    room.submit(0)
    room.submit(1)
    told: tuple[int, ...] = ()
    for _ in range(30):
        lane = min(room.flying)
        for action in room.done(lane):
            told += action.plan.preempt if isinstance(action, Run) else ()
        if told:
            break
    assert told == (1,)
    assert [r.id for r in room.room.states[0].waiting] == [1]
    assert list(room.room.states[0].running) == [0]
    assert ALL in room.room.states[1].cohorts
    assert not room.room.states[1].running
