"""The life of a request as stages that follow one another without a gap: where each moment between arrival and end went.

A pure function of the columns. The stages of a request that finished last from its arrival to its last token, and add up to
its E2E to the nanosecond.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from phasewise.core.action import Outcome
from phasewise.core.errors import InputError
from phasewise.core.units import NS_PER_S
from phasewise.record.columns import CANCELLED, HANDED, LOST, MOVED, PREEMPTED, STILL
from phasewise.record.header import Tables
from phasewise.record.stays import ARRIVED, FRESH, NEVER, STAYS, TRANSFER, Deaths, heads, stays
from phasewise.record.window import part

KINDS = ("queue", "prefill", "hand-over", "transfer", "seat", "decode", "preempted", "lost", "prefill again")
QUEUE, PREFILL, HANDOVER, MOVING, SEAT, DECODE, THROWN_OUT, BEREFT, AGAIN = range(len(KINDS))
"""What a request does: waits for its first chunk; its prompt is computed, chunk by chunk; done, it waits to be handed over;
its keys and values are under way; they are there, and it waits for a seat; it decodes; it was thrown out and waits to be
computed again; its replica died and it waits to begin anew; its prompt and its tokens so far are computed again."""

STAGES = np.dtype([("request", "<i4"), ("kind", "u1"), ("replica", "<i4"), ("begin_ns", "<i8"), ("end_ns", "<i8")])
"""`kind` indexes KINDS; `replica` is where it is or waits (a transfer: where it goes; lost: who died; -1: nowhere yet)."""

_END = 4  # a row behind all stays of a request


class Stage(msgspec.Struct, frozen=True):
    """One stage of a request's life: `kind` is one of KINDS, `replica` where it was (-1: nowhere yet)."""

    kind: str
    replica: int
    begin_ns: int
    end_ns: int

    @property
    def length_s(self) -> float:
        return (self.end_ns - self.begin_ns) / NS_PER_S


def life(tables: Tables, request: int) -> tuple[Stage, ...]:
    """The stages of one request, in order: the first begins when it arrives, each next one where the last ended.

    They end with its last token; those of one that did not finish when the cluster learned of its end, or with the last
    step. What took no time is left out. InputError if there is no such request.
    """
    chosen = tables.requests["request"] == request
    if not chosen.any():
        last = int(tables.requests["request"].max(initial=-1))
        raise InputError(f"there is no request {request}; the run has 0 to {last}")
    found = stages(part(tables, chosen))
    return tuple(Stage(KINDS[s["kind"]], *(int(s[name]) for name in ("replica", "begin_ns", "end_ns"))) for s in found)


def stages(tables: Tables) -> NDArray[Any]:
    """The stages of every request, each one's together and in order (STAGES); what took no time is left out.

    What the columns leave open is said in `stays`. A death counts from when the cluster learned of it. A pull that failed
    leaves no row, so its time counts as waiting for a hand-over.
    """
    line = _line(tables)
    rows, since, begin, end = line.rows, line.since, line.begin, line.end
    middle = np.clip(rows["middle_ns"], begin, end)
    moved = rows["kind"] == TRANSFER
    first = np.where(moved, MOVING, np.where(_again(rows), AGAIN, PREFILL))
    # A transfer has no second part.
    middle = np.where(moved, end, middle)
    gaps = _waits(line)
    table = np.zeros((len(rows), 4), STAGES)
    table["request"] = rows["request"][:, None]
    for i, (kind, replica, low, high) in enumerate(
        (
            (gaps.first, gaps.where, since, gaps.cut),
            (gaps.second, gaps.later, gaps.cut, begin),
            (first, rows["replica"], begin, middle),
            (DECODE, rows["replica"], middle, end),
        )
    ):
        table["kind"][:, i], table["replica"][:, i] = kind, replica
        table["begin_ns"][:, i], table["end_ns"][:, i] = low, high
    return _joined(table.reshape(-1))


def losses(tables: Tables) -> NDArray[np.int64]:
    """How many requests that had begun on each replica, or were parked or had come there, were lost with it.

    Counted once for each time; a request that waited there for its first chunk is not known.
    """
    line = _line(tables)
    return np.bincount(line.rows["replica"][np.flatnonzero(_waits(line).bereft) - 1], minlength=len(tables.steps))


class _Line(NamedTuple):
    """Stays and ends of all requests, each beginning when the one before is over or later; and when that one was."""

    rows: NDArray[Any]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    since: NDArray[np.int64]
    deaths: Deaths


class _Gaps(NamedTuple):
    """What a request did between the row before and each row: `first`, at the replica `where`, until `cut`, then `second`,
    at `later`; `bereft` if the row before was lost with its replica."""

    cut: NDArray[np.int64]
    first: NDArray[Any]
    second: NDArray[Any]
    where: NDArray[Any]
    later: NDArray[Any]
    bereft: NDArray[np.bool_]


