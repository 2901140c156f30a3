"""Rooms from a resolved deployment. The simulator, the live server and a replay all open them here, and so get the same."""

from __future__ import annotations

from collections.abc import Callable

from phasewise.control.cluster import ClusterControl
from phasewise.control.instance import InstanceControl
from phasewise.control.pipeline import PipelineControl
from phasewise.control.reporter import Reporter
from phasewise.control.setup import Setup
from phasewise.core.kv import BlockLedger, PageBook
from phasewise.core.prefix import PrefixLedger
from phasewise.core.spec import Resolved
from phasewise.core.units import to_ns
from phasewise.perf.latency import LatencyModel
from phasewise.perf.physics import latency_model
from phasewise.policy import catalog
from phasewise.policy.roles import Seeded

Beliefs = Callable[[int], LatencyModel]
"""What each replica takes its step times to be, by its index."""


def open_cluster(resolved: Resolved, seed: int = 0) -> ClusterControl:
    """The cluster room, with a router of its own; one that draws by chance draws from `seed`."""
    deployment = resolved.deployment
    router = catalog.build("router", deployment.router)
    if isinstance(router, Seeded):
        router = router.seeded(seed)
    patience_ns = None if deployment.patience_s is None else to_ns(deployment.patience_s)
    replicas = resolved.replicas
    roles, blocks = [r.role for r in replicas], [r.blocks for r in replicas]
    return ClusterControl(router, roles, blocks, patience_ns, deployment.block_tokens)


def open_instance(
    resolved: Resolved, replica: int, beliefs: Beliefs | None = None, pages: bool = False
) -> InstanceControl | PipelineControl:
    """The room of one replica, with a batcher and a ledger of its own. `beliefs`: a copy of the simulator's physics if None.

    With `pages` the ledger keeps a book of them, for an executor that addresses memory; the room decides the same.
    """
    deployment = resolved.deployment
    spec = resolved.replicas[replica]
    batcher = catalog.build("batcher", resolved.batcher(replica))
    kind = PrefixLedger if deployment.prefix_cache else BlockLedger
    ledger = kind(
        spec.blocks,
        deployment.block_tokens,
        int(batcher.watermark * spec.blocks),
        PageBook(spec.blocks) if pages else None,
    )
    reporter = None
    router = catalog.find("router", deployment.router.name)
    if getattr(router, "watches", False):
        belief = latency_model(deployment, resolved.model, spec) if beliefs is None else beliefs(replica)
        reporter = Reporter(replica, to_ns(deployment.report_s), belief)
    setup = Setup(
        batcher,
        ledger,
        spec.max_context,
        replica,
        reporter,
        forgetful=deployment.patience_s is None,
        books=getattr(router, "books", False),
        host_blocks=spec.host_blocks if getattr(batcher, "swaps", False) else 0,
    )
    return InstanceControl(setup) if spec.pp == 1 else PipelineControl(setup, spec.pp)
