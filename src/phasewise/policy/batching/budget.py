"""What a plan may still spend, on paper: blocks, tokens, seats. Shared by the batchers that page; it changes no book."""

from __future__ import annotations

from collections.abc import Callable

from phasewise.core.resident import Cohort, Resident
from phasewise.core.step import ALL, Chunk, StepPlan
from phasewise.core.view import InstanceState

ALONE = (ALL,)
OPEN = (StepPlan(cohorts=ALONE, repeat=None),)
CLOSED = (StepPlan(cohorts=ALONE, repeat=None, closed=True),)
"""Decode until something happens; in a closed leap no arrival can be that something."""

Size = Callable[[Resident, int], int]
"""How many tokens the next chunk of a resident's prompt has, where so many of the budget are left; 0 or less: none."""

_NOBODY: dict[int, Resident] = {}


def coast(state: InstanceState, tokens: int, seats: int) -> tuple[StepPlan, ...] | None:
    """The plan of a replica that only decodes, if that is all that it could do: no prompt at hand, no block lacking."""
    if state.prefilling or state.waiting:
        return None
    cohort = state.cohorts[ALL]
    free = state.ledger.free
    if cohort.growing > free and cohort.crossing(1) > free:
        return None
    return OPEN if cohort.count < tokens and len(state.running) < seats else CLOSED


