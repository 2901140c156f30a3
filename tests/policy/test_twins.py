"""Naive twins of the paging batchers: token by token, list by list, as the published schedulers are written.

They preempt one victim at a time; with a constant step time, our schedule must be theirs, iteration by iteration.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twins import ROWS, Job, Twin, compare, ours
from worlds import Row


class VllmTwin(Twin):
    """The v1 scheduler's loop over `running`, then over `waiting`, with its inner loop of preemptions."""

    def schedule(self) -> tuple[dict[Job, int], list[Job]]:
        left, index = self.budget, 0
        work: dict[Job, int] = {}
        preempted: list[Job] = []
        while index < len(self.running) and left > 0:
            job = self.running[index]
            tokens = min(job.known - job.computed, left)
            while self.lacking(job, job.computed + tokens) > self.free:
                if self.preempt_last(preempted) is job:
                    break
            if job in preempted:
                break
            self.take(job, job.computed + tokens)
            work[job] = tokens
            left -= tokens
            index += 1
        while not preempted and self.waiting and left > 0 and len(self.running) < self.seats:
            job = self.waiting[0]
            tokens = min(job.known, left)
            if self.lacking(job, tokens) > self.free:
                break
            self.running.append(self.waiting.popleft())
            self.take(job, tokens)
            work[job] = tokens
            left -= tokens
        return work, preempted


class SarathiTwin(Twin):
    """Algorithm 3: decodes, then prompts in progress, then new ones with all their blocks above the watermark."""

    def schedule(self) -> tuple[dict[Job, int], list[Job]]:
        work: dict[Job, int] = {}
        preempted: list[Job] = []
        for job in [job for job in self.running if job.decoding]:
            while job not in preempted and self.lacking(job, job.known) > self.free:
                self.preempt_last(preempted)
            if job not in preempted:
                self.take(job, job.known)
                work[job] = 1
        for victim in preempted:
            work.pop(victim, None)
        left = self.budget - len(work)
        for job in self.running:
            if job not in work and left > 0:
                work[job] = min(job.known - job.computed, left)
                left -= work[job]
        while self.waiting and left > 0 and len(self.running) < self.seats:
            job = self.waiting[0]
            if self.lacking(job, job.known) > self.free - self.spare:
                break
            self.running.append(self.waiting.popleft())
            self.take(job, job.known)
            work[job] = min(job.known, left)
            left -= work[job]
        return work, preempted


class OrcaTwin(Twin):
    """Everybody decodes; whole prompts join while the longest context fits and a seat is free."""

    def schedule(self) -> tuple[dict[Job, int], list[Job]]:
        work = dict.fromkeys(self.running, 1)
        most = 1 if self.budget else len(self.waiting)
        while self.waiting and most and len(self.running) < self.seats:
            if self.lacking(self.waiting[0], self.limit) > self.free:
                break
            job = self.waiting.popleft()
            self.running.append(job)
            self.take(job, self.limit)
            work[job] = job.known
            most -= 1
        return work, []


class FirstVllmTwin(Twin):
    """Prompts alone while any fits, else one token for each; who finds no block puts off the last to have come."""

    def schedule(self) -> tuple[dict[Job, int], list[Job]]:
        work: dict[Job, int] = {}
        while self.waiting and len(self.running) < self.seats:
            job = self.waiting[0]
            if self.lacking(job, job.known) > self.free - self.spare:
                break
            if work and sum(work.values()) + job.known > self.budget:
                break
            self.running.append(self.waiting.popleft())
            self.take(job, job.known)
            work[job] = job.known
        if work:
            return work, []
        preempted: list[Job] = []
        assert [(job.arrival, job.id) for job in self.running] == sorted((job.arrival, job.id) for job in self.running)
        for job in list(self.running):
            while job not in preempted and self.lacking(job, job.known) > self.free:
                self.preempt_last(preempted)
            if job not in preempted:
                self.take(job, job.known)
                work[job] = 1
        return work, preempted


