"""The room beside each engine: one replica's queue, batches and blocks.

It keeps the books that every batcher shares: admission, chunk progress, block growth, preemption, cancellation. The batcher
says order and size; each plan is checked against the books before it is applied. The room does not know how long a step
takes or an answer will be.
"""

from __future__ import annotations

from phasewise.control.check import check_plan
from phasewise.core.action import Action, Forget, Interrupt, Run
from phasewise.core.errors import PlanError
from phasewise.core.event import InstanceEvent, StepDone
from phasewise.core.kv import BlockLedger
from phasewise.core.message import Cancel, Cancelled, Finished, Refused, Submit
from phasewise.core.resident import Cohort, Resident
from phasewise.core.step import StepPlan
from phasewise.core.view import InstanceState
from phasewise.policy.roles import Batcher


class Flight:
    """What a lane is running: its `Run`, the cohorts in it, and the blocks promised to its growth."""

    __slots__ = ("cohorts", "interrupted", "promised", "run")

    def __init__(self, run: Run, cohorts: list[Cohort], promised: int) -> None:
        self.run = run
        self.cohorts = cohorts
        self.promised = promised
        self.interrupted = False


class InstanceControl:
    """One replica. `lanes` forward passes may be in flight at once; a leap needs a replica with one lane."""

    def __init__(self, batcher: Batcher, ledger: BlockLedger, max_context: int, lanes: int = 1) -> None:
        self.state = InstanceState(ledger, max_context)
        self._batcher = batcher
        self._ledger = ledger
        self._lanes: list[Flight | None] = [None] * lanes
        self._inside: dict[int, Resident] = {}
        self._leaving: dict[int, Resident] = {}
        self._runs = 0

    def on(self, event: InstanceEvent, now_ns: int) -> list[Action]:
        """The actions that follow from an event."""
        kind = type(event)
        if kind is StepDone:
            return self._step_done(event, now_ns)  # type: ignore[arg-type]
        if kind is Submit:
            return self._submit(event, now_ns)  # type: ignore[arg-type]
        if kind is Cancel:
            return self._cancel(event, now_ns)  # type: ignore[arg-type]
        raise TypeError(f"an instance does not take {kind.__name__}")

    def _submit(self, event: Submit, now_ns: int) -> list[Action]:
        request = event.request
        limit = self.state.max_context
        if request.prompt_tokens >= limit:
            reason = f"a prompt of {request.prompt_tokens} tokens and one output token exceed the {limit} that fit"
            return [Refused(request.id, event.epoch, reason)]
        resident = Resident(request.id, event.epoch, request.prompt_tokens)
        self._inside[request.id] = resident
        self.state.waiting.append(resident)
        return self._nudge(now_ns, heed_closed=True)

    def _cancel(self, event: Cancel, now_ns: int) -> list[Action]:
        resident = self._inside.get(event.request)
        if resident is None or resident.epoch != event.epoch or event.request in self._leaving:
            return []
        if event.request in self.state.running and any(self._lanes):
            self._leaving[event.request] = resident
            return self._nudge(now_ns, heed_closed=False)
        out: list[Action] = []
        self._drop(resident, out)
        return out + self._nudge(now_ns, heed_closed=False)

    def _nudge(self, now_ns: int, *, heed_closed: bool) -> list[Action]:
        """Something changed between step boundaries: fill a free lane, or else cut short the leap that it may change."""
        if None in self._lanes:
            return self._ask(now_ns, [])
        out: list[Action] = []
        for lane, flight in enumerate(self._lanes):
            if flight is None or flight.interrupted or flight.run.plan.repeat == 1:
                continue
            if heed_closed and flight.run.plan.closed:
                continue
            flight.interrupted = True
            out.append(Interrupt(lane))
        return out

    def _step_done(self, event: StepDone, now_ns: int) -> list[Action]:
        flight = self._lanes[event.lane]
        if flight is None or flight.run.id != event.run:
            raise PlanError(f"run {event.run} is reported done on lane {event.lane}, which is not running it")
        self._lanes[event.lane] = None
        state, ledger = self.state, self._ledger
        steps = 0
        for _, _, n in event.pieces:
            steps += n
        # What was promised for the whole run comes back, less what the steps that really ran used up.
        ledger.free += flight.promised
        for cohort in flight.cohorts:
            ledger.free -= cohort.growth(steps)
            cohort.clock += steps
            cohort.context += steps * cohort.count
        for chunk in flight.run.plan.chunks:
            resident = state.running[chunk.request]
            resident.computed += chunk.tokens
            if chunk.joins is not None:
                del state.prefilling[chunk.request]
                state.cohorts[chunk.joins].join(resident)
        out: list[Action] = []
        for request in event.ended:
            resident = self._inside.pop(request)
            self._vacate(resident)
            self._leaving.pop(request, None)
            out.append(Finished(request, resident.epoch, resident.generated))
        if self._leaving:
            self._leave(out)
        return self._ask(now_ns, out)

    def _leave(self, out: list[Action]) -> None:
        """Drop those whose clients left, unless another lane still has them in flight."""
        flying = [f for f in self._lanes if f is not None]
        for resident in list(self._leaving.values()):
            if any(resident.cohort in f.cohorts or resident.id in _chunked(f) for f in flying):
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
        if not state.running and not state.waiting:
            return out
        lanes = self._lanes
        if len(lanes) > 1:
            state.free_lanes = tuple(i for i, f in enumerate(lanes) if f is None)
        for plan in self._batcher.plan(state, now_ns):
            out.append(self._apply(plan))
        return out

    def _apply(self, plan: StepPlan) -> Run:
        state, ledger = self.state, self._ledger
        check_plan(plan, state, self._lanes)
        for request in plan.preempt:
            resident = state.running[request]
            self._vacate(resident)
            resident.known = resident.prompt + resident.generated
            resident.computed = 0
            state.waiting.appendleft(resident)
        waiting = state.waiting
        for chunk in plan.chunks:
            request = chunk.request
            if request not in state.running:
                resident = self._inside[request]
                if waiting[0] is resident:
                    waiting.popleft()
                else:
                    waiting.remove(resident)
                state.running[request] = resident
                state.prefilling[request] = resident
            ledger.hold(state.running[request], chunk.hold)
        return self._launch(plan)

    def _launch(self, plan: StepPlan) -> Run:
        """Clamp how often the plan may repeat to the blocks that are left, promise them to it, and send it off."""
        ledger = self._ledger
        cohorts = [self.state.cohorts[name] for name in plan.cohorts]
        decodes = context = 0
        for cohort in cohorts:
            decodes += cohort.count
            context += cohort.context
        repeat = plan.repeat
        if repeat != 1:
            most = ledger.steps_until_full(cohorts) if len(self._lanes) == 1 else 1
            if most is not None and (repeat is None or repeat > most):
                if most == 0:
                    raise PlanError(f"the decodes need {ledger.growth(cohorts, 1)} blocks, {ledger.free} are free")
                repeat = most
        promised = ledger.growth(cohorts, 1 if repeat is None else repeat)
        ledger.take(promised)
        if repeat != plan.repeat:
            plan = StepPlan(plan.chunks, plan.cohorts, plan.preempt, repeat, plan.closed, plan.lane)
        run = Run(self._runs, plan, decodes, context)
        self._runs += 1
        self._lanes[plan.lane] = Flight(run, cohorts, promised)
        return run


def _chunked(flight: Flight) -> tuple[int, ...]:
    return tuple(chunk.request for chunk in flight.run.plan.chunks)
