"""The room beside each engine: one replica's queue, batches and blocks.

It keeps the books that every batcher shares: admission, chunk progress, block growth, preemption, cancellation. The batcher
says order and size; each plan is checked against the books before it is applied. The room does not know how long a step
takes or an answer will be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from phasewise.control.apply import place, preempt, regroup, sent, spend, vacate
from phasewise.control.check import check_flights
from phasewise.control.handover import HandOver
from phasewise.control.lane import Lane
from phasewise.control.ports import Handlers
from phasewise.control.reporter import Reporter
from phasewise.control.told import Told
from phasewise.core.action import Action, Forget, Interrupt, Perished, Regroup, Run, WakeAt
from phasewise.core.errors import PlanError
from phasewise.core.event import Began, Died, StepDone, Woken
from phasewise.core.kv import BlockLedger
from phasewise.core.message import (
    Accepted,
    Cancel,
    Cancelled,
    Evict,
    Finished,
    Prefilled,
    PromptDone,
    Ready,
    Refused,
    SetRole,
    Submit,
)
from phasewise.core.resident import Resident
from phasewise.core.step import AWAY, StepPlan
from phasewise.core.view import InstanceState
from phasewise.policy.roles import Batcher


class InstanceControl:
    """Replica number `replica`. `lanes` forward passes may be in flight at once; a leap needs a replica with one lane.

    `handlers` maps each kind of event that the room takes to what answers it: `(event, now_ns) -> actions`. With a `reporter`
    the room tells the cluster how it stands; a `forgetful` one cannot repeat its last word on a request that it has let go; for
    a router that `books`, it tells when a prompt is computed whose request stays.
    """

    def __init__(
        self,
        batcher: Batcher,
        ledger: BlockLedger,
        max_context: int,
        lanes: int = 1,
        replica: int = 0,
        reporter: Reporter | None = None,
        forgetful: bool = True,
        books: bool = False,
        host_blocks: int = 0,
    ) -> None:
        self.state = InstanceState(ledger, max_context)
        self.handlers: Handlers = {
            StepDone: self._step_done,
            Submit: self._submit,
            Cancel: self._cancel,
            Evict: self._evict,
            Woken: self._woken,
            SetRole: self._set_role,
            Died: self._died,
            Began: self._began,
        }
        self.replica = replica
        self._plan: Callable[[InstanceState, int], tuple[Any, ...]] = batcher.plan
        self._ledger = ledger
        self._lanes = {i: Lane() for i in range(lanes)}
        self._alone = lanes == 1
        self._inside: dict[int, Resident] = {}
        self._leaving: dict[int, Resident] = {}
        seats = getattr(batcher, "max_seqs", 1 << 30)
        share = getattr(batcher, "accept_share", 1.0)
        say = (self._known, self._after, self._given, self._report)
        self._hand = HandOver(replica, self.state, self._inside, seats, share, host_blocks, *say)
        self.handlers |= self._hand.handlers
        self._evictions = self._hand.evictions
        self._evicting = self._evictions.asked
        self._passing = False
        self._books = books
        self._reporter = reporter
        if reporter is not None:
            reporter.look(((self.state, self._hand),), self._lanes[0])
        self._told = None if forgetful else Told()
        self._runs = 0
        self._waking = False
        self._alarm_ns = -1
        self._groups = self.state.groups

    @property
    def states(self) -> tuple[InstanceState, ...]:
        """What its batcher sees: one state, where a pipeline has several."""
        return (self.state,)

    def _share(self, inside: dict[int, Resident], told: Told | None) -> None:
        """Count the same requests as its own, and remember the same words, as another room of the replica."""
        self._inside = inside
        self._hand.share(inside)
        self._told = told

    def _submit(self, event: Submit, now_ns: int) -> list[Action]:
        request = event.request
        limit = self.state.max_context
        out: list[Action] = []
        resident = Resident(request, event.epoch, event.from_token, event.stays)
        if resident.known >= limit:
            reason = f"a prompt of {resident.known} tokens and one output token exceed the {limit} that fit"
            return self._given(request.id, now_ns, self._say([Refused(request.id, event.epoch, reason)]), True)
        if self._told is not None or request.id in self._inside:
            again = self._known(request.id, event.epoch)
            if again is not None:
                return again
            self._hand.supersede(request.id, event.epoch, out)
        self._inside[request.id] = resident
        self._passing = self._passing or not event.stays
        state = self.state
        state.waiting.append(resident)
        state.arrived_ns = now_ns
        if self._reporter is not None:
            self._reporter.taken = request.id
        return out + self._nudge(now_ns, True) if out else self._nudge(now_ns, True)

    def _known(self, request: int, epoch: int) -> list[Action] | None:
        """What there is to say of an attempt that this replica has heard of before; None: it has not."""
        if self._told is not None and (word := self._told.again(request, epoch)) is not None:
            return word
        if (here := self._hand.word(request, epoch)) is not None:
            return [here]
        resident = self._inside.get(request)
        if self._hand.outdated(request, epoch) or (resident is not None and resident.epoch > epoch):
            return []
        if resident is None:
            return None
        if resident.epoch < epoch:
            raise PlanError(f"request {request} comes to a replica that it is still inside")
        return [Accepted(request, epoch)]

    def _cancel(self, event: Cancel, now_ns: int) -> list[Action]:
        request, epoch = event.request, event.epoch
        out: list[Action] = []
        resident = self._inside.get(request)
        if resident is not None and resident.epoch == epoch:
            if request in self._leaving:
                return []
            if request in self.state.running and any(lane.run for lane in self._lanes.values()):
                self._leaving[request] = resident
                return self._nudge(now_ns, False)
            self._drop(resident, out)
        elif not self._hand.leave(request, epoch, out):
            return self._nobody(request, epoch)
        return self._after(now_ns, out)

    def _evict(self, event: Evict, now_ns: int) -> list[Action]:
        request, epoch = event.request, event.epoch
        resident = self._inside.get(request)
        if resident is None or resident.epoch != epoch:
            found = self._hand.turn_back(request, epoch)
            return self._nobody(request, epoch) if found is None else self._after(now_ns, found)
        if request in self._leaving:
            return []
        self._passing = True
        resident.stays = False
        if request in self.state.running and any(lane.run for lane in self._lanes.values()):
            self._evicting[request] = event.copied or self._evicting.get(request, False)
            return [Accepted(request, epoch)] if resident.cohort is None else self._nudge(now_ns, False)
        out: list[Action] = []
        self._send_off(((resident, event.copied),), out)
        return self._after(now_ns, out or [Accepted(request, epoch)])

    def _send_off(self, leaving: Iterable[tuple[Resident, bool]], out: list[Action]) -> None:
        """Some that are to leave are between two steps; whether each is copied so far."""
        for resident, copied in leaving:
            if not self._evictions.answer(resident, copied, self._inside, out):
                self._drop(resident, out)

    def _nobody(self, request: int, epoch: int) -> list[Action]:
        """The answer to an order about an attempt that is not here."""
        if self._told is None:
            return []
        again = self._told.again(request, epoch)
        return self._say([Cancelled(request, epoch, 0, self.replica)]) if again is None else again

    def _say(self, out: list[Action]) -> list[Action]:
        """The same actions, the last words among them remembered."""
        return out if self._told is None else self._told.keep(out)

    def _after(self, now_ns: int, out: list[Action]) -> list[Action]:
        """Something changed: remember what was said of it, think again at the next step boundary, and report it."""
        out = self._say(out)
        out += self._nudge(now_ns, False)
        if self._reporter is not None:
            self._report(now_ns, out)
        return out

    def _given(self, request: int, now_ns: int, out: list[Action], dropped: bool = False) -> list[Action]:
        """The cluster has given a request to this replica: the next report says that it is no longer on its way.

        `dropped`: it is not here either.
        """
        if self._reporter is not None:
            self._reporter.taken = request
            self._reporter.dropped += dropped
            self._report(now_ns, out)
        return out

    def _report(self, now_ns: int, out: list[Action]) -> None:
        """Report a change, unless a lane is about to be filled: then what it runs is told as well."""
        reporter = self._reporter
        if reporter is not None and not reporter.alarmed and not self._waking:
            reporter.tell(now_ns, out)

    def _set_role(self, event: SetRole, now_ns: int) -> list[Action]:
        self.state.role = event.role
        return []

    def _began(self, event: Began, now_ns: int) -> list[Action]:
        out: list[Action] = [Ready(self.replica)]
        if self._reporter is not None:
            self._report(now_ns, out)
        return out

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
        out: list[Action] = []
        free = self._lanes[0].run is None if self._alone else any(lane.run is None for lane in self._lanes.values())
        if free and (self._inside or self._hand.busy):
            self._ask(now_ns, out)
        if self._reporter is not None:
            self._reporter.rung(now_ns)
            self._report(now_ns, out)
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
                self._ledger.free -= cohort.growth(steps)
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
                if self._leaving:
                    self._leaving.pop(request, None)
                out.append(Finished(request, resident.epoch, resident.generated))
        if self._leaving:
            self._leave(out)
        if self._passing:
            self._part(plan, out)
        if self._evicting:
            self._send_off(self._evictions.due(self._flies, self._inside), out)
        if self._books:
            for chunk in plan.chunks:
                if chunk.joins is not None and (one := self._inside.get(chunk.request)) is not None:
                    out.append(Prefilled(one.id, one.epoch))
        if self._told is not None:
            self._told.keep(out)
        if self._inside or self._hand.busy:
            self._ask(now_ns, out)
        reporter = self._reporter
        if reporter is not None and not reporter.alarmed and not self._waking:
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

    def _part(self, plan: StepPlan, out: list[Action]) -> None:
        """Those that were to leave after their prompt do so: they keep their blocks, and run no more."""
        for chunk in plan.chunks:
            resident = self._inside.get(chunk.request)
            if chunk.joins == AWAY and resident is not None and resident.id not in self._leaving:
                self._hand.park(resident)
                out.append(PromptDone(self.replica, resident.id, resident.epoch, resident.generated))

    def _leave(self, out: list[Action]) -> None:
        """Drop those whose clients left, unless another lane still has them in flight."""
        for resident in list(self._leaving.values()):
            if self._flies(resident):
                continue
            del self._leaving[resident.id]
            self._drop(resident, out)

    def _flies(self, resident: Resident) -> bool:
        flying = [lane for lane in self._lanes.values() if lane.run is not None]
        return any(resident.cohort in lane.cohorts or resident.id in _chunked(lane) for lane in flying)

    def _drop(self, resident: Resident, out: list[Action]) -> None:
        del self._inside[resident.id]
        self._evicting.pop(resident.id, None)
        if resident.id in self.state.running:
            vacate(resident, self.state)
            out.append(Forget(resident.id))
        elif self._hand.tier.drop(resident):
            out.append(Forget(resident.id))
        elif resident in self.state.landed:
            self.state.landed.remove(resident)
            self._ledger.release(resident)
            out.append(Forget(resident.id))
        else:
            self.state.waiting.remove(resident)
            if self._reporter is not None:
                self._reporter.dropped += 1
            if resident.generated:
                out.append(Forget(resident.id))
        out.append(Cancelled(resident.id, resident.epoch, resident.generated, self.replica))

    def _ask(self, now_ns: int, out: list[Action]) -> list[Action]:
        """Ask the batcher what the free lanes should run, and apply it."""
        state = self.state
        alone, lanes, hand = self._alone, self._lanes, self._hand
        if hand.busy:
            hand.attend(out)
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
                preempt(plan, state, hand)
            if plan.chunks:
                place(plan, state)
                if self._passing:
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


def _chunked(lane: Lane) -> tuple[int, ...]:
    return () if lane.run is None else tuple(chunk.request for chunk in lane.run.plan.chunks)
