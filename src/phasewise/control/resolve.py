"""From what a person wrote to what will run: every name looked up, every default filled in, checked before anything starts.

The deployment itself is never written into; the resolved value is what is printed, logged and replayed.
"""

from __future__ import annotations

import msgspec

from phasewise.control.latency import in_words, step_times
from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, ModelSpec, PolicySpec, ReplicaSpec, Resolved, ResolvedReplica
from phasewise.perf.efficiency import DATA_SHEET, FITTED, efficiency
from phasewise.perf.hardware import device
from phasewise.perf.memory import kv_blocks
from phasewise.perf.models import model
from phasewise.perf.physics import latency_model
from phasewise.policy import catalog
from phasewise.policy.roles import Tuned


def resolve(deployment: Deployment, where: str | None = None) -> Resolved:
    """The resolved deployment; InputError for an unknown name, a bad value, or a model that does not fit its device.

    The longest context is the model's, or `max_context` if that is less, or what the KV memory above the batcher's
    watermark holds if that is less still: so every admitted request can run alone to its end.
    """
    spec = model(deployment.model, where)
    batcher = catalog.resolved("batcher", deployment.batcher, where)
    router = catalog.resolved("router", deployment.router, where)
    built = catalog.build("batcher", batcher)
    watermark = built.watermark
    default = getattr(built, "prefix_cache", None)
    if deployment.prefix_cache and default is None:
        able = ", ".join(catalog.prefix_keepers())
        raise InputError(
            f"batcher {batcher.name} keeps no prefixes; leave prefix_cache out, or take one of {able}", where
        )
    prefix_cache = bool(default if deployment.prefix_cache is None else deployment.prefix_cache)
    _check(deployment, spec, where)
    replicas: list[ResolvedReplica] = []
    for group in deployment.replicas:
        replicas += [_replica(deployment, spec, group, watermark, where)] * group.count
    if isinstance(built, Tuned):
        models = [latency_model(deployment, spec, replica) for replica in dict.fromkeys(replicas)]
        try:
            batcher = PolicySpec(batcher.name, msgspec.to_builtins(built.tuned(models)))
        except InputError as error:
            raise InputError(f"batcher {batcher.name}: {error}", where) from None
    filled = msgspec.structs.replace(deployment, batcher=batcher, router=router, prefix_cache=prefix_cache)
    return Resolved(filled, spec, tuple(replicas), _basis(deployment, replicas))


def _check(deployment: Deployment, spec: ModelSpec, where: str | None) -> None:
    limit = deployment.max_context
    if limit is not None and not 2 <= limit <= spec.max_context:
        raise InputError(f"max_context is {limit}; {spec.name} serves 2 to {spec.max_context} tokens", where)
    if not 1 <= deployment.block_tokens <= 1024:
        raise InputError(f"block_tokens is {deployment.block_tokens}; give 1 to 1024 tokens", where)
    if deployment.tile < 0:
        raise InputError(f"tile is {deployment.tile}; give 0 for none, or a GEMM tile such as 128", where)
    for name in ("host_s", "wire_s"):
        value = getattr(deployment, name)
        if value is not None and not 0 <= value < 60:
            raise InputError(f"{name} is {value}; give seconds, 0 or more and below 60", where)
    for name, value in msgspec.structs.asdict(deployment.slo).items():
        if value is not None and not 0 < value < 1e6:
            raise InputError(f"slo.{name} is {value}; give seconds above 0", where)
    if not deployment.replicas:
        raise InputError("no replicas; give at least one group with a device", where)


def _replica(
    deployment: Deployment, spec: ModelSpec, group: ReplicaSpec, watermark: float, where: str | None
) -> ResolvedReplica:
    if not 1 <= group.count <= 10_000:
        raise InputError(f"a group of {group.count} replicas; give 1 to 10000", where)
    found = device(group.device, where)
    try:
        blocks = kv_blocks(spec, found, group.tp, group.memory_utilisation, deployment.block_tokens)
    except InputError as error:
        raise InputError(str(error), where) from None
    usable = (blocks - int(watermark * blocks)) * deployment.block_tokens
    limit = min(deployment.max_context or spec.max_context, usable)
    if deployment.max_context is not None and limit < deployment.max_context:
        raise InputError(
            f"max_context is {deployment.max_context}; the KV memory of {found.name} (tp {group.tp}) holds {usable}",
            where,
        )
    times = step_times(deployment, spec, found, group.tp, where)
    return ResolvedReplica(found, group.tp, blocks, limit, times)


def _basis(deployment: Deployment, replicas: list[ResolvedReplica]) -> str:
    """What the step times rest on; of a roofline the weakest footing among the replicas."""
    named = dict.fromkeys(in_words(deployment, r.latency) for r in replicas if r.latency is not None)
    if named:
        return "; ".join(named)
    fitted = all(efficiency(r.device).basis == FITTED for r in replicas)
    return FITTED if fitted else DATA_SHEET
