"""Least pending tokens: join the shortest queue, counted in tokens.

Pending tokens are counted as Splitwise's published simulator does (ISCA'24; `ClusterView.load`): prompt tokens still to
compute, and one for each answer that is not finished. The same measure serves at arrival and when a prompt is done: on a
replica that only decodes it is the number of answers, and one that does both is chosen for little of either. Its baselines
route so over all machines.
"""

from __future__ import annotations

from phasewise.core.request import Request
from phasewise.core.spec import DECODE, PREFILL
from phasewise.policy.fleet import ClusterView


class LeastPending:
    """The replica with the fewest pending tokens, the first of equals."""

    __slots__ = ()
    watches = True

    def route(self, request: Request, cluster: ClusterView, now_ns: int, source: int | None = None) -> int | None:
        return cluster.least(cluster.load(now_ns), PREFILL if source is None else DECODE)
