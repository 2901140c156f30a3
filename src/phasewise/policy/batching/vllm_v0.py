"""vLLM's first scheduler: prompts first, in iterations of their own (SOSP'23; as pictured in Sarathi-Serve, OSDI'24).

If any waiting prompt fits (its blocks above a watermark, a seat, the token budget), the iteration is made of prompts alone
and all decodes wait. Otherwise everybody decodes; where no block is free the last one running is preempted, to be recomputed
from the front of the queue. Swapping to host memory is left out.

One difference: a prompt longer than the token budget runs alone, where vLLM refuses it; at the default budget, the longest
context, there is none.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from phasewise.core.step import ALL, Chunk, StepPlan
from phasewise.core.view import InstanceState
from phasewise.policy.batching.budget import Budget, coast

_NO_LIMIT = 1 << 40


class VllmV0(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prefill first, never mixed: `token_budget` prompt tokens an iteration (none: the longest context)."""

    token_budget: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_seqs: Annotated[int, msgspec.Meta(ge=1)] = 256
    watermark: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.01

    def plan(self, state: InstanceState, now_ns: int) -> tuple[StepPlan, ...]:
        if (decode := coast(state, _NO_LIMIT, self.max_seqs)) is not None:
            return decode
        if state.waiting:
            chunks = self._prompts(state)
            if chunks:
                return (StepPlan(tuple(chunks)),)
        return Budget(state, _NO_LIMIT, self.max_seqs).plans([])

    def _prompts(self, state: InstanceState) -> list[Chunk]:
        """The prompts at the head of the queue that fit into one iteration, whole."""
        ledger = state.ledger
        tokens = state.max_context if self.token_budget is None else self.token_budget
        blocks = ledger.free - ledger.watermark
        seats = self.max_seqs - len(state.running)
        chunks: list[Chunk] = []
        for resident in state.waiting:
            known = resident.known
            blocks -= ledger.need(known)
            if seats <= len(chunks) or blocks < 0 or (chunks and known > tokens):
                break
            tokens -= known
            chunks.append(Chunk(resident.id, 0, known, known, ALL))
        return chunks
