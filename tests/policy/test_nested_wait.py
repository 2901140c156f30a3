"""Nested WAIT against a naive twin, and its limits by hand."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoded import requests, steps
from hands import Hand
from phasewise.core.action import Regroup, Run, WakeAt
from phasewise.core.errors import InputError
from phasewise.core.spec import PolicySpec
from phasewise.policy.batching.nested_wait import NestedWait
from phasewise.policy.catalog import build, resolved
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from worlds import ConstantLatency, Row, random_rows, toy_resolved, workload

STEP_NS = 1_000
Iteration = tuple[int, list[int], list[int], bool]
"""Start, prompts, decodes, forced."""


def shares(boundaries: list[int], survival: list[float], longest: int, limit: int) -> tuple[list[int], list[int]]:
    """Per-stage limits and caps of the segments, as the authors' code shares out its limit."""
    stages = [boundaries[0] + 1, *(b - a for a, b in pairwise([*boundaries, longest]))]
    weight = sum(n * p for n, p in zip(stages, survival, strict=True))
    caps = [limit * n * p / weight for n, p in zip(stages, survival, strict=True)]
    limits = [math.ceil(cap / n - 1e-9) for cap, n in zip(caps, stages, strict=True)]
    return limits, [max(1, math.floor(c + 1e-9)) for c in caps]


class Twin:
    """Segment by segment, with memory and seats for all and a constant step."""

    def __init__(
        self, rows: list[Row], boundaries: list[int], stage: list[int], cap: list[int] | None, wait_ns: int | None
    ) -> None:
        self.rows, self.boundaries, self.stage, self.cap, self.wait_ns = rows, boundaries, stage, cap, wait_ns
        self.queue: list[int] = []
        self.emitted: dict[int, int] = {}
        # In which segment each resident is; who stands at an entry is in none.
        self.within: dict[int, int] = {}
        self.arrived = self.now = 0

    def come(self, limit_ns: int) -> None:
        while self.arrived < len(self.rows) and self.rows[self.arrived][0] <= limit_ns:
            self.queue.append(self.arrived)
            self.arrived += 1

    def entries(self) -> list[list[int]]:
        """Who stands at the entry of each segment: of the first the queue, of the others in order of admission."""
        found: list[list[int]] = [self.queue, *([] for _ in self.boundaries)]
        for request, tokens in self.emitted.items():
            if request not in self.within:
                found[sum(b <= tokens for b in self.boundaries)].append(request)
        return found

    def wanted(self) -> list[int]:
        if self.cap is None:
            return self.stage
        held = Counter(self.within.values())
        return [max(0, min(n, c - held[k])) for k, (n, c) in enumerate(zip(self.stage, self.cap, strict=True))]

    def run(self) -> list[Iteration]:
        out: list[Iteration] = []
        while True:
            entries, wanted = self.entries(), self.wanted()
            runs = 0
            while runs < len(wanted) and len(entries[runs]) >= wanted[runs]:
                runs += 1
            due_ns = None
            if self.wait_ns is not None and (self.queue or self.emitted):
                due_ns = self.rows[self.queue[0] if self.queue else self.arrived - 1][0] + self.wait_ns
            forced = not runs and due_ns is not None and self.now >= due_ns
            if forced:
                wanted, runs = [wanted[0], *(len(entry) for entry in entries[1:])], len(wanted)
            if not runs:
                instants = [due_ns] if due_ns is not None else []
                instants += [self.rows[self.arrived][0]] if self.arrived < len(self.rows) else []
                if not instants:
                    return out
                self.now = max(self.now, min(instants))
                self.come(self.now)
                continue
            self.iterate(out, entries, wanted[:runs], forced)

    def iterate(self, out: list[Iteration], entries: list[list[int]], taken: list[int], forced: bool) -> None:
        for k in range(1, len(taken)):
            self.within.update(dict.fromkeys(entries[k][: taken[k]], k))
        prompts = entries[0][: taken[0]]
        decodes = [r for r, k in self.within.items() if k < len(taken)]
        out.append((self.now, sorted(prompts), sorted(decodes), forced))
        del self.queue[: len(prompts)]
        self.within.update(dict.fromkeys(prompts, 0))
        self.now += STEP_NS
        self.come(self.now - 1)
        for r in [*decodes, *prompts]:
            self.emitted[r] = self.emitted.get(r, 0) + 1
            if self.emitted[r] == self.rows[r][2]:
                del self.emitted[r], self.within[r]
            elif self.within[r] < len(self.boundaries) and self.emitted[r] >= self.boundaries[self.within[r]]:
                del self.within[r]


