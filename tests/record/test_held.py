"""What a replica holds, against its ledger, recounted after every event."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleets import LINKS, SHAPES, fleet
from mishaps import clients_who_leave, random_mishaps
from phasewise.control.instance import InstanceControl
from phasewise.core.event import Died
from phasewise.core.fault import Dies, Scenario, Starts
from phasewise.core.spec import DECODE, PREFILL
from phasewise.record.held import held
from watched import ran, watched
from worlds import random_rows, workload

BUDGET = {"token_budget": 1 << 12, "max_seqs": 5}


class Books:
    """The blocks that each replica's ledger has given out, as of each instant."""

    def __init__(self) -> None:
        self.taken: dict[tuple[int, int], int] = {}
        self.coming: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def __call__(self, at_ns: int, replica: int, room: InstanceControl, event: Any, actions: Any) -> None:
        ledger, run = room.state.ledger, room._lanes[0].run
        if isinstance(event, Died):
            # The columns have nothing of an iteration that did not end.
            began_ns = room._lanes[0].began_ns if run is not None else at_ns
            for key in [k for k in self.taken if k[0] == replica and k[1] >= began_ns]:
                del self.taken[key]
            self.taken[replica, at_ns] = 0
            return
        taken = ledger.blocks - ledger.free
        # A leap's blocks are taken when it is over, those of its first iteration as well.
        if run is not None and run.repeat != 1:
            if room._lanes[0].began_ns != at_ns:
                self.taken.pop((replica, at_ns), None)
                return
            taken += sum(cohort.crossing(1) for cohort in room._lanes[0].cohorts)
        self.taken[replica, at_ns] = taken
        guests = [guest for guest in room._lobby.guests.values() if guest.resident is not None and not guest.pulled]
        self.coming[replica, at_ns] = [(guest.order.request.id, guest.resident.blocks) for guest in guests]


@pytest.mark.parametrize("wire_s", [0.0, 2e-6])
@given(data=st.data())
@settings(max_examples=2 * settings.default.max_examples)
def test_what_is_held_is_what_the_ledger_gave_out(wire_s: float, data: st.DataObject) -> None:
    rows = data.draw(random_rows(most=12, prompt=40, output=30))
    roles = data.draw(st.sampled_from(SHAPES))
    mishaps = data.draw(st.one_of(st.none(), random_mishaps(len(roles))))
    more: dict[str, Any] = {"block_tokens": 1, "blocks": data.draw(st.sampled_from([80, 130, 400])), "wire_s": wire_s}
    resolved = fleet(roles, "sarathi", BUDGET, link=data.draw(st.sampled_from(LINKS)), **more)
    books = Books()
    _, log = watched(resolved, workload(rows, clients_who_leave(data, rows, roles)), books, mishaps)
    found = held(log.tables, round(wire_s * 1e9))
    for (replica, at_ns), taken in books.taken.items():
        came = log.tables.transfers[replica]
        for request, blocks in books.coming.get((replica, at_ns), ()):
            # Nor of a pull that failed.
            came_then = (came["request"] == request) & (came["began_ns"] <= at_ns) & (at_ns <= came["end_ns"])
            if mishaps is not None and not came_then.any():
                taken -= blocks
        assert round(float(found[replica].at(np.array([at_ns]))[0])) == taken, (replica, at_ns)


def test_a_replica_that_starts_late_does_not_hide_when_another_died() -> None:
    """What is parked is gone with its replica, though a message later the cluster hears that it is there."""
    scenario = Scenario((Starts(1, 1), Dies(9_039, 0)))
    resolved = fleet((PREFILL, DECODE), "sarathi", BUDGET, block_tokens=1, blocks=80, wire_s=2e-6)
    log = ran(resolved, workload([(0, 1, 2)]), scenario)
    assert held(log.tables, 2_000)[0].at(np.array([9_038, 9_039])).tolist() == [1, 0]
