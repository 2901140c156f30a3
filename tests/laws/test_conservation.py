"""Nothing is lost on the way: requests, tokens and blocks, after every event and at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.control.instance import InstanceControl
from phasewise.core.action import Action, Outcome, Run
from phasewise.core.message import Submit
from phasewise.core.resident import Resident
from phasewise.record.columns import FINISHED
from phasewise.record.header import Header
from phasewise.record.runlog import Recorder
from phasewise.sim.simulate import World
from worlds import ToyLatency, random_gone, random_rows, toy_resolved, workload

BATCHERS: dict[str, dict[str, Any]] = {
    "static": {"max_seqs": 3},
    "vllm-v1": {"max_seqs": 4, "token_budget": 16},
    "sarathi": {"max_seqs": 4, "token_budget": 16},
}


class Audited:
    """A room whose books are recounted after every event."""

    def __init__(self, room: InstanceControl) -> None:
        self.room = room
        self.handlers = {kind: self._audited(handler) for kind, handler in room.handlers.items()}
        self.inside: set[int] = set()
        self.promised = 0

    def _audited(self, handler: Any) -> Any:
        def handle(event: Any, now_ns: int) -> list[Action]:
            actions: list[Action] = handler(event, now_ns)
            self.recount(event, actions)
            return actions

        return handle

    def recount(self, event: Any, actions: Sequence[Action]) -> None:
        state = self.room.state
        ledger = state.ledger
        if type(event) is Submit:
            self.inside.add(event.request.id)
        for action in actions:
            if type(action).__name__ in ("Finished", "Cancelled", "Refused"):
                self.inside.remove(action.request)  # type: ignore[union-attr, arg-type]
            if type(action) is Run:
                # A single step's growth is taken when it is launched, and becomes the residents' when it is over.
                single = action.repeat == 1 and action.decodes
                self.promised = sum(c.crossing(1) for c in state.cohorts.values()) if single else 0
        waiting = [r.id for r in state.waiting]
        assert len(waiting) == len(set(waiting))
        assert set(waiting) | set(state.running) == self.inside
        assert not set(waiting) & set(state.running)
        running = list(state.running.values())
        promised = self.promised if running else 0
        assert ledger.free + sum(map(ledger.held, running)) + promised == ledger.blocks
        assert ledger.free >= 0
        assert all(r.blocks == 0 and r.computed == 0 for r in state.waiting)
        members: dict[str, list[Resident]] = {name: [] for name in state.cohorts}
        for resident in running:
            assert (resident.cohort is None) == (resident.id in state.prefilling)
            if resident.cohort is not None:
                members[resident.cohort.name].append(resident)
            assert ledger.held(resident) >= ledger.need(resident.computed)
        for name, cohort in state.cohorts.items():
            cohort.check(members[name])


@pytest.mark.parametrize("batcher", BATCHERS)
@given(data=st.data())
def test_requests_tokens_and_blocks_are_conserved(batcher: str, data: st.DataObject) -> None:
    rows = data.draw(random_rows(most=14, prompt=50, output=40))
    gone = data.draw(random_gone(rows))
    resolved = toy_resolved(batcher, BATCHERS[batcher], data.draw(st.integers(6, 24)), 8, max_context=48, replicas=2)
    load = workload(rows, gone)
    recorder = Recorder(Header("test", resolved, load.describe(), 0))
    world = World(resolved, load, recorder, lambda i: ToyLatency())
    rooms = []
    for loop in world.instances:
        assert isinstance(loop.room, InstanceControl)
        rooms.append(Audited(loop.room))
        loop._handlers = rooms[-1].handlers
    world.run()
    log = recorder.close()
    for room in rooms:
        assert not room.inside
        assert room.room.state.ledger.free == room.room.state.ledger.blocks

    requests = log.tables.requests
    assert requests["request"].tolist() == list(range(len(rows)))
    assert not (requests["outcome"] == Outcome.INSIDE).any()
    limits = [replica.max_context for replica in resolved.replicas]
    for row in requests[requests["outcome"] == Outcome.FINISHED]:
        prompt, output = rows[row["request"]][1:]
        assert row["tokens"] == min(output, max(limits) - prompt)
    for row in requests[requests["outcome"] == Outcome.REJECTED]:
        assert rows[row["request"]][1] >= max(limits)
    assert set(requests["request"][requests["outcome"] == Outcome.CANCELLED]) <= set(gone)

    spans = np.concatenate(log.tables.spans)
    given_out = np.bincount(spans["request"], spans["tokens"], len(rows))
    assert given_out.astype(int).tolist() == requests["tokens"].tolist()
    steps = np.concatenate(log.tables.steps)
    decoded = int((steps["steps"] * steps["decodes"]).sum())
    first_tokens = int((spans["first_token"] >= 0).sum())
    assert decoded + first_tokens == int(spans["tokens"].sum())
    # Every finished stay computed its prompt, and what had been generated before it, exactly once.
    finished = spans[spans["left"] == FINISHED]
    if len(finished) == len(spans) and not gone:
        assert int((steps["steps"] * steps["prefill"]).sum()) == sum(rows[r][1] for r in finished["request"])
