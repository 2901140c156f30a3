"""Columns of a run: what metrics and figures read instead of events. A pure function of each room's events and actions.

`requests` has one row per request, `steps` one per affine piece of a run, `spans` one per stay of a request on a replica,
from its first chunk to its end, its preemption or its cancellation. A span over steps *is* the token times: its first
token is out at the end of row `first_token`, and one more at the end of every decode iteration after it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasewise.core.action import Action, Boot, Ended, Enter, Forget, Outcome, Regroup, Run, Stop
from phasewise.core.event import HOST, Arrived, Died, Drain, Killed, Lost, Pulled, StepDone
from phasewise.core.message import Evicted, PromptDone, Ready, SetRole, Submit
from phasewise.core.request import Request
from phasewise.core.spec import ROLES, RequestClass
from phasewise.core.step import Piece, total_ns

Record = tuple[int, Any, list[Action]]
"""`(at_ns, event, actions)`: one line of a room's log."""

REQUESTS = np.dtype(
    [
        ("request", "<i4"),
        ("arrival_ns", "<i8"),
        ("end_ns", "<i8"),
        ("prompt", "<i4"),
        ("tokens", "<i4"),
        ("outcome", "u1"),
        ("kind", "<u2"),
        ("attempts", "<u2"),
    ]
)
"""`tokens` is output tokens; `end_ns` is when the cluster learned of the end (-1: inside); `kind` is 0, or 1 + the class.

`attempts` counts those after the first: a replica refused the request, was lost, or let it go from its queue.
"""

STEPS = np.dtype(
    [
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("slope_ns", "<f8"),
        ("steps", "<i4"),
        ("decodes", "<i4"),
        ("prefill", "<i4"),
        ("cohorts", "<u8"),
        ("lane", "<i2"),
        ("forced", "u1"),
        ("bubble_ns", "<i8"),
    ]
)
"""`steps` iterations from start to end, each `slope_ns` longer than the one before; `decodes` and `prefill` tokens in each.

Bit i of `cohorts` stands for the i-th cohort that the replica's log names; `forced` plans are 1. Rows are in the order of their
ends; those of a pipeline overlap in time. `bubble_ns`: see `core.event.StepDone`.
"""

SPANS = np.dtype(
    [
        ("request", "<i4"),
        ("first_chunk", "<i4"),
        ("first_token", "<i4"),
        ("last", "<i4"),
        ("tokens", "<i4"),
        ("cached", "<i4"),
        ("cohort", "u1"),
        ("left", "u1"),
    ]
)
"""Rows of `steps` by index in the replica (-1: no token yet); `left` is how the stay ended.

`cached` prompt tokens were in memory already when the stay began.
"""

FINISHED, PREEMPTED, CANCELLED, STILL, MOVED, HANDED, LOST = range(7)
"""Values of `left`. MOVED: to another cohort of the replica; HANDED: its prompt done, it is kept for another replica (or for
later), at once or after a part of the answer; LOST: the replica died.

The next span of a moved request continues it: `first_chunk` is the row from which it counts, `first_token` the earlier row of
the last token before, and `tokens` those after. That of one that was handed over likewise, but `first_token` is ADOPTED: the
token before came elsewhere.
"""

TRANSFERS = np.dtype([("request", "<i4"), ("source", "<i4"), ("began_ns", "<i8"), ("end_ns", "<i8"), ("nbytes", "<i8")])
"""Keys and values that a replica has pulled: from where, when the first byte left and when all was there, how many."""

CHANGES = np.dtype([("at_ns", "<i8"), ("replica", "<i4"), ("what", "u1")])
"""What became of replicas, as the cluster learned of it: `what` indexes WHAT."""

WHAT = ("lost", "booting", "serving", "draining", "stopped", *ROLES)