def iterations(run: RunLog) -> list[Iteration]:
    return [(round(s.start_ns), sorted(c.request for c in s.chunks), sorted(s.decodes), s.forced) for s in steps(run)]


BOUNDARIES = st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True).map(sorted)


@pytest.mark.parametrize("by", ["thresholds", "limit"])
@given(rows=random_rows(most=16, output=16, gap_ns=3 * STEP_NS), boundaries=BOUNDARIES, data=st.data())
@settings(max_examples=120, deadline=None)
def test_nested_wait_schedules_as_published(
    by: str, rows: list[Row], boundaries: list[int], data: st.DataObject
) -> None:
    wait_ns = data.draw(st.none() | st.integers(0, 30).map(lambda k: 1 + k * 700))
    params: dict[str, Any] = {"boundaries": boundaries, "max_wait_s": None if wait_ns is None else wait_ns / 1e9}
    size = len(boundaries) + 1
    cap = None
    if by == "thresholds":
        stage = params["thresholds"] = data.draw(st.lists(st.integers(1, 4), min_size=size, max_size=size))
    else:
        survival = sorted(data.draw(st.lists(st.floats(0.1, 1), min_size=size, max_size=size)), reverse=True)
        longest, limit = boundaries[-1] + data.draw(st.integers(1, 20)), data.draw(st.integers(2, 60))
        stage, cap = shares(boundaries, survival, longest, limit)
        params |= {"survival": survival, "longest": longest, "total_limit": limit}
    resolved = toy_resolved("nested-wait", params, blocks=4_000, block_tokens=1)
    run = simulate(resolved, workload(rows), physics=lambda i: ConstantLatency(STEP_NS))
    wanted = Twin(rows, boundaries, stage, cap, wait_ns).run()
    assert iterations(run) == wanted
    assert run.summary["forced"] == sum(forced for *_, forced in wanted)
    if wait_ns is not None:
        assert run.summary["completed"] == len(rows)
        return
    told = requests(run)
    for step in steps(run):
        # Each stage of a segment holds at most its limit, and only earlier segments run beside a later one.
        at = Counter((name, step.decodes[r] - told[r].prompt) for r, name in step.cohorts.items())
        assert all(count <= stage[int(name) - 1] for (name, _), count in at.items())


@given(rows=random_rows(most=7, output=16, gap_ns=20 * STEP_NS), wait_ns=st.integers(500, 40_000))
@settings(max_examples=60, deadline=None)
def test_nobody_waits_longer_than_the_longest_wait_and_a_step(rows: list[Row], wait_ns: int) -> None:
    """Too few ever come for a threshold, so that every plan is forced."""
    params = {"boundaries": [3, 9], "thresholds": [8, 8, 8], "max_wait_s": wait_ns / 1e9}
    resolved = toy_resolved("nested-wait", params, blocks=4_000, block_tokens=1)
    run = simulate(resolved, workload(rows), physics=lambda i: ConstantLatency(STEP_NS))
    assert run.summary["completed"] == len(rows)
    assert run.summary["forced"] == run.summary["iterations"]
    for told in requests(run).values():
        assert told.first_chunk_ns is not None
        assert told.first_chunk_ns - told.arrival_ns <= wait_ns + STEP_NS


