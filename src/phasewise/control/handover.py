"""One replica's part in handing requests over: what waits here to be fetched, and what has come or is coming.

Blocks are held on both sides while keys and values are under way. It grants reservations first come first, as soon as the
blocks are free and not too many of the others wait for a seat; what has landed is seated at step boundaries. It does not know
why a request moves, or how long the way takes.
"""

from __future__ import annotations

from collections import deque

from phasewise.core.action import Action, Drop, Enter, Pull
from phasewise.core.message import Adopted, Reserve, Reserved
from phasewise.core.resident import Resident
from phasewise.core.step import ALL
from phasewise.core.view import InstanceState


class Guest:
    """A request on its way here: its blocks are held once it is a `resident`; `pulled` and `adopted` make it one of ours."""

    __slots__ = ("adopted", "order", "pulled", "resident")

    def __init__(self, order: Reserve) -> None:
        self.order = order
        self.resident: Resident | None = None
        self.pulled = False
        self.adopted = False


class HandOver:
    """The books of one replica. `inside` are those that it serves, `seats` is how many may run at once.

    `guests` are those on their way, and those that have landed, until they are seated. None is granted blocks while the others
    that are not seated hold `share` of all blocks or more.
    """

    def __init__(self, state: InstanceState, inside: dict[int, Resident], seats: int, share: float) -> None:
        self._state = state
        self._inside = inside
        self._ledger = ledger = state.ledger
        self._seats = seats
        self._most = share * ledger.blocks
        self._asked: deque[Guest] = deque()
        self.guests: dict[int, Guest] = {}

    @property
    def waits(self) -> bool:
        """Whether anybody waits for blocks or a seat."""
        return bool(self._asked or self._state.landed)

    def coming(self) -> tuple[int, int]:
        """How many will decode here and do not yet, and their tokens of context."""
        guests, landed = self.guests, self._state.landed
        if not guests and not landed:
            return 0, 0
        kept = [resident.known for resident in landed if resident.id not in guests]
        orders = [guest.order for guest in guests.values()]
        tokens = sum(order.request.prompt_tokens + order.from_token for order in orders)
        return len(orders) + len(kept), tokens + sum(kept)

    def parked(self, request: int, epoch: int) -> Resident | None:
        """The parked request of this attempt."""
        resident = self._state.parked.get(request)
        return resident if resident is not None and resident.epoch == epoch else None

    def guest(self, request: int, epoch: int) -> Guest | None:
        """The guest of this attempt, if it is not seated yet."""
        guest = self.guests.get(request)
        return guest if guest is not None and guest.order.epoch == epoch else None

    def ask(self, order: Reserve) -> bool:
        """Somebody wants to come. Whether blocks may be granted at the next step boundary: there will not be more by then."""
        guest = Guest(order)
        self.guests[order.request.id] = guest
        self._asked.append(guest)
        known = order.request.prompt_tokens + order.from_token
        return len(self._asked) == 1 and self._ledger.need(known) <= self._ledger.free - self._ledger.watermark

    def grant(self, out: list[Action]) -> None:
        """Give blocks to those who asked, in order, as far as there are some."""
        ledger = self._ledger
        while self._asked:
            guest = self._asked[0]
            request, epoch = guest.order.request, guest.order.epoch
            resident = Resident(request, epoch, guest.order.from_token)
            known = resident.known
            if ledger.need(known) > ledger.free - ledger.watermark or self._waiting_blocks() >= self._most:
                return
            self._asked.popleft()
            guest.resident = resident
            resident.computed = known
            ledger.hold(resident, known)
            out.append(Reserved(guest.order.replica, request.id, epoch))
            out.append(Pull(request.id, epoch, guest.order.source, known))

    def _waiting_blocks(self) -> int:
        return sum(guest.resident.blocks for guest in self.guests.values() if guest.resident is not None)

    def land(self, guest: Guest, out: list[Action]) -> bool:
        """If all of a guest is here and it is ours, it waits for a seat from now on: say so. Whether there is one."""
        resident = guest.resident
        if resident is None or not (guest.pulled and guest.adopted):
            return False
        out.append(Adopted(guest.order.replica, resident.id, resident.epoch))
        return self._queue(resident)

    def keep(self, replica: int, resident: Resident, out: list[Action]) -> bool:
        """One that was parked here stays after all; whether there is a seat for it."""
        del self._state.parked[resident.id]
        resident.generated -= 1
        resident.stays = True
        out.append(Adopted(replica, resident.id, resident.epoch))
        return self._queue(resident)

    def _queue(self, resident: Resident) -> bool:
        state = self._state
        state.landed.append(resident)
        return len(state.running) + len(state.landed) <= self._seats

    def seat(self, out: list[Action]) -> None:
        """Let those who have landed decode, in order, as far as there are seats."""
        state = self._state
        while state.landed and len(state.running) < self._seats:
            resident = state.landed.popleft()
            self.guests.pop(resident.id, None)
            state.running[resident.id] = self._inside[resident.id] = resident
            state.cohorts[ALL].join(resident)
            out.append(Enter(resident.id, resident.known, ALL))

    def dismiss(self, request: int, out: list[Action]) -> None:
        """A guest will not stay: free what it holds."""
        guest = self.guests.pop(request)
        if guest.resident is None:
            self._asked.remove(guest)
            return
        if guest.resident in self._state.landed:
            self._state.landed.remove(guest.resident)
        elif not guest.pulled:
            out.append(Drop(request, guest.order.epoch))
        self._ledger.release(guest.resident)

    def park(self, resident: Resident) -> None:
        """Its prompt is done: it keeps its blocks and runs no more."""
        state = self._state
        del state.running[resident.id], state.prefilling[resident.id], self._inside[resident.id]
        state.parked[resident.id] = resident

    def forget(self, resident: Resident) -> None:
        """Free what was kept for another replica."""
        del self._state.parked[resident.id]
        self._ledger.release(resident)
