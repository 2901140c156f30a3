"""Fleets under random faults: nothing is lost on the way, nothing is delivered twice, and the laws of one room hold for all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleets import BATCHERS, LINKS, random_roles, tight_fleet
from mishaps import random_faults, random_moves
from phasewise.control.instance import InstanceControl
from phasewise.control.pipeline import PipelineControl
from phasewise.control.replay import replay
from phasewise.core.action import Action, Boot, Ended, Outcome, Run
from phasewise.core.event import Died, Lost, StepDone
from phasewise.core.fault import Dies, Drains, Mangles, Scenario
from phasewise.core.message import Submit
from phasewise.core.resident import Resident
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, Resolved
from phasewise.policy.fleet import serves
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from phasewise.sim.world import World
from phasewise.workload import source
from watched import watched
from worlds import Row, ToyLatency, random_gone, random_rows, workload


class Audited:
    """A room whose blocks are recounted after every event: each is free, or held by exactly one request."""

    def __init__(self, room: InstanceControl | PipelineControl) -> None:
        self.room = room
        self.promised = 0

    def recount(self, event: Any, actions: list[Action]) -> None:
        if isinstance(self.room, PipelineControl):
            self.recount_pipes()
            return
        state = self.room.state
        ledger = state.ledger
        if type(event) is StepDone:
            self.promised = 0
        for action in actions:
            if type(action) is Run:
                single = action.repeat == 1 and action.decodes
                self.promised = sum(state.cohorts[n].crossing(1) for n in action.plan.cohorts) if single else 0
        guests = [g.resident for g in self.room._lobby.guests.values() if g.resident is not None]
        landed = [r for r in state.landed if r not in guests]
        back = self.room._lobby.tier.coming
        holders: list[Resident] = [*state.running.values(), *state.parked.values(), *guests, *landed, *back]
        assert len({id(r) for r in holders}) == len(holders)
        assert len({r.id for r in holders}) == len(holders)
        assert all(r.blocks == 0 for r in state.waiting)
        promised = self.promised if state.running else 0
        assert ledger.free + sum(map(ledger.held, holders)) + promised == ledger.blocks
        assert ledger.free >= 0

    def recount_pipes(self) -> None:
        """In flight or not, a pipe's residents hold at most the blocks that their next tokens need."""
        pipes = self.room.pipes
        ledger = pipes[0].state.ledger
        held = coming = 0
        for pipe in pipes:
            state = pipe.state
            guests = [g.resident for g in pipe._lobby.guests.values() if g.resident is not None]
            landed = [r for r in state.landed if r not in guests]
            held += sum(
                map(
                    ledger.held,
                    [*state.running.values(), *state.parked.values(), *guests, *landed, *pipe._lobby.tier.coming],
                )
            )
            flying = pipe._lanes[0].run is not None
            coming += sum(cohort.crossing(1) for cohort in pipe._lanes[0].cohorts) if flying else 0
        assert ledger.free + held + coming == ledger.blocks
        assert ledger.free >= 0


def empty(room: Any) -> bool:
    """Whether nobody waits or is parked there, and no block is held."""
    state = room.states[0]
    parked = any(state.parked for state in room.states)
    return state.ledger.free == state.ledger.blocks and not state.waiting and not parked


def run(resolved: Any, load: Any, scenario: Scenario | None, latency: Any = None) -> tuple[World, RunLog]:
    """A run whose rooms are audited, those that are opened again after a death too."""
    audited: dict[Any, Audited] = {}

    def audit(at_ns: int, replica: int, room: InstanceControl | PipelineControl, event: Any, actions: Any) -> None:
        if room not in audited:
            audited[room] = Audited(room)
        if type(event) is not Died:
            audited[room].recount(event, actions)

    return watched(resolved, load, audit, scenario, latency)


