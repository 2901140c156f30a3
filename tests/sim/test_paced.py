"""The paced executor by a clock that is set by hand: the modelled one's steps, a token for each, whenever seen to."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.control.loop import Loop
from phasewise.control.ports import Place
from phasewise.control.rooms import open_instance
from phasewise.core.action import Enter, Forget, Interrupt, Regroup, Run, WakeAt
from phasewise.core.event import StepDone, Woken
from phasewise.core.message import UP, Cancel, Submit
from phasewise.core.request import Request
from phasewise.core.stream import Emitted, Work
from phasewise.sim.clock import VirtualClock
from phasewise.sim.paced import Paced, PacedExecutor
from phasewise.sim.simulate import simulate
from worlds import ARMS, Row, ToyLatency, random_rows, toy_resolved, workload

Kept = list[tuple[int, Any, Any]]


class Page:
    """A journal that keeps what it is given."""

    def __init__(self) -> None:
        self.batch: Kept = []
        self.full = 1 << 60

    def flush(self) -> None: ...


def play(
    resolved: Any, rows: list[Row], late: int = 0, gone: dict[int, int] | None = None
) -> tuple[Kept, list[Emitted]]:
    """Serve rows by a room and a paced executor; every step is looked at `late` nanoseconds after it is due."""
    clock, page, tokens, alarms = VirtualClock(), Page(), list[Emitted](), list[int]()
    room = open_instance(resolved, 0, pages=True)
    place = Place(resolved, 0, room.states[0], clock, tokens.append)
    engine = Paced(ToyLatency(), None)(place)
    ports: dict[type, Any] = dict.fromkeys(UP, lambda action: None)
    ports |= {Run: engine.run, Interrupt: engine.interrupt, Forget: engine.forget, Regroup: engine.regroup}
    ports |= {Enter: engine.enter, WakeAt: lambda action: heappush(alarms, action.at_ns)}
    loop = Loop(room, clock, page, ports)
    outside: list[tuple[int, int, Any]] = [
        (at, i, Submit(0, Request(i, at, prompt, None), 0)) for i, (at, prompt, _) in enumerate(rows)
    ]
    outside += [(at, -1, Cancel(0, request, 0)) for request, at in (gone or {}).items()]
    outside.sort(key=lambda entry: entry[:2])
    while True:
        due = engine.due_ns()
        due = None if due is None else max(due + late, clock.now_ns)
        ahead = [
            at for at in (due, outside[0][0] if outside else None, alarms[0] if alarms else None) if at is not None
        ]
        if not ahead:
            return page.batch, tokens
        clock.now_ns = max(clock.now_ns, min(ahead))
        if due is not None and due <= clock.now_ns:
            done = engine.advance()
            if done is not None:
                loop.take(done)
        elif outside and outside[0][0] <= clock.now_ns:
            event = outside.pop(0)[2]
            if isinstance(event, Submit):
                prompt = tuple(range(event.request.prompt_tokens))
                engine.accept(Work(event.request.id, 0, prompt, rows[event.request.id][2]))
            loop.take(event)
        else:
            heappop(alarms)
            loop.take(Woken())


@pytest.mark.parametrize("arm", ["sarathi", "vllm-v0", "vllm-v1", "nested-wait, late", "distserve"])
@given(data=st.data())
def test_it_takes_the_steps_of_the_simulator(arm: str, data: st.DataObject) -> None:
    """Looked at in time, a room beside it takes the same events and actions; only the pieces are one for each step."""
    rows = data.draw(random_rows(prompt=40, output=30))
    resolved = toy_resolved(*ARMS[arm], 16, 8, max_context=60)
    log = simulate(resolved, workload(rows), physics=lambda i: ToyLatency())
    taken, tokens = play(resolved, rows)
    wanted = list(log.records(1))
    assert [(at, actions) for at, _, actions in taken] == [(at, actions) for at, _, actions in wanted]
    for (_, event, _), (_, modelled, _) in zip(taken, wanted, strict=True):
        if isinstance(event, StepDone):
            assert (event.run, event.ended) == (modelled.run, modelled.ended)
            assert {piece[2] for piece in event.pieces} == {1}
            assert len(event.pieces) == sum(piece[2] for piece in modelled.pieces)
            assert sum(piece[0] for piece in event.pieces) == sum(
                n * first + slope * (n * (n - 1) // 2) for first, slope, n in modelled.pieces
            )
        else:
            assert event == modelled
    each: dict[int, list[Emitted]] = {}
    for token in tokens:
        each.setdefault(token.request, []).append(token)
    requests = {int(row["request"]): int(row["tokens"]) for row in log.tables.requests if row["tokens"]}
    assert {request: len(found) for request, found in each.items()} == requests
    for found in each.values():
        assert [token.index for token in found] == list(range(len(found)))
        assert [token.end for token in found] == [None] * (len(found) - 1) + ["length"]


@given(data=st.data(), late=st.integers(0, 50_000))
def test_seen_to_late_it_keeps_its_pace(data: st.DataObject, late: int) -> None:
    """A busy period ends no later than it would have, but for the last look: lateness does not add up."""
    rows = [(0, prompt, output) for _, prompt, output in data.draw(random_rows(prompt=40, output=30))]
    resolved = toy_resolved("sarathi", {"max_seqs": 4, "token_budget": 16}, 64, 8)
    tardy, tokens = play(resolved, rows, late)
    punctual, _ = play(resolved, rows)
    assert tardy[-1][0] <= punctual[-1][0] + late
    assert len(tokens) == sum(output for _, _, output in rows)


@given(data=st.data())
def test_who_leaves_is_never_heard_of_again(data: st.DataObject) -> None:
    rows = data.draw(random_rows(prompt=40, output=30))
    gone = {i: rows[i][0] + data.draw(st.integers(0, 100_000)) for i in range(0, len(rows), 2)}
    resolved = toy_resolved("vllm-v1", {"max_seqs": 4, "token_budget": 16}, 16, 8, max_context=60)
    taken, tokens = play(resolved, rows, gone=gone)
    done: set[int] = set()
    for request, index, end in ((t.request, t.index, t.end) for t in tokens):
        assert request not in done
        done |= {request} if end else set()
        assert index < rows[request][2]
    assert isinstance(taken[-1][1], StepDone | Woken | Cancel)


def test_an_attempt_goes_on_where_the_last_one_broke_off() -> None:
    """The second attempt's prompt has the first three tokens; what follows is what would have followed."""
    resolved = toy_resolved(blocks=64, block_tokens=8)

    def tokens(from_token: int, first: list[Emitted], seed: int) -> list[Emitted]:
        clock, out, alarms = VirtualClock(), list[Emitted](), list[int]()
        room = open_instance(resolved, 0)
        engine = PacedExecutor(Place(resolved, 0, room.states[0], clock, out.append), ToyLatency(), 20.0, seed)
        ports: dict[type, Any] = dict.fromkeys(UP, lambda action: None)
        ports |= {Run: engine.run, Interrupt: engine.interrupt, WakeAt: lambda action: alarms.append(action.at_ns)}
        loop = Loop(room, clock, Page(), ports)
        request = Request(7, 0, 10, 200)
        engine.accept(
            Work(7, from_token, tuple(range(10)) + tuple(t.token for t in first[:from_token]), 200, from_token)
        )
        loop.take(Submit(0, request, from_token, from_token))
        loop.take(Woken())
        while (due := engine.due_ns()) is not None:
            clock.now_ns = due
            if (done := engine.advance()) is not None:
                loop.take(done)
        return out

    lengths = set()
    for seed in range(8):
        first = tokens(0, [], seed)
        lengths.add(len(first))
        if len(first) > 3:
            again = tokens(3, first, seed)
            assert [(t.index, t.token, t.end) for t in again] == [(t.index, t.token, t.end) for t in first[3:]]
    assert len(lengths) > 3 < max(lengths)
