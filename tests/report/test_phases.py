"""The series of a timeline agree with an independent reading of the events; the stretch shown is the busiest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import decoded
from phasewise.core.errors import InputError
from phasewise.record.columns import PREEMPTED
from phasewise.record.runlog import RunLog
from phasewise.report.phases import Phases, busiest, phases
from phasewise.sim.simulate import simulate
from worlds import Row, ToyLatency, random_rows, toy_resolved, workload

BATCHERS: list[tuple[str, dict[str, Any]]] = [
    ("static", {}),
    ("vllm-v1", {"token_budget": 64, "max_seqs": 8}),
    ("sarathi", {"token_budget": 24}),
]
NESTED = ("nested-wait", {"boundaries": [3, 9], "thresholds": [2, 2, 1], "max_wait_s": 30e-6})
STANDING = [("vllm-v0", {}), ("wait", {"threshold": 2, "max_wait_s": 30e-6}), NESTED]
"""With these, residents stand still now and then."""


def ran(rows: list[Row], batcher: str = "sarathi", params: dict[str, Any] | None = None, **more: Any) -> RunLog:
    resolved = toy_resolved(batcher, {"token_budget": 24} if params is None else params, **more)
    return simulate(resolved, workload(rows), physics=lambda replica: ToyLatency())


def level(at_s: Any, counts: Any, instant_s: float) -> int:
    """A step function at an instant: the count of the last change at or before it."""
    index = int(np.searchsorted(at_s, instant_s, side="right"))
    return int(counts[index - 1]) if index else 0


@given(random_rows(), st.sampled_from([*BATCHERS, *STANDING]), st.integers(10, 24))
def test_steps_and_gaps_are_those_of_the_events(
    rows: list[Row], batcher: tuple[str, dict[str, Any]], blocks: int
) -> None:
    log = ran(rows, *batcher, blocks=blocks)
    series = phases(log)
    origin = min(row[0] for row in rows)
    steps = decoded.steps(log)
    starts = np.round(series.start_s * 1e9) + origin
    ends = np.round(series.end_s * 1e9) + origin
    before: dict[str, tuple[float, set[int]]] = {}
    second: decoded.Step | None = None
    for step in steps:
        before = {name: (end_ns, members - set(step.preempt)) for name, (end_ns, members) in before.items()}
        middle = (step.start_ns + step.end_ns) / 2
        row = int(np.searchsorted(starts, middle, side="right")) - 1
        assert starts[row] <= middle <= ends[row]
        assert series.prefill[row] == sum(chunk.tokens for chunk in step.chunks)
        assert series.decodes[row] == len(step.decodes)
        if not step.decodes:
            assert np.isnan(series.first_gap_s[row])
            continue
        gap = 0.0
        for name in set(step.cohorts.values()):
            members = {request for request, cohort in step.cohorts.items() if cohort == name}
            end_ns, earlier = before.get(name, (0.0, set()))
            gap = max(gap, step.end_ns - (end_ns if members & earlier else step.start_ns))
            before[name] = (step.end_ns, members)
        if abs(step.start_ns - starts[row]) < 1:
            assert series.first_gap_s[row] * 1e9 == pytest.approx(gap, abs=2)
            assert series.first_end_s[row] * 1e9 + origin == pytest.approx(step.end_ns, abs=2)
            second = step
        elif second is not None:
            assert series.second_gap_s[row] * 1e9 == pytest.approx(gap, abs=2)
            second = None
        if abs(step.end_ns - ends[row]) < 1:
            assert series.last_gap_s[row] * 1e9 == pytest.approx(gap, abs=2)


@given(random_rows(), st.sampled_from([*BATCHERS, NESTED]), st.integers(10, 24), st.data())
def test_waiting_and_inside_are_those_of_the_events(
    rows: list[Row], batcher: tuple[str, dict[str, Any]], blocks: int, data: st.DataObject
) -> None:
    log = ran(rows, *batcher, blocks=blocks)
    spans = log.tables.spans[0]
    # The columns do not say when a prompt in progress was preempted, or one who stood still.
    lost = spans["last"] < 0 if batcher is not NESTED else spans["last"] >= -1
    assume(not ((spans["left"] == PREEMPTED) & lost).any())
    series = phases(log)
    origin = min(row[0] for row in rows)
    waits: dict[int, list[float]] = {i: [float(row[0])] for i, row in enumerate(rows)}
    for step in decoded.steps(log):
        for request in step.preempt:
            waits[request].append(step.start_ns)
        for chunk in step.chunks:
            if len(waits[chunk.request]) % 2:
                waits[chunk.request].append(step.start_ns)
    told = decoded.requests(log)
    at_ns = data.draw(st.integers(origin, int(max(t.token_ns[-1] for t in told.values())))) + 0.5
    waiting = sum(sum(at <= at_ns for at in changes) % 2 for changes in waits.values())
    inside = sum(t.arrival_ns <= at_ns < t.token_ns[-1] for t in told.values())
    assert level(series.waiting_at_s, series.waiting, (at_ns - origin) / 1e9) == waiting
    assert level(series.inside_at_s, series.inside, (at_ns - origin) / 1e9) == inside
    assert series.waiting[-1] == series.inside[-1] == 0


def test_each_replica_has_its_own() -> None:
    log = ran([(0, 10, 5), (1000, 20, 5), (2000, 30, 5)], replicas=2)
    assert phases(log, 0).prompt.tolist() == [10, 30]
    assert phases(log, 1).prompt.tolist() == [20]
    # Rounds of turns: the first replica's first request arrives when the run begins, the second's a microsecond later.
    assert phases(log, 1).arrival_s.tolist() == [1e-6]


def test_replicas_that_are_not_there() -> None:
    log = ran([(0, 10, 5)], replicas=2)
    with pytest.raises(InputError, match="no replica 2; the run has 0 to 1"):
        phases(log, 2)
    with pytest.raises(InputError, match="nothing ran on replica 1"):
        phases(log, 1)


def series_of(arrival_s: Any, prompt: Any, end_s: float) -> Phases:
    none, zero = np.empty(0), np.empty(0, np.int64)
    ends = np.array([end_s])
    return Phases(
        ends * 0,
        ends,
        zero,
        zero,
        none,
        none,
        none,
        none,
        none,
        zero,
        none,
        zero,
        np.asarray(arrival_s, float),
        np.asarray(prompt, np.int64),
    )


def test_a_short_run_is_shown_whole() -> None:
    assert busiest(series_of([0, 1, 2], [10, 10, 10], 9.0)) == (0.0, 9.0)


def test_the_burst_is_shown() -> None:
    arrival = np.arange(0, 1000, 0.5)
    prompt = np.full(len(arrival), 100)
    prompt[(arrival >= 700) & (arrival < 710)] = 2000
    low, high = busiest(series_of(arrival, prompt, 1010.0))
    assert 10 <= high - low <= 60
    assert low < 700
    assert high > 710


@given(st.integers(1, 400), st.floats(0.01, 3000), st.integers(0, 5))
def test_the_stretch_lies_within_the_run(n: int, length_s: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.uniform(0, length_s, n))
    low, high = busiest(series_of(arrival, rng.integers(1, 4000, n), length_s * 1.1))
    assert 0 <= low < high <= length_s * 1.1


def test_all_batchers_show_the_same_stretch() -> None:
    rows = [(i * 50_000_000, 10 + i % 7, 20) for i in range(2000)]
    shown = {busiest(phases(ran(rows, *batcher))) for batcher in BATCHERS}
    assert len(shown) == 1
