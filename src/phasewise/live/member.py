"""One replica, as the fleet has it from one process to the next: what was heard of it last, and how soon it may come back."""

from __future__ import annotations

import asyncio

from phasewise.core.event import Killed
from phasewise.core.step import Piece
from phasewise.core.units import to_s
from phasewise.live.process import WorkerProcess
from phasewise.live.wire import Burst

FIRST_WAIT_S, LONGEST_WAIT_S, STEADY_S = 0.5, 30.0, 10.0
"""A process that dies is started again at once; one that had lived for less than `STEADY_S`, after a wait that doubles."""

FEW_STARTS = 4
"""After so many starts in a row that came to nothing the replica counts as gone, and no request waits for it."""


class Member:
    """A replica, as the fleet has it. The iterations of `run` that have been heard of took the times in `pieces`."""

    def __init__(self, blocks: int) -> None:
        self.process: WorkerProcess | None = None
        self.task: asyncio.Task[None] | None = None
        self.ready = False
        self.blocks = self.free = blocks
        self.run = -1
        self.pieces: list[Piece] = []
        self.killed: tuple[int, Killed] | None = None
        self.up_ns = 0
        self.failures = 0
        self.timer: asyncio.TimerHandle | None = None

    @property
    def given_up(self) -> bool:
        return self.failures >= FEW_STARTS

    @property
    def wait_s(self) -> float:
        """How long to wait before it is started again."""
        return min(FIRST_WAIT_S * 2 ** (self.failures - 2), LONGEST_WAIT_S) if self.failures > 1 else 0.0

    def heard(self, burst: Burst) -> None:
        """An iteration of it is over."""
        if burst.run != self.run:
            self.run, self.pieces = burst.run, []
        self.pieces.append((float(burst.took_ns), 0.0, 1))
        self.free = burst.free

    def serves(self, now_ns: int) -> None:
        """Its process has started, empty."""
        self.ready, self.killed, self.up_ns = True, None, now_ns
        self.free, self.run, self.pieces = self.blocks, -1, []

    def died(self, now_ns: int) -> bool:
        """Its process is dead. Whether it had served: then there is something to be written down of it."""
        had = self.ready
        self.process, self.ready = None, False
        if had:
            self.killed = now_ns, Killed(((0, self.run, tuple(self.pieces)),) if self.pieces else ())
            if to_s(now_ns - self.up_ns) >= STEADY_S:
                self.failures = 0
                return True
        self.failures += 1
        return had
