"""The clock on the wall: nanoseconds since an epoch that all processes of a service share."""

from __future__ import annotations

from time import monotonic_ns


class WallClock:
    """Never goes back. `epoch_ns` is an instant of this machine's monotonic clock (None: now); whoever is given it agrees."""

    __slots__ = ("epoch_ns",)

    def __init__(self, epoch_ns: int | None = None) -> None:
        self.epoch_ns = monotonic_ns() if epoch_ns is None else epoch_ns

    @property
    def now_ns(self) -> int:
        return monotonic_ns() - self.epoch_ns
