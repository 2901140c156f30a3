"""A fleet over time as series to draw: means over slots of time, exact however many steps a slot holds.

Pure functions of a log, which do not know how they are drawn. What is approximate in what replicas hold is said in
`record.held`; bytes are taken to flow evenly while their transfer is under way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phasewise.core.errors import InputError
from phasewise.core.units import NS_PER_S, to_ns
from phasewise.record.fleet import BOTH, DECODES, PREFILLS, groups, phase
from phasewise.record.held import held
from phasewise.record.level import Level, Slopes
from phasewise.record.runlog import RunLog
from phasewise.record.stages import BEREFT, HANDOVER, QUEUE, SEAT, THROWN_OUT, stages
from phasewise.record.states import SERVING, run_ns, states

Floats = NDArray[np.float64]
SLOTS = 900
"""About as many as a figure has pixels across."""

WAITS = (
    ("for the first chunk", (QUEUE,)),
    ("for a hand-over", (HANDOVER,)),
    ("for a seat", (SEAT,)),
    ("to begin again", (THROWN_OUT, BEREFT)),
)
"""What requests wait for, as a figure names it, and the stages that count as that."""


class Memory(NamedTuple):
    """What a group's replicas hold, as shares of their KV memory: by requests that run, that are parked after their prompt,
    that arrive; and of its fullest replica in each slot. `room` is the memory of one replica, tokens."""

    running: Floats
    parked: Floats
    arriving: Floats
    fullest: Floats
    room: int


class Fleet(NamedTuple):
    """Series over slots between `edges_s`, seconds since the first arrival. By replica `work`, shares of a slot spent in steps
    of prompts, of answers, of both; and `away`, `(state, begin_s, end_s)` while it was not serving. By group `memory`. Numbers
    of requests that wait, by name of WAITS. Bytes/s under way by sending replica."""

    edges_s: Floats
    groups: list[list[int]]
    work: list[NDArray[np.float64]]
    away: list[list[tuple[str, float, float]]]
    memory: list[Memory]
    waits: dict[str, Floats]
    sent: dict[int, Floats]


def fleet_series(log: RunLog, window: tuple[float, float] | None = None, slots: int = SLOTS) -> Fleet:
    """The series of a whole run, or of a window of it in seconds since the first arrival. InputError for one that lies
    outside, and for a run in which nothing happened."""
    tables = log.tables
    begin, end = run_ns(tables)
    if end <= begin:
        raise InputError("nothing ran on any replica; there is nothing to draw")
    low, high = (0.0, (end - begin) / NS_PER_S) if window is None else window
    if not 0 <= low < high or low * NS_PER_S >= end - begin:
        length = (end - begin) / NS_PER_S
        raise InputError(f"window {low:g} to {high:g} s; give two instants of the run, from 0 to {length:.1f} s")
    edges_s = np.linspace(low, min(high, (end - begin) / NS_PER_S), slots + 1)
    edges = edges_s * NS_PER_S + begin
    together = groups(log.header.resolved)
    away = [
        [(name, (a - begin) / NS_PER_S, (b - begin) / NS_PER_S) for name, a, b in one.stretches if name != SERVING]
        for one in states(log.header, tables)
    ]
    return Fleet(
        edges_s,
        together,
        _work(log, edges),
        away,
        _memory(log, together, edges),
        _waits(log, edges),
        _links(log, edges),
    )


def _work(log: RunLog, edges: Floats) -> list[NDArray[np.float64]]:
    out = []
    for steps in log.tables.steps:
        kinds, found = phase(steps), []
        for kind in (PREFILLS, BOTH, DECODES):
            rows = steps[kinds == kind]
            ones = np.ones(len(rows))
            found.append(Slopes(rows["start_ns"], rows["end_ns"], ones, ones).means(edges))
        out.append(np.array(found))
    return out


def _memory(log: RunLog, together: list[list[int]], edges: Floats) -> list[Memory]:
    resolved = log.header.resolved
    block = resolved.deployment.block_tokens
    parts = [one.means(edges) for one in held(log.tables, to_ns(resolved.deployment.wire_s))]
    out = []
    for mine in together:
        room = resolved.replicas[mine[0]].blocks * block
        running, parked, arriving = (np.sum([parts[i][k] for i in mine], axis=0) / (room * len(mine)) for k in range(3))
        fullest = np.max([np.sum(parts[i], axis=0) for i in mine], axis=0) / room
        out.append(Memory(running, parked, arriving, fullest, room))
    return out


def _waits(log: RunLog, edges: Floats) -> dict[str, Floats]:
    found = stages(log.tables)
    out = {}
    for name, kinds in WAITS:
        mine = found[np.isin(found["kind"], kinds)]
        out[name] = Level.during(mine["begin_ns"], mine["end_ns"]).means(edges)
    return out


def _links(log: RunLog, edges: Floats) -> dict[int, Floats]:
    """Bytes/s by sender."""
    table = np.concatenate(log.tables.transfers)
    # Over a link that takes no time, all of a request goes in an instant.
    end = np.maximum(table["end_ns"], table["began_ns"] + 1)
    rate = table["nbytes"] * NS_PER_S / (end - table["began_ns"])
    sent = {}
    for source in np.unique(table["source"]).tolist():
        mine = table["source"] == source
        sent[source] = Level.during(table["began_ns"][mine], end[mine], rate[mine]).means(edges)
    return sent
