"""(role, name) -> class. Adding a policy is one module and one line here; a package may add its own by an entry point.

An entry point of the group `phasewise.policies` is named `role:name` (`batcher:my-batcher`) and points at the class.
"""

from __future__ import annotations

import inspect
from importlib.metadata import entry_points
from typing import Any

import msgspec

from phasewise.core.errors import InputError, unknown
from phasewise.core.spec import PolicySpec
from phasewise.policy.batching.distserve import DistServe
from phasewise.policy.batching.nested_wait import NestedWait
from phasewise.policy.batching.orca import Orca
from phasewise.policy.batching.sarathi import Sarathi
from phasewise.policy.batching.splitwise import Splitwise
from phasewise.policy.batching.static import Static
from phasewise.policy.batching.vllm_v0 import VllmV0
from phasewise.policy.batching.vllm_v1 import VllmV1
from phasewise.policy.batching.wait import Wait
from phasewise.policy.prediction.mean import Mean
from phasewise.policy.prediction.none import NoPrediction
from phasewise.policy.prediction.oracle import Oracle
from phasewise.policy.routing.distserve import DistServe as DistServeRouter
from phasewise.policy.routing.least_pending import LeastPending
from phasewise.policy.routing.power_of_two import PowerOfTwo
from phasewise.policy.routing.random import Random
from phasewise.policy.routing.round_robin import RoundRobin
from phasewise.policy.routing.splitwise import Splitwise as SplitwiseRouter

PAPERS: dict[tuple[str, str], tuple[type, str]] = {
    ("batcher", "distserve"): (DistServe, "DistServe (OSDI'24, arXiv 2401.09670), section 4.3 and published engine"),
    ("batcher", "nested-wait"): (NestedWait, "Nested WAIT (arXiv 2504.11320)"),
    ("batcher", "orca"): (Orca, "Orca (OSDI'22), as pictured in Sarathi-Serve (OSDI'24)"),
    ("batcher", "sarathi"): (Sarathi, "Sarathi-Serve (OSDI'24, arXiv 2403.02310)"),
    ("batcher", "splitwise"): (Splitwise, "Splitwise (ISCA'24, arXiv 2311.18677) and its published simulator"),
    ("batcher", "static"): (Static, "FasterTransformer, as pictured in Sarathi-Serve (OSDI'24)"),
    ("batcher", "vllm-v0"): (VllmV0, "vLLM (SOSP'23), as pictured in Sarathi-Serve (OSDI'24)"),
    ("batcher", "vllm-v1"): (VllmV1, "vLLM v1 scheduler (published code)"),
    ("batcher", "wait"): (Wait, "WAIT (arXiv 2504.11320)"),
    ("router", "distserve"): (DistServeRouter, "DistServe (OSDI'24, arXiv 2401.09670), section 4.3"),
    ("router", "least-pending"): (
        LeastPending,
        "join the shortest queue, as Splitwise's simulator counts it (ISCA'24)",
    ),
    ("router", "power-of-two"): (PowerOfTwo, "the power of two choices (Mitzenmacher, IEEE TPDS 2001)"),
    ("router", "random"): (Random, "folklore"),
    ("predictor", "mean"): (Mean, "folklore"),
    ("predictor", "none"): (NoPrediction, "folklore"),
    ("predictor", "oracle"): (Oracle, "an upper bound, as in Splitwise's published simulator"),
    ("router", "round-robin"): (RoundRobin, "folklore"),
    ("router", "splitwise"): (SplitwiseRouter, "Splitwise (ISCA'24, arXiv 2311.18677) and its published simulator"),
}


class PolicyInfo(msgspec.Struct, frozen=True):
    """One line of the catalogue: `parameters` maps each knob to its default."""

    role: str
    name: str
    about: str
    paper: str
    parameters: dict[str, Any]


def _known() -> dict[tuple[str, str], tuple[type, str]]:
    found = dict(PAPERS)
    for point in entry_points(group="phasewise.policies"):
        role, _, name = point.name.partition(":")
        found[role, name] = (point.load(), f"package {point.dist.name if point.dist else '?'}")
    return found


def _defaults(policy: type) -> dict[str, Any]:
    if not issubclass(policy, msgspec.Struct):
        return {}
    return {f.name: _default(f) for f in msgspec.structs.fields(policy)}


def _default(field: msgspec.structs.FieldInfo) -> Any:
    """A parameter's default as a file would hold it; None where there is none."""
    if field.required:
        return None
    return _as_written(field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory())


def _as_written(value: Any) -> Any:
    """Mappings, lists, texts and numbers: what comes back from a file or a log, so that both compare equal."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value))


def policies() -> list[PolicyInfo]:
    """Everything that the catalogue knows, by role and name."""
    return [
        PolicyInfo(role, name, (inspect.getdoc(cls) or "").split("\n")[0], paper, _defaults(cls))
        for (role, name), (cls, paper) in sorted(_known().items())
    ]


def prefix_keepers() -> list[str]:
    """The batchers that can begin a prompt after what is in memory of it."""
    return sorted(
        name for (role, name), (cls, _) in _known().items() if role == "batcher" and hasattr(cls, "prefix_cache")
    )


def find(role: str, name: str, where: str | None = None) -> type:
    """The class behind a name; InputError names the nearest known one."""
    if (role, name) in PAPERS:
        return PAPERS[role, name][0]
    known = _known()
    if (role, name) not in known:
        raise unknown(role, name, (n for r, n in known if r == role), where)
    return known[role, name][0]


def parameter_type(role: str, name: str, key: str, where: str | None = None) -> Any:
    """The type of one parameter of a policy; InputError if there is no such policy or parameter, naming the nearest."""
    cls = find(role, name, where)
    types = {f.name: f.type for f in msgspec.structs.fields(cls)} if issubclass(cls, msgspec.Struct) else {}
    if not types:
        raise InputError(f"{role} '{name}' has no parameters, but '{key}' is set", where)
    if key not in types:
        raise unknown(f"parameter of {role} '{name}'", key, types, where)
    return types[key]


def build(role: str, spec: PolicySpec, where: str | None = None) -> Any:
    """The policy that a spec names, with its parameters checked; InputError names what is wrong and the nearest right."""
    cls = find(role, spec.name, where)
    for key in spec.params:
        parameter_type(role, spec.name, key, where)
    if not issubclass(cls, msgspec.Struct):
        return cls()
    try:
        return msgspec.convert(spec.params, cls, strict=False)
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{role} '{spec.name}': {_plain(str(error))}", where) from None


def resolved(role: str, spec: PolicySpec, where: str | None = None) -> PolicySpec:
    """The same spec with every parameter written out, in plain values: what a file would hold."""
    policy = build(role, spec, where)
    if not isinstance(policy, msgspec.Struct):
        return PolicySpec(spec.name)
    return PolicySpec(spec.name, _as_written(policy))


def _plain(text: str) -> str:
    """msgspec's "Expected `int` >= 1 - at `$.max_seqs`", with the parameter first."""
    what, _, path = text.partition(" - at `$.")
    return f"{path.rstrip('`')}: {what[0].lower()}{what[1:]}" if path else what
