"""Both ends of a live migration: at the source, requests that are to leave while they decode; at the target, what is missing
of a request when it becomes its own.

The source decodes on until most of the request is copied, and parks it at a step boundary, blocks and all, as after a prompt:
from there on it is a hand-over. The target takes blocks for the tokens that came meanwhile and fetches those alone. It does not
know why a request moves, or where to.
"""

from __future__ import annotations

from collections.abc import Callable

from phasewise.core.action import Action, Forget, Pull
from phasewise.core.message import Evicted, Reserve
from phasewise.core.resident import Resident
from phasewise.core.view import InstanceState


class Evictions:
    """The source's end. `asked` are those that are in flight: whether most of each is copied already."""

    __slots__ = ("_replica", "_state", "asked")

    def __init__(self, replica: int, state: InstanceState) -> None:
        self._replica = replica
        self._state = state
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
        """What becomes of one that is between two steps: parked, or told how far it is. False: it waits in the queue."""
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
            return resident not in state.waiting
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
    def granted(self) -> bool:
        """Whether its blocks are there; of a live one also what was to be copied."""
        return self.resident is not None and (self.pulled or not self.order.live)

    @property
    def behind(self) -> bool:
        """Whether tokens are missing here that its source has computed since it was copied."""
        return self.resident is not None and self.tokens > self.resident.generated


class CatchUp:
    """The target's end: guests that are `short` of blocks for the tokens that are missing, until the next step boundary."""

    __slots__ = ("_state", "short")

    def __init__(self, state: InstanceState) -> None:
        self._state = state
        self.short: list[Guest] = []

    def fetch(self, guest: Guest, out: list[Action]) -> str:
        """One that is behind: pull what is missing, at once if no more blocks are needed. Why that cannot be, if so."""
        resident, limit = guest.resident, self._state.max_context
        assert resident is not None
        known = resident.request.prompt_tokens + guest.tokens - 1
        if known + 1 >= limit:
            return f"{known} tokens and two more exceed the {limit} that fit"
        if self._state.ledger.need(known) <= resident.blocks:
            self._pull(guest, resident, known, out)
        elif guest not in self.short:
            self.short.append(guest)
        return ""

    def grow(self, out: list[Action]) -> list[Guest]:
        """At a step boundary: blocks for those who are short, and the pull. Those for whom there are none."""
        ledger, short = self._state.ledger, self.short
        self.short = []
        refused = []
        for guest in short:
            resident = guest.resident
            assert resident is not None
            known = resident.request.prompt_tokens + guest.tokens - 1
            if ledger.need(known) - resident.blocks > ledger.free:
                refused.append(guest)
            else:
                ledger.hold(resident, known)
                self._pull(guest, resident, known, out)
        return refused

    def _pull(self, guest: Guest, resident: Resident, known: int, out: list[Action]) -> None:
        start = resident.computed
        resident.computed = resident.known = known
        resident.generated = guest.tokens
        guest.pulled = False
        out.append(Pull(resident.id, resident.epoch, guest.order.source, known - start, start))
