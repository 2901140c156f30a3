"""Batches of some cohorts, when others stand still: the step that WAIT and Nested WAIT share, and their longest wait.

The longest wait is ours and not of the papers: a request that has waited so long, or residents that stand still when nothing
has arrived for so long, set everybody moving. Plans that only it made are marked `forced`, and counted. One that was preempted
has waited since it arrived.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from phasewise.core.action import WakeAt
from phasewise.core.resident import Cohort, Resident
from phasewise.core.step import Chunk, StepPlan
from phasewise.core.units import NS_PER_S
from phasewise.core.view import InstanceState
from phasewise.policy.batching.budget import Budget

NO_LIMIT = 1 << 40
ROUNDING = 1e-9  # a share that is a whole number counts as that, however its products were rounded
Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
"""A longest wait."""
Admitted = Iterable[tuple[Resident, str]]
"""Requests of the queue to admit, in order, each with the cohort that it will decode in."""


def decoding(state: InstanceState, names: Iterable[str]) -> tuple[Cohort, ...]:
    """The cohorts of these names in which anybody decodes."""
    found = (state.cohorts.get(name) for name in names)
    return tuple(cohort for cohort in found if cohort is not None and cohort.count)


def step(
    state: InstanceState, cohorts: tuple[Cohort, ...], admitted: Admitted, seats: int, *, forced: bool = False
) -> tuple[StepPlan, ...]:
    """One step: a decode of these cohorts, and whole prompts, as far as seats and blocks go.

    Where a decode finds no block the last one running is preempted, and nobody is admitted: thresholds within the memory
    never come to that.
    """
    budget = Budget(state, NO_LIMIT, seats, cohorts)
    chunks = [] if budget.victims else prompts(state, admitted, budget.blocks, budget.seats)
    left = [resident.cohort for resident in budget.victims.values()]
    names = tuple(cohort.name for cohort in cohorts if cohort.count > left.count(cohort))
    if not chunks and not names:
        return ()
    return (StepPlan(tuple(chunks), names, tuple(budget.victims), forced=forced),)


def prompts(state: InstanceState, admitted: Admitted, blocks: int, seats: int) -> list[Chunk]:
    """Whole prompts, in order, while there are blocks and seats."""
    chunks: list[Chunk] = []
    for resident, cohort in admitted:
        blocks -= state.ledger.need(resident.known)
        if len(chunks) >= seats or blocks < 0:
            break
        chunks.append(Chunk(resident.id, 0, resident.known, resident.known, cohort))
    return chunks


def is_late(state: InstanceState, now_ns: int, max_wait_s: float | None) -> bool:
    """Whether the head of the queue has waited for `max_wait_s`, or if nobody waits, nothing has arrived for so long."""
    return max_wait_s is not None and now_ns >= _due_ns(state, max_wait_s)


def wait(state: InstanceState, max_wait_s: float | None) -> tuple[WakeAt, ...]:
    """Nothing is ready to start: wait for an arrival, and with a longest wait until that is over."""
    return () if max_wait_s is None else (WakeAt(_due_ns(state, max_wait_s)),)


def _due_ns(state: InstanceState, max_wait_s: float) -> int:
    since_ns = state.waiting[0].request.arrival_ns if state.waiting else state.arrived_ns
    return since_ns + round(max_wait_s * NS_PER_S)
