"""Virtual time: it stands at the event that is being handled, and jumps to the next."""

from __future__ import annotations

from typing import Any


class VirtualClock:
    """Moved only by the pump. `agenda` is a heap of `(at_ns, order, what)`: what will happen, unless it is superseded."""

    __slots__ = ("agenda", "now_ns")

    def __init__(self, now_ns: int = 0) -> None:
        self.now_ns = now_ns
        self.agenda: list[tuple[int, int, Any]] = []
