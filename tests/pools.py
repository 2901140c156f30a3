"""Small fleets with pools for tests: replicas by role behind Splitwise's router, links as slow as one likes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from phasewise.control.rooms import open_cluster
from phasewise.core.spec import DECODE, PREFILL, LinkSpec, PolicySpec, ReplicaSpec, Resolved
from phasewise.policy import catalog
from phasewise.policy.fleet import Booked
from phasewise.record.runlog import RunLog
from worlds import toy_resolved

ROLES_22 = (PREFILL, PREFILL, DECODE, DECODE)


def pooled(
    roles: Sequence[str] = ROLES_22,
    batcher: str = "splitwise",
    params: dict[str, Any] | None = None,
    *,
    predictor: str = "oracle",
    long_queue: int = 8192,
    link: LinkSpec | None = None,
    **toy: Any,
) -> Resolved:
    """A toy fleet, one replica for each role, in order; the rest as `toy_resolved` takes it."""
    change = msgspec.structs.replace
    plain = toy_resolved(batcher, params, replicas=len(roles), **toy)
    deployment = change(
        plain.deployment,
        replicas=tuple(ReplicaSpec("toy", role=role) for role in roles),
        router=catalog.resolved("router", PolicySpec("splitwise", {"long_queue": long_queue})),
        predictor=catalog.resolved("predictor", PolicySpec(predictor)),
        link=link or LinkSpec("free"),
    )
    replicas = tuple(
        change(r, role=role, group=i) for i, (r, role) in enumerate(zip(plain.replicas, roles, strict=True))
    )
    return change(plain, deployment=deployment, replicas=replicas)


def books_after(log: RunLog) -> Booked:
    """The cluster's books at the end of a run: a room of its own takes the same events."""
    room = open_cluster(log.header.resolved, log.header.seed)
    for at_ns, event, _ in log.records(0):
        room.handlers[type(event)](event, at_ns)
    return room.fleet.view.booked


def columns(booked: Booked) -> dict[str, list[int]]:
    """The columns by name."""
    return {name: getattr(booked, name).tolist() for name in ("pending", "memory", "prompts", "answers")}
