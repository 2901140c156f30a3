"""Splitwise's machine-level scheduler: a naive twin, ageing by hand, what it promises under pressure, and its stalls."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoded import Step, requests, steps
from phasewise.core.action import Outcome, Regroup, Run
from phasewise.core.step import ALL, Chunk
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from twins import CROWDS, ROWS, STEP_NS, Job, Twin, compare, ours
from worlds import ConstantLatency, Row, ToyLatency, random_gone, random_rows, toy_resolved, workload


class SplitwiseTwin(Twin):
    """Five lists, one after the other; each request remembers how often it was left out, and whether the last time was."""

    def __init__(self, *args: Any, most: int) -> None:
        super().__init__(*args)
        self.most = most
        self.times: dict[Job, int] = {}
        self.stands: set[Job] = set()
        self.served: set[Job] = set()

    def schedule(self) -> tuple[dict[Job, int], list[Job]]:
        preempted: list[Job] = []
        while sum(self.lacking(job, job.known) for job in self.running) > self.free:
            victim = self.preempt_last(preempted)
            self.times.pop(victim, None)
            self.stands.discard(victim)
            self.served.discard(victim)
        decodes = list(self.running)
        kept_free = self.spare + sum(self.lacking(job, job.known) for job in decodes)
        work: dict[Job, int] = {}
        aged = [job for job in decodes if self.times.get(job, 0) >= self.most]
        younger = sorted((job for job in decodes if job not in aged), key=lambda job: -self.times.get(job, 0))
        self.decode(work, [job for job in aged if job in self.stands])
        self.decode(work, aged)
        if not preempted:
            self.admit(work, kept_free)
        self.decode(work, [job for job in younger if job in self.stands])
        self.decode(work, [job for job in younger if job in self.served])
        self.decode(work, younger)
        for job in decodes:
            if job in work:
                self.stands.discard(job)
                self.served.add(job)
            else:
                self.times[job] = self.times.get(job, 0) + 1
                self.stands.add(job)
        return work, preempted

    def decode(self, work: dict[Job, int], jobs: list[Job]) -> None:
        for job in jobs:
            if job not in work and len(work) < self.seats and sum(work.values()) < self.budget:
                self.take(job, job.known)
                work[job] = 1

    def admit(self, work: dict[Job, int], kept_free: int) -> None:
        prompts = 0
        while self.waiting and len(work) < self.seats and sum(work.values()) < self.budget:
            job = self.waiting[0]
            if prompts and sum(work.values()) + job.known > self.budget:
                return
            # What the chosen decodes need is taken already, and counted once.
            taken = sum(1 for other in work if other.decoding and self.grown(other))
            if self.lacking(job, job.known) > self.free - (kept_free - taken):
                return
            self.running.append(self.waiting.popleft())
            self.take(job, job.known)
            work[job] = job.known
            prompts += 1

    def grown(self, job: Job) -> bool:
        """Whether the job, chosen to decode, took a block for it."""
        return (job.known - 1) % self.size == 0


def twin_of(rows: list[Row], blocks: int, size: int, params: dict[str, Any]) -> SplitwiseTwin:
    spare = int(params["watermark"] * blocks)
    limit = (blocks - spare) * size
    return SplitwiseTwin(
        rows, blocks, size, params["token_budget"], params["max_seqs"], limit, spare, most=params["max_preemptions"]
    )


@given(
    rows=st.one_of(ROWS, CROWDS),
    size=st.sampled_from([1, 2, 4, 7]),
    room=st.integers(60, 140),
    seats=st.integers(1, 12),
    budget=st.integers(1, 60),
    most=st.integers(1, 4),
    watermark=st.sampled_from([0.0, 0.1, 0.2]),
)
@settings(max_examples=300, deadline=None)
def test_splitwise_chooses_in_its_order(
    rows: list[Row], size: int, room: int, seats: int, budget: int, most: int, watermark: float
) -> None:
    blocks = -(-room // size)
    params = {"token_budget": budget, "max_seqs": seats, "max_preemptions": most, "watermark": watermark}
    compare(ours("splitwise", rows, blocks, size, params, None), list(twin_of(rows, blocks, size, params).run()))


def toy(rows: list[Row], gone: dict[int, int] | None = None, **world: Any) -> RunLog:
    return simulate(toy_resolved("splitwise", **world), workload(rows, gone), physics=lambda i: ToyLatency())


def even(rows: list[Row], blocks: int = 400, **params: Any) -> list[Step]:
    """Steps of 1,000 ns each, in blocks of one token."""
    resolved = toy_resolved("splitwise", params, blocks=blocks, block_tokens=1)
    return steps(simulate(resolved, workload(rows), physics=lambda i: ConstantLatency(STEP_NS)))


def test_a_decode_is_left_out_four_times_and_then_no_more() -> None:
    """A stream of prompts that fill the budget: the first decode stands for four of them, then each goes with it."""
    rows = [(0, 5, 12), *((i * STEP_NS - 1, 20, 1) for i in range(1, 9))]
    found = even(rows, token_budget=20)
    assert [(sorted(s.decodes), [c.request for c in s.chunks]) for s in found[:9]] == [
        ([], [0]),
        *(([], [i]) for i in (1, 2, 3, 4)),
        *(([0], [i]) for i in (5, 6, 7, 8)),
    ]
    assert [s.cohorts.get(0) for s in found[5:9]] == ["preempted 4"] * 4
    # Each of the four is longer than the 19 tokens that are left beside it: the first prompt may be.
    assert all(s.tokens == 21 for s in found[5:9])


def test_whoever_stood_goes_before_whoever_was_served() -> None:
    """A prompt leaves room for one of three decodes, and another for one: the turn goes round, the one that stood first."""
    rows = [(0, 4, 12), (0, 4, 12), (0, 4, 12), (2 * STEP_NS, 11, 1), (3 * STEP_NS, 11, 1), (4 * STEP_NS, 30, 1)]
    found = even(rows, token_budget=12)
    assert [sorted(s.decodes) for s in found[1:7]] == [[0, 1, 2], [0, 1, 2], [0], [1], [], [0, 1, 2]]
    assert [[c.request for c in s.chunks] for s in found[1:7]] == [[], [], [3], [4], [5], []]
    assert found[6].cohorts == {0: "preempted 2", 1: "preempted 2", 2: "preempted 3"}


def test_new_decodes_go_last() -> None:
    """Two decodes run; the third has just finished its prompt when another prompt leaves room for two decodes."""
    rows = [(0, 4, 12), (0, 4, 12), (STEP_NS, 4, 12), (2 * STEP_NS, 10, 1)]
    found = even(rows, token_budget=12)
    both, joined, squeezed = found[1:4]
    assert (sorted(both.decodes), sorted(joined.decodes)) == ([0, 1], [0, 1])
    assert [c.request for c in joined.chunks] == [2]
    assert ([c.request for c in squeezed.chunks], sorted(squeezed.decodes)) == ([3], [0, 1])


def test_with_more_residents_than_seats_they_take_turns() -> None:
    """Four decodes for two seats, with all of them aged: each is in every other iteration."""
    rows = [(0, 4, 40)] * 4
    found = [sorted(step.decodes) for step in even(rows, max_seqs=2, max_preemptions=2)][12:40]
    assert all(len(step) == 2 for step in found)
    assert all(not set(a) & set(b) for a, b in itertools.pairwise(found))


@st.composite
def runs(draw: st.DrawFn) -> tuple[RunLog, dict[str, Any]]:
    """A small run under pressure, with people hanging up; all that can be aged at once fits into an iteration."""
    rows = draw(random_rows(most=14, prompt=60, output=25))
    gone = draw(st.one_of(st.just({}), random_gone(rows)))
    params = {
        "token_budget": draw(st.integers(15, 50)),
        "max_seqs": 15,
        "max_preemptions": draw(st.integers(1, 4)),
    }
    size = draw(st.sampled_from([1, 4, 16]))
    return toy(rows, gone, params=params, blocks=draw(st.integers(100, 260)) // size, block_tokens=size), params


@given(runs())
@settings(max_examples=150, deadline=None)
def test_what_it_promises_under_pressure(found: tuple[RunLog, dict[str, Any]]) -> None:
    run, params = found
    most = params["max_preemptions"]
    told = requests(run)
    # Cancelled ones drop out at a boundary that the steps do not show.
    finished = {request for request, its in told.items() if its.outcome is Outcome.FINISHED}
    left_out: dict[int, int] = {}
    for step in steps(run):
        for victim in step.preempt:
            left_out.pop(victim, None)
        assert not (step.preempt and step.chunks)
        assert all(chunk.start == 0 and chunk.joins == ALL for chunk in step.chunks), "a prompt in pieces"
        assert len(step.schedule) <= params["max_seqs"]
        if step.tokens > params["token_budget"]:
            assert len(step.chunks) == 1, "several prompts above the budget"
            assert {left_out[r] for r in step.decodes} <= {most}, "younger decodes beside a prompt that is too long"
        left_out = {r: times + (r not in step.decodes) for r, times in left_out.items()}
        assert all(times <= most for r, times in left_out.items() if r in finished), "left out too often"
        left_out.update({chunk.request: 0 for chunk in step.chunks})
        left_out = {r: times for r, times in left_out.items() if told[r].token_ns[-1] > step.end_ns}


def gaps(run: RunLog, request: int) -> list[float]:
    return [b - a for a, b in itertools.pairwise(requests(run)[request].token_ns)]


PAIR: list[Row] = [(0, 16, 400), (0, 16, 500)]


@pytest.mark.parametrize(("prompt", "stalls"), [(4096, True), (1500, False)])
def test_a_prompt_above_the_budget_stalls_the_decodes_and_one_below_takes_them_along(prompt: int, stalls: bool) -> None:
    run = toy([*PAIR, (500_000, prompt, 10)], blocks=2000)
    found = steps(run)
    at, long = next((i, step) for i, step in enumerate(found) if any(chunk.request == 2 for chunk in step.chunks))
    assert sorted(long.decodes) == ([] if stalls else [0, 1])
    whole = ToyLatency().pieces((Chunk(2, 0, prompt, prompt),), 0, 0, 1)[0][0]
    for request in (0, 1):
        [gap] = [gap for gap in gaps(run, request) if gap > whole / 2]
        assert gap == (found[at + 1].end_ns - long.start_ns if stalls else long.end_ns - long.start_ns)


def test_decodes_leap_whoever_has_been_preempted() -> None:
    """Four requests that a long prompt leaves out once: from then on a leap lasts until somebody ends."""
    rows = [(0, 8, 200), (0, 8, 300), (0, 8, 400), (0, 8, 500), (100_000, 100, 600)]
    run = toy(rows, params={"token_budget": 64}, blocks=400)
    runs = [a for _, _, actions in run.records(1) for a in actions if type(a) is Run]
    moves = [a for _, _, actions in run.records(1) for a in actions if type(a) is Regroup]
    assert sum(plan.repeat == 1 for plan in (r.plan for r in runs)) == 2
    # Prompts, a leap that the long prompt cuts, that prompt, and a leap to each end.
    assert len(runs) == 3 + 5
    assert [len(action.moves) for action in moves] == [4, 4]
    assert {r.plan.cohorts for r in runs[3:7]} == {(ALL, "preempted 1")}
    assert runs[7].plan.cohorts == (ALL,)


def test_prompts_keep_what_the_decodes_need_next() -> None:
    """Two decodes at the edge of their blocks of four: a prompt that would take one of the last two waits."""
    rows = [(0, 4, 9), (0, 4, 9), (STEP_NS // 2, 12, 2)]
    resolved = toy_resolved("splitwise", {"watermark": 0.0}, blocks=6, block_tokens=4)
    run = simulate(resolved, workload(rows), physics=lambda i: ConstantLatency(STEP_NS))
    assert not any(step.preempt for step in steps(run))
    told = requests(run)
    assert told[2].first_chunk_ns == told[1].token_ns[-1]
