"""How long the stages of pipelines stood idle between micro-batches, by what followed what. A pure function of the columns.

The classes are Sarathi-Serve's (OSDI'24), told by a micro-batch and the one before it in the pipeline: PB1, both
carry prompt tokens, in different numbers; PB2, only one of them does; PB3, decodes alone (their contexts differ), or as many
prompt tokens. Each supposes that the pipeline is full. Where fewer micro-batches were in flight than there are stages, because
the pipes had nothing to run, the stages stood idle for lack of them: `unfilled`, which is ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasewise.core.units import NS_PER_S
from phasewise.record.header import Header, Tables

CLASSES = ("pb1", "pb2", "pb3", "unfilled")


def bubbles(header: Header, tables: Tables) -> dict[str, float | None] | None:
    """Seconds of idle stages by class, `pb1_s` and so on, over all replicas of several stages; None if there are none such.

    `share` is what the three published classes make up of stages x busy time, a replica being busy while anything is in flight
    there; None if nothing ran.
    """
    idle_ns = dict.fromkeys(CLASSES, 0)
    there_ns, pipelines = 0, 0
    for replica, steps in zip(header.resolved.replicas, tables.steps, strict=True):
        if replica.pp == 1:
            continue
        pipelines += 1
        there_ns += replica.pp * busy_ns(steps)
        for name, rows in zip(CLASSES, _classes(steps, replica.pp), strict=True):
            idle_ns[name] += int(steps["bubble_ns"][rows].sum())
    if not pipelines:
        return None
    published = sum(idle_ns[name] for name in CLASSES[:3])
    seconds = {f"{name}_s": ns / NS_PER_S for name, ns in idle_ns.items()}
    return {"share": published / there_ns if there_ns else None, **seconds}


def busy_ns(steps: NDArray[Any]) -> int:
    """How long anything was in flight. Rows are in the order of their ends, and so of their starts: nothing overtakes."""
    start, end = steps["start_ns"], steps["end_ns"]
    before = np.concatenate([start[:1], end[:-1]])
    return int(np.maximum(end - np.maximum(start, before), 0).sum())


def _classes(steps: NDArray[Any], stages: int) -> tuple[NDArray[np.bool_], ...]:
    """Which rows are of each of `CLASSES`."""
    start, prefill = steps["start_ns"], steps["prefill"]
    flying = np.searchsorted(start, start, side="right") - np.searchsorted(steps["end_ns"], start, side="right")
    full = flying >= stages
    before = np.concatenate([prefill[:1], prefill[:-1]])
    both, one = (prefill > 0) & (before > 0), (prefill > 0) ^ (before > 0)
    first = full & both & (prefill != before)
    second = full & one
    return first, second, full & ~first & ~second, ~full
