"""DistServe's schedulers of prompts and of decodes (OSDI'24, section 4.3; limits and order of its published engine).

Prompts, first come first served, in batches of their own: they are packed up to the length that saturates the device, so that
all batches take much the same time (which also evens out the stages of a pipeline). A prompt longer than that runs alone. A
batch has at most `prefill_seqs` prompts and `prefill_tokens` tokens. If no prompt fits everybody decodes, up to `max_seqs`
residents. Where one replica does both, prompts so go first, as in the worker of the published simulator; the phases are never
mixed. Prompts that are not handed over yet fill the memory as well: the ledger says what is left.

`accept_share` is for whoever hands over: a decode replica accepts the next prompt only while those accepted before it and not
yet seated hold less than this share of its blocks (the engine's threshold). The batcher itself does not look at it.

Where the published rules leave room these are ours. "Near" the saturation length means never above it, and the first that does
not fit ends the batch, so that nobody is passed over. A prompt longer than `prefill_tokens` runs alone; the engine never starts
it. The engine bounds a batch of decodes to 65,536 tokens, and counts one for each, so beside 1,024 sequences that never binds;
`decode_tokens` bounds their context instead, as the published simulator does (at 50,000), and is off by default. It is a limit
of admission: who is in the batch stays in it however long it grows, the others stand still, first come first served.

Where decodes lack blocks the last one admitted leaves: to host memory, and back first, if the replica has some (`host_gib`), as
in the engine; otherwise it is recomputed, from the front of the queue.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from phasewise.core.action import Regroup
from phasewise.core.resident import Resident
from phasewise.core.step import ALL, Chunk, StepPlan
from phasewise.core.view import InstanceState
from phasewise.policy.batching.budget import Budget, coast
from phasewise.policy.batching.cohorts import NO_LIMIT

Count = Annotated[int, msgspec.Meta(ge=1)]
BATCH = "batch"
"""The cohort of those who decode, where there is a limit on their context; who waits to be let in is in `ALL`."""


class DistServe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prompts packed up to `saturation_tokens`, never mixed with decodes, of which `max_seqs` run; no chunks."""

    saturation_tokens: Count = 512
    prefill_seqs: Count = 128
    prefill_tokens: Count = 8192
    max_seqs: Count = 1024
    decode_tokens: Count | None = None
    accept_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.05
    watermark: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0

    @property
    def swaps(self) -> bool:
        """Whether those that it preempts go to host memory, if the replica has some."""
        return True

    def plan(self, state: InstanceState, now_ns: int) -> tuple[StepPlan | Regroup, ...]:
        if state.waiting:
            chunks = self._prompts(state)
            if chunks:
                return (StepPlan(tuple(chunks)),)
        if not state.running:
            return ()
        if self.decode_tokens is not None:
            return self._admitted(state, self.decode_tokens)
        if (decode := coast(state, NO_LIMIT, self.max_seqs)) is not None:
            return decode
        return Budget(state, NO_LIMIT, self.max_seqs).plans([])

    def _prompts(self, state: InstanceState) -> list[Chunk]:
        """The prompts at the head of the queue that make one batch, whole."""
        ledger = state.ledger
        tokens = min(self.saturation_tokens, self.prefill_tokens)
        seats = min(self.prefill_seqs, self.max_seqs - len(state.running))
        blocks = ledger.free - ledger.watermark
        chunks: list[Chunk] = []
        for resident in state.waiting:
            known = resident.known
            tokens -= known
            blocks -= ledger.need(known)
            if len(chunks) >= seats or blocks < 0 or (chunks and tokens < 0):
                break
            chunks.append(Chunk(resident.id, 0, known, known, ALL))
        return chunks

    def _admitted(self, state: InstanceState, limit: int) -> tuple[StepPlan | Regroup, ...]:
        """A decode of those in the batch, after letting in as many as the limit and the blocks allow."""
        batch = state.cohorts.get(BATCH)
        cohorts = (batch,) if batch is not None and batch.count else ()
        budget = Budget(state, NO_LIMIT, self.max_seqs, cohorts)
        enter = [] if budget.victims else self._entering(state, budget, limit)
        if not enter and not budget.decodes:
            return self._first(state)
        # Nobody else can be let in before one of the batch ends: its context and its blocks only grow.
        alone = not budget.victims
        closed = alone and (bool(state.waiting) or budget.seats <= 0)
        plan = StepPlan((), (BATCH,), tuple(budget.victims), None if alone else 1, closed)
        return (Regroup(tuple((resident.id, BATCH) for resident in enter)), plan) if enter else (plan,)

    def _entering(self, state: InstanceState, budget: Budget, limit: int) -> list[Resident]:
        """Who is let into the batch, first come first served; one that is beyond the limit by itself only if it is empty."""
        entrance, batch = state.cohorts[ALL], state.cohorts.get(BATCH)
        blocks, context = budget.blocks, batch.context if batch is not None else 0
        enter: list[Resident] = []
        for resident in state.running.values() if entrance.count else ():
            if resident.cohort is not entrance:
                continue
            blocks -= entrance.crosses(resident)
            context += entrance.computed(resident)
            if blocks < 0 or (context > limit and (enter or budget.decodes)):
                break
            enter.append(resident)
        return enter

    def _first(self, state: InstanceState) -> tuple[StepPlan | Regroup, ...]:
        """Nobody decodes and the first in line lacks a block: it takes the last one's; `()` if it is the only one."""
        first, *others = state.running.values()
        if not others:
            return ()
        return (Regroup(((first.id, BATCH),)), StepPlan((), (BATCH,), (others[-1].id,)))
