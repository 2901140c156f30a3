"""Nothing is lost on the way: requests, tokens and blocks, after every event and at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasewise.control.instance import InstanceControl
from phasewise.core.action import Action, Outcome, Run
from phasewise.core.event import StepDone
from phasewise.core.message import Submit
from phasewise.core.resident import Resident
from phasewise.core.step import ALL
from phasewise.record.columns import FINISHED, MOVED
from phasewise.record.gaps import continues
from watched import watched
from worlds import ARMS, mixed, random_gone, random_rows, toy_resolved

STARTS_AT = {
    "wait": {ALL: 2},
    "wait by types": {"chat": 2, "code": 1},
    "wait booking": {"chat": 3, "code": 1},
    "nested-wait": {ALL: 2},
    "nested-wait by limit": {ALL: 1},
}
"""How many must wait for a step to start, where the published rule may leave requests inside."""


class Audited:
    """A room whose books are recounted after every event."""

    def __init__(self, room: InstanceControl) -> None:
        self.room = room
        self.inside: set[int] = set()
        self.promised = 0

    def recount(self, event: Any, actions: Sequence[Action]) -> None:
        state = self.room.state
        ledger = state.ledger
        if type(event) is Submit:
            self.inside.add(event.request.id)
        if type(event) is StepDone:
            self.promised = 0
        for action in actions:
            if type(action).__name__ in ("Finished", "Cancelled", "Refused"):
                self.inside.remove(action.request)  # type: ignore[union-attr, arg-type]
            if type(action) is Run:
                # A single step's growth is taken when it is launched, and becomes the residents' when it is over.
                single = action.repeat == 1 and action.decodes
                self.promised = sum(state.cohorts[n].crossing(1) for n in action.plan.cohorts) if single else 0
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

    def stranded(self, arm: str, now_ns: int) -> set[int]:
        """Who is inside for good: the batcher, asked again, has nothing to run and nothing to wait for.

        Whoever has no threshold to wait for must find the blocks held, and those who decode must be below theirs.
        """
        if self.inside:
            state = self.room.state
            assert self.room._plan(state, now_ns) == ()
            thresholds = STARTS_AT[arm]
            waiting = Counter(r.request.kind if len(thresholds) > 1 else ALL for r in state.waiting)
            for name, least in thresholds.items():
                cohort = state.cohorts.get(name)
                # The one decode that lacks a block may be the last admitted: it would preempt itself, and so nothing runs.
                moving = cohort is not None and cohort.count > 0 and cohort.crossing(1) <= state.ledger.free
                assert waiting[name] < least or (state.running and not moving)
        return self.inside


@pytest.mark.parametrize("arm", ARMS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 2)
def test_requests_tokens_and_blocks_are_conserved(arm: str, data: st.DataObject) -> None:
    rows = data.draw(random_rows(most=14, prompt=50, output=40))
    gone = data.draw(random_gone(rows))
    resolved = toy_resolved(*ARMS[arm], data.draw(st.integers(6, 24)), 8, max_context=48, replicas=2)
    load = mixed(rows, gone)
    rooms: dict[int, Audited] = {}

    def audit(at_ns: int, replica: int, room: InstanceControl, event: Any, actions: list[Action]) -> None:
        rooms.setdefault(replica, Audited(room)).recount(event, actions)

    world, log = watched(resolved, load, audit)
    stranded = set().union(*(room.stranded(arm, world.clock.now_ns) for room in rooms.values()))
    assert not stranded or arm in STARTS_AT
    for room in rooms.values():
        assert room.inside or room.room.state.ledger.free == room.room.state.ledger.blocks

    requests = log.tables.requests
    assert requests["request"].tolist() == list(range(len(rows)))
    inside = requests["outcome"] == Outcome.INSIDE
    assert set(requests["request"][inside]) == stranded
    limits = [replica.max_context for replica in resolved.replicas]
    for row in requests[requests["outcome"] == Outcome.FINISHED]:
        prompt, output = rows[row["request"]][1:]
        assert row["tokens"] == min(output, max(limits) - prompt)
    for row in requests[requests["outcome"] == Outcome.REJECTED]:
        assert rows[row["request"]][1] >= max(limits)
    assert set(requests["request"][requests["outcome"] == Outcome.CANCELLED]) <= set(gone)

    spans = np.concatenate(log.tables.spans)
    given_out = np.bincount(spans["request"], spans["tokens"], len(rows))
    assert given_out[~inside].astype(int).tolist() == requests["tokens"][~inside].tolist()
    steps = np.concatenate(log.tables.steps)
    decoded = int((steps["steps"] * steps["decodes"]).sum())
    first_tokens = int(((spans["first_token"] >= 0) & ~continues(spans)).sum())
    assert decoded + first_tokens == int(spans["tokens"].sum())
    # Every finished stay computed its prompt, and what had been generated before it, exactly once.
    finished = spans[spans["left"] == FINISHED]
    if np.isin(spans["left"], (FINISHED, MOVED)).all() and not gone:
        assert int((steps["steps"] * steps["prefill"]).sum()) == sum(rows[r][1] for r in finished["request"])
