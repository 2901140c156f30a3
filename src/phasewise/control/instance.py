"""The room beside each engine: one replica's queue, batches and blocks.

It keeps the books that every batcher shares: admission, chunk progress, block growth, preemption, cancellation. The batcher
says order and size; each plan is checked against the books before it is applied. The room does not know how long a step
takes or an answer will be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phasewise.control.check import check_chunk, check_chunks, check_flights, check_preempted, find_waiting
from phasewise.control.lane import Lane
from phasewise.control.ports import Handlers
from phasewise.core.action import Action, Forget, Interrupt, Regroup, Run, WakeAt
from phasewise.core.errors import PlanError
from phasewise.core.event import StepDone, Woken
from phasewise.core.kv import BlockLedger
from phasewise.core.message import Cancel, Cancelled, Finished, Refused, Submit
from phasewise.core.resident import Cohort, Resident
from phasewise.core.step import StepPlan
from phasewise.core.view import InstanceState
from phasewise.policy.roles import Batcher


class InstanceControl:
    """One replica. `lanes` forward passes may be in flight at once; a leap needs a replica with one lane.

    `handlers` maps each kind of event that the room takes to what answers it: `(event, now_ns) -> actions`.
    """

    def __init__(self, batcher: Batcher, ledger: BlockLedger, max_context: int, lanes: int = 1) -> None:
        self.state = InstanceState(ledger, max_context)
        self.handlers: Handlers = {
            StepDone: self._step_done,
            Submit: self._submit,
            Cancel: self._cancel,
            Woken: self._woken,
        }
        self._plan: Callable[[InstanceState, int], tuple[Any, ...]] = batcher.plan
        self._ledger = ledger
        self._lanes = {i: Lane() for i in range(lanes)}
        self._alone = lanes == 1
        self._inside: dict[int, Resident] = {}
        self._leaving: dict[int, Resident] = {}
        self._runs = 0
        self._waking = False
        self._alarm_ns = -1
        self._groups = self.state.groups

    def _submit(self, event: Submit, now_ns: int) -> list[Action]:
        request = event.request
        limit = self.state.max_context
        if request.prompt_tokens >= limit:
            reason = f"a prompt of {request.prompt_tokens} tokens and one output token exceed the {limit} that fit"
            return [Refused(request.id, event.epoch, reason)]
        if request.id in self._inside:
            raise PlanError(f"request {request.id} is submitted to a replica that it is still inside")
        resident = Resident(request, event.epoch)
        self._inside[request.id] = resident
        state = self.state
        state.waiting.append(resident)
        state.arrived_ns = now_ns
        return self._nudge(now_ns, True)

    def _cancel(self, event: Cancel, now_ns: int) -> list[Action]:
        resident = self._inside.get(event.request)
        if resident is None or resident.epoch != event.epoch or event.request in self._leaving:
            return []
        if event.request in self.state.running and any(lane.run for lane in self._lanes.values()):
            self._leaving[event.request] = resident
            return self._nudge(now_ns, False)
        out: list[Action] = []
        self._drop(resident, out)
        return out + self._nudge(now_ns, False)

    def _nudge(self, now_ns: int, heed_closed: bool) -> list[Action]:
        """Something changed between step boundaries: have a free lane filled, or cut short the leap that it may change.

        A free lane is filled when everything that happens at this instant has, so that requests that arrive together start
        together.
        """
        out: list[Action] = []
        for i, lane in self._lanes.items():
            run = lane.run
            if run is None:
                if self._waking:
                    return []
                self._waking = True
                return [WakeAt(now_ns)]
            if run.repeat != 1 and not lane.interrupted and not (heed_closed and run.plan.closed):
                lane.interrupted = True
                out.append(Interrupt(i))
        return out

    def _woken(self, event: Woken, now_ns: int) -> list[Action]:
        self._waking = False
        return self._ask(now_ns, []) if self._inside and any(lane.run is None for lane in self._lanes.values()) else []

    def _step_done(self, event: StepDone, now_ns: int) -> list[Action]:
        lane = self._lanes[event.lane]
        run = lane.run
        if run is None or run.id != event.run:
            raise PlanError(f"run {event.run} is reported done on lane {event.lane}, which is not running it")
        lane.run = None
        state, ledger = self.state, self._ledger
        state.last = plan = run.plan
        try:
            ((_, _, steps),) = event.pieces
        except ValueError:
            steps = sum(piece[2] for piece in event.pieces)
        for cohort in lane.cohorts:
            if run.repeat != 1:
                ledger.free -= cohort.growth(steps)
            cohort.clock += steps
            cohort.context += steps * cohort.count
        for chunk in plan.chunks:
            resident = state.running[chunk.request]
            resident.computed += chunk.tokens * steps
            if chunk.joins is not None:
                del state.prefilling[chunk.request]
                try:
                    cohort = state.cohorts[chunk.joins]
                except KeyError:
                    cohort = state.open(chunk.joins)
                cohort.join(resident)
        out: list[Action] = []
        if event.ended:
            for request in event.ended:
                resident = self._inside.pop(request)
                self._vacate(resident)
                if self._leaving:
                    self._leaving.pop(request, None)
                out.append(Finished(request, resident.epoch, resident.generated))
        if self._leaving:
            self._leave(out)
        return self._ask(now_ns, out) if self._inside else out

    def _leave(self, out: list[Action]) -> None:
        """Drop those whose clients left, unless another lane still has them in flight."""
        flying = [lane for lane in self._lanes.values() if lane.run is not None]
        for resident in list(self._leaving.values()):
            if any(resident.cohort in lane.cohorts or resident.id in _chunked(lane) for lane in flying):
                continue
            del self._leaving[resident.id]
            self._drop(resident, out)

    def _drop(self, resident: Resident, out: list[Action]) -> None:
        del self._inside[resident.id]
        if resident.id in self.state.running:
            self._vacate(resident)
            out.append(Forget(resident.id))
        else:
            self.state.waiting.remove(resident)
            if resident.generated:
                out.append(Forget(resident.id))
        out.append(Cancelled(resident.id, resident.epoch, resident.generated))

    def _vacate(self, resident: Resident) -> None:
        """Take a resident off the books of the running."""
        state = self.state
        del state.running[resident.id]
        if resident.cohort is not None:
            resident.cohort.leave(resident)
        else:
            del state.prefilling[resident.id]
        self._ledger.release(resident)

    def _ask(self, now_ns: int, out: list[Action]) -> list[Action]:
        """Ask the batcher what the free lanes should run, and apply it."""
        state = self.state
        alone, lanes = self._alone, self._lanes
        if not alone:
            state.free_lanes = tuple(i for i, lane in lanes.items() if lane.run is None)
        # A callable kept in an attribute is slow to call as a method, here and in the executor.
        planned = self._plan
        for plan in planned(state, now_ns):
            try:
                lane = lanes[plan.lane]
            except KeyError:
                self._beside(plan, now_ns, out)
                continue
            if lane.run is not None:
                raise PlanError(f"lane {plan.lane} is not free")
            if not alone:
                check_flights(plan, state, lanes.values())
            if plan.preempt:
                self._preempt(plan)
            if plan.chunks:
                self._place(plan)
            try:
                cohorts = self._groups[plan.cohorts]
            except KeyError:
                cohorts = state.group(plan.cohorts)
            lane.cohorts = cohorts
            decodes = context = 0
            for cohort in cohorts:
                if not cohort.count:
                    raise PlanError(f"the plan runs nothing: nobody decodes in cohort '{cohort.name}'")
                decodes += cohort.count
                context += cohort.context
            if not decodes and not plan.chunks:
                raise PlanError("the plan runs nothing")
            lane.run = run = Run(self._runs, plan, self._spend(plan.repeat, cohorts), decodes, context)
            lane.interrupted = False
            self._runs += 1
            out.append(run)
        return out

    def _beside(self, plan: StepPlan | Regroup | WakeAt, now_ns: int, out: list[Action]) -> None:
        """Apply what a batcher plans beside steps."""
        if isinstance(plan, StepPlan):
            raise PlanError(f"there is no lane {plan.lane}")
        if isinstance(plan, WakeAt):
            self._set_alarm(plan, now_ns, out)
        else:
            self._regroup(plan)
            out.append(plan)

    def _set_alarm(self, alarm: WakeAt, now_ns: int, out: list[Action]) -> None:
        """Pass on when the batcher wants to be asked again, once for each instant."""
        if alarm.at_ns <= now_ns:
            raise PlanError(f"the batcher asks to be woken at {alarm.at_ns} ns, and it is {now_ns} ns already")
        if alarm.at_ns != self._alarm_ns:
            self._alarm_ns = alarm.at_ns
            out.append(alarm)

    def _regroup(self, plan: Regroup) -> None:
        """Move decoding residents to other cohorts."""
        state = self.state
        flying = [cohort for lane in self._lanes.values() if lane.run is not None for cohort in lane.cohorts]
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

    def _spend(self, repeat: int | None, cohorts: tuple[Cohort, ...]) -> int | None:
        """How often a plan may repeat that would do so `repeat` times: clamped to the blocks that are left.

        A single step's blocks are taken now. A leap's are taken when it is over and its length is known: it has the replica
        to itself, so nobody spends them meanwhile.
        """
        ledger = self._ledger
        if repeat != 1:
            if repeat is not None and repeat < 1:
                raise PlanError(f"a plan cannot repeat {repeat} times")
            most = ledger.steps_until_full(cohorts) if self._alone else 1
            if most is not None and (repeat is None or repeat > most):
                repeat = most
            if repeat is None or repeat > 1:
                return repeat
        growth = 0
        for cohort in cohorts:
            growth += cohort.crossing(1)
        if growth > ledger.free:
            raise PlanError(f"the decodes need {growth} blocks, {ledger.free} are free")
        ledger.free -= growth
        return repeat

    def _preempt(self, plan: StepPlan) -> None:
        """Move the preempted to the front of the queue, to be recomputed."""
        state = self.state
        check_preempted(plan, state)
        for request in plan.preempt:
            resident = state.running[request]
            self._vacate(resident)
            resident.known = resident.request.prompt_tokens + resident.generated
            resident.computed = 0
            state.waiting.appendleft(resident)

    def _place(self, plan: StepPlan) -> None:
        """Give each chunk's request its blocks, after admitting it if it waits."""
        state, hold = self.state, self._ledger.hold
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
                    self._ledger.adopt(resident, chunk.start)
                state.running[request] = prefilling[request] = resident
            check_chunk(chunk, repeat, resident, state)
            hold(resident, chunk.hold)


def _chunked(lane: Lane) -> tuple[int, ...]:
    return () if lane.run is None else tuple(chunk.request for chunk in lane.run.plan.chunks)
