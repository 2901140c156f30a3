"""What of a deployment can be served: checked before anything is started."""

from __future__ import annotations

from phasewise.core.errors import InputError
from phasewise.core.spec import MIXED, Resolved
from phasewise.policy import catalog
from phasewise.policy.prediction.none import NoPrediction
from phasewise.policy.roles import Oracular, Predictor


def check_servable(resolved: Resolved) -> None:
    """InputError for a deployment that can be simulated and not yet served."""
    for replica in resolved.replicas:
        if replica.pp > 1:
            raise InputError("a replica of several pipeline stages can be simulated, not served yet; set pp: 1")
        if replica.role != MIXED:
            raise InputError(f"a replica for {replica.role} alone can be simulated, not served yet; set role: {MIXED}")
        if replica.host_blocks:
            raise InputError("swapping to host memory can be simulated, not served yet; set host_gib: 0")


def predictor(resolved: Resolved) -> Predictor | None:
    """Who says how long answers will be; nobody, if nothing is to be said."""
    found = catalog.build("predictor", resolved.deployment.predictor)
    if isinstance(found, Oracular):
        raise InputError("a predictor that is told the true lengths can be simulated, not served")
    return None if isinstance(found, NoPrediction) else found