def assert_nothing_is_lost(world: World, log: RunLog, rows: Any, gone: Any) -> None:
    requests = log.tables.requests
    assert requests["request"].tolist() == list(range(len(rows)))
    limits = [replica.max_context for replica in log.header.resolved.replicas]
    for row in requests[requests["outcome"] == Outcome.FINISHED]:
        prompt, output = rows[row["request"]][1:]
        assert row["tokens"] == min(output, max(limits) - prompt)
    assert set(requests["request"][requests["outcome"] == Outcome.CANCELLED]) <= set(gone)
    for row in requests[requests["outcome"] == Outcome.REJECTED]:
        assert rows[row["request"]][1] >= max(limits)
    # Every index exactly once: each attempt begins where the tokens before it ended.
    spans = np.concatenate(log.tables.spans)
    over = requests["outcome"] == Outcome.FINISHED
    given_out = np.bincount(spans["request"], spans["tokens"], len(rows)).astype(int)
    assert given_out[over].tolist() == requests["tokens"][over].tolist()
    assert (given_out[~over] <= np.array([output for _, _, output in rows])[~over]).all()
    for i, loop in enumerate(world.instances):
        alive = world.mishaps is None or world.mishaps._alive[i]
        assert not alive or empty(loop.room) or (requests["outcome"] == Outcome.INSIDE).any()


def assert_failures_have_a_reason(log: RunLog) -> None:
    """A request fails only where no replica that serves the phase is there or will come."""
    roles = [replica.role for replica in log.header.resolved.replicas]
    there = dict.fromkeys(range(len(roles)), True)
    for _, event, actions in log.records(0):
        kind = type(event).__name__
        if type(event) is Lost:
            there[event.replica] = event.returns
        elif kind == "Drain":
            there[event.replica] = False
        elif kind == "Start":
            # One that is still draining is not started again.
            there[event.replica] |= Boot(event.replica) in actions
        elif kind == "Switch":
            roles[event.replica] = event.role
        for action in actions:
            if type(action) is Ended and action.outcome is Outcome.FAILED:
                phase = action.reason.rsplit(" ", 1)[-1]
                assert phase in ("prefill", "decode")
                assert not any(there[i] and serves(role, phase) for i, role in enumerate(roles))


def assert_all_end_as_they_should(
    resolved: Resolved, rows: list[Row], gone: dict[int, int], scenario: Scenario | None
) -> None:
    """Whatever goes wrong: nothing is lost, nobody is left inside or fails without reason, and it replays."""
    world, log = run(resolved, workload(rows, gone), scenario)
    assert_nothing_is_lost(world, log, rows, gone)
    assert_failures_have_a_reason(log)
    assert not (log.tables.requests["outcome"] == Outcome.INSIDE).any()
    replay(log, lambda i: ToyLatency())


@pytest.mark.parametrize("batcher", BATCHERS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples)
def test_nothing_is_lost_between_replicas(batcher: str, data: st.DataObject) -> None:
    rows = data.draw(random_rows(most=14, prompt=40, output=40))
    gone = data.draw(random_gone(rows))
    roles = data.draw(random_roles())
    link, wire_s = data.draw(st.sampled_from(LINKS)), data.draw(st.sampled_from([0.0, 2e-6]))
    host = data.draw(st.sampled_from([0, 6, 100]))
    resolved = tight_fleet(
        roles, batcher, blocks=data.draw(st.integers(7, 24)), link=link, wire_s=wire_s, host_blocks=host
    )
    world, log = run(resolved, workload(rows, gone), None)
    outcomes = Counter(log.tables.requests["outcome"].tolist())
    assert not outcomes[Outcome.FAILED]
    assert not outcomes[Outcome.INSIDE]
    assert_nothing_is_lost(world, log, rows, gone)
    replay(log, lambda i: ToyLatency())


@pytest.mark.parametrize("lossy", [False, True], ids=["reliable wire", "lossy wire"])
@pytest.mark.parametrize("batcher", BATCHERS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples)
def test_nothing_is_lost_under_faults(batcher: str, lossy: bool, data: st.DataObject) -> None:
    rows = data.draw(random_rows(most=14, prompt=40, output=40))
    gone = data.draw(random_gone(rows))
    roles = data.draw(random_roles())
    scenario = data.draw(random_faults(len(roles), lossy=lossy))
    link, wire_s = data.draw(st.sampled_from(LINKS)), data.draw(st.sampled_from([0.0, 2e-6]))
    resolved = tight_fleet(
        roles,
        batcher,
        blocks=data.draw(st.integers(7, 24)),
        link=link,
        wire_s=wire_s,
        patience_s=50e-6 if lossy else None,
        host_blocks=data.draw(st.sampled_from([0, 6, 100])),
    )
    assert_all_end_as_they_should(resolved, rows, gone, scenario)


