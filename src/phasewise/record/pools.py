"""Pools over time: how many replicas had which role; a pure function of a run's tables. It does not know why they changed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasewise.core.spec import MIXED, ROLES
from phasewise.record.columns import WHAT
from phasewise.record.header import Header, Tables

_GONE = ("lost", "booting", "stopped")


def pool_sizes(header: Header, tables: Tables) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Steps of the sizes of pools: instants in nanoseconds (the first is 0, when the roles are the deployment's), and from each
    on a row of how many replicas serve prompts, serve answers, and are mixed (in the order of `ROLES`).

    Only replicas that are there count; one that drains still is.
    """
    roles = [replica.role for replica in header.resolved.replicas]
    there = [True] * len(roles)
    at_ns, sizes = [0], [_count(roles, there)]
    for change in tables.changes:
        replica, what = int(change["replica"]), WHAT[int(change["what"])]
        if what in ROLES:
            roles[replica] = what
        elif what != "draining":
            there[replica] = what not in _GONE
        now_ns, size = int(change["at_ns"]), _count(roles, there)
        if now_ns == at_ns[-1]:
            sizes[-1] = size
        else:
            at_ns.append(now_ns)
            sizes.append(size)
    kept = [i for i in range(len(sizes)) if not i or sizes[i] != sizes[i - 1]]
    return np.array(at_ns, np.int64)[kept], np.array(sizes, np.int64)[kept]


def mixed_over_time(header: Header, tables: Tables) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Instants in nanoseconds, and how many replicas are mixed from each on."""
    at_ns, sizes = pool_sizes(header, tables)
    return at_ns, sizes[:, ROLES.index(MIXED)]


def mean_mixed(header: Header, tables: Tables) -> float:
    """Mixed replicas, averaged over the time from the first arrival to the last step's end."""
    at_ns, mixed = mixed_over_time(header, tables)
    ends = [int(steps["end_ns"].max()) for steps in tables.steps if len(steps)]
    first = int(tables.requests["arrival_ns"].min()) if len(tables.requests) else 0
    last = max(ends, default=first)
    if last <= first:
        return float(mixed[0])
    edges = np.clip(np.append(at_ns, last), first, last)
    return float((mixed * np.diff(edges)).sum() / (last - first))


def _count(roles: list[str], there: list[bool]) -> list[Any]:
    return [sum(1 for role, is_there in zip(roles, there, strict=True) if is_there and role == kind) for kind in ROLES]
