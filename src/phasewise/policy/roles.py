"""The roles: one verb each. A policy is told what it needs, decides, and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, runtime_checkable

from phasewise.core.action import Regroup, WakeAt
from phasewise.core.request import Request
from phasewise.core.step import StepPlan
from phasewise.core.view import InstanceState
from phasewise.perf.latency import LatencyModel
from phasewise.policy.fleet import ClusterView

if TYPE_CHECKING:
    from phasewise.workload.truth import Truth

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


@runtime_checkable
class Seeded(Protocol):
    """A policy that draws by chance."""

    def seeded(self, seed: int) -> Self:
        """The policy with its generator begun at `seed`."""
        ...


class Predictor(Protocol):
    """How long an answer will be. Its word enters a room with the event of the arrival."""

    def predict(self, request: Request) -> int | None:
        """Output tokens that the request will have; None: nothing is known."""
        ...


@runtime_checkable
class Oracular(Protocol):
    """A predictor that must be shown the truth, and says so in its name."""

    def shown(self, truth: Truth) -> Predictor:
        """One that knows these lengths."""
        ...


class Homes(NamedTuple):
    """Where the two phases of a request are served; `roles` of replicas (which, what) are changed before that."""

    prefill: int
    decode: int
    roles: tuple[tuple[int, str], ...] = ()


class Router(Protocol):
    """Which replicas serve a request.

    One that reads what replicas report has `watches`, and is shown it at most `Deployment.report_s` old.
    """

    def route(
        self, request: Request, cluster: ClusterView, now_ns: int, source: int | None = None
    ) -> int | Homes | None:
        """Homes for the phases that are still open; None: nowhere yet, ask again when a replica has changed.

        At arrival (`source` is None) a single replica serves the prompt, and the answer too if its role allows; otherwise the
        answer's home is asked for when the prompt is done, `source` being the replica that has its keys and values.
        """
        ...
