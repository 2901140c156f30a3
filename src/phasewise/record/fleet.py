"""What each group of a fleet's replicas did: how busy it was and with what, what it held, sent, took in and lost.

A pure function of a run's header and columns. `docs/guide/summary.md` says what each number means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasewise.core.spec import MIXED, Resolved
from phasewise.core.units import NS_PER_S, to_ns
from phasewise.record.header import Header, Tables
from phasewise.record.held import held
from phasewise.record.metrics import distribution
from phasewise.record.stages import losses
from phasewise.record.states import DRAINING, SERVING, states

PREFILLS, DECODES, BOTH = range(3)


def is_fleet(resolved: Resolved) -> bool:
    """Whether there is more than one replica, or one that has a role."""
    return len(resolved.replicas) > 1 or any(replica.role != MIXED for replica in resolved.replicas)


def groups(resolved: Resolved) -> list[list[int]]:
    """The replicas of each group of the deployment, by index."""
    found: dict[int, list[int]] = {}
    for i, replica in enumerate(resolved.replicas):
        found.setdefault(replica.group, []).append(i)
    return list(found.values())


def fleet(header: Header, tables: Tables) -> dict[str, Any]:
    """The numbers of all groups, in the order of the deployment, and those of the whole fleet."""
    resolved = header.resolved
    wire_ns = to_ns(resolved.deployment.wire_s)
    there = states(header, tables)
    peaks = [one.peak for one in held(tables, wire_ns)]
    lost = losses(tables)
    found = []
    for mine in groups(resolved):
        spec = resolved.replicas[mine[0]]
        present_ns = sum(there[i].spent_ns(SERVING, DRAINING) for i in mine)
        room = spec.blocks * resolved.deployment.block_tokens
        found.append(
            {
                "group": spec.group,
                "role": spec.role,
                "device": spec.device.name,
                "replicas": len(mine),
                **_work([tables.steps[i] for i in mine], present_ns),
                "kv_peak": max(peaks[i] for i in mine) / room,
                **_handed(tables, mine),
                "requests_lost": int(lost[mine].sum()),
                "replicas_lost": sum(len(there[i].deaths) for i in mine),
            }
        )
    return {
        "groups": found,
        "handed_over": sum(_ways(table) for table in tables.transfers),
        "transfer_s": _lengths(tables.transfers),
        "retries": int(tables.requests["attempts"].sum()),
        "replicas_lost": sum(len(one.deaths) for one in there),
    }


def phase(steps: NDArray[Any]) -> NDArray[np.int64]:
    """What each row of a replica's steps computes: prompts, answers, or both."""
    found: NDArray[np.int64] = np.where(steps["decodes"] == 0, PREFILLS, np.where(steps["prefill"] == 0, DECODES, BOTH))
    return found


def _work(tables: Sequence[NDArray[Any]], present_ns: int) -> dict[str, float | None]:
    """The share of their time that replicas spend in steps, what part of it goes to which phase, and how many decode."""
    spent = np.zeros(3)
    decoded = decoding = 0
    for steps in tables:
        spent += np.bincount(phase(steps), (steps["end_ns"] - steps["start_ns"]).astype(np.float64), 3)
        decoded += int((steps["decodes"] * steps["steps"].astype(np.int64)).sum())
        decoding += int(steps["steps"][steps["decodes"] > 0].sum())
    busy = float(spent.sum())
    shares = dict(zip(("prefill_share", "decode_share", "both_share"), spent.tolist(), strict=True))
    return {
        "busy_share": min(1.0, busy / present_ns) if present_ns else None,
        **{name: part / busy if busy else None for name, part in shares.items()},
        "mean_decodes": decoded / decoding if decoding else None,
    }


def _handed(tables: Tables, mine: Sequence[int]) -> dict[str, Any]:
    """Requests that these replicas gave to others and took in from others, and how long the latter were under way."""
    received = [tables.transfers[i] for i in mine]
    sent = sum(_ways(table[np.isin(table["source"], mine)]) for table in tables.transfers)
    return {
        "sent": sent,
        "received": sum(map(_ways, received)),
        "transfer_s": _lengths(received),
    }


def _ways(table: NDArray[Any]) -> int:
    """How many requests came to a replica, once from each other: an answer that moves is fetched in two parts."""
    source = table["source"].astype(np.int64)
    return len(np.unique((source << 32) + table["request"]))


def _lengths(tables: Sequence[NDArray[Any]]) -> dict[str, float | None]:
    return distribution(np.concatenate([(table["end_ns"] - table["began_ns"]) / NS_PER_S for table in tables]))
