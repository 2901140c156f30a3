"""What a plan does to the books of a replica, once it is said what it may: blocks spent, residents placed, moved, sent off.

Functions of the live state; the room beside the engine (`instance`) calls them, and keeps no other way to change it. They know
no time and no message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from phasewise.control.check import check_chunk, check_chunks, check_preempted, find_waiting
from phasewise.control.lobby import Lobby
from phasewise.core.action import Regroup
from phasewise.core.errors import PlanError
from phasewise.core.kv import BlockLedger
from phasewise.core.resident import Cohort, Resident
from phasewise.core.step import StepPlan, sent_away
from phasewise.core.view import InstanceState


def place(plan: StepPlan, state: InstanceState) -> None:
    """Give each chunk's request its blocks, after admitting it if it waits."""
    ledger = state.ledger
    hold = ledger.hold
    prefilling, waiting = state.prefilling, state.waiting
    repeat = plan.repeat
    if repeat != 1 or len(plan.chunks) > 1:
        repeat = check_chunks(plan)
    for chunk in plan.chunks:
        request = chunk.request
        resident = prefilling.get(request)
        if resident is None:
            if waiting and waiting[0].id == request:
                resident = waiting.popleft()
            else:
                resident = find_waiting(chunk, state)
                waiting.remove(resident)
            if chunk.start:
                ledger.adopt(resident, chunk.start)
            state.running[request] = prefilling[request] = resident
        check_chunk(chunk, repeat, resident, state)
        hold(resident, chunk.hold)


def sent(plan: StepPlan, inside: Mapping[int, Resident]) -> StepPlan:
    """The plan, with the last chunks of those that do not stay saying so."""
    if not any(chunk.joins is not None and not inside[chunk.request].stays for chunk in plan.chunks):
        return plan
    chunks = tuple(
        chunk if chunk.joins is None or inside[chunk.request].stays else sent_away(chunk) for chunk in plan.chunks
    )
    return msgspec.structs.replace(plan, chunks=chunks)


def spend(repeat: int | None, cohorts: tuple[Cohort, ...], ledger: BlockLedger, alone: bool) -> int | None:
    """How often a plan may repeat that would do so `repeat` times: clamped to the blocks that are left.

    A single step's blocks are taken now. A leap's are taken when it is over and its length is known: it has the replica
    to itself, so nobody spends them meanwhile; one that is not `alone` does not leap.
    """
    if repeat != 1:
        if repeat is not None and repeat < 1:
            raise PlanError(f"a plan cannot repeat {repeat} times")
        most = ledger.steps_until_full(cohorts) if alone else 1
        if most is not None and (repeat is None or repeat > most):
            repeat = most
        if repeat is None or repeat > 1:
            return repeat
    growth = 0
    for cohort in cohorts:
        growth += cohort.crossing(1)
    if growth > ledger.free:
        raise PlanError(f"the decodes need {growth} blocks, {ledger.free} are free")
    if growth:
        ledger.take(growth)
    return repeat


def preempt(plan: StepPlan, state: InstanceState, lobby: Lobby) -> None:
    """Move the preempted to host memory where there is room, and else to the front of the queue, to be recomputed."""
    check_preempted(plan, state)
    for request in plan.preempt:
        resident = state.running[request]
        decodes = resident.cohort is not None
        vacate(resident, state)
        if decodes and lobby.swap_out(resident):
            continue
        resident.known = resident.request.prompt_tokens + resident.generated
        resident.computed = 0
        state.waiting.appendleft(resident)


def vacate(resident: Resident, state: InstanceState) -> None:
    """Take a resident off the books of the running."""
    del state.running[resident.id]
    if resident.cohort is not None:
        resident.cohort.leave(resident)
    else:
        del state.prefilling[resident.id]
    state.ledger.release(resident)


def regroup(plan: Regroup, state: InstanceState, flying: Sequence[Cohort]) -> None:
    """Move decoding residents to other cohorts; those `flying` are in flight."""
    for request, name in plan.moves:
        resident = state.running.get(request)
        if resident is None or resident.cohort is None:
            raise PlanError(f"request {request} is to change its cohort but does not decode")
        cohort = state.cohorts.get(name) or state.open(name)
        if resident.cohort in flying or cohort in flying:
            raise PlanError(f"request {request} is to change its cohort in flight")
        resident.cohort.leave(resident)
        # Leaving counts the token of the step that it joined after; it joined before.
        resident.generated -= 1
        cohort.join(resident)
