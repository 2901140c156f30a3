"""The JSON of a simulation, `phasewise.simulate/1`: what each key means is in `docs/guide/summary.md`."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import msgspec

from phasewise.control.deployment import as_written
from phasewise.core.version import VERSION
from phasewise.record.runlog import RunLog

SCHEMA = "phasewise.simulate/1"


def document(log: RunLog, warnings: list[str]) -> dict[str, Any]:
    """The document of a finished run. `deployment` is what a deployment file would hold, every default written out."""
    resolved = log.header.resolved
    replicas = []
    for replica, group in groupby(resolved.replicas):
        replicas.append({"count": len(list(group)), **msgspec.to_builtins(replica)})
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "basis": resolved.basis,
        "deployment": as_written(resolved.deployment),
        "model": {**msgspec.to_builtins(resolved.model), "parameters": resolved.model.parameters},
        "replicas": replicas,
        "workload": log.header.workload,
        "seed": log.header.seed,
        "warnings": warnings,
        "summary": log.summary,
    }