_CONTINUES = -2  # the first token of a span that continues another, until all its rows are known
ADOPTED = -3
_REQUEST = struct.Struct("<iqqiiBHH").pack
_TRANSFER = struct.Struct("<iiqqq").pack
_CHANGE = struct.Struct("<qiB").pack
_EVENTS: dict[type, str] = {Lost: "lost", Ready: "serving", Drain: "draining"}
_RARE = frozenset((Pulled, Died, Killed))
_MOVING = frozenset((PromptDone, Evicted, Enter, Regroup, Forget))
_ACTIONS: dict[type, str] = {Boot: "booting", Stop: "stopped"}
_STEP = struct.Struct("<qqdiiiQhBq").pack
_SPAN = struct.Struct("<iiiiiiBB").pack


class Index(dict[str, int]):
    """Which cohort of a replica a name stands for, counted by first mention."""

    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]


class ClusterColumns:
    """Folds the cluster room's log into `requests` and `changes`.

    `classes` are the header's; a class not among them counts as none.
    """

    def __init__(self, classes: Sequence[RequestClass] = ()) -> None:
        self._rows = bytearray()
        self._kinds = {c.name: i for i, c in enumerate(classes, start=1)}
        self._open: dict[int, Request] = {}
        self._attempts: dict[int, int] = {}
        self._changes = bytearray()

    def fold(self, records: Iterable[Record]) -> None:
        for at_ns, event, actions in records:
            if type(event) is Arrived:
                self._open[event.request.id] = event.request
            elif type(event) in _EVENTS:
                self._change(at_ns, event.replica, _EVENTS[type(event)])
            for action in actions:
                kind = type(action)
                if kind is Ended:
                    request = self._open.pop(action.request)  # type: ignore[union-attr, arg-type]
                    self._rows += self._row(request, at_ns, action.tokens, action.outcome)  # type: ignore[union-attr]
                elif kind is Submit:
                    if action.epoch:  # type: ignore[union-attr]
                        self._attempts[action.request.id] = action.epoch  # type: ignore[union-attr]
                elif kind in _ACTIONS:
                    self._change(at_ns, action.replica, _ACTIONS[kind])  # type: ignore[union-attr]
                elif kind is SetRole:
                    self._change(at_ns, action.replica, action.role)  # type: ignore[union-attr]

    def _change(self, at_ns: int, replica: int, what: str) -> None:
        self._changes += _CHANGE(at_ns, replica, WHAT.index(what))

    def changes(self) -> NDArray[Any]:
        """What became of replicas, in order."""
        return np.frombuffer(bytes(self._changes), CHANGES)

    def _row(self, request: Request, end_ns: int, tokens: int, outcome: Outcome) -> bytes:
        kind = self._kinds.get(request.kind, 0) if request.kind else 0
        number = request.id
        again = self._attempts.pop(number, 0) if self._attempts else 0
        return _REQUEST(number, request.arrival_ns, end_ns, request.prompt_tokens, tokens, outcome, kind, again)

    def table(self) -> NDArray[Any]:
        """The rows so far, sorted by request; those not over yet are INSIDE."""
        inside = b"".join(self._row(request, -1, 0, Outcome.INSIDE) for request in self._open.values())
        rows = np.frombuffer(bytes(self._rows) + inside, REQUESTS)
        return rows[np.argsort(rows["request"], kind="stable")]


