"""Static (request-level) batching, as FasterTransformer does it and the Sarathi-Serve paper pictures it (OSDI'24, section 2).

A batch is admitted only when the replica is empty, prefilled whole in one iteration, and decoded until its last request
ends; early finishers leave a hole. Without paging, every request reserves the longest context that the deployment serves
(`max_context`), so nothing is ever preempted. Nothing is changed from that picture.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from phasewise.core.step import ALL, Chunk, StepPlan
from phasewise.core.view import InstanceState
from phasewise.policy.batching.budget import CLOSED


class Static(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request-level batching of up to `max_seqs` requests."""

    max_seqs: Annotated[int, msgspec.Meta(ge=1)] = 128

    @property
    def watermark(self) -> float:
        return 0.0

    def plan(self, state: InstanceState, now_ns: int) -> tuple[StepPlan, ...]:
        if state.running:
            return CLOSED
        ledger = state.ledger
        fits = min(self.max_seqs, ledger.free // ledger.need(state.max_context))
        batch = [
            Chunk(r.id, 0, r.known, state.max_context, ALL) for r, _ in zip(state.waiting, range(fits), strict=False)
        ]
        return (StepPlan(tuple(batch), closed=True),) if batch else ()
