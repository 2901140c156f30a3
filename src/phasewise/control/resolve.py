"""From what a person wrote to what will run: every name looked up, every default filled in, checked before anything starts.

The deployment itself is never written into; the resolved value is what is printed, logged and replayed.
"""

from __future__ import annotations

import msgspec

from phasewise.control.latency import in_words, step_times
from phasewise.core.errors import InputError, unknown
from phasewise.core.spec import DECODE, PREFILL, ROLES, Deployment, ModelSpec, PolicySpec, Resolved, ResolvedReplica
from phasewise.perf.efficiency import DATA_SHEET, FITTED, efficiency
from phasewise.perf.hardware import device
from phasewise.perf.links import resolve_link
from phasewise.perf.memory import GIB, kv_blocks
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
    router = catalog.resolved("router", deployment.router, where)
    predictor = catalog.resolved("predictor", deployment.predictor, where)
    _check(deployment, spec, where)
    batcher = catalog.resolved("batcher", deployment.batcher, where)
    groups = tuple(
        msgspec.structs.replace(group, batcher=group.batcher and catalog.resolved("batcher", group.batcher, where))
        for group in deployment.replicas
    )
    filled = msgspec.structs.replace(deployment, batcher=batcher, router=router, replicas=groups, predictor=predictor)
    replicas: list[ResolvedReplica] = []
    for i in range(len(groups)):
        replicas += [_replica(filled, spec, i, where)] * groups[i].count
    reference = _reference(deployment, spec, replicas[0], where)
    resolved = _tuned(Resolved(filled, spec, tuple(replicas), _basis(deployment, replicas), reference), where)
    return _with_prefixes(resolved, deployment.prefix_cache, where)


def _reference(
    deployment: Deployment, spec: ModelSpec, first: ResolvedReplica, where: str | None
) -> ResolvedReplica | None:
    """The first replica on the device that the deployment names for slowdowns, whether or not the model fits it."""
    if deployment.reference is None:
        return None
    try:
        found = device(deployment.reference)
    except InputError as error:
        raise InputError(f"reference: {error}", where) from None
    times = step_times(deployment, spec, found, first.tp, where)
    return msgspec.structs.replace(first, device=found, latency=times)


def _tuned(resolved: Resolved, where: str | None) -> Resolved:
    """With the parameters that its batchers choose by the step times of the replicas that they plan for."""
    deployment = resolved.deployment
    shared = [i for i, group in enumerate(deployment.replicas) if group.batcher is None]
    groups = list(deployment.replicas)
    for i in range(len(groups)):
        if (own := groups[i].batcher) is not None:
            groups[i] = msgspec.structs.replace(groups[i], batcher=_tuned_for(resolved, own, [i], where))
    batcher = _tuned_for(resolved, deployment.batcher, shared, where) if shared else deployment.batcher
    filled = msgspec.structs.replace(deployment, batcher=batcher, replicas=tuple(groups))
    return msgspec.structs.replace(resolved, deployment=filled)


def _tuned_for(resolved: Resolved, batcher: PolicySpec, groups: list[int], where: str | None) -> PolicySpec:
    built = catalog.build("batcher", batcher)
    if not isinstance(built, Tuned):
        return batcher
    kinds = dict.fromkeys(replica for replica in resolved.replicas if replica.group in groups)
    models = [latency_model(resolved.deployment, resolved.model, kind) for kind in kinds]
    try:
        return PolicySpec(batcher.name, msgspec.to_builtins(built.tuned(models)))
    except InputError as error:
        raise InputError(f"batcher {batcher.name}: {error}", where) from None


def _with_prefixes(resolved: Resolved, wanted: bool | None, where: str | None) -> Resolved:
    """With prefix caching on or off: as wanted, or as the published systems of all its batchers do by default."""
    groups = dict.fromkeys(replica.group for replica in resolved.replicas)
    deployment = resolved.deployment
    used = [deployment.replicas[group].batcher or deployment.batcher for group in groups]
    defaults = {spec.name: getattr(catalog.build("batcher", spec), "prefix_cache", None) for spec in used}
    unable = [name for name, default in defaults.items() if default is None]
    if wanted and unable:
        able = ", ".join(catalog.prefix_keepers())
        raise InputError(f"batcher {unable[0]} keeps no prefixes; leave prefix_cache out, or take one of {able}", where)
    prefix_cache = all(defaults.values()) if wanted is None else wanted
    filled = msgspec.structs.replace(deployment, prefix_cache=prefix_cache)
    return msgspec.structs.replace(resolved, deployment=filled)


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
    for name in ("report_s", "patience_s", "cold_start_s"):
        value = getattr(deployment, name)
        if value is not None and not 0 <= value < 1e6:
            raise InputError(f"{name} is {value}; give seconds, 0 or more", where)
    if deployment.patience_s is not None and deployment.patience_s <= 2 * deployment.wire_s:
        raise InputError(f"patience_s is {deployment.patience_s}; an answer takes 2 x wire_s: give more", where)
    resolve_link(deployment.link, f"{where}: link" if where else "link")
    if all(group.role == DECODE for group in deployment.replicas) and deployment.replicas:
        raise InputError("every replica is for decode, and none computes prompts; give a group the role prefill", where)
    if all(group.role == PREFILL for group in deployment.replicas) and deployment.replicas:
        raise InputError("every replica is for prefill, and none decodes answers; give a group the role decode", where)
    if not deployment.replicas:
        raise InputError("no replicas; give at least one group with a device", where)


def _replica(deployment: Deployment, spec: ModelSpec, number: int, where: str | None) -> ResolvedReplica:
    group = deployment.replicas[number]
    watermark: float = catalog.build("batcher", group.batcher or deployment.batcher).watermark
    if group.role not in ROLES:
        raise unknown("role", group.role, ROLES, where)
    if not 1 <= group.count <= 10_000:
        raise InputError(f"replicas[{number}] is a group of {group.count} replicas; give 1 to 10000", where)
    found = device(group.device, where)
    try:
        blocks = kv_blocks(spec, found, group.tp, group.memory_utilisation, deployment.block_tokens, pp=group.pp)
    except InputError as error:
        raise InputError(str(error), where) from None
    degrees = f"tp {group.tp}, pp {group.pp}" if group.pp > 1 else f"tp {group.tp}"
    usable = (blocks - int(watermark * blocks)) * deployment.block_tokens
    limit = min(deployment.max_context or spec.max_context, usable)
    if deployment.max_context is not None and limit < deployment.max_context:
        raise InputError(
            f"max_context is {deployment.max_context}; the KV memory of {found.name} ({degrees}) holds {usable}",
            where,
        )
    times = step_times(deployment, spec, found, group.tp, where)
    if not 0 <= group.host_gib < 1e6:
        raise InputError(f"host_gib is {group.host_gib}; give GiB of host memory, 0 for none", where)
    host_blocks = int(group.host_gib * GIB) // spec.kv_bytes(deployment.block_tokens)
    return ResolvedReplica(found, group.tp, blocks, limit, times, group.pp, group.role, number, host_blocks)


def _basis(deployment: Deployment, replicas: list[ResolvedReplica]) -> str:
    """What the step times rest on; of a roofline the weakest footing among the replicas."""
    named = dict.fromkeys(in_words(deployment, r.latency) for r in replicas if r.latency is not None)
    if named:
        return "; ".join(named)
    fitted = all(efficiency(r.device).basis == FITTED for r in replicas)
    return FITTED if fitted else DATA_SHEET
