"""Small fleets with pools for tests: replicas by role behind Splitwise's router, and the books that it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fleets import fleet, split
from phasewise.control.rooms import open_cluster
from phasewise.core.spec import PolicySpec, Resolved
from phasewise.policy.fleet import Booked
from phasewise.record.runlog import RunLog

ROLES_22 = split(2, 2)


def pooled(
    roles: Sequence[str] = ROLES_22,
    batcher: str = "splitwise",
    params: dict[str, Any] | None = None,
    *,
    predictor: str = "oracle",
    long_queue: int = 8192,
    **more: Any,
) -> Resolved:
    """A toy fleet under Splitwise's router; `more` as `fleet` takes it."""
    router = PolicySpec("splitwise", {"long_queue": long_queue})
    return fleet(roles, batcher, params, router=router, predictor=predictor, **more)


def books_after(log: RunLog) -> Booked:
    """The cluster's books at the end of a run: a room of its own takes the same events."""
    room = open_cluster(log.header.resolved, log.header.seed)
    for at_ns, event, _ in log.records(0):
        room.handlers[type(event)](event, at_ns)
    return room.fleet.view.booked


def columns(booked: Booked) -> dict[str, list[int]]:
    """The columns by name."""
    return {name: getattr(booked, name).tolist() for name in ("pending", "memory", "prompts", "answers")}
