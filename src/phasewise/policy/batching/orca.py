"""Orca: iteration-level batching with whole prompts (OSDI'22), as the Sarathi-Serve paper pictures it (OSDI'24, section 3).

Every iteration decodes everybody; requests are admitted whenever there is a seat, each with its whole prompt, several of
them together if several wait. Without paging, every request reserves the longest context that the deployment serves, so
nothing is ever preempted. Orca's own paper was not at hand: this follows how later papers and simulators picture it.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import msgspec

from phasewise.core.step import ALL, Chunk, StepPlan
from phasewise.core.view import InstanceState
from phasewise.policy.batching.budget import ALONE, CLOSED, OPEN


class Orca(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whole prompts beside decodes: up to `max_seqs` requests; with `one_prefill`, one new prompt an iteration."""

    max_seqs: Annotated[int, msgspec.Meta(ge=1)] = 128
    one_prefill: bool = False

    @property
    def watermark(self) -> float:
        return 0.0

    def plan(self, state: InstanceState, now_ns: int) -> tuple[StepPlan, ...]:
        decodes = state.cohorts[ALL].count
        ledger = state.ledger
        seats = min(self.max_seqs - len(state.running), ledger.free // ledger.need(state.max_context))
        if state.waiting and seats > 0:
            new = islice(state.waiting, 1 if self.one_prefill else seats)
            chunks = tuple(Chunk(r.id, 0, r.known, state.max_context, ALL) for r in new)
            return (StepPlan(chunks, ALONE if decodes else ()),)
        if not decodes:
            return ()
        return OPEN if seats > 0 else CLOSED