def lone(state: InstanceState, tokens: int, seats: int, spare: int) -> tuple[StepPlan, ...] | None:
    """What `Budget` comes to where one prompt uses up the tokens or is the only one, and blocks are plenty; else None.

    Its blocks are those of the whole prompt, allocated at admission with `spare` left over. This is the usual plan with a
    prompt, and a look costs a third of a `Budget`.
    """
    cohort, ledger, waiting = state.cohorts[ALL], state.ledger, state.waiting
    decodes = cohort.count
    left = tokens - decodes
    # No more than these can need a block for the next step.
    free = ledger.free - cohort.growing
    if left <= 0 or free < 0:
        return None
    if state.prefilling:
        resident = next(iter(state.prefilling.values()))
        known, start = resident.known, resident.computed
        others = len(state.prefilling) > 1 or len(waiting) > 0
    else:
        resident = waiting[0]
        known, start = resident.known, 0
        if ledger.shares or len(state.running) >= seats or -(-known // ledger.block_tokens) > free - spare:
            return None
        others = len(waiting) > 1
    size = known - start
    if size > left:
        repeat = (size - 1) // left
        chunk = Chunk(resident.id, start, left, known)
        return (StepPlan((chunk,), ALONE if decodes else (), (), repeat, repeat > 1),)
    if others and size < left:
        return None
    return (StepPlan((Chunk(resident.id, start, size, known, ALL),), ALONE if decodes else ()),)


class Budget:
    """What one step may spend, and how much of that is left.

    It starts with the free blocks, the token budget and the free seats of a replica, and with the decodes of all residents
    (or of some `cohorts`) paid for: one token and the block at hand for each, preempting the last admitted where blocks lack.
    That is what serving them in order of admission comes to: each takes its block, the last one running is evicted whenever
    none is free, and whoever is evicted needs none.
    """

    __slots__ = ("blocks", "decodes", "seats", "state", "tokens", "victims")

    def __init__(
        self, state: InstanceState, tokens: int, seats: int, cohorts: tuple[Cohort, ...] | None = None
    ) -> None:
        if cohorts is None:
            cohort = state.cohorts[ALL]
            need = cohort.crossing(1)
            self.decodes = cohort.count
        else:
            need = sum(cohort.crossing(1) for cohort in cohorts)
            self.decodes = sum(cohort.count for cohort in cohorts)
        self.state = state
        self.blocks = blocks = state.ledger.free
        self.seats = seats - len(state.running)
        self.victims = _NOBODY
        if need > blocks:
            need = self._make_room(need, (cohort,) if cohorts is None else cohorts)
        self.blocks -= need
        self.tokens = tokens - self.decodes

    def _make_room(self, need: int, cohorts: tuple[Cohort, ...]) -> int:
        """Preempt from the end of the running until the rest of them find their blocks; how many they need."""
        for resident in reversed(self.state.running.values()):
            if need <= self.blocks:
                break
            cohort = resident.cohort
            if cohort in cohorts:
                assert cohort is not None
                need -= cohort.crosses(resident)
                self.decodes -= 1
            self._evict(resident)
        return need

    def go_on(self, *, whole: bool, size: Size | None = None) -> list[Chunk]:
        """Chunks of the prompts in progress, in order of admission, as far as the tokens go.

        `whole`: their blocks were allocated with the whole prompt; otherwise they are taken as needed, and a prompt that finds
        none preempts itself, for it is the last one running.
        """
        chunks: list[Chunk] = []
        for resident in self.state.prefilling.values():
            if resident.id in self.victims:
                continue
            left = resident.known - resident.computed
            tokens = min(left, self.tokens) if size is None else size(resident, self.tokens)
            if tokens <= 0:
                break
            hold = resident.known
            if not whole:
                hold = resident.computed + tokens
                extra = -(-hold // self.state.ledger.block_tokens) - resident.blocks
                if extra > self.blocks:
                    self._evict(resident)
                    break
                self.blocks -= extra
            chunks.append(self._chunk(resident, hold, tokens))
        return chunks

    def admit(self, chunks: list[Chunk], *, whole: bool, spare: int = 0, size: Size | None = None) -> None:
        """Add first chunks of the queue, in its order, while tokens, seats and blocks last.

        `whole`: the blocks of the whole prompt must be there, with `spare` left over; otherwise those of the chunk.
        """
        ledger = self.state.ledger
        if ledger.shares:
            return self._admit_cached(chunks, whole, spare, size)
        block = ledger.block_tokens
        for resident in self.state.waiting:
            tokens = min(resident.known, self.tokens) if size is None else size(resident, self.tokens)
            if tokens <= 0 or self.seats <= 0:
                break
            hold = resident.known if whole else tokens
            blocks = -(-hold // block)
            if blocks > self.blocks - spare:
                break
            self.blocks -= blocks
            self.seats -= 1
            chunks.append(self._chunk(resident, hold, tokens))

    def _admit_cached(self, chunks: list[Chunk], whole: bool, spare: int, size: Size | None) -> None:
        """As `admit`, each prompt beginning after what is in memory of it already."""
        ledger, prefilling = self.state.ledger, self.state.prefilling
        # Blocks that this step takes before the next is admitted; they may cost the cache what that one would have found.
        taken = sum(ledger.need(c.hold) - prefilling[c.request].blocks for c in chunks)
        kept: set[int] = set()
        for resident in self.state.waiting:
            start, idle = ledger.peek(resident, taken, kept)
            left = resident.known - start
            tokens = min(left, self.tokens) if size is None else min(left, size(resident, self.tokens))
            if tokens <= 0 or self.seats <= 0:
                break
            hold = resident.known if whole else start + tokens
            fresh = ledger.need(hold) - start // ledger.block_tokens
            woken = len(idle) * resident.request.prefix_tokens // ledger.block_tokens
            if fresh + woken > self.blocks - spare:
                break
            self.blocks -= fresh + woken
            self.seats -= 1
            self.tokens -= tokens
            taken += fresh
            kept.update(idle)
            joins = ALL if start + tokens == resident.known else None
            chunks.append(Chunk(resident.id, start, tokens, hold, joins))

    def _evict(self, resident: Resident) -> None:
        """Count the resident out; its blocks can be spent again."""
        self.victims = {**self.victims, resident.id: resident}
        self.blocks += self.state.ledger.frees(resident)

    def _chunk(self, resident: Resident, hold: int, tokens: int) -> Chunk:
        """The resident's next `tokens` tokens, spent."""
        self.tokens -= tokens
        start = resident.computed
        return Chunk(resident.id, start, tokens, hold, ALL if start + tokens == resident.known else None)

    def plans(self, chunks: list[Chunk], *, leaps: bool = True) -> tuple[StepPlan, ...]:
        """The plan that these chunks and the decodes make; without `leaps` a plan with chunks is one iteration."""
        cohorts = ALONE if self.decodes else ()
        if chunks:
            alone = leaps and not (chunks[0].joins or len(chunks) > 1 or self.tokens > 0 or self.victims)
            repeat = self._repeats(chunks[0]) if alone else 1
            victims = tuple(self.victims) if self.victims else ()
            return (StepPlan(tuple(chunks), cohorts, victims, repeat, repeat > 1),)
        if not cohorts:
            return ()
        if self.victims:
            # One step only: the next may admit again, where a step that preempts may not.
            return (StepPlan((), cohorts, tuple(self.victims)),)
        ledger, waiting = self.state.ledger, self.state.waiting
        if ledger.shares and waiting and ledger.peek(waiting[0])[1]:
            # What the decodes grow into may be what the first in the queue would have found: then it needs fewer blocks.
            return (StepPlan((), cohorts),)
        return CLOSED if waiting or self.seats <= 0 or self.tokens <= 0 else OPEN

    def _repeats(self, chunk: Chunk) -> int:
        """How many iterations a lone prompt that has used up the budget goes on alike, short of its last chunk.

        Its blocks must be there already. Nobody can join meanwhile: the budget is spent before the queue is looked at.
        """
        known = (self.state.prefilling.get(chunk.request) or self.state.waiting[0]).known
        return (known - chunk.start - 1) // chunk.tokens if chunk.hold >= known else 1
