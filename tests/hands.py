"""An instance room driven by hand: the test is the batcher, the executor and the other room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phasewise.control.instance import InstanceControl
from phasewise.control.setup import Setup
from phasewise.core.action import Action, Run, WakeAt
from phasewise.core.event import StepDone, Woken
from phasewise.core.kv import BlockLedger
from phasewise.core.message import Cancel, Submit
from phasewise.core.request import Request
from phasewise.core.step import ALL, Chunk, StepPlan
from phasewise.core.view import InstanceState

Plans = tuple[StepPlan, ...]


class Script:
    """A batcher that says what it is told to: plans in turn, or what a function of the state gives; then nothing."""

    watermark = 0.0

    def __init__(self, *plans: Plans | StepPlan | Callable[[InstanceState], Plans | StepPlan]) -> None:
        self.plans = list(plans)
        self.asked = 0

    def plan(self, state: InstanceState, now_ns: int) -> Plans:
        self.asked += 1
        if not self.plans:
            return ()
        said = self.plans.pop(0)
        found = said(state) if callable(said) else said
        return (found,) if isinstance(found, StepPlan) else found


class Greedy:
    """Everything in the queue at once, whole prompts first, then leaps; `closed` as told."""

    watermark = 0.0

    def __init__(self, closed: bool = False, repeat: int | None = None) -> None:
        self.closed = closed
        self.repeat = repeat

    def plan(self, state: InstanceState, now_ns: int) -> Plans:
        if state.waiting:
            cohorts = (ALL,) if state.cohorts[ALL].count else ()
            return (StepPlan(tuple(whole(r.id, r.known) for r in state.waiting), cohorts),)
        return (StepPlan((), (ALL,), (), self.repeat, self.closed),) if state.cohorts[ALL].count else ()


def whole(request: int, tokens: int, joins: str = ALL) -> Chunk:
    """A prompt in one chunk."""
    return Chunk(request, 0, tokens, tokens, joins)


class Hand:
    """The room with levers: each returns the actions that the room asks for."""

    def __init__(
        self,
        batcher: Any,
        blocks: int = 32,
        block_tokens: int = 4,
        max_context: int = 64,
        lanes: int = 1,
        forgetful: bool = True,
    ) -> None:
        self.ledger = BlockLedger(blocks, block_tokens)
        self.room = InstanceControl(Setup(batcher, self.ledger, max_context, forgetful=forgetful), lanes)
        self.state = self.room.state
        self.now_ns = 0
        self.flying: dict[int, Run] = {}

    def take(self, event: Any) -> list[Action]:
        self.now_ns += 10
        actions = self.answer(event)
        for action in actions:
            if isinstance(action, Run):
                assert action.plan.lane not in self.flying
                self.flying[action.plan.lane] = action
        return list(actions)

    def answer(self, event: Any) -> list[Action]:
        """What the room does about an event; where it asks to be woken at this instant, what it does then."""
        actions = self.room.handlers[type(event)](event, self.now_ns)
        if actions and actions[-1] == WakeAt(self.now_ns):
            actions.pop()
            actions += self.room.handlers[Woken](Woken(), self.now_ns)
        return actions

    def submit(self, request: int, prompt: int, epoch: int = 0, kind: str = "") -> list[Action]:
        return self.take(Submit(0, Request(request, self.now_ns, prompt, kind=kind), epoch))

    def wake(self, at_ns: int) -> list[Action]:
        """The instant of an alarm has come."""
        self.now_ns = at_ns - 10
        return self.take(Woken())

    def cancel(self, request: int, epoch: int = 0) -> list[Action]:
        return self.take(Cancel(0, request, epoch))

    def done(self, *ended: int, steps: int | None = None, lane: int = 0) -> list[Action]:
        """The run on a lane is over, after `steps` of its steps (default: all)."""
        run = self.flying.pop(lane)
        taken = steps or run.repeat or 1
        return self.take(StepDone(lane, run.id, ((10.0, 0.0, taken),), ended))
