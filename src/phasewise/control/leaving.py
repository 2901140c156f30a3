"""Those who leave a replica before their end: their clients hung up, or they go on elsewhere, after their prompts or midway.

Who is in flight leaves at a step boundary. Of an answer that moves, this replica computes on until most of it is copied, and
then parks it as after a prompt: from there on it is a hand-over. Nobody here knows why a request leaves, or where to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from phasewise.control.apply import vacate
from phasewise.control.desk import Desk
from phasewise.control.handover import HandOver
from phasewise.control.lane import Lane
from phasewise.control.ports import Handlers
from phasewise.core.action import Action, Forget
from phasewise.core.message import Accepted, Cancel, Cancelled, Evict, Evicted
from phasewise.core.resident import Resident
from phasewise.core.step import AWAY, StepPlan
from phasewise.core.view import InstanceState


class Leavers:
    """`handlers` as in `InstanceControl`. While it is `busy`, somebody may leave at the next step boundary.

    Once it `expects` them, requests may come that leave after their prompts.
    """

    __slots__ = (
        "_asked",
        "_cancelled",
        "_desk",
        "_hand",
        "_inside",
        "_lanes",
        "_parked",
        "_state",
        "busy",
        "expects",
        "handlers",
    )

    def __init__(self, desk: Desk, state: InstanceState, lanes: Mapping[int, Lane], hand: HandOver) -> None:
        self.handlers: Handlers = {Cancel: self._cancel, Evict: self._evict}
        self._desk = desk
        self._state = state
        self._lanes = lanes
        self._hand = hand
        self._inside, self._parked = desk.inside, hand.parked
        # Those in flight: of whom the clients left, and who are to go on elsewhere: whether most of each is copied already.
        self._cancelled: dict[int, Resident] = {}
        self._asked: dict[int, bool] = {}
        self.busy = False
        self.expects = False

    def expect(self) -> None:
        """Some requests may leave after their prompts."""
        self.expects = self.busy = True

    def attend(self, plan: StepPlan, out: list[Action]) -> None:
        """A step has ended, of this plan: let those go who leave."""
        if self._cancelled:
            self._drop_cancelled(out)
        if self.expects:
            for chunk in plan.chunks:
                if chunk.joins == AWAY:
                    resident = self._inside.get(chunk.request)
                    # Its first token may have been its last, and its client may be gone.
                    if resident is not None and resident.id not in self._cancelled:
                        self._parked.put(resident, out)
        if self._asked:
            self._send_off(self._due(), out)
        if not self.expects:
            self.busy = bool(self._cancelled or self._asked)

    def _cancel(self, event: Cancel, now_ns: int) -> list[Action]:
        request, epoch = event.request, event.epoch
        out: list[Action] = []
        resident = self._inside.get(request)
        if resident is not None and resident.epoch == epoch:
            if request in self._cancelled:
                return []
            if self._in_flight(request):
                self._cancelled[request] = resident
                self.busy = True
                return self._desk.nudge(now_ns, False)
            self._drop(resident, out)
        elif not self._hand.leave(request, epoch, out):
            return self._desk.nobody(request, epoch)
        return self._desk.after(now_ns, out)

    def _evict(self, event: Evict, now_ns: int) -> list[Action]:
        request, epoch = event.request, event.epoch
        desk = self._desk
        resident = self._inside.get(request)
        if resident is None or resident.epoch != epoch:
            found = self._hand.turn_back(request, epoch)
            return desk.nobody(request, epoch) if found is None else desk.after(now_ns, found)
        if request in self._cancelled:
            return []
        self.expect()
        resident.stays = False
        if self._in_flight(request):
            self._asked[request] = event.copied or self._asked.get(request, False)
            return [Accepted(request, epoch)] if resident.cohort is None else desk.nudge(now_ns, False)
        out: list[Action] = []
        self._send_off(((resident, event.copied),), out)
        return desk.after(now_ns, out or [Accepted(request, epoch)])

    def _in_flight(self, request: int) -> bool:
        """Whether a request may be in flight: it runs, and some lane is not free."""
        return request in self._state.running and any(lane.run for lane in self._lanes.values())

    def _drop_cancelled(self, out: list[Action]) -> None:
        """Drop those whose clients left, unless they have ended, or another lane still has them in flight."""
        for resident in list(self._cancelled.values()):
            if self._inside.get(resident.id) is not resident:
                del self._cancelled[resident.id]
            elif not self._flies(resident):
                del self._cancelled[resident.id]
                self._drop(resident, out)

    def _due(self) -> list[tuple[Resident, bool]]:
        """Of those who are to go on elsewhere, who are in flight no more, and have not ended; whether each is copied."""
        found = []
        for request, copied in list(self._asked.items()):
            resident = self._inside.get(request)
            if resident is None or not self._flies(resident):
                del self._asked[request]
                if resident is not None:
                    found.append((resident, copied))
        return found

    def _send_off(self, leaving: Iterable[tuple[Resident, bool]], out: list[Action]) -> None:
        """Some that are to leave are between two steps; whether each is copied so far."""
        for resident, copied in leaving:
            if not self._let_go(resident, copied, out):
                self._drop(resident, out)

    def _let_go(self, resident: Resident, copied: bool, out: list[Action]) -> bool:
        """What becomes of one that is between two steps: parked, or told how far it is. False: it waits for memory."""
        state, request = self._state, resident.id
        if request in state.running:
            if resident.cohort is None:
                return True
            if not copied:
                out.append(Evicted(self._desk.replica, request, resident.epoch, resident.emitted, False))
                return True
            del state.running[request]
            resident.cohort.leave(resident)
        elif resident in state.landed:
            state.landed.remove(resident)
        else:
            return resident not in state.waiting and resident not in self._hand.lobby.tier.out
        self._parked.put_midway(resident, out)
        return True

    def _drop(self, resident: Resident, out: list[Action]) -> None:
        state, desk = self._state, self._desk
        del self._inside[resident.id]
        self._asked.pop(resident.id, None)
        if resident.id in state.running:
            vacate(resident, state)
            out.append(Forget(resident.id))
        elif self._hand.lobby.tier.drop(resident):
            out.append(Forget(resident.id))
        elif resident in state.landed:
            state.landed.remove(resident)
            state.ledger.release(resident)
            out.append(Forget(resident.id))
        else:
            state.waiting.remove(resident)
            if desk.reporter is not None:
                desk.reporter.dropped += 1
            if resident.generated:
                out.append(Forget(resident.id))
        out.append(Cancelled(resident.id, resident.epoch, resident.generated, desk.replica))

    def _flies(self, resident: Resident) -> bool:
        flying = [lane for lane in self._lanes.values() if lane.run is not None]
        return any(resident.cohort in lane.cohorts or resident.id in _chunked(lane) for lane in flying)


def _chunked(lane: Lane) -> tuple[int, ...]:
    return () if lane.run is None else tuple(chunk.request for chunk in lane.run.plan.chunks)
