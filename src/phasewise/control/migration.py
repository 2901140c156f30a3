"""Both ends of a live migration: at the source, requests that are to leave while they decode; at the target, what is missing
of a request when it becomes its own.

The source decodes on until most of the request is copied, and parks it at a step boundary, blocks and all, as after a prompt:
from there on it is a hand-over. The target takes blocks for the tokens that came meanwhile and fetches those alone. It does not
know why a request moves, or where to.
"""

from __future__ import annotations

from collections.abc import Callable

from phasewise.control.hosttier import HostTier
from phasewise.core.action import Action, Forget, Pull
from phasewise.core.message import Evicted, Reserve
from phasewise.core.resident import Resident
from phasewise.core.view import InstanceState


class Evictions:
    """The source's end. `asked` are those that are in flight: whether most of each is copied already."""

    __slots__ = ("_replica", "_state", "_tier", "asked")

    def __init__(self, replica: int, state: InstanceState, tier: HostTier) -> None:
        self._replica = replica
        self._state = state
        self._tier = tier
        self.asked: dict[int, bool] = {}

    def due(self, flies: Callable[[Resident], bool], inside: dict[int, Resident]) -> list[tuple[Resident, bool]]:
        """A step has ended: those of `asked` who are in flight no more, and in the books of `inside`."""
        found = []
        for request, copied in list(self.asked.items()):
            resident = inside.get(request)
            if resident is None or not flies(resident):
                del self.asked[request]
                if resident is not None:
                    found.append((resident, copied))
        return found

    def answer(self, resident: Resident, copied: bool, inside: dict[int, Resident], out: list[Action]) -> bool:
        """What becomes of one that is between two steps: parked, or told how far it is. False: it waits for memory."""
        state, request = self._state, resident.id
        if request in state.running:
            if resident.cohort is None:
                return True
            if not copied:
                out.append(Evicted(self._replica, request, resident.epoch, resident.emitted, False))
                return True
            del state.running[request]
            resident.cohort.leave(resident)
        elif resident in state.landed:
            state.landed.remove(resident)
        else:
            return resident not in state.waiting and resident not in self._tier.out
        self.park(resident, inside, out)
        return True

    def park(self, resident: Resident, inside: dict[int, Resident], out: list[Action]) -> None:
        """It runs no more, and keeps its blocks for another replica."""
        inside.pop(resident.id, None)
        self._state.parked[resident.id] = resident
        resident.known = resident.computed
        out.append(Evicted(self._replica, resident.id, resident.epoch, resident.generated, True))
        out.append(Forget(resident.id))


class Guest:
    """A request on its way here: its blocks are held once it is a `resident`; `pulled` and `adopted` make it one of ours.

    Of a live one `tokens` output tokens are out by the time that it is ours.
    """

    __slots__ = ("adopted", "order", "pulled", "resident", "tokens")

    def __init__(self, order: Reserve) -> None:
        self.order = order
        self.resident: Resident | None = None
        self.pulled = False
        self.adopted = False
        self.tokens = 0

    @property
    def copied(self) -> bool:
        """Of a live one whether so much is here as was asked for; no other is waited for."""
        return self.pulled or not self.order.live

    @property
    def behind(self) -> bool:
        """Whether tokens are missing here that its source has computed since it was copied."""
        return self.resident is not None and self.tokens > self.resident.generated


class CatchUp:
    """The target's end: guests that are `short` of blocks for the tokens that are missing, until the next step boundary.

    `decline` lets one go for a reason.
    """

    __slots__ = ("_decline", "_state", "short")

    def __init__(self, state: InstanceState, decline: Callable[[Guest, str, list[Action]], None]) -> None:
        self._state = state
        self._decline = decline
        self.short: list[Guest] = []

    def fetch(self, guest: Guest, out: list[Action]) -> bool:
        """One that is behind: pull what is missing, at once if that needs no block. Whether to look at the next boundary."""
        resident, known = _wanted(guest)
        limit = self._state.max_context
        if known + 1 >= limit:
            self._decline(guest, f"{known} tokens and two more exceed the {limit} that fit", out)
            return True
        if self._state.ledger.need(known) <= resident.blocks:
            self._pull(guest, out)
            return False
        if guest not in self.short:
            self.short.append(guest)
        return True

    def grow(self, out: list[Action]) -> None:
        """At a step boundary: blocks for those who are short, and the pull; who finds none is declined."""
        ledger = self._state.ledger
        short, self.short = self.short, []
        for guest in short:
            resident, known = _wanted(guest)
            if ledger.need(known) - resident.blocks > ledger.free:
                self._decline(guest, "no block is free for the tokens since it was copied", out)
            else:
                ledger.hold(resident, known)
                self._pull(guest, out)

    def forget(self, guest: Guest) -> None:
        """It will not come."""
        if guest in self.short:
            self.short.remove(guest)

    def _pull(self, guest: Guest, out: list[Action]) -> None:
        resident, known = _wanted(guest)
        start = resident.computed
        resident.computed = resident.known = known
        resident.generated = guest.tokens
        guest.pulled = False
        out.append(Pull(resident.id, resident.epoch, guest.order.source, known - start, start, waits=False))


def _wanted(guest: Guest) -> tuple[Resident, int]:
    """A guest's blocks, and how many tokens they must cover: all but the last that is out."""
    assert guest.resident is not None, "a guest is behind that holds no blocks"
    return guest.resident, guest.resident.request.prompt_tokens + guest.tokens - 1
