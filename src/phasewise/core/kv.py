"""The block ledger: one book of a replica's KV cache, the same class in simulator and engine.

Three faces. *Counts*: how many blocks are free, how many a resident holds. *Growth*: how many blocks a cohort's next steps
need, hence how many steps fit, in O(block_tokens). *Pages*: for ports that address memory, ids that are reference-counted.
What is in blocks, and who may share them, is the affair of `prefix`. The book knows nothing of requests' meaning or time.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from phasewise.core.errors import PlanError
from phasewise.core.resident import Cohort, Resident


class BlockLedger:
    """Blocks of `block_tokens` tokens; an admission should leave `watermark` of them free, a growing decode may use them."""

    __slots__ = ("block_tokens", "blocks", "free", "pages", "shares", "watermark")

    def __init__(self, blocks: int, block_tokens: int = 16, watermark: int = 0, pages: PageBook | None = None) -> None:
        if blocks < 1 or block_tokens < 1 or not 0 <= watermark < blocks:
            raise PlanError(
                f"a ledger of {blocks} blocks of {block_tokens} tokens with {watermark} kept free is impossible"
            )
        self.blocks = blocks
        self.block_tokens = block_tokens
        self.watermark = watermark
        self.free = blocks
        self.pages = pages
        self.shares = False

    def take(self, blocks: int) -> None:
        """Count blocks as held; no more than are free."""
        self.free -= blocks

    def need(self, tokens: int) -> int:
        """Blocks that `tokens` tokens of context fill."""
        return -(-tokens // self.block_tokens)

    def held(self, resident: Resident) -> int:
        """Blocks that the resident holds by now."""
        cohort = resident.cohort
        if cohort is None or not resident.grows:
            return resident.blocks
        return self.need(cohort.computed(resident))

    def frees(self, resident: Resident) -> int:
        """Blocks that would be free without this resident."""
        return self.held(resident)

    def peek(self, resident: Resident, taken: int = 0, kept: Container[int] = ()) -> tuple[int, list[int]]:
        """What a waiting resident would find of its prompt: nothing; see `PrefixLedger`."""
        return 0, []

    def adopt(self, resident: Resident, tokens: int) -> None:
        """PlanError: a ledger that keeps no content has none to begin after; see `PrefixLedger`."""
        raise PlanError(f"request {resident.id} is to begin after {tokens} tokens, and there is no prefix cache")

    def hold(self, resident: Resident, tokens: int) -> None:
        """Make the resident's blocks cover `tokens` tokens; never gives any back. PlanError if too few are free."""
        extra = -(-tokens // self.block_tokens) - resident.blocks
        if extra > 0:
            if extra > self.free:
                raise PlanError(f"{extra} blocks wanted, {self.free} of {self.blocks} free")
            self.take(extra)
            resident.blocks += extra

    def release(self, resident: Resident) -> None:
        """Free all that a resident holds that has left its cohort."""
        self.free += resident.blocks
        resident.blocks = 0
        if self.pages is not None:
            self.pages.release(resident.id)

    def steps_until_full(self, cohorts: Sequence[Cohort]) -> int | None:
        """How many steps these cohorts can take together before the blocks run out; None: without limit."""
        growing = 0
        for cohort in cohorts:
            growing += cohort.growing
        if not growing:
            return None
        cycles = self.free // growing
        # Over so many whole cycles the remainder cannot matter: asking again then costs nothing.
        if cycles > 64:
            return cycles * self.block_tokens
        left = self.free - cycles * growing
        steps = cycles * self.block_tokens
        while True:
            for cohort in cohorts:
                left -= cohort.crossing(steps + 1)
            if left < 0:
                return steps
            steps += 1

    def page_ids(self, resident: Resident) -> tuple[int, ...]:
        """Ids of the blocks that a resident holds by now, in the order of its context. Needs a page book."""
        return self._reach(resident, self.held(resident))

    def page_ahead(self, resident: Resident, tokens: int) -> tuple[int, ...]:
        """Ids of the blocks for `tokens` tokens of its context: within a leap, whose blocks are counted when it is over.

        There is a page for each, because a leap is no longer than the free blocks last.
        """
        return self._reach(resident, self.need(tokens))

    def _reach(self, resident: Resident, count: int) -> tuple[int, ...]:
        if self.pages is None:
            raise PlanError("this ledger keeps counts only; give it a PageBook to address pages")
        return self.pages.reach(resident.id, count)


class PageBook:
    """Which page is whose, and how many hold each. The ledger's counts guarantee that a page is there when one is asked for."""

    __slots__ = ("_free", "_owned", "_refs")

    def __init__(self, pages: int) -> None:
        self._free = list(range(pages - 1, -1, -1))
        self._refs = [0] * pages
        self._owned: dict[int, list[int]] = {}

    @property
    def available(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def refs(self, page: int) -> int:
        """How many hold the page."""
        return self._refs[page]

    def owned(self, request: int) -> int:
        """How many pages a request has by now, lent ones included."""
        return len(self._owned.get(request, ()))

    def reach(self, request: int, count: int) -> tuple[int, ...]:
        """The request's pages, extended to `count` of them with free ones. PlanError if there are too few."""
        owned = self._owned.setdefault(request, [])
        while len(owned) < count:
            if not self._free:
                raise PlanError("no page is free: more pages are addressed than the ledger counted")
            page = self._free.pop()
            self._refs[page] = 1
            owned.append(page)
        return tuple(owned)

    def lend(self, request: int, pages: Sequence[int]) -> None:
        """Append pages that are held already to the request's own."""
        self.keep(pages)
        self._owned.setdefault(request, []).extend(pages)

    def keep(self, pages: Sequence[int]) -> None:
        """Hold pages once more, for what is in them."""
        for page in pages:
            self._refs[page] += 1

    def drop(self, pages: Sequence[int]) -> None:
        """Hold pages once less; those that nobody holds are free."""
        for page in pages:
            self._refs[page] -= 1
            if not self._refs[page]:
                self._free.append(page)

    def release(self, request: int) -> None:
        """Drop the request's pages."""
        self.drop(self._owned.pop(request, []))
