"""One replica's part in handing requests over: what waits here to be fetched, and what has come or is coming.

Blocks are held on both sides while keys and values are under way. It grants reservations first come first, as soon as the
blocks are free and not too many of the others wait for a seat; what has landed is seated at step boundaries. It answers the
messages of a hand-over for its room, and does not know why a request moves, or how long the way takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from phasewise.control.hosttier import HostTier
from phasewise.control.migration import CatchUp, Evictions, Guest
from phasewise.control.ports import Handlers
from phasewise.core.action import Action, Drop, Enter, Pull
from phasewise.core.event import HOST, Pulled, PullFailed
from phasewise.core.message import (
    Accepted,
    Adopt,
    Adopted,
    Cancelled,
    Declined,
    PromptDone,
    Release,
    Released,
    Reserve,
    Reserved,
)
from phasewise.core.resident import Resident
from phasewise.core.step import ALL
from phasewise.core.view import InstanceState


class HandOver:
    """The books of one replica. `inside` are those that it serves, `seats` is how many may run at once.

    `guests` are those on their way, and those that have landed, until they are seated. None is granted blocks while the others
    that are not seated hold `share` of all blocks or more. `known` says what the room has to say of an attempt that it has
    heard of, `after` makes it think again once something has changed, `given` is told of each order that gives it a request,
    `report` of other changes. Those swapped out to `host_blocks` of host memory come back before any guest.
    """

    def __init__(
        self,
        replica: int,
        state: InstanceState,
        inside: dict[int, Resident],
        seats: int,
        share: float,
        host_blocks: int,
        known: Callable[[int, int], list[Action] | None],
        after: Callable[[int, list[Action]], list[Action]],
        given: Callable[[int, int, list[Action], bool], list[Action]],
        report: Callable[[int, list[Action]], None],
    ) -> None:
        self.handlers: Handlers = {
            Reserve: self._reserve,
            Adopt: self._adopt,
            Release: self._release,
            Pulled: self._pulled,
            PullFailed: self._pull_failed,
        }
        self._replica = replica
        self._known = known
        self._after = after
        self._given = given
        self._report = report
        self._state = state
        self._inside = inside
        self._ledger = ledger = state.ledger
        self._seats = seats
        self._most = share * ledger.blocks
        self._asked: deque[Guest] = deque()
        self.tier = HostTier(host_blocks, ledger)
        self.evictions = Evictions(replica, state, self.tier)
        self._catch_up = CatchUp(state, self._decline)
        self.guests: dict[int, Guest] = {}
        # Whether anybody may wait for blocks or a seat; looked at before every step.
        self.busy = False

    def share(self, inside: dict[int, Resident]) -> None:
        """Those that the replica serves are another's book."""
        self._inside = inside

    def knows(self, request: int) -> bool:
        """Whether a request is on its way here, waits for a seat, is parked, or in host memory."""
        away = [*self._state.landed, *self.tier.out, *self.tier.coming]
        here = request in self.guests or request in self._state.parked
        return here or any(resident.id == request for resident in away)

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
        if self._catch_up.short:
            self._catch_up.grow(out)
        self._grant(out)
        self.busy = bool(self._asked or self._state.landed or self.tier.out)

    def swap_out(self, resident: Resident) -> bool:
        """A decode that has given up its blocks goes to host memory; whether there is room."""
        gone = self.tier.put(resident)
        self.busy = self.busy or gone
        return gone

    def _reserve(self, event: Reserve, now_ns: int) -> list[Action]:
        request, epoch = event.request.id, event.epoch
        guest = self.guest(request, epoch)
        if guest is not None:
            granted = guest.resident is not None
            return [Reserved(self._replica, request, epoch, guest.copied) if granted else Accepted(request, epoch)]
        again = self._known(request, epoch)
        if again is not None and not (again and isinstance(again[0], Declined | Cancelled)):
            return again
        out: list[Action] = []
        self.supersede(request, epoch, out)
        known = event.request.prompt_tokens + event.from_token
        limit = self._state.max_context
        if known + 1 >= limit:
            reason = f"{known} tokens and two more exceed the {limit} that fit"
            out.append(Declined(self._replica, request, epoch, reason))
            return self._given(request, now_ns, out, True)
        fits = self._ask(event) or bool(out)
        # Whether it fits may hang on how far a leap is booked: what is reported must not.
        out = self._given(request, now_ns, out, False)
        return self._after(now_ns, out) if fits else out

    def _adopt(self, event: Adopt, now_ns: int) -> list[Action]:
        request, epoch = event.request, event.epoch
        out: list[Action] = []
        guest = self.guest(request, epoch)
        parked = self.parked(request, epoch)
        if guest is not None:
            guest.adopted = True
            guest.tokens = max(guest.tokens, event.tokens)
            seated = self._land(guest, out)
        elif parked is not None and event.back:
            seated = self._keep(parked, out)
            self._given(request, now_ns, out, False)
        else:
            word = self._known(request, epoch)
            if word is None or (word and isinstance(word[0], Cancelled)):
                return [Declined(self._replica, request, epoch, "it is not here")]
            here = request in self._inside or self.kept(request, epoch) is not None
            return [Adopted(self._replica, request, epoch)] if here else word
        return self._landed(seated, now_ns, out)

    def _landed(self, seated: bool, now_ns: int, out: list[Action]) -> list[Action]:
        """A guest may have landed, and perhaps there is a seat for it at the next step boundary."""
        if seated:
            return self._after(now_ns, out)
        self._report(now_ns, out)
        return out

    def _pulled(self, event: Pulled, now_ns: int) -> list[Action]:
        out: list[Action] = []
        if event.source == HOST:
            back = self.tier.came(event.request, event.epoch)
            if back is None:
                return out
            if back.stays:
                return self._landed(self._queue(back), now_ns, out)
            self.evictions.park(back, self._inside, out)
            return self._after(now_ns, out)
        guest = self.guest(event.request, event.epoch)
        if guest is None:
            return out
        guest.pulled = True
        if guest.order.live and not guest.adopted:
            out.append(Reserved(self._replica, event.request, event.epoch))
        return self._landed(self._land(guest, out), now_ns, out)

    def _pull_failed(self, event: PullFailed, now_ns: int) -> list[Action]:
        guest = self.guest(event.request, event.epoch)
        if guest is None:
            return []
        guest.pulled = True  # nothing to call off
        out: list[Action] = []
        self._decline(guest, event.reason, out)
        return self._after(now_ns, out)

    def _release(self, event: Release, now_ns: int) -> list[Action]:
        parked = self.parked(event.request, event.epoch)
        out: list[Action] = [Released(self._replica, event.request, event.epoch)]
        if parked is None:
            return out
        self._forget(parked)
        return self._after(now_ns, out)

    def word(self, request: int, epoch: int) -> PromptDone | Accepted | None:
        """What there is to say of a request that is parked, or was and stays; None: it is none of these."""
        if self._state.landed and self.kept(request, epoch) is not None:
            return Accepted(request, epoch)
        parked = self.parked(request, epoch)
        return None if parked is None else PromptDone(self._replica, request, epoch, parked.generated)

    def kept(self, request: int, epoch: int) -> Resident | None:
        """One of this attempt that has landed and waits for a seat."""
        return next((r for r in self._state.landed if r.id == request and r.epoch == epoch), None)

    def leave(self, request: int, epoch: int, out: list[Action]) -> bool:
        """Let a guest, or one that is parked, go; whether there is one of this attempt."""
        parked = self.parked(request, epoch)
        if self.guest(request, epoch) is not None:
            self._dismiss(request, out)
            out.append(Cancelled(request, epoch, 0, self._replica))
        elif parked is not None:
            self._forget(parked)
            out.append(Cancelled(request, epoch, parked.generated, self._replica))
        elif (kept := self.kept(request, epoch)) is not None:
            self._state.landed.remove(kept)
            self._ledger.release(kept)
            out.append(Cancelled(request, epoch, kept.emitted, self._replica))
        else:
            return False
        return True

    def turn_back(self, request: int, epoch: int) -> list[Action] | None:
        """One that is not served here is to leave: what there is to say. None: there is none of this attempt."""
        out: list[Action] = []
        if (kept := self.kept(request, epoch)) is not None:
            self.guests.pop(request, None)
            self._state.landed.remove(kept)
            self.evictions.park(kept, self._inside, out)
        elif self.guest(request, epoch) is not None:
            out.append(Accepted(request, epoch))
        elif (word := self.word(request, epoch)) is not None:
            out.append(word)
        return out or None

    def outdated(self, request: int, epoch: int) -> bool:
        """Whether a later attempt is on its way here, or parked."""
        guest, parked = self.guests.get(request), self._state.parked.get(request)
        return (guest is not None and guest.order.epoch > epoch) or (parked is not None and parked.epoch > epoch)

    def supersede(self, request: int, epoch: int, out: list[Action]) -> None:
        """A new attempt comes, so the one before it is dead: let go of what is kept for it, if that order was lost."""
        state = self._state
        guest, parked = self.guests.get(request), state.parked.get(request)
        if guest is not None and guest.order.epoch < epoch:
            self._dismiss(request, out)
        if parked is not None and parked.epoch < epoch:
            self._forget(parked)

    def parked(self, request: int, epoch: int) -> Resident | None:
        """The parked request of this attempt."""
        resident = self._state.parked.get(request)
        return resident if resident is not None and resident.epoch == epoch else None

    def guest(self, request: int, epoch: int) -> Guest | None:
        """The guest of this attempt, if it is not seated yet."""
        guest = self.guests.get(request)
        return guest if guest is not None and guest.order.epoch == epoch else None

    def _ask(self, order: Reserve) -> bool:
        """Somebody wants to come. Whether blocks may be granted at the next step boundary: there will not be more by then."""
        guest = Guest(order)
        self.guests[order.request.id] = guest
        self._asked.append(guest)
        self.busy = True
        known = order.request.prompt_tokens + order.from_token
        return len(self._asked) == 1 and self._ledger.need(known) <= self._ledger.free - self._ledger.watermark

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

    def _land(self, guest: Guest, out: list[Action]) -> bool:
        """If all of a guest is here and it is ours, it waits for a seat from now on: say so. Whether there is one."""
        resident = guest.resident
        if resident is None or not (guest.pulled and guest.adopted):
            return False
        if guest.behind:
            again = self._catch_up.fetch(guest, out)
            self.busy |= again
            return again
        out.append(Adopted(self._replica, resident.id, resident.epoch))
        return resident not in self._state.landed and self._queue(resident)

    def _keep(self, resident: Resident, out: list[Action]) -> bool:
        """One that was parked here stays after all; whether there is a seat for it."""
        del self._state.parked[resident.id]
        resident.stays = True
        out.append(Adopted(self._replica, resident.id, resident.epoch))
        return self._queue(resident)

    def _queue(self, resident: Resident) -> bool:
        state = self._state
        state.landed.append(resident)
        self.busy = True
        return len(state.running) + len(state.landed) <= self._seats

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

    def _decline(self, guest: Guest, reason: str, out: list[Action]) -> None:
        request, epoch = guest.order.request.id, guest.order.epoch
        out.append(Declined(self._replica, request, epoch, reason))
        self._dismiss(request, out)

    def _dismiss(self, request: int, out: list[Action]) -> None:
        """A guest will not stay: free what it holds."""
        guest = self.guests.pop(request)
        self._catch_up.forget(guest)
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

    def _forget(self, resident: Resident) -> None:
        """Free what was kept for another replica."""
        del self._state.parked[resident.id]
        self._ledger.release(resident)
