"""DistServe's schedulers: a naive twin, how prompts are packed, that phases are never mixed, the bound on context, stalls."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from decoded import Step, requests, steps
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from twins import CROWDS, ROWS, STEP_NS, Job, Twin, compare, ours
from worlds import ConstantLatency, Row, ToyLatency, random_gone, random_rows, toy_resolved, workload


class DistServeTwin(Twin):
    """Prompts alone while any fits; else those in the batch, after letting in who fits into it."""

    def __init__(self, *args: Any, length: int, prompts: int, context: int | None) -> None:
        super().__init__(*args)
        self.length, self.prompts, self.context = length, prompts, context
        self.batch: set[Job] = set()

    def schedule(self) -> tuple[dict[Job, int], list[Job]]:
        work: dict[Job, int] = {}
        while self.waiting and len(self.running) < self.seats and len(work) < self.prompts:
            job = self.waiting[0]
            if self.lacking(job, job.known) > self.free - self.spare:
                break
            if work and sum(work.values()) + job.known > min(self.length, self.budget):
                break
            self.running.append(self.waiting.popleft())
            self.take(job, job.known)
            work[job] = job.known
        if work:
            return work, []
        preempted: list[Job] = []
        for job in [job for job in self.running if self.context is None or job in self.batch]:
            while job not in preempted and self.lacking(job, job.known) > self.free:
                self.batch.discard(self.preempt_last(preempted))
            if job not in preempted:
                self.take(job, job.known)
                work[job] = 1
        if self.context is not None and not preempted:
            self.let_in(work, self.context)
        if not work:
            self.preempt_last(preempted)
            self.batch.add(self.running[0])
            self.take(self.running[0], self.running[0].known)
            work[self.running[0]] = 1
        return work, preempted

    def let_in(self, work: dict[Job, int], most: int) -> None:
        for job in [job for job in self.running if job not in self.batch]:
            over = sum(other.computed for other in work) + job.computed > most
            if self.lacking(job, job.known) > self.free or (over and work):
                return
            self.take(job, job.known)
            work[job] = 1
            self.batch.add(job)


@given(
    rows=st.one_of(ROWS, CROWDS),
    size=st.sampled_from([1, 2, 4, 7]),
    room=st.integers(42, 80),
    seats=st.integers(1, 12),
    limits=st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4)),
    context=st.none() | st.integers(1, 60),
    watermark=st.sampled_from([0.0, 0.1, 0.2]),
)
@example([(0, 2, 25), (0, 6, 24), (0, 10, 23)], 1, 51, 11, (10, 60, 1), 56, 0.0)
@example([(0, 12, 12), (0, 2, 9), (0, 9, 17), (0, 2, 9)], 4, 48, 11, (10, 60, 4), 58, 0.0)
@example([(1000, 12, 20), (1000, 4, 18), (1000, 10, 16), (1000, 11, 11)], 4, 40, 8, (10, 60, 1), 50, 0.0)
@settings(max_examples=300, deadline=None)
def test_distserve_packs_and_admits_as_the_twin(
    rows: list[Row],
    size: int,
    room: int,
    seats: int,
    limits: tuple[int, int, int],
    context: int | None,
    watermark: float,
) -> None:
    blocks = -(-room // size)
    spare = int(watermark * blocks)
    length, budget, prompts = limits
    params = {
        "saturation_tokens": length,
        "prefill_tokens": budget,
        "prefill_seqs": prompts,
        "max_seqs": seats,
        "decode_tokens": context,
        "watermark": watermark,
    }
    limit = (blocks - spare) * size
    twin = DistServeTwin(
        rows, blocks, size, budget, seats, limit, spare, length=length, prompts=prompts, context=context
    )
    compare(ours("distserve", rows, blocks, size, params, None), list(twin.run()))


def toy(rows: list[Row], gone: dict[int, int] | None = None, **world: Any) -> RunLog:
    return simulate(toy_resolved("distserve", **world), workload(rows, gone), physics=lambda i: ToyLatency())


def batches(found: list[Step]) -> list[list[int]]:
    return [[chunk.tokens for chunk in step.chunks] for step in found if step.chunks]


def test_prompts_are_packed_up_to_the_saturation_length() -> None:
    """Never above it but alone, and nobody is passed over for one that would fit."""
    rows = [(0, tokens, 1) for tokens in (200, 200, 200, 600, 100, 413, 12, 500)]
    assert batches(steps(toy(rows, blocks=400))) == [[200, 200], [200], [600], [100], [413, 12], [500]]
    assert batches(steps(toy(rows, params={"prefill_seqs": 1}, blocks=400))) == [[r[1]] for r in rows]
    few = {"saturation_tokens": 2000, "prefill_tokens": 450}
    assert batches(steps(toy(rows, params=few, blocks=400))) == [[200, 200], [200], [600], [100], [413, 12], [500]]
    many = batches(steps(toy(rows, params={"saturation_tokens": 9000}, blocks=400)))
    assert many == [[tokens for _, tokens, _ in rows]]


@st.composite
def runs(draw: st.DrawFn) -> tuple[RunLog, dict[str, Any]]:
    """A small run under memory pressure, with people hanging up."""
    rows = draw(random_rows(most=12, prompt=60, output=25))
    gone = draw(st.one_of(st.just({}), random_gone(rows)))
    params = {
        "saturation_tokens": draw(st.integers(1, 80)),
        "max_seqs": draw(st.integers(1, 8)),
        "decode_tokens": draw(st.none() | st.integers(1, 150)),
    }
    size = draw(st.sampled_from([1, 4, 16]))
    return toy(rows, gone, params=params, blocks=draw(st.integers(100, 200)) // size, block_tokens=size), params


@given(runs())
@settings(max_examples=100, deadline=None)
def test_phases_are_never_mixed_and_limits_hold(found: tuple[RunLog, dict[str, Any]]) -> None:
    run, params = found
    batch: set[int] = set()
    limit = params["decode_tokens"]
    for step in steps(run):
        assert not (step.chunks and step.decodes), "prompts beside decodes"
        assert not (step.chunks and step.preempt)
        assert all(chunk.start == 0 and chunk.joins is not None for chunk in step.chunks), "a prompt in pieces"
        assert len(step.chunks) < 2 or step.tokens <= params["saturation_tokens"]
        assert len(step.schedule) <= params["max_seqs"]
        if limit is not None and step.decodes:
            entered = set(step.decodes) - batch
            assert not entered or len(step.decodes) == 1 or sum(step.decodes.values()) <= limit
            batch = set(step.decodes)


def test_who_is_in_the_batch_stays_and_the_others_wait_their_turn() -> None:
    """Contexts of 10 each and a limit of 25: two decode though they grow beyond it, the third follows when one has ended."""
    params = {"decode_tokens": 25}
    resolved = toy_resolved("distserve", params, blocks=200, block_tokens=1)
    rows = [(0, 10, 9), (0, 10, 12), (0, 10, 5), (0, 2, 5)]
    run = simulate(resolved, workload(rows), physics=lambda i: ConstantLatency(STEP_NS))
    found = [sorted(step.decodes) for step in steps(run)[1:]]
    # 0 ends with its ninth token; 1 has 18 by then, so 2 is beyond the limit, and 3, behind it, is not let in before it.
    assert found == [[0, 1]] * 8 + [[1]] * 3 + [[2, 3]] * 4
    together = steps(run)[8]
    assert sum(together.decodes.values()) > 25


def test_a_prompt_stalls_all_decodes_for_its_time() -> None:
    run = toy([(0, 16, 400), (0, 16, 500), (500_000, 4096, 10)], blocks=2000)
    found = steps(run)
    at, prompt = next((i, step) for i, step in enumerate(found) if any(chunk.request == 2 for chunk in step.chunks))
    assert not prompt.decodes
    told = requests(run)
    for request in (0, 1):
        gaps = [b - a for a, b in itertools.pairwise(told[request].token_ns)]
        long = [gap for gap in gaps if gap > (prompt.end_ns - prompt.start_ns) / 2]
        assert long == [found[at + 1].end_ns - prompt.start_ns]


def test_a_prefill_replica_alone_serves_saturated_batches() -> None:
    """Answers of one token, as a prefill replica sees them: batches of about equal tokens but for the long prompts."""
    rows = [(0, 40 + 37 * i % 300, 1) for i in range(40)]
    sizes = [sum(batch) for batch in batches(steps(toy(rows, blocks=4000)))]
    assert max(sizes) <= 512
    assert min(sizes[:-1]) > 512 - 340
