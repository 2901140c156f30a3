"""The prefix cache: books that add up, a leap law of its own, hits that are there, and the bound that no cache passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoded import steps
from phasewise.control.instance import InstanceControl
from phasewise.control.replay import replay
from phasewise.core.action import Action, Run
from phasewise.core.errors import PlanError
from phasewise.core.event import StepDone
from phasewise.core.kv import PageBook
from phasewise.core.prefix import PrefixLedger
from phasewise.core.request import Request
from phasewise.core.resident import Resident
from phasewise.core.step import StepPlan
from phasewise.policy.batching.sarathi import Sarathi
from phasewise.policy.batching.vllm_v1 import VllmV1
from phasewise.record.header import Header
from phasewise.record.runlog import Recorder, RunLog
from phasewise.sim.simulate import simulate
from phasewise.sim.world import World
from phasewise.workload.truth import Truth
from phasewise.workload.workload import Workload
from worlds import ConstantLatency, Row, ToyLatency, random_gone, random_rows, toy_resolved

UNIT = 8
BATCHERS = {"vllm-v1": VllmV1, "sarathi": Sarathi}
Ids = tuple[int, ...]


class Shared(Workload):
    """A workload whose prompts begin alike: `ids[i]` names request i's units of `UNIT` tokens."""

    ids: Sequence[Ids] = ()

    def requests(self) -> Any:
        for request, ids in zip(super().requests(), self.ids, strict=True):
            yield Request(request.id, request.arrival_ns, request.prompt_tokens, request.max_tokens, "", ids, UNIT)


def shared(rows: Sequence[Row], ids: Sequence[Ids], gone: dict[int, int] | None = None) -> Shared:
    arrival, prompt, output = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    found = Shared("shared", arrival, prompt, Truth(output), gone_ns=dict(gone or {}))
    object.__setattr__(found, "ids", list(ids))
    return found


