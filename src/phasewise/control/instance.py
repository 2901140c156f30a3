"""The room beside each engine: one replica's queue, batches and blocks.

It keeps the books that every batcher shares: admission, chunk progress, block growth, preemption, cancellation. The batcher
says order and size; each plan is checked against the books before it is applied. The room does not know how long a step
takes or an answer will be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phasewise.control.apply import place, preempt, regroup, sent, spend, vacate
from phasewise.control.check import check_flights
from phasewise.control.desk import Desk
from phasewise.control.handover import HandOver
from phasewise.control.lane import Lane
from phasewise.control.leaving import Leavers
from phasewise.control.lobby import Lobby
from phasewise.control.ports import Handlers
from phasewise.control.setup import Setup
from phasewise.core.action import Action, Perished, Regroup, Run, WakeAt
from phasewise.core.errors import PlanError
from phasewise.core.event import Began, Died, Killed, StepDone, Woken
from phasewise.core.message import Finished, Prefilled, Ready, Refused, SetRole, Submit
from phasewise.core.resident import Resident
from phasewise.core.step import AWAY, StepPlan
from phasewise.core.view import InstanceState


class InstanceControl:
    """The room of one replica. `lanes` forward passes may be in flight at once; a leap needs a replica with one lane.

    `handlers` maps each kind of event that the room takes to what answers it: `(event, now_ns) -> actions`. `desk` is that of
    the replica, where it has several rooms.
    """

    def __init__(self, setup: Setup, lanes: int = 1, desk: Desk | None = None) -> None:
        self.state = state = InstanceState(setup.ledger, setup.max_context)
        self._lanes = {i: Lane() for i in range(lanes)}
        self._desk = desk = desk or Desk(setup, self._lanes)
        self._lobby = Lobby(desk, state, setup.seats, setup.most_blocks, setup.host_blocks)
        self._hand = HandOver(desk, state, self._lobby)
        self._leavers = Leavers(desk, state, self._lanes, self._hand)
        self.handlers: Handlers = {
            StepDone: self._step_done,
            Submit: self._submit,
            Woken: self._woken,
            SetRole: self._set_role,
            Died: self._died,
            Killed: self._killed,
            Began: self._began,
        }
        self.handlers |= self._hand.handlers | self._leavers.handlers
        self._plan: Callable[[InstanceState, int], tuple[Any, ...]] = setup.batcher.plan
        self._alone = lanes == 1
        self._books = setup.books
        self._runs = 0
        self._alarm_ns = -1
        # What others own and every step looks at.
        self._ledger, self._groups = setup.ledger, state.groups
        self._inside, self._told, self._reporter = desk.inside, desk.told, desk.reporter
        if desk.reporter is not None:
            desk.reporter.look(((state, self._lobby),), self._lanes[0])

    @property
    def states(self) -> tuple[InstanceState, ...]:
        """What its batcher sees: one state, where a pipeline has several."""
        return (self.state,)

    def _submit(self, event: Submit, now_ns: int) -> list[Action]:
        request = event.request
        limit = self.state.max_context
        out: list[Action] = []
        resident = Resident(request, event.epoch, event.from_token, event.stays)
        if resident.known >= limit:
            reason = f"a prompt of {resident.known} tokens and one output token exceed the {limit} that fit"
            refused = self._desk.say([Refused(request.id, event.epoch, reason)])
            return self._desk.given(request.id, now_ns, refused, dropped=True)
        if self._told is not None or request.id in self._inside:
            again = self._hand.known(request.id, event.epoch)
            if again is not None:
                return again
            self._hand.supersede(request.id, event.epoch, out)
        self._inside[request.id] = resident
        if not (event.stays or self._leavers.expects):
            self._leavers.expect()
        state = self.state
        state.waiting.append(resident)
        state.arrived_ns = now_ns
        if self._reporter is not None:
            self._reporter.taken = request.id
        return out + self._desk.nudge(now_ns, True) if out else self._desk.nudge(now_ns, True)

    def _set_role(self, event: SetRole, now_ns: int) -> list[Action]:
        self.state.role = event.role
        return []

    def _began(self, event: Began, now_ns: int) -> list[Action]:
        return self._desk.report(now_ns, [Ready(self._desk.replica)])

    def _died(self, event: Died, now_ns: int) -> list[Action]:
        """The process is gone: what its requests had emitted. Nothing is asked of this room any more."""
        for number, pieces in event.done:
            lane = self._lanes[number]
            if lane.run is not None and pieces:
                # Of the books only the clocks still matter: they say what was emitted.
                for cohort in lane.cohorts:
                    cohort.clock += sum(piece[2] for piece in pieces)
        residents = [*self._inside.values(), *self.state.parked.values()]
        return [Perished(tuple((r.id, r.emitted) for r in residents))]

    def _killed(self, event: Killed, now_ns: int) -> list[Action]:
        """The process is gone, and whoever says so knows what was emitted: there is nobody to tell."""
        return []

    def _woken(self, event: Woken, now_ns: int) -> list[Action]:
        self._desk.waking = False
        out: list[Action] = []
        free = self._lanes[0].run is None if self._alone else any(lane.run is None for lane in self._lanes.values())
        if free and (self._inside or self._lobby.busy):
            self._ask(now_ns, out)
        if self._reporter is not None:
            self._reporter.rung(now_ns)
            if not self._reporter.alarmed:
                self._reporter.tell(now_ns, out)
        return out

    def _step_done(self, event: StepDone, now_ns: int) -> list[Action]:
        lane = self._lanes[event.lane]
        run = lane.run
        if run is None or run.id != event.run:
            raise PlanError(f"run {event.run} is reported done on lane {event.lane}, which is not running it")
        lane.run = None
        self.state.last = plan = run.plan
        try:
            ((_, _, steps),) = event.pieces
        except ValueError:
            steps = sum(piece[2] for piece in event.pieces)
        # A single step's blocks were taken before it, a leap's are taken now.
        for cohort in lane.cohorts:
            if run.repeat != 1:
                self._ledger.take(cohort.growth(steps))
            cohort.clock += steps
            cohort.context += steps * cohort.count
        for chunk in plan.chunks:
            resident = self.state.running[chunk.request]
            resident.computed += chunk.tokens * steps
            if chunk.joins is not None:
                self._prompt_over(resident, chunk.joins)
        out: list[Action] = []
        if event.ended:
            for request in event.ended:
                resident = self._inside.pop(request)
                vacate(resident, self.state)
                out.append(Finished(request, resident.epoch, resident.generated))
        if self._leavers.busy:
            self._leavers.attend(plan, out)
        if self._books:
            for chunk in plan.chunks:
                if chunk.joins is not None and (one := self._inside.get(chunk.request)) is not None:
                    out.append(Prefilled(one.id, one.epoch))
        if self._told is not None:
            self._told.keep(out)
        if self._inside or self._lobby.busy:
            self._ask(now_ns, out)
        reporter = self._reporter
        if reporter is not None and not reporter.alarmed and not self._desk.waking:
            reporter.tell(now_ns, out)
        return out

    def _prompt_over(self, resident: Resident, cohort: str) -> None:
        """All known tokens are computed, and one more is out: it decodes from now on, or is about to leave."""
        if cohort == AWAY:
            resident.generated += 1
            return
        state = self.state
        del state.prefilling[resident.id]
        (state.cohorts.get(cohort) or state.open(cohort)).join(resident)

    def _ask(self, now_ns: int, out: list[Action]) -> list[Action]:
        """Ask the batcher what the free lanes should run, and apply it."""
        state = self.state
        alone, lanes, lobby = self._alone, self._lanes, self._lobby
        if lobby.busy:
            lobby.attend(out)
            if not (state.running or state.waiting):
                return out
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
                preempt(plan, state, lobby)
            if plan.chunks:
                place(plan, state)
                if self._leavers.expects:
                    plan = sent(plan, self._inside)
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
            lane.run = run = Run(self._runs, plan, spend(plan.repeat, cohorts, self._ledger, alone), decodes, context)
            lane.interrupted = False
            lane.began_ns = now_ns
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
            flying = [cohort for lane in self._lanes.values() if lane.run is not None for cohort in lane.cohorts]
            regroup(plan, self.state, flying)
            out.append(plan)

    def _set_alarm(self, alarm: WakeAt, now_ns: int, out: list[Action]) -> None:
        """Pass on when the batcher wants to be asked again, once for each instant."""
        if alarm.at_ns <= now_ns:
            raise PlanError(f"the batcher asks to be woken at {alarm.at_ns} ns, and it is {now_ns} ns already")
        if alarm.at_ns != self._alarm_ns:
            self._alarm_ns = alarm.at_ns
            out.append(alarm)
