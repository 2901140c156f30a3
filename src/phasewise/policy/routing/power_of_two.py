"""The power of two choices: of two replicas drawn at random, the one with less to do (Mitzenmacher, 2001).

What it has to do is counted in pending tokens, as Splitwise's published simulator counts them (`ClusterView.load`): prompt
tokens still to compute, and one for each answer that is not finished; at arrival and when the prompt is done. That measure is
our choice; the result is about queues of equal customers.
"""

from __future__ import annotations

from phasewise.core.request import Request
from phasewise.core.spec import DECODE, PREFILL
from phasewise.policy.fleet import ClusterView
from phasewise.policy.routing.random import Die


class PowerOfTwo:
    """Of two different replicas drawn at random, the one with fewer pending tokens; the first drawn of equals."""

    __slots__ = ("_die",)
    watches = True

    def __init__(self, seed: int = 0) -> None:
        self._die = Die(seed)

    def seeded(self, seed: int) -> PowerOfTwo:
        """A router of its own stream."""
        return PowerOfTwo(seed)

    def route(self, request: Request, cluster: ClusterView, now_ns: int, source: int | None = None) -> int | None:
        replicas = cluster.able(PREFILL if source is None else DECODE)
        if len(replicas) < 2:
            return replicas[0] if replicas else None
        pair = self._die.two(replicas)
        first, second = cluster.loads(pair, now_ns)
        return pair[second < first]
