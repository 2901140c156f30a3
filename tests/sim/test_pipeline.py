"""The pipelined executor: against stages ticking by themselves, in closed form where batches are alike, and bubbles by hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoded import steps
from phasewise.core.action import Run
from phasewise.core.step import Chunk, Piece, StepPlan
from phasewise.sim.clock import VirtualClock
from phasewise.sim.pipeline import PipelinedExecutor
from phasewise.sim.simulate import simulate
from phasewise.workload.truth import Truth
from worlds import ConstantLatency, toy_resolved, workload

Batch = tuple[int, tuple[int, ...], int]
"""How long its lane rests before it, the times of its stages, and of its way from one to the next."""


class Table:
    """Stage times by number: a run's `context` says which batch it is, and its `decodes` the time between stages."""

    basis = "table"

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def pieces(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        raise AssertionError("a pipeline asks for stages")

    def stages_ns(self, chunks: Sequence[Chunk], decodes: int, context: int) -> tuple[float, ...]:
        return tuple(map(float, self._batches[context][1]))

    def send_ns(self, tokens: int) -> float:
        return float(tokens)


@dataclass
class Flow:
    """What came of some batches: in the order of their launch, which they were, when they began and ended, their bubbles."""

    order: list[int] = field(default_factory=list)
    launched: list[int] = field(default_factory=list)
    ended: dict[int, int] = field(default_factory=dict)
    bubble: dict[int, int] = field(default_factory=dict)


def flow(batches: Sequence[Batch], stages: int) -> Flow:
    """The batches dealt out to as many lanes as stages; each lane launches its next one when it has rested after its last."""
    clock = VirtualClock()
    executor = PipelinedExecutor(clock, Table(batches), Truth(np.array([1])), 10, 0, stages)
    decks = [deque(range(lane, len(batches), stages)) for lane in range(stages)]
    starts: list[tuple[int, int]] = []
    found, flying = Flow(), {}
    for lane, deck in enumerate(decks):
        if deck:
            heappush(starts, (batches[deck[0]][0], lane))
    while starts or clock.agenda:
        if clock.agenda and (not starts or clock.agenda[0][0] <= starts[0][0]):
            clock.now_ns, lane = heappop(clock.agenda)
            event = executor.done(lane)
            found.ended[flying[lane]] = clock.now_ns
            found.bubble[flying[lane]] = event.bubble_ns
            assert event.lane == lane
            if decks[lane]:
                heappush(starts, (clock.now_ns + batches[decks[lane][0]][0], lane))
            continue
        clock.now_ns, lane = heappop(starts)
        number = flying[lane] = decks[lane].popleft()
        found.order.append(number)
        found.launched.append(clock.now_ns)
        executor.run(Run(number, StepPlan(lane=lane), 1, batches[number][2], number))
    return found


def ticked(batches: Sequence[Batch], found: Flow, stages: int) -> tuple[dict[int, int], dict[int, int]]:
    """Ends and bubbles once more, nanosecond by nanosecond: each stage holds a queue and what it works on, no more."""
    queues: list[deque[tuple[int, int]]] = [deque() for _ in range(stages)]
    working: list[tuple[int, int] | None] = [None] * stages
    # -1: a stage that has not worked yet in this busy period.
    idle, ended, bubble = [-1] * stages, {}, dict.fromkeys(found.order, 0)
    launches = deque(zip(found.launched, found.order, strict=True))
    inside, now = 0, 0
    while launches or inside:
        for stage, job in enumerate(working):
            if job is not None and job[1] == now:
                working[stage] = None
                if stage + 1 < stages:
                    queues[stage + 1].append((now + batches[job[0]][2], job[0]))
                else:
                    ended[job[0]] = now
                    inside -= 1
        if not inside and (not launches or launches[0][0] > now):
            idle = [-1] * stages
        while launches and launches[0][0] == now:
            _, number = launches.popleft()
            queues[0].append((now, number))
            inside += 1
        # From the last stage to the first: each takes the next batch if it is there and nothing else is.
        for stage in range(stages):
            if working[stage] is None and queues[stage] and queues[stage][0][0] <= now:
                _, number = queues[stage].popleft()
                working[stage] = (number, now + batches[number][1][stage])
                bubble[number] += max(idle[stage], 0)
                idle[stage] = 0
        if not found.ended.keys() - ended.keys():
            break
        now += 1
        idle = [n + 1 if working[s] is None and n >= 0 else n for s, n in enumerate(idle)]
    return ended, bubble


@given(data=st.data())
def test_every_stage_takes_its_batches_in_turn(data: st.DataObject) -> None:
    stages = data.draw(st.integers(2, 4))
    time = st.integers(1, 15)
    batch = st.tuples(
        st.one_of(st.just(0), st.integers(0, 40)), st.tuples(*[time] * stages), st.one_of(st.just(0), st.integers(0, 5))
    )
    batches = data.draw(st.lists(batch, min_size=1, max_size=14))
    found = flow(batches, stages)
    ended, bubble = ticked(batches, found, stages)
    assert found.ended == ended
    assert found.bubble == bubble


@pytest.mark.parametrize("stages", [2, 3, 5])
def test_equal_batches_keep_the_pipeline_full(stages: int) -> None:
    """A batch ends every stage time, and each takes as many stage times as there are stages; nobody stands idle."""
    batches = [(0, (7,) * stages, 0)] * (20 * stages)
    found = flow(batches, stages)
    assert sorted(found.ended.values()) == [7 * (stages + i) for i in range(len(batches))]
    taken = [found.ended[n] - at for n, at in zip(found.order, found.launched, strict=True)]
    assert set(taken[stages:]) == {7 * stages}
    assert set(found.bubble.values()) == {0}


def test_a_bubble_by_hand() -> None:
    """A prompt of 10 ns a stage between decodes of 2: the second stage waits 8 ns for it, and the first 8 ns after it.

    stage 0: D0 0-2, P 2-12, D1 12-14 (its lane is back at 4); stage 1: D0 2-4, P 12-22, D1 22-24.
    Before P the second stage stands idle from 4 to 12. D1 finds both stages at once. After D1 comes D2, on P's lane: back at
    22, so the first stage is idle from 14 to 22, and the second is not: D2 comes at 24.
    """
    batches = [(0, (2, 2), 0), (0, (10, 10), 0), (0, (2, 2), 0), (0, (2, 2), 0)]
    found = flow(batches, 2)
    assert found.ended == {0: 4, 1: 22, 2: 24, 3: 26}
    assert found.bubble == {0: 0, 1: 8, 2: 0, 3: 8}


def test_the_way_between_stages_delays_and_does_not_work() -> None:
    found = flow([(0, (5, 5), 3)] * 2, 2)
    assert found.ended == {0: 13, 1: 18}


def test_one_request_alone_takes_every_stage_in_turn() -> None:
    """Tokens come one pass apart, stage by stage; and as the other pipe is empty, no published class of bubble is counted."""
    log = simulate(toy_resolved(pp=2), workload([(0, 10, 6)]), physics=lambda i: ConstantLatency(1_000))
    assert [step.end_ns for step in steps(log)] == [1_000 * (i + 1) for i in range(6)]
    assert log.summary["bubbles"] == {
        "share": 0.0,
        "pb1_s": 0.0,
        "pb2_s": 0.0,
        "pb3_s": 0.0,
        "unfilled_s": pytest.approx(5e-6),
    }


def test_two_equal_requests_share_two_stages() -> None:
    """Half a pass apart, each as if it were alone: twice the throughput, and no bubble at all."""
    rows = [(0, 10, 40), (500, 10, 40)]
    log = simulate(toy_resolved(pp=2), workload(rows), physics=lambda i: ConstantLatency(1_000))
    assert log.summary["tbt_s"]["mean"] == pytest.approx(1e-6)
    assert log.tables.requests["end_ns"].tolist() == [40_000, 40_500]
    assert log.summary["bubbles"]["share"] == 0.0