def test_limits_by_hand() -> None:
    """Stages 4, 6, 21; weights 4, 4.8, 10.5; of 60: caps 12.4, 14.9, 32.6, so 4, 3 and 2 in each stage."""
    policy = NestedWait(boundaries=(3, 9), survival=(1.0, 0.8, 0.5), longest=30, total_limit=60)
    assert shares([3, 9], [1.0, 0.8, 0.5], 30, 60) == ([4, 3, 2], [12, 14, 32])
    assert policy._wanted([0, 0, 0]) == [4, 3, 2]
    assert policy._wanted([11, 12, 31]) == [1, 2, 1]
    assert policy._wanted([12, 14, 40]) == [0, 0, 0]


def test_survivors_wait_at_the_gate_with_their_blocks() -> None:
    """Two go in at a time; at two tokens they wait until three of them have gathered. Blocks of 1."""
    hand = Hand(NestedWait(boundaries=(2,), thresholds=(1, 2)), blocks=64, block_tokens=1)
    hand.submit(0, 5)
    assert hand.done() == [], "one token out, and nobody at the entry to set the segment going"
    regrouped = hand.submit(1, 5)
    assert [type(a) for a in regrouped] == [Run], "the first decodes beside the second's prompt"
    assert regrouped[0].plan.cohorts == ("1",)
    # Two tokens are out of the first: it stands at the gate from the next step on.
    assert hand.done() == []
    out = hand.submit(2, 5)
    assert out[0] == Regroup(((0, "gate"),))
    assert (out[1].plan.cohorts, out[1].decodes) == (("1",), 1)
    held = hand.ledger.held(hand.state.running[0])
    assert held == 6
    # The second gets there as well: with both at the entry the second segment runs, as long as the first one does.
    assert hand.done() == []
    out = hand.submit(3, 5)
    assert out[0] == Regroup(((0, "2"), (1, "2")))
    assert (out[1].plan.cohorts, out[1].decodes) == (("1", "2"), 3)


def test_a_ready_first_segment_without_room_waits_its_longest_and_then_all_move() -> None:
    """One at the gate holds the blocks that the next in line would need."""
    hand = Hand(NestedWait(boundaries=(1,), thresholds=(1, 2), max_wait_s=1e-6), blocks=8, block_tokens=4)
    assert [type(a) for a in hand.submit(0, 20)] == [Run]
    assert hand.done() == [WakeAt(1_010)]
    assert hand.submit(1, 16) == [WakeAt(1_020)]
    out = hand.wake(1_020)
    assert out[0] == Regroup(((0, "2"),))
    assert (out[1].plan.cohorts, out[1].plan.chunks, out[1].plan.forced) == (("2",), (), True)
    never = Hand(NestedWait(boundaries=(1,), thresholds=(1, 2)), blocks=8, block_tokens=4)
    never.submit(0, 20)
    assert never.done() == []
    assert never.submit(1, 16) == []


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"boundaries": [9, 3]}, "must rise"),
        ({"boundaries": [3, 9], "thresholds": [1, 2]}, "3 segments need 3 thresholds, not 2"),
        ({"boundaries": [3, 9]}, "3 segments need 3 shares of survival"),
        ({"boundaries": [3], "survival": [0.5, 0.6]}, "do not rise"),
        ({"boundaries": list(range(1, 63)), "thresholds": [1] * 63}, "63 segments; give at most 62"),
        ({"boundaries": [3], "survival": [1, 0.6], "longest": 3}, "above the last boundary"),
    ],
)
def test_a_wrong_description_says_what_is_wrong(params: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build("batcher", PolicySpec("nested-wait", params))


def test_resolved_parameters_are_plain_and_resolve_to_themselves() -> None:
    spec = resolved("batcher", PolicySpec("nested-wait", {"boundaries": [3], "thresholds": [2, 1]}))
    assert resolved("batcher", spec) == spec
    assert spec.params["boundaries"] == [3]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=PolicySpec) == spec
