"""Twists of a batcher for the leap laws, and what two runs of one world must have in common.

single (every `repeat` 1), choppy (leaps cut at random, so that many are interrupted or run out and are replanned identically),
eager (no plan is closed, so that every arrival interrupts).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from phasewise.core.action import Enter, Regroup, Run
from phasewise.core.event import Died, StepDone
from phasewise.core.message import DOWN, UP
from phasewise.core.step import StepPlan, moved_on, total_ns
from phasewise.policy import catalog
from phasewise.record.runlog import RunLog

Step = tuple[float, tuple[Any, ...]]
Twist = Callable[[StepPlan, random.Random], StepPlan]


def single(plan: StepPlan, draw: random.Random) -> StepPlan:
    return msgspec.structs.replace(plan, repeat=1)


def choppy(plan: StepPlan, draw: random.Random) -> StepPlan:
    if plan.repeat == 1:
        return plan
    most = draw.randint(1, 5)
    return msgspec.structs.replace(plan, repeat=most if plan.repeat is None else min(most, plan.repeat))


def eager(plan: StepPlan, draw: random.Random) -> StepPlan:
    return msgspec.structs.replace(plan, closed=False)


TWISTS: dict[str, Twist] = {"single": single, "choppy": choppy, "eager": eager}


def twisted(policy: type, twist: Twist) -> type:
    """A batcher that plans as `policy` does, with every plan twisted."""

    class Twisted(policy):  # type: ignore[misc]
        def plan(self, state: Any, now_ns: int) -> tuple[StepPlan, ...]:
            draw = random.Random(now_ns)
            planned = super().plan(state, now_ns)
            return tuple(twist(plan, draw) if isinstance(plan, StepPlan) else plan for plan in planned)

    return Twisted


@contextmanager
def catalogued(names: set[str]) -> Iterator[None]:
    """The catalogue with these batchers under every twist, as `twist/name`."""
    added = {}
    for name in sorted(names):
        for kind, twist in TWISTS.items():
            added["batcher", f"{kind}/{name}"] = (twisted(catalog.find("batcher", name), twist), "test")
    catalog.PAPERS.update(added)
    yield
    for key in added:
        del catalog.PAPERS[key]


def steps(log: RunLog, room: int) -> list[Step]:
    """Every forward pass that a replica really made: when it began, and what was in it."""
    out: list[Step] = []
    run: Run | None = None
    moves: tuple[Any, ...] = ()
    began = 0
    for at_ns, event, actions in log.records(room):
        if type(event) is StepDone:
            assert run is not None
            done, spent = _iterations(run, began, event.pieces, (run.plan.preempt, moves))
            out += done
            assert abs(began + spent - at_ns) <= 1
            moves = ()
        if type(event) is Died:
            for _, pieces in event.done:
                assert run is not None
                out += _iterations(run, began, pieces, (run.plan.preempt, moves))[0]
            run, moves = None, ()
        for action in actions:
            if type(action) is Regroup:
                moves += action.moves
            if type(action) is Enter:
                moves += ((action.request, action.cohort),)
            if type(action) is Run:
                run, began = action, at_ns
    return out


def _iterations(run: Run, began: int, pieces: Any, first: Any) -> tuple[list[Step], float]:
    """The iterations in some pieces of a run, and how long they took; `first` is what went before the first."""
    out: list[Step] = []
    context, spent, done = run.context, 0.0, 0
    for piece in pieces:
        for i in range(piece[2]):
            chunks = tuple(moved_on(chunk, done) for chunk in run.plan.chunks)
            before = ((), ()) if done else first
            what = (chunks, run.plan.cohorts, before, run.decodes, context, run.plan.forced)
            out.append((began + spent + total_ns(piece, i), what))
            done += 1
            context += run.decodes
        spent += total_ns(piece, piece[2])
    return out, spent


def messages(log: RunLog, room: int) -> list[tuple[int, Any]]:
    """What a room said to the other, and when."""
    kinds = DOWN + UP
    return [(at_ns, a) for at_ns, _, actions in log.records(room) for a in actions if isinstance(a, kinds)]


def assert_same(one: RunLog, other: RunLog, within_ns: float) -> None:
    for room in range(1, one.rooms):
        a, b = steps(one, room), steps(other, room)
        assert [what for _, what in a] == [what for _, what in b]
        assert all(abs(x - y) <= within_ns for (x, _), (y, _) in zip(a, b, strict=True))
    for room in range(one.rooms):
        said, heard = messages(one, room), messages(other, room)
        assert [m for _, m in said] == [m for _, m in heard]
        assert all(abs(x - y) <= within_ns for (x, _), (y, _) in zip(said, heard, strict=True))
