"""DistServe's dispatch (OSDI'24, section 4.3): the shortest prefill queue, then the least loaded decode replica.

The paper says no more, so the measures are ours. A queue is as long as it has prompts not finished, those in progress and on
their way included; equal queues are told apart by all their pending tokens (`ClusterView.load`). A decode replica's load is
the context of its answers, those on their way included: by it a step's time and the memory grow. Nobody is refused for lack
of memory: the target accepts a prompt when it has room (the batcher's `accept_share`), and until then it stays where it was
computed.

A replica that serves both phases is a prefill replica like any other at arrival, and keeps what it gets.
"""

from __future__ import annotations

from phasewise.core.request import Request
from phasewise.core.spec import DECODE, PREFILL
from phasewise.policy.fleet import ClusterView

_ONE = float(1 << 32)  # more than any queue has tokens, and few enough that a queue's tokens still count beside it


class DistServe:
    """Prompts to the shortest queue, answers to the least context; the first of equals."""

    __slots__ = ()
    watches = True

    def route(self, request: Request, cluster: ClusterView, now_ns: int, source: int | None = None) -> int | None:
        if source is not None:
            return cluster.least(cluster.contexts(now_ns), DECODE)
        queue = cluster.prompts(now_ns)
        queue *= _ONE
        queue += cluster.load(now_ns)
        return cluster.least(queue, PREFILL)
