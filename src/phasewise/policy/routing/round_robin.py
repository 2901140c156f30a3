"""Round robin: each request to the replica after the last one's, skipping those that cannot serve it."""

from __future__ import annotations

from phasewise.core.request import Request
from phasewise.core.view import ClusterView


class RoundRobin:
    """Each request to the next replica in turn. Remembers only whose turn it is."""

    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn = 0

    def route(self, request: Request, cluster: ClusterView) -> int:
        replicas = cluster.replicas
        chosen = replicas[self._turn % len(replicas)]
        self._turn += 1
        return chosen
