"""The laws once more for replicas of several stages: conservation after every event, replay, columns, gaps; every batcher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import decoded
from phasewise.control.pipeline import PipelineControl
from phasewise.control.replay import replay
from phasewise.core.action import Action, Outcome, Run
from phasewise.core.event import StepDone
from phasewise.core.message import Submit
from phasewise.core.prefix import PrefixLedger
from phasewise.core.request import Request
from phasewise.core.resident import Resident
from phasewise.core.units import NS_PER_S
from phasewise.record.columns import InstanceColumns
from phasewise.record.metrics import Scored
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from phasewise.workload.workload import Workload
from watched import watched
from worlds import ARMS, Row, ToyLatency, mixed, random_gone, random_rows, toy_resolved, workload

MAY_STAND_STILL = {name for name, (batcher, _) in ARMS.items() if "wait" in batcher and "late" not in name}
"""Where the published rule may leave requests inside for good."""


class Audited:
    """A pipeline's room whose books are recounted after every event."""

    def __init__(self, room: PipelineControl) -> None:
        self.room = room
        self.inside: set[int] = set()
        self.flying: dict[int, tuple[Run, int]] = {}

    def recount(self, event: Any, actions: list[Action]) -> None:
        states = self.room.states
        ledger = states[0].ledger
        if type(event) is Submit:
            self.inside.add(event.request.id)
        if type(event) is StepDone:
            del self.flying[event.lane]
        for action in actions:
            if type(action).__name__ in ("Finished", "Cancelled", "Refused"):
                self.inside.remove(action.request)  # type: ignore[union-attr, arg-type]
            if type(action) is Run:
                self._launched(action)
        waiting = [r.id for r in states[0].waiting]
        running = [r for state in states for r in state.running.values()]
        everyone = waiting + [r.id for r in running]
        assert len(everyone) == len(set(everyone))
        assert set(everyone) == self.inside
        promised = sum(blocks for _, blocks in self.flying.values())
        assert ledger.free >= 0
        assert ledger.free + sum(map(ledger.held, running)) + promised == ledger.blocks
        assert all(r.blocks == 0 and r.computed == 0 for r in states[0].waiting)
        for state in states:
            assert state.waiting is states[0].waiting
            assert state.ledger is ledger
            members: dict[str, list[Resident]] = {name: [] for name in state.cohorts}
            for resident in state.running.values():
                assert (resident.cohort is None) == (resident.id in state.prefilling)
                if resident.cohort is not None:
                    members[resident.cohort.name].append(resident)
            for name, cohort in state.cohorts.items():
                cohort.check(members[name])

    def _launched(self, run: Run) -> None:
        lane = run.plan.lane
        assert lane not in self.flying
        assert run.repeat == run.plan.repeat == 1
        state = self.room.states[lane]
        ours = {name.removesuffix(f"/{lane}") for name in run.plan.cohorts}
        assert all(name.endswith(f"/{lane}") for name in run.plan.cohorts)
        # A step's growth is taken when it is launched, and becomes the residents' when it is over.
        self.flying[lane] = (run, sum(state.cohorts[name].crossing(1) for name in ours))
        assert all(chunk.request in state.prefilling for chunk in run.plan.chunks)


def world(data: st.DataObject, arm: str) -> tuple[Any, Any]:
    rows = data.draw(random_rows(most=14, prompt=40, output=30))
    gone = data.draw(random_gone(rows))
    blocks, pp = data.draw(st.integers(7, 24)), data.draw(st.sampled_from([2, 3]))
    wire_s = data.draw(st.sampled_from([0.0, 3e-6]))
    resolved = toy_resolved(*ARMS[arm], blocks, 8, max_context=48, replicas=2, wire_s=wire_s, pp=pp)
    return resolved, mixed(rows, gone)


@pytest.mark.parametrize("arm", ARMS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 3)
def test_requests_tokens_and_blocks_are_conserved(arm: str, data: st.DataObject) -> None:
    resolved, load = world(data, arm)
    rooms: dict[int, Audited] = {}

    def audit(at_ns: int, replica: int, room: PipelineControl, event: Any, actions: list[Action]) -> None:
        rooms.setdefault(replica, Audited(room)).recount(event, actions)

    _, log = watched(resolved, load, audit)
    stranded = set().union(*(room.inside for room in rooms.values()))
    assert not stranded or arm in MAY_STAND_STILL
    for room in rooms.values():
        assert not room.flying
        assert room.inside or room.room.states[0].ledger.free == room.room.states[0].ledger.blocks
    requests, limit = log.tables.requests, resolved.replicas[0].max_context
    prompts, outputs = load.prompt_tokens, [load.truth.output_tokens(i) for i in range(len(load))]
    for row in requests[requests["outcome"] == Outcome.FINISHED]:
        number = row["request"]
        assert row["tokens"] == min(outputs[number], limit - prompts[number])
    spans = np.concatenate(log.tables.spans)
    given_out = np.bincount(spans["request"], spans["tokens"], len(load)).astype(int)
    over = requests["outcome"] != Outcome.INSIDE
    assert given_out[over].tolist() == requests["tokens"][over].tolist()


@pytest.mark.parametrize("arm", ARMS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 4)
def test_runs_replay_and_tell_every_token(arm: str, data: st.DataObject) -> None:
    resolved, load = world(data, arm)
    log = simulate(resolved, load, physics=lambda i: ToyLatency(whole=False))
    assert replay(log) == log.summary["events"]
    for i, tables in enumerate(zip(log.tables.steps, log.tables.spans, strict=True)):
        columns = InstanceColumns()
        for record in log.records(1 + i):
            columns.fold([record])
        assert [table.tobytes() for table in columns.tables()] == [table.tobytes() for table in tables]
    tells_the_same(log)


