"""What a plan may still spend, on paper: blocks, tokens, seats. Shared by the batchers that page; it changes no book."""

from __future__ import annotations

from phasewise.core.resident import Resident
from phasewise.core.step import ALL, Chunk, StepPlan
from phasewise.core.view import InstanceState

OPEN = StepPlan(cohorts=(ALL,), repeat=None)
CLOSED = StepPlan(cohorts=(ALL,), repeat=None, closed=True)
"""Decode until something happens; in a closed leap no arrival can be that something."""


class Budget:
    """Starts with the free blocks, a step's token budget and the free seats of one replica."""

    __slots__ = ("_victims", "blocks", "decodes", "seats", "state", "tokens")

    def __init__(self, state: InstanceState, tokens: int, seats: int) -> None:
        self.state = state
        self.blocks = state.ledger.free
        self.decodes = 0
        self.tokens = tokens
        self.seats = seats - len(state.running)
        self._victims: dict[int, Resident] = {}

    @property
    def preempted(self) -> tuple[int, ...]:
        """Residents to evict, in that order."""
        return tuple(self._victims)

    def decode_all(self) -> None:
        """Spend one token and the blocks at hand on every decoding resident, preempting the last admitted where blocks lack.

        That is what serving them in order of admission comes to: each takes its block, the last one running is evicted
        whenever none is free, and whoever is evicted needs none.
        """
        cohort = self.state.cohorts[ALL]
        need = cohort.crossing(1)
        self.decodes = cohort.count
        if need > self.blocks:
            for resident in reversed(self.state.running.values()):
                if need <= self.blocks:
                    break
                if resident.cohort is not None:
                    need -= cohort.crosses(resident)
                    self.decodes -= 1
                self.evict(resident)
        self.blocks -= need
        self.tokens -= self.decodes

    def evict(self, resident: Resident) -> None:
        """Count the resident out; its blocks can be spent again."""
        self._victims[resident.id] = resident
        self.blocks += self.state.ledger.held(resident)

    def prefilling(self) -> list[Resident]:
        """Residents that have prompt tokens left to compute, in order of admission, less the preempted."""
        victims = self._victims
        return [r for r in self.state.prefilling.values() if r.id not in victims]

    def chunk(self, resident: Resident, hold: int, tokens: int) -> Chunk:
        """Spend `tokens` tokens, and the blocks that make `hold` tokens covered, on a resident or one from the queue."""
        extra = self.state.ledger.need(hold) - resident.blocks
        if extra > 0:
            self.blocks -= extra
        self.tokens -= tokens
        end = resident.computed + tokens
        return Chunk(resident.id, resident.computed, tokens, hold, ALL if end == resident.known else None)

    def lacks(self, resident: Resident, hold: int) -> bool:
        """Whether too few blocks are left to cover `hold` tokens of the resident's context."""
        return self.state.ledger.need(hold) - resident.blocks > self.blocks

    def plans(self, chunks: list[Chunk]) -> tuple[StepPlan, ...]:
        """The plan that these chunks and the decodes make: one iteration with chunks, a leap without."""
        cohorts = (ALL,) if self.decodes else ()
        if chunks:
            return (StepPlan(tuple(chunks), cohorts, self.preempted),)
        if not cohorts:
            return ()
        closed = bool(self.state.waiting) or self.seats <= 0 or self.tokens <= 0
        if self._victims:
            return (StepPlan((), cohorts, self.preempted, None, True),)
        return (CLOSED,) if closed else (OPEN,)