@given(
    rows=ROWS,
    size=st.sampled_from([1, 2, 4, 7]),
    room=st.integers(45, 90),
    seats=st.integers(1, 6),
    extra=st.integers(0, 30),
)
@example(rows=[(0, 5, 14), (0, 24, 14)], size=1, room=45, seats=2, extra=4)
@example(rows=[(0, 34, 5), (0, 7, 5)], size=7, room=42, seats=2, extra=60)
@settings(max_examples=120, deadline=None)
def test_vllm_v1_schedules_as_the_published_loop(rows: list[Row], size: int, room: int, seats: int, extra: int) -> None:
    blocks = -(-room // size)
    twin = VllmTwin(rows, blocks, size, seats + extra, seats, blocks * size, 0)
    params = {"token_budget": seats + extra, "max_seqs": seats}
    compare(ours("vllm-v1", rows, blocks, size, params, None), list(twin.run()))


@given(
    rows=ROWS,
    size=st.sampled_from([1, 2, 4, 7]),
    room=st.integers(60, 100),
    seats=st.integers(1, 6),
    budget=st.integers(1, 40),
    watermark=st.sampled_from([0.0, 0.1, 0.2]),
)
@settings(max_examples=120, deadline=None)
def test_sarathi_schedules_as_algorithm_3(
    rows: list[Row], size: int, room: int, seats: int, budget: int, watermark: float
) -> None:
    blocks = -(-room // size)
    spare = int(watermark * blocks)
    limit = (blocks - spare) * size
    params = {"token_budget": budget, "max_seqs": seats, "watermark": watermark}
    twin = SarathiTwin(rows, blocks, size, budget, seats, limit, spare)
    compare(ours("sarathi", rows, blocks, size, params, None), list(twin.run()))


@given(rows=ROWS, size=st.sampled_from([1, 4, 7]), limit=st.integers(46, 60), data=st.data())
@settings(max_examples=80, deadline=None)
def test_orca_schedules_as_pictured(rows: list[Row], size: int, limit: int, data: st.DataObject) -> None:
    seats, one = data.draw(st.integers(1, 5)), data.draw(st.booleans())
    blocks = data.draw(st.integers(-(-limit // size), 200 // size))
    twin = OrcaTwin(rows, blocks, size, int(one), seats, limit, 0)
    params = {"max_seqs": seats, "one_prefill": one}
    compare(ours("orca", rows, blocks, size, params, limit), list(twin.run()))


@given(
    rows=ROWS,
    size=st.sampled_from([1, 2, 4, 7]),
    room=st.integers(60, 100),
    seats=st.integers(1, 6),
    budget=st.integers(1, 60),
    watermark=st.sampled_from([0.0, 0.1, 0.2]),
)
@settings(max_examples=120, deadline=None)
def test_vllm_v0_schedules_prompts_first(
    rows: list[Row], size: int, room: int, seats: int, budget: int, watermark: float
) -> None:
    blocks = -(-room // size)
    spare = int(watermark * blocks)
    params = {"token_budget": budget, "max_seqs": seats, "watermark": watermark}
    twin = FirstVllmTwin(rows, blocks, size, budget, seats, (blocks - spare) * size, spare)
    compare(ours("vllm-v0", rows, blocks, size, params, None), list(twin.run()))


def test_the_twins_see_pressure() -> None:
    """The comparison is worth something only if preemptions occur: here the workloads that it draws do preempt."""
    rows = [(i * 100, 20, 14) for i in range(6)]
    for name, params in (
        ("vllm-v1", {"token_budget": 12, "max_seqs": 6}),
        ("sarathi", {"token_budget": 12, "watermark": 0.0}),
        ("vllm-v0", {"watermark": 0.0}),
    ):
        found = ours(name, rows, 30, 2, params, None)
        assert sum(len(preempt) for _, _, preempt in found) >= 2, name


@pytest.mark.parametrize("seats", [1, 2, 4])
def test_an_answer_that_would_pass_the_context_ends_there(seats: int) -> None:
    rows = [(0, 10, 500), (0, 39, 500), (0, 1, 500)]
    twin = VllmTwin(rows, 40, 1, 20, seats, 40, 0)
    compare(ours("vllm-v1", rows, 40, 1, {"token_budget": 20, "max_seqs": seats}, 40), list(twin.run()))