def tells_the_same(log: RunLog) -> None:
    """The columns against the events, token by token."""
    told = {i: t for i, t in decoded.requests(log).items() if t.outcome == Outcome.FINISHED}
    for each in told.values():
        assert len(each.token_ns) == each.tokens
        assert each.token_ns == sorted(each.token_ns)
    scored = Scored(log.tables)
    assert scored.requests["request"].tolist() == sorted(told)
    first = [(told[i].token_ns[0] - told[i].arrival_ns) / NS_PER_S for i in sorted(told)]
    last = [(told[i].token_ns[-1] - told[i].arrival_ns) / NS_PER_S for i in sorted(told)]
    assert scored.ttft_s.tolist() == pytest.approx(first, abs=2e-9)
    assert scored.e2e_s.tolist() == pytest.approx(last, abs=2e-9)


def test_gaps_are_those_of_the_tokens() -> None:
    rows = [(i * 9_000, 8 + 5 * (i % 7), 1 + 9 * (i % 5)) for i in range(30)]
    resolved = toy_resolved("sarathi", {"token_budget": 24, "max_seqs": 6}, 20, 8, pp=3)
    log = simulate(resolved, workload(rows), physics=lambda i: ToyLatency())
    gaps = sorted(
        b - a for t in decoded.requests(log).values() for a, b in zip(t.token_ns, t.token_ns[1:], strict=False)
    )
    found = Scored(log.tables).gaps_ns
    assert found.total == len(gaps)
    shares = [0.01, 0.1, 0.5, 0.9, 0.99, 1.0]
    want = [gaps[max(0, int(np.ceil(share * len(gaps) - 1e-9)) - 1)] for share in shares]
    assert found.quantiles(shares) == pytest.approx(want, abs=2)


@pytest.mark.parametrize("pp", [2, 3])
def test_pipes_that_hold_each_others_blocks_go_on(pp: int) -> None:
    """A request in each pipe, all of which grow until no block is left: none may preempt another pipe's, and yet all end."""
    rows = [(i, 8, 40) for i in range(pp)]
    for batcher in ("sarathi", "vllm-v0", "vllm-v1"):
        # Room for all prompts, and for one request to its end.
        resolved = toy_resolved(batcher, {}, 6 + pp, 8, max_context=48, pp=pp)
        log = simulate(resolved, workload(rows), physics=lambda i: ToyLatency())
        assert log.summary["completed"] == pp
        assert log.summary["preemptions"] >= 1
        # First come, first served: the first is never the one that goes.
        assert decoded.requests(log)[0].preemptions == 0
        assert replay(log) == log.summary["events"]
        tells_the_same(log)


def test_the_pipes_share_the_work() -> None:
    """Requests spread over the pipes, and steps of several pipes are in flight at once."""
    rows = [(i * 3_000, 20, 30) for i in range(20)]
    log = simulate(toy_resolved("sarathi", {}, 200, 8, pp=3), workload(rows), physics=lambda i: ToyLatency())
    by_lane = Counter(log.tables.steps[0]["lane"].tolist())
    assert sorted(by_lane) == [0, 1, 2]
    assert min(by_lane.values()) > max(by_lane.values()) / 4
    one = simulate(toy_resolved("sarathi", {}, 200, 8), workload(rows), physics=lambda i: ToyLatency())
    assert log.summary["completed"] == one.summary["completed"] == 20


def alike(rows: list[Row], families: list[int]) -> Workload:
    """Prompts whose first 16 tokens are those of their family."""
    plain = workload(rows)
    return Families(plain.name, plain.arrival_ns, plain.prompt_tokens, plain.truth, families=tuple(families))


@dataclass(frozen=True, eq=False)
class Families(Workload):
    families: tuple[int, ...] = ()

    def requests(self) -> Iterator[Request]:
        for request in super().requests():
            family = self.families[request.id]
            yield msgspec.structs.replace(request, prefix_ids=(family, 10 + family, 20 + request.id), prefix_tokens=8)


def test_what_one_pipe_computed_another_finds() -> None:
    """Far apart, so that each has all to itself; the second takes the pipe that is free, and 16 of its 24 tokens are there."""
    for batcher in ("vllm-v1", "sarathi"):
        load = alike([(0, 24, 3000), (100_000, 24, 5), (200_000, 24, 5)], [0, 0, 1])
        log = simulate(
            toy_resolved(batcher, {}, 1000, 8, prefix_cache=True, pp=2), load, physics=lambda i: ToyLatency()
        )
        assert log.summary["tokens_cached"] == 16
        assert log.tables.steps[0]["lane"][log.tables.spans[0]["first_chunk"]].tolist() == [1, 1, 0]


@pytest.mark.parametrize("batcher", ["vllm-v1", "sarathi"])
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 4)
def test_pipes_share_what_is_in_memory(batcher: str, data: st.DataObject) -> None:
    """Prompts that begin alike, in any pipe: everybody is served, and the books of what is kept add up."""
    rows = [(at, 24, output) for at, _, output in data.draw(random_rows(most=12, output=20))]
    families = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    load = alike(rows, families)
    pp, blocks = data.draw(st.sampled_from([2, 3])), data.draw(st.integers(8, 40))
    resolved = toy_resolved(batcher, {}, blocks, 8, prefix_cache=True, pp=pp)
    world, log = watched(resolved, load, lambda *_: None)
    ledger = world.states[0][0].ledger
    assert isinstance(ledger, PrefixLedger)
    ledger.check([])
    assert ledger.free == ledger.blocks
    assert log.summary["completed"] == len(rows)
    assert replay(log) == log.summary["events"]
