"""The target's side of a hand-over: those who will decode on a replica and do not yet.

Some are guests, on their way from another replica; some have landed, and wait for a seat; some went to host memory when blocks
ran out, and come back before any guest. Reservations are granted first come first, as soon as the blocks are free and not too
many of the others wait; seats are taken at step boundaries. It does not know why a request moves, or how long the way takes.
"""

from __future__ import annotations

from collections import deque

from phasewise.control.desk import Desk
from phasewise.control.guest import Guest
from phasewise.control.hosttier import HostTier
from phasewise.core.action import Action, Drop, Enter, Pull
from phasewise.core.message import Adopted, Declined, Reserve, Reserved
from phasewise.core.resident import Resident
from phasewise.core.step import ALL
from phasewise.core.view import InstanceState


class Lobby:
    """`guests` are those on their way, and those of them that have landed, until they are seated.

    `seats` is how many may run at once. No guest is granted blocks while the others that are not seated hold `most` or more.
    """

    __slots__ = (
        "_asked",
        "_inside",
        "_ledger",
        "_most",
        "_replica",
        "_seats",
        "_short",
        "_state",
        "busy",
        "guests",
        "tier",
    )

    def __init__(self, desk: Desk, state: InstanceState, seats: int, most: float, host_blocks: int) -> None:
        self._replica, self._inside = desk.replica, desk.inside
        self._state = state
        self._ledger = state.ledger
        self._seats = seats
        self._most = most
        self.guests: dict[int, Guest] = {}
        self.tier = HostTier(host_blocks, state.ledger)
        self._asked: deque[Guest] = deque()
        # Those behind who have no blocks for what is missing, until the next step boundary.
        self._short: list[Guest] = []
        # Whether anybody may wait for blocks or a seat; looked at before every step.
        self.busy = False

    def guest(self, request: int, epoch: int) -> Guest | None:
        """The guest of this attempt, if it is not seated yet."""
        guest = self.guests.get(request)
        return guest if guest is not None and guest.order.epoch == epoch else None

    def landed(self, request: int, epoch: int) -> Resident | None:
        """One of this attempt that has landed and waits for a seat."""
        return next((r for r in self._state.landed if r.id == request and r.epoch == epoch), None)

    def knows(self, request: int) -> bool:
        """Whether a request is on its way here, waits for a seat, or is in host memory."""
        away = [*self._state.landed, *self.tier.out, *self.tier.coming]
        return request in self.guests or any(resident.id == request for resident in away)

    def coming(self) -> tuple[int, int]:
        """How many will decode here and do not yet, and their tokens of context."""
        guests, landed = self.guests, self._state.landed
        if not guests and not landed:
            return 0, 0
        kept = [resident.known for resident in landed if resident.id not in guests]
        orders = [guest.order for guest in guests.values()]
        tokens = sum(order.request.prompt_tokens + order.from_token for order in orders)
        return len(orders) + len(kept), tokens + sum(kept)

    def attend(self, out: list[Action]) -> None:
        """At a step boundary: seats and blocks for those who wait, as far as there are some.

        Those who take their seats make room for others to come, who would otherwise wait for one boundary more.
        """
        self._seat(out)
        if self._short:
            self._grow(out)
        self._grant(out)
        self.busy = bool(self._asked or self._state.landed or self.tier.out)

    def swap_out(self, resident: Resident) -> bool:
        """A decode that has given up its blocks goes to host memory; whether there is room."""
        gone = self.tier.put(resident)
        self.busy = self.busy or gone
        return gone

    def too_long(self, known: int) -> str:
        """Why one of so many tokens cannot come; empty if it can."""
        limit = self._state.max_context
        return f"{known} tokens and two more exceed the {limit} that fit" if known + 1 >= limit else ""

    def ask(self, order: Reserve) -> bool:
        """Somebody wants to come. Whether blocks may be granted at the next step boundary: there will not be more by then."""
        guest = Guest(order)
        self.guests[order.request.id] = guest
        self._asked.append(guest)
        self.busy = True
        known = order.request.prompt_tokens + order.from_token
        return len(self._asked) == 1 and self._ledger.need(known) <= self._ledger.free - self._ledger.watermark

    def land(self, guest: Guest, out: list[Action]) -> bool:
        """If all of a guest is here and it is ours, it waits for a seat from now on: say so. Whether there is one."""
        resident = guest.resident
        if resident is None or not (guest.pulled and guest.adopted):
            return False
        if guest.behind:
            return self._catch_up(guest, resident, out)
        out.append(Adopted(self._replica, resident.id, resident.epoch))
        return resident not in self._state.landed and self.queue(resident)

    def queue(self, resident: Resident) -> bool:
        """Have one that is here, blocks and all, wait for a seat. Whether there is one."""
        state = self._state
        state.landed.append(resident)
        self.busy = True
        return len(state.running) + len(state.landed) <= self._seats

    def decline(self, guest: Guest, reason: str, out: list[Action]) -> None:
        """A guest cannot come, or stay."""
        request, epoch = guest.order.request.id, guest.order.epoch
        out.append(Declined(self._replica, request, epoch, reason))
        self.dismiss(request, out)

    def dismiss(self, request: int, out: list[Action]) -> None:
        """A guest will not stay: free what it holds."""
        guest = self.guests.pop(request)
        if guest in self._short:
            self._short.remove(guest)
        if guest.resident is None:
            self._asked.remove(guest)
            return
        if guest.resident in self._state.landed:
            self._state.landed.remove(guest.resident)
        elif not guest.pulled:
            out.append(Drop(request, guest.order.epoch))
        self._ledger.release(guest.resident)

    def _seat(self, out: list[Action]) -> None:
        """Let those who have landed decode, in order, as far as there are seats."""
        state = self._state
        while state.landed and len(state.running) < self._seats:
            resident = state.landed.popleft()
            self.guests.pop(resident.id, None)
            state.running[resident.id] = self._inside[resident.id] = resident
            out.append(Enter(resident.id, resident.known, ALL, resident.generated))
            # Leaving counts the token of the step that it joined after; that one is out already.
            resident.generated -= 1
            state.cohorts[ALL].join(resident)

    def _grant(self, out: list[Action]) -> None:
        """Give blocks to those who asked, in order, as far as there are some."""
        ledger = self._ledger
        if not self.tier.bring_back(out):
            return
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
            resident.generated += 1  # its first token came with its prompt
            ledger.hold(resident, known)
            out.append(Reserved(self._replica, request.id, epoch, guest.copied))
            out.append(Pull(request.id, epoch, guest.order.source, known, waits=not guest.order.live))

    def _waiting_blocks(self) -> int:
        return sum(guest.resident.blocks for guest in self.guests.values() if guest.resident is not None)

    def _catch_up(self, guest: Guest, resident: Resident, out: list[Action]) -> bool:
        """Tokens of a guest are missing: pull them, at once if that needs no block. Whether to look at the next boundary."""
        known = guest.wanted
        if reason := self.too_long(known):
            self.decline(guest, reason, out)
        elif self._ledger.need(known) <= resident.blocks:
            guest.catch_up(resident, out)
            return False
        elif guest not in self._short:
            self._short.append(guest)
        self.busy = True
        return True

    def _grow(self, out: list[Action]) -> None:
        """Blocks for those who are short, and the pull of what is missing; who finds none is declined."""
        ledger = self._ledger
        short, self._short = self._short, []
        for guest in short:
            resident, known = guest.resident, guest.wanted
            assert resident is not None, "a guest is behind that holds no blocks"
            if ledger.need(known) - resident.blocks > ledger.free:
                self.decline(guest, "no block is free for the tokens since it was copied", out)
            else:
                ledger.hold(resident, known)
                guest.catch_up(resident, out)
