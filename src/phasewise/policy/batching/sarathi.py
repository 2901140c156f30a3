"""Sarathi-Serve: chunked prefill with stall-free batching (OSDI'24, arXiv 2403.02310, Algorithm 3).

Every running decode is in every iteration; what the token budget leaves is filled with chunks, first of prompts in
progress, then of new ones, whose blocks for the whole prompt are allocated at admission above a watermark. A decode that
finds no free block preempts the last one running, which is recomputed later from the front of the queue. Decodes alone may
exceed the budget, as in the paper.

The ablations of its Table 4: `chunked: false` keeps prompts whole beside the decodes, admitting them until the budget is
used up, which the last one may overrun; `hybrid: false` gives chunks and decodes iterations of their own, in turn. The paper
names the arms and not their rules, so both rules are reconstructions.

`tbt_s`, an objective on the time between tokens in seconds, has the budget chosen by the step times (section 4.3; see
`tuning`).

`chunk_stages` turns on the published code's schedule, off by default there too: chunks start at the budget and shrink to
`chunk_low` in equal stages, in multiples of 32, as the prompt advances. That the stages share out `chunk_span` tokens of the
prompt, and the default of that, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from phasewise.core.resident import Resident
from phasewise.core.step import ALL, StepPlan
from phasewise.core.view import InstanceState
from phasewise.perf.latency import LatencyModel
from phasewise.policy.batching.budget import ALONE, Budget, Size, coast, lone
from phasewise.policy.batching.tuning import token_budget

Count = Annotated[int, msgspec.Meta(ge=1)]


class Sarathi(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stall-free batching: at most `token_budget` tokens an iteration, `max_seqs` requests running, `watermark` kept free."""

    token_budget: Count = 512
    max_seqs: Count = 128
    watermark: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.01
    chunked: bool = True
    hybrid: bool = True
    chunk_stages: Annotated[int, msgspec.Meta(ge=0)] = 0
    chunk_low: Count = 128
    chunk_span: Count = 4096
    tbt_s: Annotated[float, msgspec.Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        if not (self.chunked or self.hybrid):
            raise ValueError("with neither chunks nor hybrid batches this is vllm-v0; leave one of them true")
        if self.chunk_stages and self.chunk_low > self.token_budget:
            raise ValueError(f"chunk_low ({self.chunk_low}) must be at most token_budget ({self.token_budget})")

    @property
    def prefix_cache(self) -> bool:
        return False

    def tuned(self, latencies: Sequence[LatencyModel]) -> Sarathi:
        """With the budget that keeps every replica's iterations within `tbt_s`."""
        if self.tbt_s is None:
            return self
        return msgspec.structs.replace(self, token_budget=min(token_budget(model, self.tbt_s) for model in latencies))

    def plan(self, state: InstanceState, now_ns: int) -> tuple[StepPlan, ...]:
        if (decode := coast(state, self.token_budget, self.max_seqs)) is not None:
            return decode
        if not self.hybrid:
            return self._in_turn(state)
        if self.chunk_stages or not self.chunked:
            return self._together(state, Budget(state, self.token_budget, self.max_seqs))
        if (prompt := lone(state, self.token_budget, self.max_seqs, state.ledger.watermark)) is not None:
            return prompt
        budget = Budget(state, self.token_budget, self.max_seqs)
        chunks = budget.go_on(whole=True)
        # Whoever was just preempted heads the queue, and what it held is what was lacking.
        if state.waiting and not budget.victims:
            budget.admit(chunks, whole=True, spare=state.ledger.watermark)
        return budget.plans(chunks)

    def _together(self, state: InstanceState, budget: Budget, *, leaps: bool = True) -> tuple[StepPlan, ...]:
        """As `plan` does it, with chunks sized otherwise."""
        size: Size | None = None
        if not self.chunked:
            size = _whole
        elif self.chunk_stages:
            size, leaps = self._shrinking, False
        chunks = budget.go_on(whole=True, size=size)
        if state.waiting and not budget.victims:
            budget.admit(chunks, whole=True, spare=state.ledger.watermark, size=size)
        return budget.plans(chunks, leaps=leaps)

    def _in_turn(self, state: InstanceState) -> tuple[StepPlan, ...]:
        """Chunks alone, or decodes alone if the last iteration was of chunks.

        Decodes that a prompt admitted before them leaves no block miss their turn.
        """
        budget = Budget(state, self.token_budget, self.max_seqs)
        turn = budget.decodes > 0 and state.last is not None and bool(state.last.chunks)
        if not turn:
            alone = Budget(state, self.token_budget, self.max_seqs, ())
            prompts = self._together(state, alone, leaps=not state.cohorts[ALL].count)
            if prompts:
                return prompts
        if turn and (state.prefilling or state.waiting):
            return (StepPlan((), ALONE, tuple(budget.victims)),)
        return budget.plans([])

    def _shrinking(self, resident: Resident, left: int) -> int:
        """The chunk that the schedule has for this stage of the prompt, less what the budget has spent already."""
        stages = self.chunk_stages
        stage = min(resident.computed * stages // self.chunk_span, stages - 1)
        drop = (self.token_budget - self.chunk_low) * stage / max(1, stages - 1)
        most = (
            min(self.token_budget, max(32, round((self.token_budget - drop) / 32) * 32)) if stage else self.token_budget
        )
        return min(resident.known - resident.computed, left - (self.token_budget - most))


def _whole(resident: Resident, left: int) -> int:
    return resident.known - resident.computed if left > 0 else 0
