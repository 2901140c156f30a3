"""Whether each replica was there, and what it was for: the cluster's `changes`, read as what lasted from when to when."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from phasewise.core.spec import ROLES
from phasewise.record.columns import WHAT
from phasewise.record.header import Header, Tables
from phasewise.record.level import Instants

SERVING, DRAINING, BOOTING, ABSENT = STATES = ("serving", "draining", "booting", "absent")
"""A replica that is draining ends what it has; one that is booting is not there yet; an absent one is lost, stopped, or has
not started."""

_BECOMES = {"lost": ABSENT, "booting": BOOTING, "serving": SERVING, "draining": DRAINING, "stopped": ABSENT}


class States(NamedTuple):
    """What a replica was, in order and without a gap from the beginning of the run to its end: `(state, begin, end)` each,
    instants in nanoseconds. `deaths` are those instants at which it was lost."""

    stretches: tuple[tuple[str, int, int], ...]
    deaths: Instants

    def spent_ns(self, *states: str) -> int:
        """How long it was in these states, all together."""
        return sum(end - begin for state, begin, end in self.stretches if state in states)


def run_ns(tables: Tables) -> tuple[int, int]:
    """When a run begins, with its first arrival, and when it ends, with its last step."""
    first = int(tables.requests["arrival_ns"].min()) if len(tables.requests) else 0
    return first, max((int(s["end_ns"].max()) for s in tables.steps if len(s)), default=first)


def states(header: Header, tables: Tables) -> tuple[States, ...]:
    """The states of each replica. One that a scenario starts is absent before; that is no death."""
    begin, end = run_ns(tables)
    late = () if header.scenario is None else header.scenario.absent()
    order = np.argsort(tables.changes["replica"], kind="stable")
    changes = tables.changes[order]
    replicas = np.arange(len(tables.steps))
    low, high = (np.searchsorted(changes["replica"], replicas, side=side) for side in ("left", "right"))
    return tuple(_states(changes[low[i] : high[i]], i in late, begin, end) for i in replicas.tolist())


def _states(changes: Any, late: bool, begin: int, end: int) -> States:
    found: list[tuple[str, int, int]] = []
    state, since = ABSENT if late else SERVING, begin
    deaths = []
    for at_ns, what in zip(changes["at_ns"].tolist(), changes["what"].tolist(), strict=True):
        name = WHAT[what]
        if name in ROLES:
            continue
        if name == "lost" and state in (SERVING, DRAINING):
            deaths.append(at_ns)
        at = min(max(at_ns, since), end)
        if at > since:
            found.append((state, since, at))
        state, since = _BECOMES[name], at
    if end > since:
        found.append((state, since, end))
    return States(tuple(found), np.array(deaths, np.int64))
