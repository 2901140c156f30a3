"""How much of each replica's KV memory is taken, over time and by whom: a pure function of the columns.

Counted in tokens whose keys and values have a place: of a request that runs, its prompt (all of it from its first chunk on) and
what it has decoded, that of the step in progress included; of one whose prompt is done here and whose answer is decoded
elsewhere, until it is released; of one that comes from elsewhere, from the first byte sent.

Exact to the token where a batcher takes the blocks of a prompt when it admits it, and the router chooses who decodes when the
prompt is done. What the columns do not say:

- A request fills whole blocks: up to one less than `block_tokens` more.
- What a batcher takes in advance (`static`, `orca`) or chunk by chunk (`vllm-v1`), and that prompts share what they have in
  common, in a prefix cache, or that content stays there when nobody holds it.
- When blocks were reserved for a prompt that is not done, and pulls that failed.
- How much was copied of a request that decoded meanwhile: it counts as all that there was in the end. And that one which is
  sent on before it has had a seat is kept until the next replica has it.
- When a request was preempted before its first token or while it stood still (`stays`), and an iteration that a dying replica
  did not end.
- Inside a leap it rises evenly; its steps are almost of one length. A release is taken to cross the wire without mishap.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from phasewise.core.action import Outcome
from phasewise.record.columns import CANCELLED, HANDED, MOVED, STILL
from phasewise.record.header import Tables
from phasewise.record.level import Floats, Instants, Level, Slopes
from phasewise.record.stays import FRESH, NEVER, ONWARD, TRANSFER, Deaths, stays


class Held(NamedTuple):
    """Tokens in one replica's KV memory: of requests that run (`running` and, in steps, the answers' `growth`), of those
    `parked` after their prompt, and of those `arriving` (under way, or waiting for a seat)."""

    running: Level
    growth: Slopes
    parked: Level
    arriving: Level

    def at(self, at_ns: Instants) -> Floats:
        """All of it at instants, after what happens then."""
        total: Floats = self.running.at(at_ns) + self.growth.at(at_ns) + self.parked.at(at_ns) + self.arriving.at(at_ns)
        return total

    def means(self, edges_ns: Floats) -> tuple[Floats, Floats, Floats]:
        """Running, parked, arriving: the mean over time between each edge and the next."""
        running = self.running.means(edges_ns) + self.growth.means(edges_ns)
        return running, self.parked.means(edges_ns), self.arriving.means(edges_ns)

    @property
    def peak(self) -> int:
        """The most tokens at once."""
        levels = (self.running, self.parked, self.arriving)
        after = self.at(np.concatenate([level.at_ns for level in levels]))
        # A stretch is highest where it ends, before anybody leaves.
        end = self.growth.end_ns
        before = self.growth.high + sum(level.at(end, "left") for level in levels)
        return round(max(float(after.max(initial=0.0)), float(before.max(initial=0.0))))


def held(tables: Tables, wire_ns: int = 0) -> tuple[Held, ...]:
    """What each replica holds; `wire_ns` is what a message between cluster and replica takes."""
    deaths = Deaths(tables, wire_ns)
    rows = stays(tables, deaths)
    requests = tables.requests[np.searchsorted(tables.requests["request"], rows["request"])]
    # A replica says that it has cancelled a request; of one that failed it is told.
    told = np.where(requests["outcome"] == Outcome.CANCELLED, -wire_ns, wire_ns)
    over = np.where(requests["end_ns"] >= 0, requests["end_ns"] + told, NEVER)
    after = _after(rows)
    runs = rows["kind"] != TRANSFER
    left = _left(rows, requests, over, after)
    parked, released = _parked(rows, over, after, deaths, wire_ns)
    seated = _seated(rows, over, after, deaths)
    decoded = rows["tokens"] - ((rows["kind"] == FRESH) & (rows["tokens"] > 0))
    joins, leaves = runs & (rows["kind"] != ONWARD), runs & (rows["left"] != MOVED) & (left < NEVER)
    begins, context = rows["begin_ns"], rows["context"]
    leaving = (context + decoded).astype(np.float64)
    # Each replica's rows stand together here: a look at all of them for each would take the square of a fleet's time.
    order = np.argsort(rows["replica"], kind="stable")
    bounds = np.searchsorted(rows["replica"][order], np.arange(len(tables.steps) + 1))
    out = []
    for i, steps in enumerate(tables.steps):
        mine = order[bounds[i] : bounds[i + 1]]
        came, went, kept, guests = (mine[which[mine]] for which in (joins, leaves, parked, ~runs))
        n = steps["steps"].astype(np.float64)
        ends, decodes = steps["end_ns"], steps["decodes"] * n
        running = Level.of([(begins[came], context[came]), (ends, decodes), (left[went], -leaving[went])])
        out.append(
            Held(
                running,
                Slopes(steps["start_ns"], ends, steps["decodes"], decodes),
                _during(rows["end_ns"][kept], released[kept], leaving[kept]),
                _during(begins[guests], seated[guests], context[guests]),
            )
        )
    return tuple(out)


class _After(NamedTuple):
    """Of each row, the next one of its request: its kind (-1: none) and when it begins; and which row is the last of the
    transfers that follow it without a stay between."""

    kind: NDArray[Any]
    begin_ns: NDArray[Any]
    last: NDArray[Any]


def _after(rows: NDArray[Any]) -> _After:
    n = len(rows)
    following = np.arange(1, n + 1)
    there = np.zeros(n, bool)
    there[:-1] = rows["request"][1:] == rows["request"][:-1]
    place = np.minimum(following, n - 1)
    kind = np.where(there, rows["kind"][place].astype(np.int64), -1)
    # The row after which the next one is no transfer: from the back, the nearest.
    stop = kind != TRANSFER
    last = np.minimum.accumulate(np.where(stop, np.arange(n), n)[::-1])[::-1] if n else place
    return _After(kind, rows["begin_ns"][place], last)


def _left(rows: NDArray[Any], requests: NDArray[Any], over: Instants, after: _After) -> Instants:
    """When each stay ended for the memory: a cancelled one when the replica said so, one that goes on never."""
    final = (after.kind == -1) & (requests["outcome"] == Outcome.CANCELLED) & (rows["left"] == CANCELLED)
    out = np.where(final, np.maximum(over, rows["end_ns"]), rows["end_ns"])
    kept: Instants = np.where(rows["left"] == STILL, NEVER, out)
    return kept


def _parked(
    rows: NDArray[Any], over: Instants, after: _After, deaths: Deaths, wire_ns: int
) -> tuple[NDArray[np.bool_], Instants]:
    """Which stays are kept for another replica, and until when.

    Until a target has it all and knows that it is to have it (`Adopt`, two messages after the prompt is done and the blocks
    are there, or after it runs no more), and has said so (`Adopted`, `Release`); or until it is seated here, the request is
    over, or the replica dies.
    """
    parked = (rows["left"] == HANDED) & (rows["kind"] != TRANSFER)
    last = after.last
    went = parked & (after.kind == TRANSFER)
    told = np.maximum(rows["begin_ns"][last], rows["end_ns"]) + 2 * wire_ns
    release = np.maximum(rows["end_ns"][last], told) + 2 * wire_ns
    until = np.where(went, release, np.where(after.kind == -1, over, after.begin_ns))
    return parked, np.minimum(until, deaths.after(rows["replica"], rows["end_ns"]))


def _seated(rows: NDArray[Any], over: Instants, after: _After, deaths: Deaths) -> Instants:
    """Until when each transfer's keys and values belong to a guest: it is seated, its request is over, or the replica dies."""
    until = np.where(after.kind == -1, over, after.begin_ns)
    out: Instants = np.minimum(until, deaths.after(rows["replica"], rows["end_ns"]))
    return out


def _during(begin: Instants, end: Instants, tokens: NDArray[Any]) -> Level:
    """`Level.during`, of which some have no end."""
    some = end < NEVER
    return Level.of([(begin, tokens), (np.maximum(end, begin)[some], -tokens[some].astype(np.float64))])
