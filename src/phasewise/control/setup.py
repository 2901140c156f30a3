"""What the room beside an engine is opened with, whether it has one stage or several."""

from __future__ import annotations

from typing import NamedTuple

from phasewise.control.reporter import Reporter
from phasewise.core.kv import BlockLedger
from phasewise.policy.roles import Batcher


class Setup(NamedTuple):
    """Of replica number `replica`: who plans its steps, and its blocks, of the device's memory and of the host's.

    With a `reporter` the room tells the cluster how it stands; a `forgetful` one cannot repeat its last word on a request that
    it has let go; for a router that `books`, it tells when a prompt is computed whose request stays.
    """

    batcher: Batcher
    ledger: BlockLedger
    max_context: int
    replica: int = 0
    reporter: Reporter | None = None
    forgetful: bool = True
    books: bool = False
    host_blocks: int = 0

    @property
    def seats(self) -> int:
        """How many may run at once."""
        return getattr(self.batcher, "max_seqs", 1 << 30)

    @property
    def most_blocks(self) -> float:
        """With so many blocks held by requests that wait for a seat, no other is let in from another replica."""
        return getattr(self.batcher, "accept_share", 1.0) * self.ledger.blocks
