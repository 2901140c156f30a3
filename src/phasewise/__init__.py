"""Phasewise plans, simulates and serves large language models phase by phase.

```python
import phasewise

deployment = phasewise.read_deployment("examples/llama-8b-h100-sarathi.yaml")
log = phasewise.simulate(deployment, phasewise.load_workload("azure-conv", rate=5.0), seed=0)
print(log.summary["ttft_s"]["p99"])
```

Every name below is imported when it is first used: importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from phasewise.core.version import VERSION as __version__

if TYPE_CHECKING:
    from phasewise.control.deployment import read_deployment
    from phasewise.core.errors import PhasewiseError
    from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, Slo
    from phasewise.planner.capacity import Capacity, capacity
    from phasewise.planner.compare import Comparison, compare
    from phasewise.planner.sweep import Sweep, sweep
    from phasewise.record.runlog import RunLog
    from phasewise.sim.simulate import simulate
    from phasewise.workload.source import load as load_workload

__all__ = [
    "Capacity",
    "Comparison",
    "Deployment",
    "PhasewiseError",
    "PolicySpec",
    "ReplicaSpec",
    "RunLog",
    "Slo",
    "Sweep",
    "__version__",
    "capacity",
    "compare",
    "load_workload",
    "read_deployment",
    "simulate",
    "sweep",
]

_HOMES = {
    "Capacity": ("phasewise.planner.capacity", "Capacity"),
    "Comparison": ("phasewise.planner.compare", "Comparison"),
    "capacity": ("phasewise.planner.capacity", "capacity"),
    "compare": ("phasewise.planner.compare", "compare"),
    "Deployment": ("phasewise.core.spec", "Deployment"),
    "PhasewiseError": ("phasewise.core.errors", "PhasewiseError"),
    "PolicySpec": ("phasewise.core.spec", "PolicySpec"),
    "ReplicaSpec": ("phasewise.core.spec", "ReplicaSpec"),
    "RunLog": ("phasewise.record.runlog", "RunLog"),
    "Slo": ("phasewise.core.spec", "Slo"),
    "Sweep": ("phasewise.planner.sweep", "Sweep"),
    "sweep": ("phasewise.planner.sweep", "sweep"),
    "load_workload": ("phasewise.workload.source", "load"),
    "read_deployment": ("phasewise.control.deployment", "read_deployment"),
    "simulate": ("phasewise.sim.simulate", "simulate"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'phasewise' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
