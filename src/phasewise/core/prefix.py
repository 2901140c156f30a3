"""A block ledger that keeps prompts' content: whoever asks for the same beginning again need not compute it again.

As in vLLM's automatic prefix caching: content is known by key once it is computed, residents share it without a copy, and
what nobody uses any more stays until its blocks are needed, the longest unused first, ends of prompts before beginnings. A
key stands for a unit of `Request.prefix_tokens` tokens of a prompt and all that comes before it; a real engine's unit is one
block, a trace's may be many. The ledger knows no policy and no time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Sequence

from phasewise.core.errors import PlanError
from phasewise.core.kv import BlockLedger, PageBook
from phasewise.core.resident import Resident


class Unit:
    """Content that is in memory: how many residents use it, the blocks that it fills, and which pages these are, if any are."""

    __slots__ = ("blocks", "pages", "refs")

    def __init__(self, blocks: int, pages: tuple[int, ...]) -> None:
        self.blocks = blocks
        self.pages = pages
        self.refs = 1


class PrefixLedger(BlockLedger):
    """Blocks of which some are kept for their content. `free` counts those too, for they are given up when they are needed."""

    __slots__ = ("_held", "_idle", "_idle_blocks", "_next", "_units", "_unsealed")

    def __init__(self, blocks: int, block_tokens: int = 16, watermark: int = 0, pages: PageBook | None = None) -> None:
        self._idle_blocks = 0
        # In use by nobody, the next to be given up first.
        self._idle: OrderedDict[int, Unit] = OrderedDict()
        self._units: dict[int, Unit] = {}
        # resident -> the keys of the units that it uses, from the start of its prompt
        self._held: dict[int, list[int]] = {}
        # Those who compute content, and how many units of it they have made known so far.
        self._unsealed: dict[int, Resident] = {}
        self._next: dict[int, int] = {}
        super().__init__(blocks, block_tokens, watermark, pages)
        self.shares = True

    def take(self, blocks: int) -> None:
        """As any ledger; content that nobody uses is given up where it must."""
        super().take(blocks)
        while self._idle_blocks > self.free:
            self._give_up()

    def _give_up(self) -> int:
        """Forget the content that has been unused for longest; how many blocks it filled."""
        key, unit = self._idle.popitem(last=False)
        del self._units[key]
        self._idle_blocks -= unit.blocks
        if self.pages is not None:
            self.pages.drop(unit.pages)
        return unit.blocks

    def peek(self, resident: Resident, taken: int = 0, kept: Container[int] = ()) -> tuple[int, list[int]]:
        """What a waiting resident would find, if `taken` blocks went before and the units `kept` were spoken for.

        The tokens that it need not compute (whole units; never its last token), and the units among them that are idle.
        """
        request = resident.request
        size = request.prefix_tokens
        if not request.prefix_ids or size % self.block_tokens:
            return 0, []
        self._seal_all()
        doomed = self._doomed(taken, kept)
        found, idle = 0, []
        for key in request.prefix_ids[: (resident.known - 1) // size]:
            unit = self._units.get(key)
            if unit is None or key in doomed:
                break
            found += 1
            if not unit.refs and key not in kept:
                idle.append(key)
        return found * size, idle

    def adopt(self, resident: Resident, tokens: int) -> None:
        """Let a resident that holds nothing yet begin after its first `tokens` tokens, which are here. PlanError if not."""
        found, _ = self.peek(resident)
        size = resident.request.prefix_tokens
        if resident.blocks or not tokens or tokens > found or tokens % size:
            raise PlanError(
                f"request {resident.id} is to begin after {tokens} tokens; {found} of its prompt are in memory"
            )
        keys = list(resident.request.prefix_ids[: tokens // size])
        for key in keys:
            unit = self._units[key]
            if not unit.refs:
                del self._idle[key]
                self._idle_blocks -= unit.blocks
                self.free -= unit.blocks
            unit.refs += 1
            if self.pages is not None:
                self.pages.lend(resident.id, unit.pages)
        self._held[resident.id] = keys
        self._next[resident.id] = len(keys)
        resident.computed = tokens
        resident.blocks = tokens // self.block_tokens

    def hold(self, resident: Resident, tokens: int) -> None:
        """As any ledger; and remember that the resident is about to compute content."""
        super().hold(resident, tokens)
        if resident.request.prefix_ids and not resident.request.prefix_tokens % self.block_tokens:
            self._unsealed[resident.id] = resident

    def release(self, resident: Resident) -> None:
        """Free what the resident alone uses; what it has computed of its prompt stays known."""
        self._seal(resident)
        self._unsealed.pop(resident.id, None)
        self._next.pop(resident.id, None)
        keys = self._held.pop(resident.id, ())
        private = resident.blocks
        for key in keys:
            private -= self._units[key].blocks
        self.free += private
        for key in reversed(keys):
            unit = self._units[key]
            unit.refs -= 1
            if not unit.refs:
                self._idle[key] = unit
                self._idle_blocks += unit.blocks
                self.free += unit.blocks
        resident.blocks = 0
        if self.pages is not None:
            self.pages.release(resident.id)

    def frees(self, resident: Resident) -> int:
        """Blocks that would be free without this resident; those that it shares are not among them."""
        shared = sum(unit.blocks for key in self._held.get(resident.id, ()) if (unit := self._units[key]).refs > 1)
        return self.held(resident) - shared

    def _reach(self, resident: Resident, count: int) -> tuple[int, ...]:
        """As any ledger; within a leap content that nobody uses is given up now that would be when the leap is counted."""
        if self.pages is not None:
            lacking = count - self.pages.owned(resident.id) - self.pages.available
            while lacking > 0 and self._idle:
                lacking -= self._give_up()
        return super()._reach(resident, count)

    def check(self, residents: Sequence[Resident]) -> None:
        """Recount everything from the residents; PlanError if a sum has drifted. For tests and debugging."""
        refs: dict[int, int] = {}
        for resident in residents:
            for key in self._held.get(resident.id, ()):
                refs[key] = refs.get(key, 0) + 1
        idle = {key for key, unit in self._units.items() if not unit.refs}
        used = sum(unit.blocks for unit in self._units.values() if unit.refs)
        private = sum(self.held(r) - sum(self._units[k].blocks for k in self._held.get(r.id, ())) for r in residents)
        if (
            refs != {key: unit.refs for key, unit in self._units.items() if unit.refs}
            or idle != set(self._idle)
            or self._idle_blocks != sum(self._units[key].blocks for key in idle)
            or self.free != self.blocks - used - private
            or self._idle_blocks > self.free
        ):
            raise PlanError("the prefix cache has drifted from its residents")

    def _doomed(self, taken: int, kept: Container[int]) -> set[int]:
        """The idle units that are given up once so many blocks have been taken."""
        lacking = taken - (self.free - self._idle_blocks)
        doomed: set[int] = set()
        for key, unit in self._idle.items() if lacking > 0 else ():
            if key not in kept:
                doomed.add(key)
                lacking -= unit.blocks
                if lacking <= 0:
                    break
        return doomed

    def _kept(self, resident: Resident, first: int, blocks: int) -> tuple[int, ...]:
        """The pages of some blocks of a resident, held once more for their content; none if nobody addresses pages."""
        if self.pages is None:
            return ()
        pages = self.pages.reach(resident.id, first + blocks)[first : first + blocks]
        self.pages.keep(pages)
        return pages

    def _seal_all(self) -> None:
        for resident in list(self._unsealed.values()):
            self._seal(resident)

    def _seal(self, resident: Resident) -> None:
        """Make known by key what the resident has computed of its prompt since the last time.

        Where somebody else has computed the same meanwhile, that copy stays the known one and this one private.
        """
        if resident.id not in self._unsealed:
            return
        request = resident.request
        size = request.prefix_tokens
        keys = self._held.setdefault(resident.id, [])
        next_ = self._next.get(resident.id, 0)
        last = min(len(request.prefix_ids), request.prompt_tokens // size)
        done = min(resident.computed // size, last)
        for i, key in enumerate(request.prefix_ids[next_:done], start=next_):
            if key not in self._units:
                blocks = size // self.block_tokens
                self._units[key] = Unit(blocks, self._kept(resident, i * blocks, blocks))
                keys.append(key)
        self._next[resident.id] = done
        if done == last:
            del self._unsealed[resident.id]