@st.composite
def families(draw: st.DrawFn, rows: Sequence[Row]) -> list[Ids]:
    """Ids like a few growing conversations: the first k units of a family are the same for everybody in it."""
    out: list[Ids] = []
    for _, prompt, _ in rows:
        family, own = draw(st.integers(0, 2)), draw(st.integers(0, 3))
        units = -(-prompt // UNIT)
        common = max(0, units - own)
        out.append(
            tuple(100 * family + i for i in range(common))
            + tuple(10_000 + len(out) * 50 + i for i in range(units - common))
        )
    return out


def run(rows: Sequence[Row], ids: Sequence[Ids], name: str = "vllm-v1", gone: Any = None, **world: Any) -> RunLog:
    resolved = toy_resolved(name, prefix_cache=True, **world)
    return simulate(resolved, shared(rows, ids, gone), physics=lambda i: ToyLatency())


class Memory:
    """What each page holds, as its users write it: what one of them has computed or found must stay until it leaves."""

    def __init__(self, ledger: PrefixLedger) -> None:
        self.ledger = ledger
        self.each = UNIT // ledger.block_tokens
        self.content: dict[int, int] = {}

    def look(self, running: dict[int, Resident], actions: Sequence[Action]) -> None:
        """After an event: a run writes whole units from where its chunks begin, and nobody's content has changed."""
        for action in actions:
            for chunk in action.plan.chunks if isinstance(action, Run) else ():
                end = chunk.start + chunk.tokens * (action.repeat or 1)  # type: ignore[union-attr]
                for key, pages in self.units(running[chunk.request], end)[chunk.start // UNIT :]:
                    self.content.update(dict.fromkeys(pages, key))
        for resident in running.values():
            pages = self.ledger.page_ids(resident)
            assert len(set(pages)) == len(pages) == self.ledger.held(resident)
            computed = resident.computed if resident.cohort is None else resident.cohort.computed(resident)
            for key, own in self.units(resident, computed):
                assert {self.content[page] for page in own} == {key}, "another's content where one's own should be"

    def units(self, resident: Resident, tokens: int) -> list[tuple[int, tuple[int, ...]]]:
        """The key and the pages of each whole unit in the first so many tokens of a resident's prompt."""
        request, pages = resident.request, self.ledger.page_ids(resident)
        whole = min(tokens, request.prompt_tokens) // UNIT
        return [
            (request.prefix_ids[i], pages[i * self.each : (i + 1) * self.each])
            for i in range(min(whole, len(request.prefix_ids)))
        ]


@pytest.mark.parametrize("name", BATCHERS)
@given(data=st.data())
def test_the_books_add_up_after_every_event(name: str, data: st.DataObject) -> None:
    rows = data.draw(random_rows(most=14, prompt=60, output=20))
    ids, gone = data.draw(families(rows)), data.draw(random_gone(rows))
    params = {"max_seqs": 4, "token_budget": data.draw(st.integers(6, 40))}
    resolved = toy_resolved(name, params, data.draw(st.integers(20, 40)), 4, prefix_cache=True)
    load = shared(rows, ids, gone)
    recorder = Recorder(Header("test", resolved, load.describe(), 0))
    world = World(resolved, load, recorder, lambda i: ToyLatency())
    room = world.instances[0].room
    assert isinstance(room, InstanceControl)
    ledger = room.state.ledger
    assert isinstance(ledger, PrefixLedger)
    ledger.pages = PageBook(ledger.blocks)
    memory = Memory(ledger)

    def audited(handler: Any) -> Any:
        def handle(event: Any, now_ns: int) -> list[Action]:
            actions: list[Action] = handler(event, now_ns)
            flying = next(iter(room._lanes.values())).run
            promised = 0
            if flying is not None and flying.repeat == 1:
                promised = sum(room.state.cohorts[c].crossing(1) for c in flying.plan.cohorts)
            ledger.free += promised
            ledger.check(list(room.state.running.values()))
            ledger.free -= promised
            memory.look(room.state.running, actions)
            return actions

        return handle

    world.instances[0]._handlers = {kind: audited(handler) for kind, handler in room.handlers.items()}
    world.run()
    log = recorder.close()
    ledger.check([])
    assert ledger.free == ledger.blocks
    assert ledger.pages.available == ledger.blocks - ledger._idle_blocks
    assert log.summary["completed"] + log.summary["cancelled"] + log.summary["rejected"] == len(rows)
    assert log.summary["tokens_cached"] <= most_cached(rows, ids)


@pytest.mark.parametrize("name", BATCHERS)
@given(data=st.data())
def test_pages_asked_for_within_a_leap_change_nothing(name: str, data: st.DataObject) -> None:
    """An engine asks for each page when it needs it, long before the blocks of the leap are counted: it gets one, its own, and
    the room decides as if nobody had asked."""
    rows = data.draw(random_rows(most=10, prompt=60, output=40))
    ids = data.draw(families(rows))
    params = {"max_seqs": 4, "token_budget": data.draw(st.integers(6, 40))}
    resolved = toy_resolved(name, params, data.draw(st.integers(20, 40)), 4, prefix_cache=True)
    load = shared(rows, ids)
    plain = simulate(resolved, load, physics=lambda i: ToyLatency())
    recorder = Recorder(Header("test", resolved, load.describe(), 0))
    world = World(resolved, load, recorder, lambda i: ToyLatency())
    room = world.instances[0].room
    assert isinstance(room, InstanceControl)
    ledger = room.state.ledger
    ledger.pages = PageBook(ledger.blocks)
    step_done = room.handlers[StepDone]

    def paged(event: StepDone, now_ns: int) -> list[Action]:
        (lane,) = room._lanes.values()
        decoding = [r for r in room.state.running.values() if r.cohort in lane.cohorts]
        for step in range(1, 1 + sum(piece[2] for piece in event.pieces)):
            own: list[int] = []
            for resident in decoding:
                assert resident.cohort is not None
                before = ledger.page_ids(resident)
                pages = ledger.page_ahead(resident, resident.cohort.computed(resident) + step)
                assert pages[: len(before)] == before[: len(pages)]
                own += pages[resident.request.prompt_tokens // 4 :]
            assert len(set(own)) == len(own)
        return step_done(event, now_ns)

    world.instances[0]._handlers = {**room.handlers, StepDone: paged}
    world.run()
    log = recorder.close()
    for number in range(2):
        assert list(log.records(number)) == list(plain.records(number))


def most_cached(rows: Sequence[Row], ids: Sequence[Ids]) -> int:
    """What a cache without limits would find if every request came after all others before it had been computed."""
    seen: set[int] = set()
    total = 0
    for (_, prompt, _), own in zip(rows, ids, strict=True):
        for key in own[: (prompt - 1) // UNIT]:
            if key not in seen:
                break
            total += UNIT
        seen.update(own[: prompt // UNIT])
    return total


@given(st.data())
def test_with_memory_and_time_enough_everything_known_is_found(data: st.DataObject) -> None:
    rows = [(i * 10**9, p, o) for i, (_, p, o) in enumerate(data.draw(random_rows(most=12, prompt=80, output=5)))]
    ids = data.draw(families(rows))
    log = run(rows, ids, blocks=4_000, block_tokens=4)
    assert log.summary["tokens_cached"] == most_cached(rows, ids)
    prefilled = int((log.tables.steps[0]["steps"] * log.tables.steps[0]["prefill"]).sum())
    assert prefilled == sum(p for _, p, _ in rows) - most_cached(rows, ids)


@pytest.mark.parametrize("name", BATCHERS)
@given(data=st.data())
def test_leaps_and_single_steps_find_the_same(name: str, data: st.DataObject) -> None:
    rows = data.draw(random_rows(most=10, prompt=60, output=25, gap_ns=30_000))
    ids = data.draw(families(rows))
    world: dict[str, Any] = {
        "params": {"max_seqs": 4, "token_budget": data.draw(st.integers(6, 40))},
        "blocks": data.draw(st.integers(20, 40)),
        "block_tokens": 4,
        "prefix_cache": True,
    }
    load = shared(rows, ids)
    leaps = simulate(toy_resolved(name, **world), load, physics=lambda i: ConstantLatency())
    cls, plain = BATCHERS[name], BATCHERS[name].plan

    def single(self: Any, state: Any, now_ns: int) -> tuple[StepPlan, ...]:
        return tuple(StepPlan(p.chunks, p.cohorts, p.preempt, 1, p.closed, p.lane) for p in plain(self, state, now_ns))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "plan", single)
        one_by_one = simulate(toy_resolved(name, **world), load, physics=lambda i: ConstantLatency())
    assert steps(leaps) == steps(one_by_one)
    assert leaps.summary["tokens_cached"] == one_by_one.summary["tokens_cached"]


def test_the_longest_unused_goes_first_and_ends_before_beginnings() -> None:
    """Memory for six units of two blocks. A (3 units), then B (3 units); C needs two more: A's last two go, its first stays."""
    a, b, c = (1, 2, 3), (4, 5, 6), (7, 8)
    at = 10**9
    rows = [(0, 24, 1), (at, 24, 1), (2 * at, 16, 1), (3 * at, 24, 1), (4 * at, 24, 1)]
    log = run(rows, [a, b, c, b, a], blocks=12, block_tokens=4, params={"token_budget": 512})
    cached = {int(s["request"]): int(s["cached"]) for s in log.tables.spans[0]}
    # B's last token is always computed, so its third unit is computed again; what that takes, A's first unit pays for.
    assert cached == {0: 0, 1: 0, 2: 0, 3: 16, 4: 0}
    roomy = run(rows, [a, b, c, b, a], blocks=64, block_tokens=4, params={"token_budget": 512})
    assert {int(s["request"]): int(s["cached"]) for s in roomy.tables.spans[0]} == {0: 0, 1: 0, 2: 0, 3: 16, 4: 16}


def test_residents_share_without_a_copy() -> None:
    """Ten requests with one prompt of 16 blocks but for the last one fit, at once, where without sharing two would."""
    ids = [(1, 2, 3, 4, 5, 6, 7, 100 + i) for i in range(10)]
    rows = [(0, 64, 200), *((10**6, 64, 200) for _ in range(9))]
    world: dict[str, Any] = {"blocks": 40, "block_tokens": 4, "params": {"token_budget": 512}}
    alone = run(rows, [() for _ in rows], **world)
    together = run(rows, ids, **world)
    assert max(len(s.schedule) for s in steps(alone)) == 2
    assert max(len(s.schedule) for s in steps(together)) > 8
    assert together.summary["tokens_cached"] == 9 * 56


def test_a_ledger_without_the_content_refuses_to_begin_after_it() -> None:
    ledger = PrefixLedger(16, 4)
    resident = Resident(Request(0, 0, 20, None, "", (1, 2), UNIT), 0)
    assert ledger.peek(resident) == (0, [])
    with pytest.raises(PlanError, match="is to begin after 8 tokens; 0 of its prompt are in memory"):
        ledger.adopt(resident, 8)


def test_ids_of_units_that_are_no_whole_blocks_are_left_alone() -> None:
    rows = [(0, 24, 1), (10**9, 24, 1)]
    log = run(rows, [(1, 2, 3), (1, 2, 3)], blocks=64, block_tokens=16)
    assert log.summary["tokens_cached"] == 0


@pytest.mark.parametrize("name", BATCHERS)
@given(data=st.data())
def test_a_log_replays_with_its_content(name: str, data: st.DataObject) -> None:
    rows = data.draw(random_rows(most=12, prompt=60, output=20))
    ids, gone = data.draw(families(rows)), data.draw(random_gone(rows))
    params = {"max_seqs": 4, "token_budget": data.draw(st.integers(6, 40))}
    log = run(rows, ids, name, gone, params=params, blocks=data.draw(st.integers(20, 40)), block_tokens=4)
    assert replay(log) == log.events
