"""Small fleets for tests: replicas with roles, stages and memory as one likes, under any router, on links slow or free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from phasewise.core.spec import DECODE, MIXED, PREFILL, ROLES, LinkSpec, PolicySpec, ReplicaSpec, Resolved
from phasewise.core.steptimes import DecodeTimes, PrefillTimes, StepTimes
from phasewise.policy import catalog
from worlds import toy_resolved

BATCHERS: dict[str, dict[str, Any]] = {
    "sarathi": {"max_seqs": 4, "token_budget": 16},
    "vllm-v0": {"max_seqs": 4, "token_budget": 24},
    "vllm-v1": {"max_seqs": 4, "token_budget": 16},
    "distserve": {"max_seqs": 4, "saturation_tokens": 24, "prefill_tokens": 60, "accept_share": 0.4},
    "splitwise": {"max_seqs": 4, "token_budget": 24, "max_preemptions": 2},
}
"""Batchers that may serve a part of a fleet, small enough for seats, budgets and blocks to run short."""

SHAPES = (
    (PREFILL, DECODE),
    (PREFILL, PREFILL, DECODE),
    (PREFILL, DECODE, DECODE),
    (MIXED, MIXED),
    (MIXED, DECODE, PREFILL),
)
"""Roles of fleets in which somebody serves each phase; `random_roles` draws others."""

LINKS = (
    LinkSpec("free"),
    LinkSpec("free", gb_s=0.05, latency_us=1.0, transfer="serialised"),
    LinkSpec("free", gb_s=0.05, transfer="layer-wise"),
    LinkSpec("free", gb_s=0.2, latency_us=2.0, transfer="by-size", layer_wise_from=10),
    LinkSpec("free", gb_s=0.002, latency_us=1.0, transfer="layer-wise"),
)
"""Keys and values of a toy prompt take no time, a few steps, or many."""


def fleet(
    roles: Sequence[str],
    batcher: str = "sarathi",
    params: dict[str, Any] | None = None,
    *,
    router: PolicySpec | str = "round-robin",
    predictor: str = "none",
    link: LinkSpec | None = None,
    patience_s: float | None = None,
    cold_start_s: float = 20e-6,
    report_s: float = 5e-6,
    stages: Sequence[int] = (),
    host_blocks: int = 0,
    lines: Lines | None = None,
    apart: bool = False,
    **toy: Any,
) -> Resolved:
    """A resolved deployment with one replica for each role, equal ones in one group unless they are `apart`.

    `stages` is how many each has, `lines` its step times, where the test brings no physics; `toy` as `toy_resolved` takes it.
    """
    plain = toy_resolved(batcher, params, replicas=len(roles), **toy)
    own = range(len(roles)) if apart else [0] * len(roles)
    kinds = list(zip(roles, stages or [1] * len(roles), own, strict=True))
    groups = list(dict.fromkeys(kinds))
    deployment = msgspec.structs.replace(
        plain.deployment,
        replicas=tuple(ReplicaSpec("toy", kinds.count(kind), role=kind[0], pp=kind[1]) for kind in groups),
        router=catalog.resolved("router", PolicySpec(router) if isinstance(router, str) else router),
        predictor=catalog.resolved("predictor", PolicySpec(predictor)),
        link=link or LinkSpec("free"),
        patience_s=patience_s,
        cold_start_s=cold_start_s,
        report_s=report_s,
    )
    each = {"latency": None if lines is None else lines.times(), "host_blocks": host_blocks}
    replicas = tuple(
        msgspec.structs.replace(replica, role=kind[0], pp=kind[1], group=groups.index(kind), **each)
        for replica, kind in zip(plain.replicas, kinds, strict=True)
    )
    return msgspec.structs.replace(plain, deployment=deployment, replicas=replicas)


def tight_fleet(roles: Sequence[str], batcher: str = "sarathi", **more: Any) -> Resolved:
    """A fleet under one of `BATCHERS` that is short of everything; `more` as `fleet` takes it."""
    params = BATCHERS.get(batcher, {})
    return fleet(
        roles, batcher, **{"params": params, "blocks": 24, "block_tokens": 8, "max_context": 48, "apart": True, **more}
    )


class Lines(NamedTuple):
    """Step times in straight lines: a step of prompts takes 1 us and `token_ms` for each token, one of decodes `step_ms` and
    `sequence_ms` for each."""

    token_ms: float
    step_ms: float
    sequence_ms: float

    def times(self) -> StepTimes:
        decode = DecodeTimes(step_us=self.step_ms * 1e3, sequence_us=self.sequence_ms * 1e3)
        return StepTimes("linear", "made up", PrefillTimes(step_us=1.0, token_us=self.token_ms * 1e3), (decode,))


def split(prefills: int, decodes: int) -> tuple[str, ...]:
    """Roles of so many replicas for each phase."""
    return (PREFILL,) * prefills + (DECODE,) * decodes


@st.composite
def random_roles(draw: st.DrawFn, most: int = 4) -> list[str]:
    """Roles of a fleet in which somebody serves each phase."""
    roles = draw(st.lists(st.sampled_from(ROLES), min_size=1, max_size=most))
    if not any(role != DECODE for role in roles):
        roles.append(draw(st.sampled_from((PREFILL, MIXED))))
    if not any(role != PREFILL for role in roles):
        roles.append(draw(st.sampled_from((DECODE, MIXED))))
    return roles
