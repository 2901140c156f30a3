"""A batcher that uses cohorts in every way that is allowed, drawn at random: for tests of the books, columns and scores."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from phasewise.core.action import Regroup
from phasewise.core.resident import Resident
from phasewise.core.step import Chunk, StepPlan
from phasewise.core.view import InstanceState

NAMES = ("a", "b", "c")


class Roving(msgspec.Struct, frozen=True):
    """Moves residents between three cohorts, steps some of them, preempts anybody, leaps when it likes."""

    seed: int = 0

    @property
    def watermark(self) -> float:
        return 0.0

    def plan(self, state: InstanceState, now_ns: int) -> tuple[Any, ...]:
        draw = random.Random(f"{self.seed} {now_ns} {len(state.running)} {len(state.waiting)}")
        decoding = [r for r in state.running.values() if r.cohort is not None]
        moves = {r.id: draw.choice(NAMES) for r in decoding if draw.random() < 0.2}
        where = {r: moves.get(r.id, r.cohort.name) for r in decoding if r.cohort is not None}
        victims = [r for r in state.running.values() if draw.random() < 0.04]
        chosen = {name for name in NAMES if draw.random() < 0.6}
        free = state.ledger.free + sum(map(state.ledger.held, victims))
        mine = [r for r in decoding if where[r] in chosen and r not in victims]
        while (need := sum(crosses(r) for r in mine)) > free:
            victims.append(mine.pop())
            free += state.ledger.held(victims[-1])
        chunks = self._chunks(draw, state, victims, free - need)
        names = tuple(sorted({where[r] for r in mine}))
        if not chunks and not names:
            return last_resort(state)
        # A resident may well be moved and preempted at once.
        repeat = 1 if chunks or victims else draw.choice([1, 2, 5, None])
        plan = StepPlan(tuple(chunks), names, tuple(r.id for r in victims), repeat)
        return (Regroup(tuple(moves.items())), plan) if moves else (plan,)

    def _chunks(self, draw: random.Random, state: InstanceState, victims: list[Resident], free: int) -> list[Chunk]:
        chunks = []
        for r in [*state.prefilling.values(), *state.waiting]:
            tokens = draw.randint(1, r.remaining)
            extra = state.ledger.need(r.computed + tokens) - r.blocks
            if r in victims or extra > free or draw.random() < 0.3:
                continue
            free -= max(0, extra)
            end = r.computed + tokens
            chunks.append(Chunk(r.id, r.computed, tokens, end, draw.choice(NAMES) if end == r.known else None))
        return chunks


def crosses(resident: Resident) -> bool:
    return resident.cohort is not None and resident.cohort.crosses(resident)


def last_resort(state: InstanceState) -> tuple[Any, ...]:
    """One goes on alone: the first running, everybody else preempted, or the head of the queue."""
    running = list(state.running.values())
    preempt = tuple(r.id for r in running[1:])
    first = running[0] if running else state.waiting[0]
    if first.cohort is None:
        chunk = Chunk(first.id, first.computed, first.remaining, first.known, "a")
        return (StepPlan((chunk,), (), preempt),)
    return Regroup(((first.id, "c"),)), StepPlan((), ("c",), preempt)
