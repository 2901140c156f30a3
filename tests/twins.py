"""What naive twins of batchers have in common: queue, running list, free blocks, and the loop around `schedule`.

A twin schedules token by token, list by list, as the published scheduler is written. It keeps every request's blocks itself
and knows nothing of leaps, cohorts or budgets on paper. With a constant step time, our schedule must be the twin's, iteration
by iteration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any

from decoded import steps
from phasewise.sim.simulate import simulate
from worlds import ConstantLatency, Row, random_rows, toy_resolved, workload

STEP_NS = 1_000
Iteration = tuple[int, dict[int, tuple[int, int]], tuple[int, ...]]
"""Start, what is computed (request -> tokens before, tokens now), and who is preempted first, in order."""


class Job:
    def __init__(self, request: int, row: Row) -> None:
        self.id, self.arrival, self.prompt, self.output = request, *row
        self.computed = 0
        self.generated = 0
        self.blocks = 0
        self.decoding = False

    @property
    def known(self) -> int:
        return self.prompt + self.generated


class Twin(ABC):
    """What all twins have in common: queue, running list, free blocks, and the loop around `schedule`."""

    def __init__(
        self, rows: list[Row], blocks: int, size: int, budget: int, seats: int, limit: int, spare: int
    ) -> None:
        self.jobs = [Job(i, row) for i, row in enumerate(rows)]
        self.free, self.size, self.budget, self.seats, self.limit, self.spare = (
            blocks,
            size,
            budget,
            seats,
            limit,
            spare,
        )
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []

    def lacking(self, job: Job, tokens: int) -> int:
        return max(0, -(-tokens // self.size) - job.blocks)

    def take(self, job: Job, tokens: int) -> None:
        extra = self.lacking(job, tokens)
        assert extra <= self.free
        job.blocks += extra
        self.free -= extra

    def give(self, job: Job) -> None:
        self.free += job.blocks
        job.blocks = 0

    def preempt_last(self, preempted: list[Job]) -> Job:
        victim = self.running.pop()
        self.give(victim)
        victim.computed = 0
        victim.decoding = False
        self.waiting.appendleft(victim)
        preempted.append(victim)
        return victim

    @abstractmethod
    def schedule(self) -> tuple[dict[Job, int], list[Job]]:
        """What each job computes now, after whom has been preempted."""

    def run(self) -> Iterator[Iteration]:
        now = 0
        coming = deque(self.jobs)
        while coming or self.waiting or self.running:
            if not self.running and not self.waiting:
                # An idle replica starts with all who come at the same instant.
                now = max(now, coming[0].arrival)
                while coming and coming[0].arrival <= now:
                    self.waiting.append(coming.popleft())
            work, preempted = self.schedule()
            assert work, "the twin is stuck"
            found = {job.id: (job.computed, tokens) for job, tokens in work.items()}
            yield now, found, tuple(job.id for job in preempted)
            now += STEP_NS
            # A boundary comes before an arrival at the same instant.
            while coming and coming[0].arrival < now:
                self.waiting.append(coming.popleft())
            for job, tokens in work.items():
                job.computed += tokens
                if job.computed == job.known:
                    job.generated += 1
                    job.decoding = True
                    if job.generated == job.output or job.known >= self.limit:
                        self.give(job)
                        self.running.remove(job)


def ours(
    name: str, rows: list[Row], blocks: int, size: int, params: dict[str, Any], limit: int | None
) -> list[Iteration]:
    resolved = toy_resolved(name, params, blocks=blocks, block_tokens=size, max_context=limit)
    run = simulate(resolved, workload(rows), physics=lambda i: ConstantLatency(STEP_NS))
    return [(round(step.start_ns), step.schedule, step.preempt) for step in steps(run)]


def compare(found: list[Iteration], wanted: list[Iteration]) -> None:
    for i, (mine, its) in enumerate(zip(found, wanted, strict=False)):
        assert mine == its, f"iteration {i}"
    assert len(found) == len(wanted)


# Requests fit a replica of at least 40 tokens alone; several at once do not.
ROWS = random_rows(most=9, prompt=30, output=14, gap_ns=6 * STEP_NS)

# Many at once, of which some stand still while others decode.
CROWDS = random_rows(most=14, prompt=9, output=20, gap_ns=STEP_NS)
