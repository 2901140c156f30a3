"""The block ledger: one book of a replica's KV cache, the same class in simulator and engine.

Three faces. *Counts*: how many blocks are free, how many a resident holds. *Growth*: how many blocks a cohort's next steps
need, hence how many steps fit, in O(block_tokens). *Pages*: for ports that address memory, ids that are reference-counted
and may carry a content key. A block is free, held, or (pages only) cached: unreferenced, but
its content is known, so that it may be found again until it is needed. The book knows nothing of requests' meaning or time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Hashable, Sequence

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
            self.free -= extra
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
        if self.pages is None:
            raise PlanError("this ledger keeps counts only; give it a PageBook to address pages")
        return self.pages.reach(resident.id, self.held(resident))


class PageBook:
    """Which page is whose. Counts in the ledger guarantee that a page is there when one is asked for."""

    __slots__ = ("_by_key", "_cached", "_free", "_key", "_owned", "_refs")

    def __init__(self, pages: int) -> None:
        self._free = list(range(pages - 1, -1, -1))
        self._refs = [0] * pages
        self._key: dict[int, Hashable] = {}
        self._by_key: dict[Hashable, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._owned: dict[int, list[int]] = {}

    @property
    def available(self) -> int:
        """Pages that can be handed out: free ones, and cached ones that would be evicted."""
        return len(self._free) + len(self._cached)

    def refs(self, page: int) -> int:
        """How many residents use the page."""
        return self._refs[page]

    def reach(self, request: int, count: int) -> tuple[int, ...]:
        """The request's pages, extended to `count` of them with free pages, then with the cached page longest unused."""
        owned = self._owned.setdefault(request, [])
        while len(owned) < count:
            owned.append(self._fresh())
        return tuple(owned)

    def seal(self, request: int, index: int, key: Hashable) -> None:
        """Give the request's page number `index` a content key, now that it is full. The first page with a key keeps it."""
        page = self._owned[request][index]
        if page not in self._key and key not in self._by_key:
            self._key[page] = key
            self._by_key[key] = page

    def share(self, request: int, key: Hashable) -> int | None:
        """Append the page with this content to the request's pages, if there is one."""
        page = self._by_key.get(key)
        if page is None:
            return None
        self._refs[page] += 1
        self._cached.pop(page, None)
        self._owned.setdefault(request, []).append(page)
        return page

    def release(self, request: int) -> None:
        """Drop the request's references, last page first, so that a prefix outlives what was built on it."""
        for page in reversed(self._owned.pop(request, [])):
            self._refs[page] -= 1
            if self._refs[page] == 0:
                if page in self._key:
                    self._cached[page] = None
                else:
                    self._free.append(page)

    def _fresh(self) -> int:
        if self._free:
            page = self._free.pop()
        elif self._cached:
            page, _ = self._cached.popitem(last=False)
            del self._by_key[self._key.pop(page)]
        else:
            raise PlanError("no page is free: more pages are addressed than the ledger counted")
        self._refs[page] = 1
        return page