@pytest.mark.parametrize("faults", [False, True], ids=["sound", "faults"])
@pytest.mark.parametrize("batcher", BATCHERS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 2)
def test_nothing_is_lost_between_pipelines(batcher: str, faults: bool, data: st.DataObject) -> None:
    rows = data.draw(random_rows(most=14, prompt=40, output=40))
    gone = data.draw(random_gone(rows))
    roles = data.draw(random_roles())
    scenario = data.draw(random_faults(len(roles), lossy=True)) if faults else None
    resolved = tight_fleet(
        roles,
        batcher,
        blocks=data.draw(st.integers(10, 30)),
        link=data.draw(st.sampled_from(LINKS)),
        patience_s=50e-6,
        stages=data.draw(st.lists(st.integers(1, 3), min_size=len(roles), max_size=len(roles))),
    )
    assert_all_end_as_they_should(resolved, rows, gone, scenario)


@pytest.mark.parametrize("lossy", [False, True], ids=["reliable wire", "lossy wire"])
@pytest.mark.parametrize("batcher", BATCHERS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples)
def test_nothing_is_lost_when_answers_move(batcher: str, lossy: bool, data: st.DataObject) -> None:
    rows = data.draw(random_rows(most=14, prompt=40, output=40))
    gone = data.draw(random_gone(rows))
    roles = data.draw(random_roles())
    scenario = data.draw(random_moves(len(roles), lossy=lossy))
    resolved = tight_fleet(
        roles,
        batcher,
        blocks=data.draw(st.integers(10, 30)),
        link=data.draw(st.sampled_from(LINKS)),
        wire_s=data.draw(st.sampled_from([0.0, 2e-6])),
        patience_s=50e-6 if lossy else None,
        host_blocks=data.draw(st.sampled_from([0, 6, 100])),
        stages=data.draw(st.one_of(st.just([]), st.lists(st.integers(1, 3), min_size=len(roles), max_size=len(roles)))),
    )
    assert_all_end_as_they_should(resolved, rows, gone, scenario)


def test_a_second_drain_leaves_what_the_first_is_still_to_let_go() -> None:
    """The order to forget what has moved away is lost, and is repeated whatever is said of its replica meanwhile."""
    lost = Mangles("release", 1.0, None, 0, 90_000)
    scenario = Scenario((lost, Drains(20_000, 0, True), Drains(80_000, 0, True)))
    resolved = tight_fleet(["mixed", "mixed"], patience_s=50e-6)
    assert_all_end_as_they_should(resolved, [(0, 4, 37)], {}, scenario)


def test_attempts_begin_where_the_tokens_before_them_ended() -> None:
    rows = [(0, 10, 30), (5, 10, 30)]
    _, log = run(tight_fleet(["mixed", "mixed"]), workload(rows), Scenario((Dies(120_000, 0),)))
    submits = [a for _, _, actions in log.records(0) for a in actions if type(a) is Submit]
    [again] = [s for s in submits if s.epoch]
    lost = log.tables.spans[0]
    assert again.from_token == int(lost["tokens"].sum()) > 0
    assert log.tables.requests["tokens"].tolist() == [30, 30]
    assert log.tables.requests["attempts"].tolist() == [1, 0]


@pytest.mark.parametrize("back", [False, True], ids=["for good", "for a while"])
@pytest.mark.parametrize("lost", range(4))
@pytest.mark.parametrize("roles", [("mixed",) * 4, ("prefill", "prefill", "decode", "decode")], ids=["mixed", "apart"])
def test_at_half_load_one_replica_less_fails_nobody(roles: tuple[str, ...], lost: int, back: bool) -> None:
    """33 requests a second of chat are half of what two prefill replicas can take, and less for the others."""
    deployment = Deployment(
        "Llama-3.1-8B",
        tuple(ReplicaSpec("h100", role=role) for role in roles),
        PolicySpec("sarathi"),
        PolicySpec("round-robin"),
        cold_start_s=1.0,
    )
    load = source.load("azure-conv", rate=33, requests=400, seed=1)
    # In the middle, just after the one that will be lost was given a request.
    half_ns = int(load.arrival_ns[200 + lost]) + 1_000_000
    scenario = Scenario((Dies(half_ns, lost, half_ns + 2_000_000_000 if back else None),))
    log = simulate(deployment, load, scenario=scenario)
    summary = log.summary
    assert summary["completed"] == 400
    assert summary["failed"] == summary["rejected"] == 0
    assert int(log.tables.requests["attempts"].sum()) > 0
    assert summary["tokens_out"] == int(load.truth.column().sum())
    replay(log)
