"""vLLM's v1 scheduler: one token budget for prompts and decodes alike, first come first served.

Follows the published scheduler of vLLM v1. Running requests first, in order of admission, each
`min(tokens known - computed, budget left)`, a decode being the case of 1; blocks are taken as needed, and where none is
free the last one running is preempted for recomputation and goes to the front of the queue. Then the queue, unless this
step preempted. Prefix caching is on unless the deployment says otherwise. Speculative tokens and encoder inputs are left out.

Two facts keep this short. As in vLLM the budget is at least `max_seqs`, so every decode is always served. And an
unfinished prompt has used up a step's budget, so nothing was admitted behind it: it is the last one running, and serving
the decodes first is serving in order.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from phasewise.core.step import StepPlan
from phasewise.core.view import InstanceState
from phasewise.policy.batching.budget import Budget, coast


class VllmV1(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Continuous batching with chunked prompts: `token_budget` tokens a step, `max_seqs` requests running."""

    token_budget: Annotated[int, msgspec.Meta(ge=1)] = 2048
    max_seqs: Annotated[int, msgspec.Meta(ge=1)] = 256

    def __post_init__(self) -> None:
        if self.token_budget < self.max_seqs:
            raise ValueError(f"token_budget ({self.token_budget}) must be at least max_seqs ({self.max_seqs})")

    @property
    def watermark(self) -> float:
        return 0.0

    @property
    def prefix_cache(self) -> bool:
        return True

    def plan(self, state: InstanceState, now_ns: int) -> tuple[StepPlan, ...]:
        if (decode := coast(state, self.token_budget, self.max_seqs)) is not None:
            return decode
        budget = Budget(state, self.token_budget, self.max_seqs)
        chunks = budget.go_on(whole=False)
        if state.waiting and not budget.victims:
            budget.admit(chunks, whole=False)
        return budget.plans(chunks)