def _line(tables: Tables) -> _Line:
    deaths = Deaths(tables)
    rows = _with_ends(tables, stays(tables, deaths))
    place = np.searchsorted(tables.requests["request"], rows["request"])
    over = rows["end_ns"][rows["kind"] == _END][place]
    return _Line(rows, *_in_line(rows, tables.requests["arrival_ns"][place], over), deaths)


def _with_ends(tables: Tables, found: NDArray[Any]) -> NDArray[Any]:
    """The stays, and behind those of each request a row at the instant at which its life is over."""
    requests = tables.requests
    ends = np.zeros(len(requests), STAYS)
    ends["request"], ends["kind"], ends["replica"], ends["source"] = requests["request"], _END, -1, -1
    now = max((int(s["end_ns"].max()) for s in tables.steps if len(s)), default=0)
    over = np.where(requests["end_ns"] >= 0, requests["end_ns"], np.maximum(requests["arrival_ns"], now))
    last = np.full(len(requests), -1, np.int64)
    np.maximum.at(last, np.searchsorted(requests["request"], found["request"]), found["token_ns"])
    over = np.where((requests["outcome"] == Outcome.FINISHED) & (last >= 0), last, over)
    ends["begin_ns"] = ends["middle_ns"] = ends["end_ns"] = over
    rows = np.concatenate([found, ends])
    return rows[np.argsort(rows["request"], kind="stable")]


def _in_line(
    rows: NDArray[Any], arrival: NDArray[np.int64], over: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """When each row begins and ends if none begins before the one before it is over; and when that one was."""
    begin, end = (np.clip(rows[name], arrival, over) for name in ("begin_ns", "end_ns"))
    first = heads(rows["request"])
    # A running maximum by request: by rank, so that request and instant fit into one number.
    instants, ranks = np.unique(end, return_inverse=True)
    base = np.cumsum(first) * np.int64(len(instants))
    end = instants[np.maximum.accumulate(ranks + base) - base]
    since = np.where(first, arrival, np.concatenate([[0], end[:-1]]))
    return np.maximum(begin, since), end, since


def _again(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Stays that compute a prompt that was computed before, at least in part."""
    fresh = rows["kind"] == FRESH
    total = np.cumsum(fresh) - fresh
    again: NDArray[np.bool_] = fresh & (total > np.maximum.accumulate(np.where(heads(rows["request"]), total, 0)))
    return again


def _waits(line: _Line) -> _Gaps:
    rows, begin, since, deaths = line.rows, line.begin, line.since, line.deaths
    first = heads(rows["request"])
    before = np.concatenate([rows[:1], rows[:-1]])
    left, moved = before["left"], before["kind"] == TRANSFER
    home, source, kind = before["replica"], before["source"], rows["kind"]
    anew = (kind == FRESH) | (kind == _END)
    phase = np.where((before["kind"] == FRESH) & (before["tokens"] == 0), PREFILL, DECODE)
    ended = np.isin(left, (CANCELLED, STILL)) & (kind == _END)
    waits = np.select(
        [first, moved, left == HANDED, left == PREEMPTED, left == LOST, (left == MOVED) | ended],
        [QUEUE, SEAT, np.where(kind == ARRIVED, SEAT, HANDOVER), THROWN_OUT, BEREFT, phase],
        QUEUE,
    )
    mortal = ~first & (moved | np.isin(left, (HANDED, PREEMPTED)))
    death = deaths.after(home, since)
    # Where the target lives, it was the source that died; or, with another transfer to come, the target said no.
    other = np.where(kind == TRANSFER, since, deaths.after(source, since))
    death = np.where(moved & (death > begin), other, death)
    splits = mortal & (anew | (moved & (kind == TRANSFER))) & (death < NEVER)
    cut = np.where(splits, np.clip(death, since, begin), begin)
    bereft = ~first & anew & ((left == LOST) & ~moved | splits & (death <= begin))
    where = np.where(waits == QUEUE, -1, home)
    return _Gaps(cut, waits, np.where(anew, BEREFT, HANDOVER), where, np.where(anew, home, rows["source"]), bereft)


def _joined(table: NDArray[Any]) -> NDArray[Any]:
    """Without what took no time, and with what went on as one."""
    table = table[table["end_ns"] > table["begin_ns"]]
    same = ~heads(table["request"])
    for name in ("kind", "replica"):
        same[1:] &= table[name][1:] == table[name][:-1]
    starts = np.flatnonzero(~same)
    out = table[starts].copy()
    if len(starts):
        out["end_ns"] = table["end_ns"][np.append(starts[1:], len(table)) - 1]
    return out
