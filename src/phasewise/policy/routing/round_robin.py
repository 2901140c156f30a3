"""Round robin: each request to the replica after the last one's, skipping those that cannot serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phasewise.core.request import Request
from phasewise.core.spec import DECODE, PREFILL

if TYPE_CHECKING:
    from phasewise.policy.fleet import ClusterView


class RoundRobin:
    """Each request to the next replica in turn, phase by phase. Remembers only whose turn it is."""

    __slots__ = ("_turn", "_turns")

    def __init__(self) -> None:
        self._turn = 0
        self._turns = 0

    def route(self, request: Request, cluster: ClusterView, now_ns: int, source: int | None = None) -> int | None:
        if source is None:
            replicas = cluster.able(PREFILL)
            turn, self._turn = self._turn, self._turn + 1
        else:
            replicas = cluster.able(DECODE)
            turn, self._turns = self._turns, self._turns + 1
        return replicas[turn % len(replicas)] if replicas else None
