"""Random: any replica that serves the phase, all alike. The yardstick of every router that looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from phasewise.core.request import Request
from phasewise.core.spec import DECODE, PREFILL
from phasewise.policy.fleet import ClusterView

_STREAM = 3  # of a run's seed; a scenario's draws have those below
_BLOCK = 256

T = TypeVar("T")


class Die:
    """Fair choices, one stream for one seed. Drawn in blocks: a draw alone costs more than a route."""

    __slots__ = ("_draws", "_left")

    def __init__(self, seed: int) -> None:
        self._draws = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAM,)))
        self._left: list[float] = []

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1, all alike."""
        if not self._left:
            self._left = self._draws.random(_BLOCK).tolist()
        return int(self._left.pop() * n)

    def one(self, things: Sequence[T]) -> T:
        """One of these, all alike."""
        return things[self.below(len(things))]

    def two(self, things: Sequence[T]) -> tuple[T, T]:
        """Two different ones of at least two, in either order; all pairs alike."""
        first, second = self.below(len(things)), self.below(len(things) - 1)
        return things[first], things[second + (second >= first)]


class Random:
    """Each phase of a request on a replica drawn at random, all alike."""

    __slots__ = ("_die",)

    def __init__(self, seed: int = 0) -> None:
        self._die = Die(seed)

    def seeded(self, seed: int) -> Random:
        """A router of its own stream."""
        return Random(seed)

    def route(self, request: Request, cluster: ClusterView, now_ns: int, source: int | None = None) -> int | None:
        replicas = cluster.able(PREFILL if source is None else DECODE)
        return self._die.one(replicas) if replicas else None
