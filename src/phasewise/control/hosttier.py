"""Host memory beside a replica: where decodes go that find no block, keys and values and all, instead of being recomputed.

They come back first, in the order in which they went, as soon as their blocks are free. Going out costs no time and coming back
that of the copy: engines overlap the first with the next steps, and must wait for the second. It knows no policy.
"""

from __future__ import annotations

from collections import deque

from phasewise.core.action import Action, Pull
from phasewise.core.event import HOST
from phasewise.core.kv import BlockLedger
from phasewise.core.resident import Resident


class HostTier:
    """`blocks` of host memory, of the size of the device's. Residents are `out`, then on their way back."""

    __slots__ = ("_coming", "_free", "_ledger", "out")

    def __init__(self, blocks: int, ledger: BlockLedger) -> None:
        self._free = blocks
        self._ledger = ledger
        self.out: deque[Resident] = deque()
        self._coming: dict[int, Resident] = {}

    def put(self, resident: Resident) -> bool:
        """Take in one that has left its cohort and given up its blocks; whether there is room. The last one heads the queue."""
        need = self._ledger.need(resident.computed)
        if need > self._free:
            return False
        self._free -= need
        self.out.appendleft(resident)
        return True

    def bring_back(self, out: list[Action]) -> bool:
        """Give blocks to those who went, in order, and fetch them; whether nobody is left outside."""
        ledger = self._ledger
        while self.out:
            resident = self.out[0]
            if ledger.need(resident.computed) > ledger.free:
                return False
            self.out.popleft()
            ledger.hold(resident, resident.computed)
            self._coming[resident.id] = resident
            out.append(Pull(resident.id, resident.epoch, HOST, resident.computed))
        return True

    def came(self, request: int, epoch: int) -> Resident | None:
        """One whose keys and values are back, if it is of this attempt."""
        resident = self._coming.get(request)
        if resident is None or resident.epoch != epoch:
            return None
        del self._coming[request]
        self._free += self._ledger.need(resident.computed)
        return resident

    def drop(self, resident: Resident) -> bool:
        """Forget one; whether it was here or on its way back."""
        if resident in self.out:
            self.out.remove(resident)
        elif self._coming.pop(resident.id, None) is not None:
            self._ledger.release(resident)
        else:
            return False
        self._free += self._ledger.need(resident.computed)
        return True

    @property
    def coming(self) -> list[Resident]:
        """Those that hold blocks and are not back yet."""
        return list(self._coming.values())
