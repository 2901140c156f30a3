"""One replica's part in handing requests over: the answers to its messages, and what there is to say of a request.

Blocks are held on both sides while keys and values are under way. Of a request that leaves, the book is `parked`, of one that
comes, `lobby`: this keeps none. It does not know why a request moves, or how long the way takes.
"""

from __future__ import annotations

from phasewise.control.desk import Desk
from phasewise.control.lobby import Lobby
from phasewise.control.parked import Parked
from phasewise.control.ports import Handlers
from phasewise.core.action import Action
from phasewise.core.errors import PlanError
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
from phasewise.core.view import InstanceState


class HandOver:
    """`handlers` as in `InstanceControl`."""

    __slots__ = ("_desk", "_state", "handlers", "lobby", "parked")

    def __init__(self, desk: Desk, state: InstanceState, lobby: Lobby) -> None:
        self.handlers: Handlers = {
            Reserve: self._reserve,
            Adopt: self._adopt,
            Release: self._release,
            Pulled: self._pulled,
            PullFailed: self._pull_failed,
        }
        self._desk = desk
        self._state = state
        self.lobby = lobby
        self.parked = Parked(desk, state)

    def knows(self, request: int) -> bool:
        """Whether a request is on its way here, waits for a seat, is parked, or in host memory."""
        return request in self._state.parked or self.lobby.knows(request)

    def known(self, request: int, epoch: int) -> list[Action] | None:
        """What there is to say of an attempt that this replica has heard of before; None: it has not."""
        told = self._desk.told
        if told is not None and (word := told.again(request, epoch)) is not None:
            return word
        if (here := self._word(request, epoch)) is not None:
            return [here]
        resident = self._desk.inside.get(request)
        if self._outdated(request, epoch) or (resident is not None and resident.epoch > epoch):
            return []
        if resident is None:
            return None
        if resident.epoch < epoch:
            raise PlanError(f"request {request} comes to a replica that it is still inside")
        return [Accepted(request, epoch)]

    def supersede(self, request: int, epoch: int, out: list[Action]) -> None:
        """A new attempt comes, so the one before it is dead: let go of what is kept for it, if that order was lost."""
        guest, parked = self.lobby.guests.get(request), self._state.parked.get(request)
        if guest is not None and guest.order.epoch < epoch:
            self.lobby.dismiss(request, out)
        if parked is not None and parked.epoch < epoch:
            self.parked.free(parked)

    def leave(self, request: int, epoch: int, out: list[Action]) -> bool:
        """Let one go that is not served here: a guest, one that is parked or has landed. Whether there is one."""
        replica = self._desk.replica
        if self.lobby.guest(request, epoch) is not None:
            self.lobby.dismiss(request, out)
            out.append(Cancelled(request, epoch, 0, replica))
        elif (parked := self.parked.find(request, epoch)) is not None:
            self.parked.free(parked)
            out.append(Cancelled(request, epoch, parked.generated, replica))
        elif (landed := self.lobby.landed(request, epoch)) is not None:
            self._state.landed.remove(landed)
            self._state.ledger.release(landed)
            out.append(Cancelled(request, epoch, landed.emitted, replica))
        else:
            return False
        return True

    def turn_back(self, request: int, epoch: int) -> list[Action] | None:
        """One that is not served here is to leave: what there is to say. None: there is none of this attempt."""
        out: list[Action] = []
        if (landed := self.lobby.landed(request, epoch)) is not None:
            self.lobby.guests.pop(request, None)
            self._state.landed.remove(landed)
            self.parked.put_midway(landed, out)
        elif self.lobby.guest(request, epoch) is not None:
            out.append(Accepted(request, epoch))
        elif (word := self._word(request, epoch)) is not None:
            out.append(word)
        return out or None

    def _outdated(self, request: int, epoch: int) -> bool:
        """Whether a later attempt is on its way here, or parked."""
        guest, parked = self.lobby.guests.get(request), self._state.parked.get(request)
        return (guest is not None and guest.order.epoch > epoch) or (parked is not None and parked.epoch > epoch)

    def _word(self, request: int, epoch: int) -> PromptDone | Accepted | None:
        """What there is to say of a request that is parked, or was and stays; None: it is none of these."""
        if self._state.landed and self.lobby.landed(request, epoch) is not None:
            return Accepted(request, epoch)
        parked = self.parked.find(request, epoch)
        return None if parked is None else PromptDone(self._desk.replica, request, epoch, parked.generated)

    def _reserve(self, event: Reserve, now_ns: int) -> list[Action]:
        request, epoch = event.request.id, event.epoch
        desk, lobby = self._desk, self.lobby
        guest = lobby.guest(request, epoch)
        if guest is not None:
            granted = guest.resident is not None
            return [Reserved(desk.replica, request, epoch, guest.copied) if granted else Accepted(request, epoch)]
        again = self.known(request, epoch)
        if again is not None and not (again and isinstance(again[0], Declined | Cancelled)):
            return again
        out: list[Action] = []
        self.supersede(request, epoch, out)
        if reason := lobby.too_long(event.request.prompt_tokens + event.from_token):
            out.append(Declined(desk.replica, request, epoch, reason))
            return desk.given(request, now_ns, out, dropped=True)
        fits = lobby.ask(event) or bool(out)
        # Whether it fits may hang on how far a leap is booked: what is reported must not.
        out = desk.given(request, now_ns, out)
        return desk.after(now_ns, out) if fits else out

    def _adopt(self, event: Adopt, now_ns: int) -> list[Action]:
        request, epoch = event.request, event.epoch
        out: list[Action] = []
        guest = self.lobby.guest(request, epoch)
        parked = self.parked.find(request, epoch)
        if guest is not None:
            guest.adopted = True
            guest.tokens = max(guest.tokens, event.tokens)
            seated = self.lobby.land(guest, out)
        elif parked is not None and event.back:
            self.parked.keep(parked)
            out.append(Adopted(self._desk.replica, request, epoch))
            seated = self.lobby.queue(parked)
            self._desk.given(request, now_ns, out)
        else:
            word = self.known(request, epoch)
            if word is None or (word and isinstance(word[0], Cancelled)):
                return [Declined(self._desk.replica, request, epoch, "it is not here")]
            here = request in self._desk.inside or self.lobby.landed(request, epoch) is not None
            return [Adopted(self._desk.replica, request, epoch)] if here else word
        return self._landed(seated, now_ns, out)

    def _landed(self, seated: bool, now_ns: int, out: list[Action]) -> list[Action]:
        """A guest may have landed, and perhaps there is a seat for it at the next step boundary."""
        return self._desk.after(now_ns, out) if seated else self._desk.report(now_ns, out)

    def _pulled(self, event: Pulled, now_ns: int) -> list[Action]:
        out: list[Action] = []
        if event.source == HOST:
            back = self.lobby.tier.came(event.request, event.epoch)
            if back is None:
                return out
            if back.stays:
                return self._landed(self.lobby.queue(back), now_ns, out)
            self.parked.put_midway(back, out)
            return self._desk.after(now_ns, out)
        guest = self.lobby.guest(event.request, event.epoch)
        if guest is None:
            return out
        guest.pulled = True
        if guest.order.live and not guest.adopted:
            out.append(Reserved(self._desk.replica, event.request, event.epoch))
        return self._landed(self.lobby.land(guest, out), now_ns, out)

    def _pull_failed(self, event: PullFailed, now_ns: int) -> list[Action]:
        guest = self.lobby.guest(event.request, event.epoch)
        if guest is None:
            return []
        guest.pulled = True  # nothing to call off
        out: list[Action] = []
        self.lobby.decline(guest, event.reason, out)
        return self._desk.after(now_ns, out)

    def _release(self, event: Release, now_ns: int) -> list[Action]:
        parked = self.parked.find(event.request, event.epoch)
        out: list[Action] = [Released(self._desk.replica, event.request, event.epoch)]
        if parked is None:
            return out
        self.parked.free(parked)
        return self._desk.after(now_ns, out)
