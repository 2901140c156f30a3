"""The rules of the mechanism: what a plan may ask for. A batcher that breaks one has a bug, and hears of it at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phasewise.core.errors import PlanError
from phasewise.core.resident import Resident
from phasewise.core.step import Chunk, StepPlan
from phasewise.core.view import InstanceState

if TYPE_CHECKING:
    from phasewise.control.instance import Lane


def check_plan(plan: StepPlan, state: InstanceState, lanes: Sequence[Lane]) -> None:
    """PlanError unless the plan's chunks and preemptions can be applied. Blocks and lanes are checked as they are taken."""
    if not 0 <= plan.lane < len(lanes):
        raise PlanError(f"there is no lane {plan.lane}")
    if plan.preempt:
        _check_preempted(plan, state)
    if plan.chunks:
        _check_chunks(plan, state)
    if len(lanes) > 1:
        _check_flights(plan, state, lanes)


def _check_preempted(plan: StepPlan, state: InstanceState) -> None:
    chunked = {chunk.request for chunk in plan.chunks}
    for request in plan.preempt:
        if request not in state.running:
            raise PlanError(f"request {request} is to be preempted but does not run")
        if request in chunked:
            raise PlanError(f"request {request} cannot be preempted and run in one plan")


def _check_chunks(plan: StepPlan, state: InstanceState) -> None:
    if plan.repeat != 1:
        raise PlanError("a plan with prompt chunks runs once")
    fresh = 0
    for chunk in plan.chunks:
        resident = state.prefilling.get(chunk.request)
        if resident is None:
            resident, fresh = _from_queue(chunk, state, fresh)
        if chunk.start != resident.computed or chunk.tokens < 1 or chunk.start + chunk.tokens > resident.known:
            raise PlanError(
                f"request {chunk.request}: chunk {chunk.start}+{chunk.tokens}, "
                f"but {resident.computed} of {resident.known} tokens are computed"
            )
        last = chunk.start + chunk.tokens == resident.known
        if (chunk.joins is not None) != last or (last and chunk.joins not in state.cohorts):
            raise PlanError(f"request {chunk.request}: the last chunk, and no other, names a cohort to join")
        if chunk.hold < chunk.start + chunk.tokens or (last and resident.known < chunk.hold < state.max_context):
            raise PlanError(f"request {chunk.request}: holds {chunk.hold} tokens, wants its own or the whole context")


def _from_queue(chunk: Chunk, state: InstanceState, at: int) -> tuple[Resident, int]:
    """The queued request of a chunk, looking first where it is when a policy serves its queue in order."""
    waiting = state.waiting
    if at < len(waiting) and waiting[at].id == chunk.request:
        return waiting[at], at + 1
    for resident in waiting:
        if resident.id == chunk.request:
            return resident, at
    raise PlanError(f"request {chunk.request} neither waits nor has a prompt to finish")


def _check_flights(plan: StepPlan, state: InstanceState, lanes: Sequence[Lane]) -> None:
    asked = {chunk.request for chunk in plan.chunks}
    for lane in lanes:
        if lane.run is None:
            continue
        for chunk in lane.run.plan.chunks:
            if chunk.request in asked or chunk.request in plan.preempt:
                raise PlanError(f"request {chunk.request} is in flight on another lane")
        for cohort in lane.cohorts:
            if cohort.name in plan.cohorts or any(state.running[r].cohort is cohort for r in plan.preempt):
                raise PlanError(f"cohort '{cohort.name}' is in flight on another lane")
