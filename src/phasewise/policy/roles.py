"""The roles: one verb each. A policy is told what it needs, decides, and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

from phasewise.core.action import Regroup, WakeAt
from phasewise.core.request import Request
from phasewise.core.step import StepPlan
from phasewise.core.view import ClusterView, InstanceState
from phasewise.perf.latency import LatencyModel

Planned = StepPlan | Regroup | WakeAt


class Batcher(Protocol):
    """What runs next on the free lanes of one replica.

    One that begins prompts after what is in memory of them has a property `prefix_cache`: whether its published system does so
    by default.
    """

    @property
    def watermark(self) -> float:
        """Share of the blocks that an admission leaves free; it bounds the longest context that can be served."""
        ...

    def plan(self, state: InstanceState, now_ns: int) -> tuple[Planned, ...]:
        """One plan for each lane that should run; `()` waits until something changes, a `WakeAt` until then at the latest.

        A `Regroup` in front of a plan moves decoding residents to other cohorts first.
        """
        ...


@runtime_checkable
class Tuned(Protocol):
    """A policy that chooses parameters by the step times of its replicas, once, before it serves."""

    def tuned(self, latencies: Sequence[LatencyModel]) -> Self:
        """The policy with those parameters filled in; itself if there is nothing to choose. InputError if it cannot."""
        ...


class Router(Protocol):
    """Which replica serves a request."""

    def route(self, request: Request, cluster: ClusterView) -> int:
        """One of `cluster.replicas`."""
        ...
