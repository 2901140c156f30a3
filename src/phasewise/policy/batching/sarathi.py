"""Sarathi-Serve: chunked prefill with stall-free batching (OSDI'24, arXiv 2403.02310, Algorithm 3).

Every running decode is in every iteration; what the token budget leaves is filled with chunks, first of prompts in
progress, then of new ones, whose blocks for the whole prompt are allocated at admission above a watermark. A decode that
finds no free block preempts the last one running, which is recomputed later from the front of the queue. Decodes alone may
exceed the budget, as in the paper. Nothing is changed; the ablations and the dynamic chunk schedule are not here yet.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from phasewise.core.step import StepPlan
from phasewise.core.view import InstanceState
from phasewise.policy.batching.budget import Budget, coast


class Sarathi(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stall-free batching: at most `token_budget` tokens an iteration, `max_seqs` requests running, `watermark` kept free."""

    token_budget: Annotated[int, msgspec.Meta(ge=1)] = 512
    max_seqs: Annotated[int, msgspec.Meta(ge=1)] = 128
    watermark: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.01

    def plan(self, state: InstanceState, now_ns: int) -> tuple[StepPlan, ...]:
        if (decode := coast(state, self.token_budget, self.max_seqs)) is not None:
            return decode
        budget = Budget(state, self.token_budget, self.max_seqs)
        chunks = budget.go_on(whole=True)
        # Whoever was just preempted heads the queue, and what it held is what was lacking.
        if state.waiting and not budget.victims:
            budget.admit(chunks, whole=True, spare=state.ledger.watermark)
        return budget.plans(chunks)