class InstanceColumns:
    """Folds one instance room's log into `steps`, `spans` and `transfers`."""

    def __init__(self) -> None:
        self._steps = bytearray()
        self._spans = bytearray()
        self._transfers = bytearray()
        self._row = 0
        self._runs: dict[int, tuple[int, Run]] = {}
        # request -> [row of the first chunk, tokens cached before it, row of the first token, cohort]
        self._stays: dict[int, tuple[int, int, int, int]] = {}
        self._index = Index()
        self._bits: dict[tuple[str, ...], int] = {}

    def fold(self, records: Iterable[Record]) -> None:
        """Take in a batch of records. One long loop: it runs once an event, and calls would add to each.

        Spans are written with the row after which they are over; `tables` counts their tokens.
        """
        runs, stays, rows, spans, row = self._runs, self._stays, self._steps, self._spans, self._row
        index, named, bits = self._index, None, 0
        for at_ns, event, actions in records:
            if type(event) is StepDone:
                lane = event.lane
                start, run = runs.pop(lane)
                first_row = row
                try:
                    ((_, slope, steps),) = event.pieces
                except ValueError:
                    start = self._all_but_last(start, run, event.pieces)
                    row += len(event.pieces) - 1
                    _, slope, steps = event.pieces[-1]
                prefill = 0
                plan = run.plan
                if plan.cohorts is not named:
                    named = plan.cohorts
                    bits = self._bits_of(named)
                chunks = plan.chunks
                if chunks:
                    for chunk in chunks:
                        request = chunk.request
                        prefill += chunk.tokens
                        if chunk.joins is not None:
                            stay = stays.get(request)
                            cohort = index[chunk.joins]
                            if stay is None:
                                stays[request] = (first_row, chunk.start, row, cohort)
                            else:
                                stays[request] = (stay[0], stay[1], row, cohort)
                        elif request not in stays:
                            stays[request] = (first_row, chunk.start, -1, 0)
                rows += _STEP(
                    start, at_ns, slope, steps, run.decodes, prefill, bits, lane, plan.forced, event.bubble_ns
                )
                if event.ended:
                    for request in event.ended:
                        first_chunk, cached, first_token, cohort = stays.pop(request)
                        spans += _SPAN(request, first_chunk, first_token, row, 0, cached, cohort, FINISHED)
                row += 1
            elif type(event) in _RARE:
                row = self._rare(at_ns, event, row)
            for action in actions:
                kind = type(action)
                if kind is Run:
                    plan = action.plan  # type: ignore[union-attr]
                    runs[plan.lane] = (at_ns, action)  # type: ignore[assignment]
                    if plan.preempt:
                        for request in plan.preempt:
                            spans += self._cut(request, row, PREEMPTED)
                elif kind in _MOVING:
                    self._moved(action, row)
        self._row = row

    def _rare(self, at_ns: int, event: Pulled | Died | Killed, row: int) -> int:
        """Keys and values have come, or the process is gone. The next row."""
        if isinstance(event, Died):
            return self._died(event.done, row)
        if isinstance(event, Killed):
            # A run that is none of those in flight had its end written down before.
            flying = {lane: run.id for lane, (_, run) in self._runs.items()}
            return self._died([(lane, pieces) for lane, run, pieces in event.done if flying.get(lane) == run], row)
        if event.source != HOST:
            self._transfers += _TRANSFER(event.request, event.source, event.began_ns, at_ns, event.nbytes)
        return row

    def _moved(self, action: Action, row: int) -> None:
        """Requests leave the replica, come to it, or change their cohort."""
        if isinstance(action, PromptDone) or (isinstance(action, Evicted) and action.parked):
            self._spans += self._cut(action.request, row, HANDED)
        elif isinstance(action, Enter):
            self._stays[action.request] = (row, 0, ADOPTED, self._index[action.cohort])
        elif isinstance(action, Regroup):
            for request, name in action.moves:
                self._spans += self._cut(request, row, MOVED)
                self._stays[request] = (row, 0, _CONTINUES, self._index[name])
        elif isinstance(action, Forget):
            self._spans += self._cut(action.request, row, CANCELLED)

    def tables(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """`steps` and `spans` so far; stays that are not over are STILL."""
        steps = np.frombuffer(bytes(self._steps), STEPS)
        still = (self._span(request, stay, self._row, STILL) for request, stay in self._stays.items())
        spans = np.frombuffer(self._spans + b"".join(still), SPANS)
        token = spans["first_token"] >= 0
        adopted = spans["first_token"] == ADOPTED
        over = spans["last"].copy()
        spans["last"] = -1
        chained = np.flatnonzero(spans["first_token"] == _CONTINUES)
        for cohort in range(len(self._index)):
            decoding = (steps["cohorts"] & np.uint64(1 << cohort)) > 0
            iterations = np.cumsum(np.where(decoding, steps["steps"], 0))
            decoded = np.maximum.accumulate(np.where(decoding, np.arange(len(steps)), -1))
            mine = np.flatnonzero(token & (spans["cohort"] == cohort))
            first, last = spans["first_token"][mine], over[mine]
            spans["tokens"][mine] = 1 + iterations[last] - iterations[first]
            spans["last"][mine] = np.maximum(first, decoded[last])
            came = np.flatnonzero(adopted & (spans["cohort"] == cohort))
            came = came[over[came] >= spans["first_chunk"][came]]
            before = np.concatenate([[0], iterations])[spans["first_chunk"][came]]
            spans["tokens"][came] = iterations[over[came]] - before
            spans["last"][came] = np.where(spans["tokens"][came] > 0, decoded[over[came]], -1)
            for i in chained[spans["cohort"][chained] == cohort].tolist() if len(chained) else ():
                begin = int(spans["first_chunk"][i])
                since = int(iterations[begin - 1]) if begin else 0
                spans["tokens"][i] = int(iterations[over[i]]) - since if over[i] >= begin else 0
                spans["last"][i] = int(decoded[over[i]]) if spans["tokens"][i] else -1
        return steps, _chain(spans, chained)

    def _died(self, done: Iterable[tuple[int, tuple[Piece, ...]]], row: int) -> int:
        """The process is gone: write what its runs had done, and end every stay. The next row."""
        for lane, pieces in done:
            start, run = self._runs[lane]
            if pieces:
                # A row more than the pieces have, of no steps, would be the last: there is none.
                start = self._all_but_last(start, run, (*pieces, (0.0, 0.0, 0)))
                for chunk in run.plan.chunks:
                    self._stays.setdefault(chunk.request, (row, chunk.start, -1, 0))
                row += len(pieces)
        self._runs.clear()
        for request in list(self._stays):
            self._spans += self._cut(request, row, LOST)
        return row

    def transfers(self) -> NDArray[Any]:
        """What was pulled, in order."""
        return np.frombuffer(bytes(self._transfers), TRANSFERS)

    def _bits_of(self, cohorts: tuple[str, ...]) -> int:
        found = self._bits.get(cohorts)
        if found is None:
            found = self._bits[cohorts] = sum(1 << self._index[name] for name in cohorts)
        return found

    def _all_but_last(self, start: int, run: Run, pieces: tuple[Piece, ...]) -> int:
        """Write every piece of a run but the last; the start of that one."""
        spent = 0.0
        begun = start
        prefill = sum(chunk.tokens for chunk in run.plan.chunks)
        bits = self._bits_of(run.plan.cohorts)
        for piece in pieces[:-1]:
            spent += total_ns(piece, piece[2])
            end = begun + int(spent + 0.5)
            plan = run.plan
            self._steps += _STEP(start, end, piece[1], piece[2], run.decodes, prefill, bits, plan.lane, plan.forced, 0)
            start = end
        return start

    def _cut(self, request: int, row: int, left: int) -> bytes:
        """The span of a stay that ends before its time; nothing for one cancelled between two stays."""
        stay = self._stays.pop(request, None)
        return b"" if stay is None else self._span(request, stay, row, left)

    def _span(self, request: int, stay: tuple[int, int, int, int], row: int, left: int) -> bytes:
        first_chunk, cached, first_token, cohort = stay
        return _SPAN(request, first_chunk, first_token, row - 1, 0, cached, cohort, left)


def _chain(spans: NDArray[Any], chained: NDArray[np.int64]) -> NDArray[Any]:
    """Give each continuing span the row of the last token before it; without any yet, one from elsewhere is ADOPTED."""
    if len(chained):
        order = np.argsort(spans["request"], kind="stable")
        before = np.empty(len(spans), np.int64)
        before[order[1:]] = order[:-1]
        for i in chained.tolist():
            last = int(spans["last"][before[i]])
            if last < 0 and spans["first_token"][before[i]] == ADOPTED:
                spans["first_token"][i] = ADOPTED
                continue
            spans["first_token"][i] = last
            if spans["last"][i] < 0:
                spans["last"][i] = last
    return spans
