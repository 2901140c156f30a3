"""The latency model that a resolved replica runs on: the roofline of its device, or the step times that it names; by stages if
it has several."""

from __future__ import annotations

from phasewise.core.spec import Deployment, ModelSpec, ResolvedReplica
from phasewise.perf.efficiency import efficiency
from phasewise.perf.fitted import Fitted
from phasewise.perf.latency import LatencyModel
from phasewise.perf.pipeline import EvenStages, StagedRoofline
from phasewise.perf.roofline import Roofline


def latency_model(deployment: Deployment, model: ModelSpec, replica: ResolvedReplica) -> LatencyModel:
    """What says how long this replica's steps take."""
    pp = replica.pp
    if replica.latency is not None:
        fitted = Fitted(replica.latency)
        return fitted if pp == 1 else EvenStages(fitted, pp, replica.latency)
    fit = efficiency(replica.device)
    if pp > 1:
        return StagedRoofline(model, replica.device, replica.tp, pp, fit, deployment.host_s, deployment.tile)
    return Roofline(model, replica.device, replica.tp, fit, deployment.host_s, deployment.tile)
