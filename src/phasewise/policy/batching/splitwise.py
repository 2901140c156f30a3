"""Splitwise's machine-level scheduler: whole prompts first, decodes beside them, ageing (ISCA'24, section 4; its simulator).

One rule serves prompt, token and mixed machines. An iteration has at most `max_seqs` requests and `token_budget` tokens, of
which a prompt takes its length and a decode one. They are chosen in this order: decodes that have been preempted
`max_preemptions` times, prompts first come first served, decodes that the last iteration left out, those that were in it,
those that are new. A decode that finds no room is preempted: it stands still and keeps its blocks. Prompts are never cut; the
first of an iteration may be longer than the budget.

How often a decode has been preempted is said by its cohort: `all` (never), `blocked 2` (twice, and it stands), `preempted 2`
(twice, and it has been served since). So the batcher remembers nothing between two calls.

Where the published rules are silent or at odds these are ours. Every iteration that leaves a decode out is one preemption, the
first after its prompt as well; the count holds until the request ends or is recomputed. With `max_preemptions` of them a decode
is left out no more, as in the paper (the simulator only sees to it that such a one is not left out twice in a row); where not
even all of those find room they take turns. The first prompt may be longer than what they leave of the budget: if it had to be
the first of all, one that nearly fills the budget, and the queue behind it, would wait until the last of them has ended. Among
decodes of one kind the more often preempted go first, then the first admitted. Memory is paged, where the simulator reserves
for an answer's true length: prompts enter in their order with all their blocks above a watermark, beside those that all decodes
need next; where decodes lack blocks the last admitted are recomputed, and no prompt enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Annotated

import msgspec

from phasewise.core.action import Regroup
from phasewise.core.resident import Cohort, Resident
from phasewise.core.step import ALL, Chunk, StepPlan
from phasewise.core.view import InstanceState
from phasewise.policy.batching.budget import CLOSED, OPEN, Budget

Count = Annotated[int, msgspec.Meta(ge=1)]
Move = tuple[int, str]


class Splitwise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prompts first and whole, decodes beside them: `token_budget` tokens and `max_seqs` requests an iteration; ageing."""

    token_budget: Count = 2048
    max_seqs: Count = 512
    max_preemptions: Annotated[int, msgspec.Meta(ge=1, le=30)] = 4
    watermark: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.01

    def plan(self, state: InstanceState, now_ns: int) -> tuple[StepPlan | Regroup, ...]:
        cohort = state.cohorts[ALL]
        if cohort.count < len(state.running):
            return self._iteration(state, tuple(cohort for cohort in state.cohorts.values() if cohort.count))
        if not cohort.count:
            return self._iteration(state, ())
        if not state.waiting and cohort.count <= min(self.token_budget, self.max_seqs):
            # Most of the time nobody waits and nobody has been preempted.
            free = state.ledger.free
            if cohort.growing <= free or cohort.crossing(1) <= free:
                return OPEN
        return self._iteration(state, (cohort,))

    def _iteration(self, state: InstanceState, cohorts: tuple[Cohort, ...]) -> tuple[StepPlan | Regroup, ...]:
        """What runs next, of the queue and of these cohorts: all in which anybody decodes."""
        budget = Budget(state, 0, 0, cohorts)
        victims, decodes = budget.victims, budget.decodes
        first = min(self._aged(cohorts, budget), self.token_budget, self.max_seqs)
        budget.tokens, budget.seats = self.token_budget - first, self.max_seqs - first
        closed = bool(state.waiting) or not budget.tokens or not budget.seats
        chunks = _prompts(state, budget) if state.waiting and not victims else ()
        room = first + max(0, min(budget.tokens, budget.seats))
        names = tuple(sorted([cohort.name for cohort in cohorts]))
        moves: tuple[Move, ...] = ()
        if victims or room < decodes or any(_is_blocked(name) for name in names):
            moves, names = self._choose(state, victims, room)
        if not names and not chunks:
            return ()
        # Everybody decodes and no prompt fits, so none will before somebody ends: this goes on.
        alone = not chunks and not victims and room >= decodes
        if alone and names == (ALL,) and not moves:
            return CLOSED if closed else OPEN
        plan = StepPlan(chunks, names, tuple(victims), None if alone else 1, alone and closed)
        return (Regroup(moves), plan) if moves else (plan,)

    def _aged(self, cohorts: Sequence[Cohort], budget: Budget) -> int:
        """How many decodes go before the prompts."""
        aged = [cohort for cohort in cohorts if _times(cohort.name) == self.max_preemptions]
        if not aged:
            return 0
        return sum(cohort.count for cohort in aged) - sum(victim.cohort in aged for victim in budget.victims.values())

    def _choose(
        self, state: InstanceState, victims: dict[int, Resident], room: int
    ) -> tuple[tuple[Move, ...], tuple[str, ...]]:
        """So many decodes by priority: who changes cohort, for being chosen or left out, and which cohorts run then."""
        groups: dict[str, list[Resident]] = {}
        for resident in state.running.values():
            assert resident.cohort is not None, "prompts are never cut"
            if resident.id not in victims:
                groups.setdefault(resident.cohort.name, []).append(resident)
        clock = state.cohorts[ALL].clock
        groups.get(ALL, []).sort(key=lambda resident: resident.joined == clock)  # those who are new come last
        moves: list[Move] = []
        running: set[str] = set()
        for name in sorted(groups, key=self._priority):
            group, times = groups[name], _times(name)
            served = preempted(times)
            if room > 0:
                running.add(served)
            if name != served:
                moves += [(resident.id, served) for resident in group[:room]]
            left_out = blocked(min(times + 1, self.max_preemptions))
            if name != left_out:
                moves += [(resident.id, left_out) for resident in group[room:]]
            room = max(0, room - len(group))
        return tuple(moves), tuple(sorted(running))

    def _priority(self, cohort: str) -> tuple[bool, bool, int]:
        """Smallest first: those who go before the prompts, those who stand, the more often preempted."""
        times = _times(cohort)
        return times < self.max_preemptions, not _is_blocked(cohort), -times


def _prompts(state: InstanceState, budget: Budget) -> tuple[Chunk, ...]:
    """Prompts at the head of the queue that fit, whole; the first of them may be longer than what is left of the tokens."""
    chunks: list[Chunk] = []

    def size(resident: Resident, left: int) -> int:
        return resident.known if resident.known <= left or not chunks else 0

    if budget.tokens > 0:
        budget.admit(chunks, whole=True, spare=state.ledger.watermark, size=size)
    return tuple(chunks)


@cache
def blocked(times: int) -> str:
    """The cohort of those who stand, having been preempted so often."""
    return f"blocked {times}"


@cache
def preempted(times: int) -> str:
    """The cohort of those who were in the last iteration, or are new, having been preempted so often."""
    return f"preempted {times}" if times else ALL


def _is_blocked(cohort: str) -> bool:
    return cohort.startswith("blocked")


@cache
def _times(cohort: str) -> int:
    """How often those in a cohort of this name have been preempted."""
    return 0 if cohort == ALL else int(cohort.split()[1])
