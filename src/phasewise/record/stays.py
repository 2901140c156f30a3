"""What became of each request, one thing after another: its stays on replicas and the transfers between them, in order.

A pure function of the columns, which hold stays by replica and in rows; here they are by request and in nanoseconds. It knows
neither what a stay is called in a figure nor how much memory it takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasewise.record.columns import ADOPTED, LOST, WHAT
from phasewise.record.gaps import continues
from phasewise.record.header import Tables

FRESH, ONWARD, ARRIVED, TRANSFER = range(4)
"""Values of `kind`: a stay that begins with the prompt; one that goes on in another cohort; one that was handed over to this
replica; the transfer before it."""

STAYS = np.dtype(
    [
        ("request", "<i4"),
        ("replica", "<i4"),
        ("source", "<i4"),
        ("begin_ns", "<i8"),
        ("middle_ns", "<i8"),
        ("end_ns", "<i8"),
        ("token_ns", "<i8"),
        ("tokens", "<i4"),
        ("before", "<i4"),
        ("context", "<i4"),
        ("kind", "u1"),
        ("left", "u1"),
    ]
)
"""From `begin_ns` to `middle_ns` the prompt is computed, from there to `end_ns` the answer; the last token is out at `token_ns`
(-1: none). `source` is the replica that a transfer comes from, else `replica` itself. `before` tokens were out when it began,
and `context` tokens are to be in memory from then on (once the prompt is computed). `left` as in `spans`.
"""

NEVER = np.iinfo(np.int64).max


class Deaths:
    """When replicas were lost. The columns say when the cluster learned of it, `wire_ns` later."""

    def __init__(self, tables: Tables, wire_ns: int = 0) -> None:
        lost = tables.changes[tables.changes["what"] == WHAT.index("lost")]
        # One that starts late was lost before the first event.
        self._at = np.maximum(lost["at_ns"] - wire_ns, 0)
        replica = lost["replica"].astype(np.int64)
        self._span = int(self._at.max(initial=0)) + 2
        order = np.argsort(replica * self._span + self._at, kind="stable")
        self._at = self._at[order]
        self._key = (replica * self._span)[order] + self._at
        self._replica = replica[order]

    def after(self, replica: NDArray[Any], at_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first death of each of these replicas at or after an instant; NEVER if there is none."""
        out = np.full(len(replica), NEVER)
        if len(self._key):
            place = np.searchsorted(self._key, replica * np.int64(self._span) + np.minimum(at_ns, self._span - 1))
            found = np.minimum(place, len(self._key) - 1)
            hit = (place < len(self._key)) & (self._replica[found] == replica)
            out[hit] = self._at[found[hit]]
        return out


def stays(tables: Tables, deaths: Deaths) -> NDArray[Any]:
    """All stays and transfers, each request's together and in the order in which they came about.

    The columns do not say when a request was preempted before its first token, or while it stood still: its stay is taken to
    end with the step of its first chunk, or of its last token. Stays that were cut off before anything ran are left out.
    """
    parts = [_stays(i, *pair, deaths) for i, pair in enumerate(zip(tables.steps, tables.spans, strict=True))]
    parts += [_transfers(i, table) for i, table in enumerate(tables.transfers)]
    found = np.concatenate(parts)
    moved = found["kind"] == TRANSFER
    # One that goes layer by layer begins before the prompt is done: it stands where it ends.
    found = found[np.lexsort((~moved, np.where(moved, found["end_ns"], found["begin_ns"]), found["request"]))]
    found["before"] = _before(found)
    prompt = tables.requests["prompt"][np.searchsorted(tables.requests["request"], found["request"])]
    found["context"] = prompt + found["before"] - (found["kind"] != FRESH)
    return found


def heads(request: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows are the first of their request; each request's stand together."""
    first = np.ones(len(request), bool)
    first[1:] = request[1:] != request[:-1]
    return first


def _stays(replica: int, steps: NDArray[Any], spans: NDArray[Any], deaths: Deaths) -> NDArray[Any]:
    adopted = spans["first_token"] == ADOPTED
    some = spans["tokens"] > 0
    ran = (spans["first_chunk"] < len(steps)) & ~(adopted & ~some & (spans["left"] == LOST))
    spans, adopted, some = spans[ran], adopted[ran], some[ran]
    out = np.zeros(len(spans), STAYS)
    if not len(spans):
        return out
    for name in ("request", "tokens", "left"):
        out[name] = spans[name]
    out["replica"] = out["source"] = replica
    onward = continues(spans)
    out["kind"] = np.where(adopted, ARRIVED, np.where(onward, ONWARD, FRESH))
    start, end = steps["start_ns"], steps["end_ns"]
    out["begin_ns"] = start[spans["first_chunk"]]
    prompt_ns = end[np.where(spans["first_token"] >= 0, spans["first_token"], spans["first_chunk"])]
    out["middle_ns"] = np.where(onward, out["begin_ns"], prompt_ns)
    out["token_ns"] = np.where(some, end[spans["last"]], -1)
    out["end_ns"] = np.maximum(out["middle_ns"], out["token_ns"])
    lost = out["left"] == LOST
    if lost.any():
        death = deaths.after(out["replica"], out["end_ns"])
        out["end_ns"] = np.where(lost & (death < NEVER), death, out["end_ns"])
        out["middle_ns"] = np.where(lost & ~some & ~onward, out["end_ns"], out["middle_ns"])
    return out


def _transfers(target: int, table: NDArray[Any]) -> NDArray[Any]:
    out = np.zeros(len(table), STAYS)
    out["request"], out["source"], out["replica"] = table["request"], table["source"], target
    out["begin_ns"], out["end_ns"] = table["began_ns"], table["end_ns"]
    out["middle_ns"], out["token_ns"], out["kind"] = table["began_ns"], -1, TRANSFER
    return out


def _before(found: NDArray[Any]) -> NDArray[np.int64]:
    """Tokens that each request had been given before each row."""
    tokens = found["tokens"].astype(np.int64)
    total = np.cumsum(tokens) - tokens
    first = heads(found["request"])
    before: NDArray[np.int64] = total - np.maximum.accumulate(np.where(first, total, 0))
    return before
