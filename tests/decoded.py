"""A slow, independent reading of a run log: events decoded one by one, leaps expanded step by step, tokens counted out.

It shares nothing with the columns: tests compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from phasewise.core.action import Ended, Enter, Forget, Outcome, Regroup, Run
from phasewise.core.event import Arrived, StepDone
from phasewise.core.step import Chunk, moved_on
from phasewise.record.runlog import RunLog


@dataclass
class Step:
    """One iteration of one replica. `decodes` maps each decoding request to its context before the step, `cohorts` to
    the cohort in which it decodes."""

    start_ns: float
    end_ns: float
    chunks: tuple[Chunk, ...]
    decodes: dict[int, int]
    preempt: tuple[int, ...]
    forced: bool = False
    cohorts: dict[int, str] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return len(self.decodes) + sum(chunk.tokens for chunk in self.chunks)

    @property
    def schedule(self) -> dict[int, tuple[int, int]]:
        """For each request in the step: how much of it was computed before, and how many tokens the step computes."""
        found = {request: (context, 1) for request, context in self.decodes.items()}
        found.update({chunk.request: (chunk.start, chunk.tokens) for chunk in self.chunks})
        return found


@dataclass
class Told:
    """All that a log tells about one request."""

    arrival_ns: int
    prompt: int
    outcome: Outcome = Outcome.INSIDE
    tokens: int = 0
    first_chunk_ns: float | None = None
    token_ns: list[float] = field(default_factory=list)
    preemptions: int = 0


def requests(log: RunLog) -> dict[int, Told]:
    """Every request of the run, with each of its token times."""
    told: dict[int, Told] = {}
    for _, event, actions in log.records(0):
        if isinstance(event, Arrived):
            told[event.request.id] = Told(event.request.arrival_ns, event.request.prompt_tokens)
        for action in actions:
            if isinstance(action, Ended):
                told[action.request].outcome = action.outcome
                told[action.request].tokens = action.tokens
    for replica in range(log.rooms - 1):
        for step in steps(log, replica):
            for request in step.preempt:
                told[request].preemptions += 1
            for request in step.decodes:
                told[request].token_ns.append(step.end_ns)
            for chunk in step.chunks:
                one = told[chunk.request]
                if one.first_chunk_ns is None or step.start_ns < one.first_chunk_ns:
                    one.first_chunk_ns = step.start_ns
                if chunk.joins is not None:
                    one.token_ns.append(step.end_ns)
    for one in told.values():
        one.token_ns.sort()
    return told


def steps(log: RunLog, replica: int = 0) -> list[Step]:
    """Every iteration of a replica, in the order in which they ended."""
    out: list[Step] = []
    flying: dict[int, tuple[int, Run]] = {}
    groups: dict[str, dict[int, int]] = {}
    for at_ns, event, actions in log.records(1 + replica):
        if isinstance(event, StepDone):
            begun, run = flying.pop(event.lane)
            assert run.id == event.run
            _expand(out, begun, at_ns, run, event, groups)
            for request in event.ended:
                _strike(groups, request)
        for action in actions:
            if isinstance(action, Forget):
                _strike(groups, action.request)
            if isinstance(action, Enter):
                groups.setdefault(action.cohort, {})[action.request] = action.known
            if isinstance(action, Regroup):
                for request, name in action.moves:
                    [context] = [group.pop(request) for group in groups.values() if request in group]
                    groups.setdefault(name, {})[request] = context
            if isinstance(action, Run):
                for request in action.plan.preempt:
                    _strike(groups, request)
                flying[action.plan.lane] = (at_ns, action)
    return out


def _expand(
    out: list[Step], begun: int, at_ns: int, run: Run, event: StepDone, groups: dict[str, dict[int, int]]
) -> None:
    now = float(begun)
    taken = [first + i * slope for first, slope, n in event.pieces for i in range(n)]
    preempt = run.plan.preempt
    for i, spent in enumerate(taken):
        end = float(at_ns) if i == len(taken) - 1 else now + spent
        decodes: dict[int, int] = {}
        cohorts: dict[int, str] = {}
        for name in run.plan.cohorts:
            decodes.update(groups.get(name, {}))
            cohorts.update(dict.fromkeys(groups.get(name, {}), name))
        chunks = tuple(moved_on(chunk, i) for chunk in run.plan.chunks)
        out.append(Step(now, end, chunks, decodes, preempt, run.plan.forced, cohorts))
        for name in run.plan.cohorts:
            group = groups.get(name, {})
            for request in group:
                group[request] += 1
        now, preempt = end, ()
    assert abs(begun + sum(taken) - at_ns) <= 1.5, "the pieces do not add up to the time between run and end"
    assert len(out[-1].decodes) == run.decodes
    for chunk in run.plan.chunks:
        if chunk.joins is not None:
            groups.setdefault(chunk.joins, {})[chunk.request] = chunk.start + chunk.tokens


def _strike(groups: dict[str, dict[int, int]], request: int) -> None:
    for group in groups.values():
        group.pop(request, None)
