"""Virtual time: it stands at the event that is being handled, and jumps to the next."""

from __future__ import annotations


class VirtualClock:
    """Moved only by the pump. `agenda` is a heap of `(end_ns, order)`: when executors have promised the end of a run."""

    __slots__ = ("agenda", "now_ns")

    def __init__(self, now_ns: int = 0) -> None:
        self.now_ns = now_ns
        self.agenda: list[tuple[int, int]] = []
