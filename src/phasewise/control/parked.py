"""The source's side of a hand-over: those who have run here and wait, blocks and all, to be fetched by another replica.

They were sent off after their prompts, or as they decoded. Nobody here knows where to, or why.
"""

from __future__ import annotations

from phasewise.control.desk import Desk
from phasewise.core.action import Action, Forget
from phasewise.core.message import Evicted, PromptDone
from phasewise.core.resident import Resident
from phasewise.core.view import InstanceState


class Parked:
    """The one who parks: nobody else writes into `state.parked`."""

    __slots__ = ("_inside", "_replica", "_residents", "_state")

    def __init__(self, desk: Desk, state: InstanceState) -> None:
        self._replica, self._inside = desk.replica, desk.inside
        self._state = state
        self._residents = state.parked

    def find(self, request: int, epoch: int) -> Resident | None:
        """The parked request of this attempt."""
        resident = self._residents.get(request)
        return resident if resident is not None and resident.epoch == epoch else None

    def put(self, resident: Resident, out: list[Action]) -> None:
        """Its prompt is done: it keeps its blocks and runs no more."""
        state = self._state
        del state.running[resident.id], state.prefilling[resident.id], self._inside[resident.id]
        self._residents[resident.id] = resident
        out.append(PromptDone(self._replica, resident.id, resident.epoch, resident.generated))

    def put_midway(self, resident: Resident, out: list[Action]) -> None:
        """It decodes elsewhere from now on: it keeps its blocks and runs no more. It is off the books of those who do."""
        self._inside.pop(resident.id, None)
        self._residents[resident.id] = resident
        resident.known = resident.computed
        out.append(Evicted(self._replica, resident.id, resident.epoch, resident.generated, True))
        out.append(Forget(resident.id))

    def keep(self, resident: Resident) -> None:
        """One stays after all, blocks and all."""
        del self._residents[resident.id]
        resident.stays = True

    def free(self, resident: Resident) -> None:
        """Free what was kept for another replica."""
        del self._residents[resident.id]
        self._state.ledger.release(resident)
