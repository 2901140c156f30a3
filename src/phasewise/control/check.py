"""The rules of the mechanism: what a plan may ask for. A batcher that breaks one has a bug, and hears of it at once."""

from __future__ import annotations

from collections.abc import Iterable

from phasewise.control.lane import Lane
from phasewise.core.errors import PlanError
from phasewise.core.resident import Resident
from phasewise.core.step import Chunk, StepPlan
from phasewise.core.view import InstanceState


def check_preempted(plan: StepPlan, state: InstanceState) -> None:
    """Only those that run can be preempted, once, and not by a plan that runs them."""
    chunked = {chunk.request for chunk in plan.chunks}
    for request in plan.preempt:
        if request not in state.running:
            raise PlanError(f"request {request} is to be preempted but does not run")
        if request in chunked or plan.preempt.count(request) > 1:
            raise PlanError(f"request {request} cannot be preempted and run, or preempted twice, in one plan")


def check_chunk(chunk: Chunk, repeat: int, resident: Resident, state: InstanceState) -> None:
    """A chunk goes on where the last one ended, names a cohort if it is the last, and holds what the plan computes.

    A request holds blocks for no more than its own known tokens, or else for the whole context.
    """
    end = chunk.start + chunk.tokens * repeat
    known, hold = resident.known, chunk.hold
    if chunk.start != resident.computed or chunk.tokens < 1 or end > known:
        raise PlanError(
            f"request {chunk.request}: chunk {chunk.start}+{chunk.tokens} x {repeat}, "
            f"but {resident.computed} of {known} tokens are computed"
        )
    if (end == known) != (chunk.joins is not None):
        raise PlanError(f"request {chunk.request}: the last chunk, and no other, names a cohort to join")
    if repeat > 1 and end == known:
        raise PlanError(f"request {chunk.request}: a plan with a last chunk runs once")
    if hold < end or known < hold < state.max_context:
        raise PlanError(f"request {chunk.request}: holds {hold} tokens, wants its own or the whole context")


def check_chunks(plan: StepPlan) -> int:
    """A plan with chunks says how often it runs, and has one for a request. How often that is."""
    if plan.repeat is None or plan.repeat < 1:
        raise PlanError(f"a plan with prompt chunks cannot repeat {plan.repeat} times")
    if len(plan.chunks) > 1:
        seen = set()
        for chunk in plan.chunks:
            if chunk.request in seen:
                raise PlanError(f"request {chunk.request} has two chunks in one plan")
            seen.add(chunk.request)
    return plan.repeat


def find_waiting(chunk: Chunk, state: InstanceState) -> Resident:
    """The queued request of a chunk that is not the head of the queue."""
    for resident in state.waiting:
        if resident.id == chunk.request:
            return resident
    raise PlanError(f"request {chunk.request} neither waits nor has a prompt to finish")


def check_flights(plan: StepPlan, state: InstanceState, lanes: Iterable[Lane]) -> None:
    """What is in flight on one lane cannot be planned on another."""
    asked = {chunk.request for chunk in plan.chunks}
    for lane in lanes:
        if lane.run is None:
            continue
        for chunk in lane.run.plan.chunks:
            if chunk.request in asked or chunk.request in plan.preempt:
                raise PlanError(f"request {chunk.request} is in flight on another lane")
        for cohort in lane.cohorts:
            preempted = (state.running[r].cohort for r in plan.preempt if r in state.running)
            joined = any(chunk.joins == cohort.name for chunk in plan.chunks)
            if joined or cohort.name in plan.cohorts or cohort in preempted:
                raise PlanError(f"cohort '{cohort.name}' is in flight on another lane")
