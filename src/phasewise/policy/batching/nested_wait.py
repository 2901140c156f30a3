"""Nested WAIT: thresholds by decode stage, for when nobody knows how long answers are (arXiv 2504.11320, Nested WAIT).

`boundaries` cut the decode stages into segments: segment 1 up to the first, segment k from the (k-1)th to the kth, and the
last one on to the end. Every request enters the first; who has emitted as many tokens as a boundary waits at the next
segment's entry, keeping its blocks. When the replica is free, find the longest run of segments from the first in which each
has its threshold at its entry; take that many from each entry and let everybody inside these segments advance one step. The
later ones stand still.

`thresholds` are given, or follow from `total_limit` as in the authors' code: segment k's cap is its share of the limit by
stages times `survival` (the share of requests that reach it), its threshold the cap over its stages, or what is left of the
cap. The length of the last segment, for that share, is taken to be `longest` less the last boundary. The longest wait,
`max_wait_s`, is ours and off by default (see `cohorts`).

Those who stand at entries keep their seats of `max_seqs` as well, and the limit does not count them: where they take all
seats before their thresholds are met nothing moves any more, unless there is a longest wait. Give more seats than the limit.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import islice, pairwise
from typing import Annotated

import msgspec

from phasewise.core.action import Regroup, WakeAt
from phasewise.core.resident import Resident
from phasewise.core.step import StepPlan
from phasewise.core.view import MOST_COHORTS, InstanceState
from phasewise.policy.batching.cohorts import ROUNDING, Seconds, is_late, prompts, wait

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
GATE = "gate"
"""The cohort of those who wait at an entry. It is never planned."""


class NestedWait(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds by segment of the output: `boundaries` in tokens, and `thresholds`, or `survival` with `total_limit`."""

    boundaries: tuple[Count, ...] = (32, 128, 512)
    thresholds: tuple[Count, ...] = ()
    survival: tuple[Share, ...] = (1.0, 0.75, 0.5, 0.1)
    longest: Count = 1024
    total_limit: Count = 64
    max_seqs: Count = 128
    max_wait_s: Seconds | None = None

    def __post_init__(self) -> None:
        segments = len(self.boundaries) + 1
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"boundaries {list(self.boundaries)} must rise")
        # A cohort for each segment, the gate, and the one that every replica has.
        if segments > MOST_COHORTS - 2:
            raise ValueError(f"{segments} segments; give at most {MOST_COHORTS - 2}")
        if self.thresholds and len(self.thresholds) != segments:
            raise ValueError(f"{segments} segments need {segments} thresholds, not {len(self.thresholds)}")
        if self.thresholds:
            return
        if len(self.survival) != segments or any(b > a for a, b in pairwise(self.survival)):
            raise ValueError(f"{segments} segments need {segments} shares of survival that do not rise")
        if self.boundaries and self.longest <= self.boundaries[-1]:
            raise ValueError(f"longest ({self.longest}) must be above the last boundary ({self.boundaries[-1]})")

    @property
    def watermark(self) -> float:
        return 0.0

    def plan(self, state: InstanceState, now_ns: int) -> tuple[StepPlan | Regroup | WakeAt, ...]:
        entries, inside = self._segments(state)
        wanted = self._wanted(inside)
        waits = [len(state.waiting), *map(len, entries[1:])]
        runs = next((i for i, n in enumerate(wanted) if waits[i] < n), len(wanted))
        plans = self._start(state, entries, wanted[:runs], forced=False) if runs else ()
        if plans:
            return plans
        # No segment is ready, or the first is and finds no room beside those who stand still.
        if not is_late(state, now_ns, self.max_wait_s):
            return wait(state, self.max_wait_s)
        return self._start(state, entries, [wanted[0], *waits[1:]], forced=True)

    def _start(
        self, state: InstanceState, entries: list[list[Resident]], taken: list[int], *, forced: bool
    ) -> tuple[StepPlan | Regroup, ...]:
        """A step of the first segments, with so many `taken` from the entry of each; `()` if nobody can be in it."""
        moves = self._moves(entries, taken)
        new = [(resident, "1") for resident in islice(state.waiting, taken[0])]
        plan = self._step(state, dict(moves), len(taken), new, forced)
        return () if plan is None else (Regroup(tuple(moves)), plan) if moves else (plan,)

    def _segments(self, state: InstanceState) -> tuple[list[list[Resident]], list[int]]:
        """Who waits at the entry of each segment (the first has the queue), and how many are inside each."""
        boundaries = self.boundaries
        entries: list[list[Resident]] = [[] for _ in range(len(boundaries) + 1)]
        inside = [0] * len(entries)
        names = [str(segment + 1) for segment in range(len(entries))]
        for resident in state.running.values():
            cohort = resident.cohort
            assert cohort is not None, "prompts are never cut"
            # Who has emitted as many tokens as a boundary is in the segment after it.
            segment = bisect_right(boundaries, cohort.generated(resident))
            if cohort.name == names[segment]:
                inside[segment] += 1
            else:
                entries[segment].append(resident)
        return entries, inside

    def _wanted(self, inside: list[int]) -> list[int]:
        """How many must wait at each entry for its segment to run, and are taken then."""
        if self.thresholds:
            return list(self.thresholds)
        ends = (0, *self.boundaries, self.longest)
        stages = [high - low + (low == 0) for low, high in pairwise(ends)]
        weights = [n * p for n, p in zip(stages, self.survival, strict=True)]
        caps = [self.total_limit * weight / sum(weights) for weight in weights]
        limits = zip(caps, stages, inside, strict=True)
        return [
            max(0, min(math.ceil(cap / n - ROUNDING), int(max(1, cap + ROUNDING)) - held)) for cap, n, held in limits
        ]

    def _moves(self, entries: list[list[Resident]], taken: list[int]) -> list[tuple[int, str]]:
        """Who enters the segments that run, and who steps out of one to stand at the next entry."""
        moves: list[tuple[int, str]] = []
        for segment in range(1, len(entries)):
            places = taken[segment] if segment < len(taken) else 0
            for i, resident in enumerate(entries[segment]):
                name = str(segment + 1) if i < places else GATE
                if resident.cohort is not None and resident.cohort.name != name:
                    moves.append((resident.id, name))
        return moves

    def _step(
        self, state: InstanceState, moves: dict[int, str], runs: int, new: list[tuple[Resident, str]], forced: bool
    ) -> StepPlan | None:
        """A step of everybody who is inside the segments that run after these moves; None if there is nobody."""
        running = {str(segment + 1) for segment in range(runs)}
        where = {r: moves.get(r.id, r.cohort.name if r.cohort else GATE) for r in state.running.values()}
        needs = {r: r.cohort.crosses(r) for r, name in where.items() if name in running and r.cohort}
        blocks, need = state.ledger.free, sum(needs.values())
        victims: list[int] = []
        for resident in reversed(where):
            if need <= blocks:
                break
            blocks += state.ledger.held(resident)
            need -= needs.pop(resident, False)
            victims.append(resident.id)
        chunks = [] if victims else prompts(state, new, blocks - need, self.max_seqs - len(where))
        names = tuple(sorted({where[resident] for resident in needs}))
        return StepPlan(tuple(chunks), names, tuple(victims), forced=forced) if chunks or names else None
