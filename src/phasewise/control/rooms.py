"""Rooms from a resolved deployment. The simulator, the live server and a replay all open them here, and so get the same."""

from __future__ import annotations

from phasewise.control.cluster import ClusterControl
from phasewise.control.instance import InstanceControl
from phasewise.control.pipeline import PipelineControl
from phasewise.core.kv import BlockLedger
from phasewise.core.prefix import PrefixLedger
from phasewise.core.spec import Resolved
from phasewise.policy import catalog


def open_cluster(resolved: Resolved) -> ClusterControl:
    """The cluster room, with a router of its own."""
    return ClusterControl(catalog.build("router", resolved.deployment.router), len(resolved.replicas))


def open_instance(resolved: Resolved, replica: int) -> InstanceControl | PipelineControl:
    """The room of one replica, with a batcher and a ledger of its own."""
    deployment = resolved.deployment
    spec = resolved.replicas[replica]
    batcher = catalog.build("batcher", resolved.batcher(replica))
    kind = PrefixLedger if deployment.prefix_cache else BlockLedger
    ledger = kind(spec.blocks, deployment.block_tokens, int(batcher.watermark * spec.blocks))
    if spec.pp > 1:
        return PipelineControl(batcher, ledger, spec.max_context, spec.pp)
    return InstanceControl(batcher, ledger, spec.max_context)
