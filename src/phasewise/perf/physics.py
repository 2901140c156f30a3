"""The latency model that a resolved replica runs on: the roofline of its device, or the step times that it names."""

from __future__ import annotations

from phasewise.core.spec import Deployment, ModelSpec, ResolvedReplica
from phasewise.perf.efficiency import efficiency
from phasewise.perf.fitted import Fitted
from phasewise.perf.latency import LatencyModel
from phasewise.perf.roofline import Roofline


def latency_model(deployment: Deployment, model: ModelSpec, replica: ResolvedReplica) -> LatencyModel:
    """What says how long this replica's steps take."""
    if replica.latency is not None:
        return Fitted(replica.latency)
    fit = efficiency(replica.device)
    return Roofline(model, replica.device, replica.tp, fit, deployment.host_s, deployment.tile)
