"""A finite stream of requests as columns, whatever it came from. It does not know files, models or policies.

Mean rate, here and everywhere: (n - 1) / (last arrival - first arrival), in requests per second; infinite if all n
requests arrive at one instant.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import repeat
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from phasewise.core.errors import InputError
from phasewise.core.request import Request
from phasewise.core.spec import RequestClass
from phasewise.core.units import NS_PER_S
from phasewise.workload.prefixes import Prefixes
from phasewise.workload.truth import Truth

MAX_TOKENS = 10_000_000  # a longer prompt or output is taken for a mistake
MAX_ARRIVAL_S = 1_000_000_000  # 31 years, and still an int64 of nanoseconds
NO_RATE = "a closed loop has no rate: its users and their thinking make it; leave the rate out"
MAX_CLASSES = 1_000  # more names than that are no classes
_SLICE = 4096  # requests turned into Python objects at a time


def checked_rate(rate: float, where: str | None = None) -> float:
    """`rate` in requests/s as a float. InputError unless it is finite and above 0."""
    if isinstance(rate, bool) or not isinstance(rate, Real) or not math.isfinite(rate) or rate <= 0:
        raise InputError(f"rate {rate!r} is not a rate; give requests per second, above 0 and finite", where)
    return float(rate)


def checked_requests(requests: int, where: str | None = None) -> int:
    """`requests` as an int. InputError unless it is a whole number of at least 1."""
    if isinstance(requests, bool) or not isinstance(requests, Integral) or requests < 1:
        raise InputError(f"{requests!r} requests; give a whole number of at least 1", where)
    return int(requests)


@dataclass(frozen=True, eq=False)
class ClosedLoop:
    """`users` users who each send, wait for the answer's end, think, and send again; all send first at time 0.

    `think_ns[i]` is the pause after the end of request i. Users are alike: a request belongs to whoever sends the i-th.
    """

    users: int
    think_ns: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests 0..n-1 in order of arrival, with their true output lengths set apart.

    `arrival_ns` counts nanoseconds on the source's own axis (it need not start at 0). `max_tokens` is the workload's
    cap on every output, None for the context limit; `truth` is clipped to it. `gone_ns` maps a request to the instant
    at which its client hangs up. `source` is the file, if rows of one became the requests, and `lines` the line of
    each request in it (None: one after the other from line 2, below a header).

    `kind` says which of `classes` a request belongs to: 0 none, else 1 + its index (None: nobody to any). `prefixes`
    name what the prompts hold, so that requests can share it. `closed` makes the arrivals follow the ends: then
    `arrival_ns` is all 0 and says nothing. `notes` are what the reader of a file has to say, one line each.
    InputError if the columns disagree.
    """

    name: str
    arrival_ns: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    truth: Truth
    max_tokens: int | None = None
    gone_ns: Mapping[int, int] = field(default_factory=dict)
    source: str | None = None
    lines: NDArray[np.int64] | None = None
    kind: NDArray[np.int64] | None = None
    classes: tuple[RequestClass, ...] = ()
    prefixes: Prefixes | None = None
    closed: ClosedLoop | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns = ["arrival_ns", "prompt_tokens", *(c for c in ("lines", "kind") if getattr(self, c) is not None)]
        for column in columns:
            object.__setattr__(self, column, _read_only(getattr(self, column), column, self.name))
        n = len(self.arrival_ns)
        if n < 1:
            raise InputError("no requests; give at least one", self.name)
        if len(self.prompt_tokens) != n or len(self.truth) != n:
            lengths = f"{n} arrivals, {len(self.prompt_tokens)} prompts and {len(self.truth)} outputs"
            raise InputError(f"{lengths}; the columns must be equally long", self.name)
        if n > 1 and bool((np.diff(self.arrival_ns) < 0).any()):
            late = int(np.argmax(np.diff(self.arrival_ns) < 0)) + 1
            raise InputError("arrives before the request above it; sort by arrival", self.where(late))
        if int(self.prompt_tokens.min()) < 1:
            raise InputError("empty prompt; at least 1 token", self.where(int(np.argmax(self.prompt_tokens < 1))))
        if self.max_tokens is not None:
            if self.max_tokens < 1:
                raise InputError(f"max_tokens {self.max_tokens}; give at least 1, or leave it out", self.name)
            object.__setattr__(self, "truth", self.truth.clipped(self.max_tokens))
        self._check_kinds(n)
        if self.prefixes is not None and len(self.prefixes) != n:
            raise InputError(f"{n} requests and {len(self.prefixes)} prefixes; give as many of each", self.name)
        if self.closed is not None:
            if self.closed.users < 1 or len(self.closed.think_ns) != n or (self.closed.think_ns < 0).any():
                raise InputError("a closed loop needs a user and, after each request, a pause of 0 or more", self.name)
            if self.gone_ns or self.arrival_ns.any():
                raise InputError(
                    "the arrivals of a closed loop follow from its run; leave them and hang-ups out", self.name
                )
        for request_id, at_ns in self.gone_ns.items():
            if not 0 <= request_id < n or at_ns < int(self.arrival_ns[request_id]):
                raise InputError("gone before it arrived; give a later instant", self.where(request_id))

    def _check_kinds(self, n: int) -> None:
        """The classes, and who is in which; outputs are cut to the caps of the classes that have one."""
        names = [c.name for c in self.classes]
        if len(set(names)) < len(names) or not all(names):
            raise InputError(f"classes {', '.join(map(repr, names))}; give each a name of its own", self.name)
        if len(names) > MAX_CLASSES:
            raise InputError(f"{len(names):,} classes; at most {MAX_CLASSES:,}", self.name)
        if self.kind is None:
            return
        if len(self.kind) != n or int(self.kind.min()) < 0 or int(self.kind.max()) > len(names):
            raise InputError(f"kinds must be one a request, 0 to {len(names)} for {len(names)} classes", self.name)
        if any(c.max_tokens is not None for c in self.classes):
            caps = np.array([MAX_TOKENS, *(c.max_tokens or MAX_TOKENS for c in self.classes)])[self.kind]
            object.__setattr__(self, "truth", Truth(np.minimum(self.truth.column(), caps)))

    def __len__(self) -> int:
        return len(self.arrival_ns)

    def where(self, request_id: int) -> str:
        """The place to name in a message: "trace.csv:17", or "request 15 of azure-conv"."""
        if self.source is not None:
            return f"{self.source}:{2 + request_id if self.lines is None else int(self.lines[request_id])}"
        return f"request {request_id} of {self.name}"

    def requests(self) -> Iterator[Request]:
        """The requests in order of arrival, made a slice at a time: none is kept here."""
        if self.kind is not None or self.prefixes is not None:
            yield from self._full_requests()
            return
        for low in range(0, len(self), _SLICE):
            arrivals = self.arrival_ns[low : low + _SLICE].tolist()
            prompts = self.prompt_tokens[low : low + _SLICE].tolist()
            yield from map(Request, range(low, low + len(arrivals)), arrivals, prompts, repeat(self.max_tokens))

    def _full_requests(self) -> Iterator[Request]:
        """The requests of a workload with classes or prefixes."""
        names = ["", *(c.name for c in self.classes)]
        most = self.max_tokens or MAX_TOKENS
        caps = [self.max_tokens, *(min(c.max_tokens, most) if c.max_tokens else self.max_tokens for c in self.classes)]
        block = 0 if self.prefixes is None else self.prefixes.block_tokens
        for low in range(0, len(self), _SLICE):
            high = min(low + _SLICE, len(self))
            kinds = [0] * (high - low) if self.kind is None else self.kind[low:high].tolist()
            ids = repeat(()) if self.prefixes is None else self.prefixes.tuples(low, high)
            arrivals, prompts = self.arrival_ns[low:high].tolist(), self.prompt_tokens[low:high].tolist()
            capped, named = (caps[k] for k in kinds), (names[k] for k in kinds)
            yield from map(Request, range(low, high), arrivals, prompts, capped, named, ids, repeat(block))

    @property
    def mean_rate(self) -> float:
        """Requests per second: (n - 1) / (last - first arrival); infinite if that span is 0."""
        span_ns = int(self.arrival_ns[-1]) - int(self.arrival_ns[0])
        return (len(self) - 1) * NS_PER_S / span_ns if span_ns else math.inf

    def head(self, n: int) -> Workload:
        """The first `n` requests. InputError if there are fewer, or `n` is below 1."""
        n = checked_requests(n, self.name)
        if n > len(self):
            held = f"holds {len(self):,} requests, {n:,} were asked for"
            raise InputError(f"{held}; ask for at most {len(self):,}", self.source or self.name)
        return self if n == len(self) else self.rows(0, n)

    def rows(self, low: int, high: int) -> Workload:
        """Requests `low` to `high` - 1, numbered anew from 0, on the same time axis. InputError if there are none."""
        part = slice(low, high)
        lines = 2 + np.arange(len(self)) if self.lines is None else self.lines
        return replace(
            self,
            arrival_ns=self.arrival_ns[part],
            prompt_tokens=self.prompt_tokens[part],
            truth=Truth(self.truth.column()[part]),
            gone_ns={i - low: at_ns for i, at_ns in self.gone_ns.items() if low <= i < high},
            lines=lines[part] if self.source is not None and (low or self.lines is not None) else None,
            kind=None if self.kind is None else self.kind[part],
            prefixes=None if self.prefixes is None else self.prefixes.rows(low, high),
            closed=None if self.closed is None else replace(self.closed, think_ns=self.closed.think_ns[part]),
        )

    def between(self, from_s: float = 0.0, to_s: float = math.inf) -> Workload:
        """The requests that arrive from `from_s` until before `to_s`, seconds after the first; the axis then starts there.

        InputError if there are none, or the arrivals follow from the run.
        """
        place = self.source or self.name
        if self.closed is not None:
            raise InputError("a closed loop has no time axis to cut; ask for fewer requests", place)
        if not 0 <= from_s < to_s:
            raise InputError(f"from_s {from_s:g} to_s {to_s:g}; give 0 or more, and an end after the start", place)
        since_s = (self.arrival_ns - self.arrival_ns[0]) / NS_PER_S
        low, high = (int(np.searchsorted(since_s, at)) for at in (from_s, to_s))
        if low == high:
            last = f"the last comes {since_s[-1]:g} s after the first"
            raise InputError(f"nothing arrives from {from_s:g} s to {to_s:g} s; {last}", place)
        cut = self.rows(low, high)
        start_ns = int(self.arrival_ns[0]) + round(from_s * NS_PER_S)
        # A first request within half a nanosecond of the cut must not come before it.
        start_ns = min(start_ns, int(cut.arrival_ns[0]))
        gone = {i: at_ns - start_ns for i, at_ns in cut.gone_ns.items()}
        return replace(cut, arrival_ns=cut.arrival_ns - start_ns, gone_ns=gone)

    def labelled(self, label: RequestClass) -> Workload:
        """Every request in the one class `label`, whatever it was in before."""
        return replace(self, kind=np.ones(len(self), np.int64), classes=(label,))

    def at_rate(self, rate: float) -> Workload:
        """The time axis stretched so that this whole workload's mean rate becomes `rate` requests/s.

        A client's patience (hang-up minus arrival) is its own and stays as it is. InputError if `rate` is no rate, or
        all requests arrive at one instant, or the last would arrive more than 10^9 s after the axis starts.
        """
        place = self.source or self.name
        rate = checked_rate(rate, place)
        if self.closed is not None:
            raise InputError(NO_RATE, place)
        factor = self.mean_rate / rate
        if math.isinf(self.mean_rate):
            raise InputError("all arrivals at one instant have no rate to change; leave the rate out", place)
        if int(self.arrival_ns[-1]) * factor > MAX_ARRIVAL_S * NS_PER_S:
            raise InputError(f"at {rate:g} requests/s the last arrives after 10^9 s; give a higher rate", place)
        arrival_ns = np.rint(self.arrival_ns * factor).astype(np.int64)
        shift = {i: int(arrival_ns[i]) - int(self.arrival_ns[i]) for i in self.gone_ns}
        return replace(self, arrival_ns=arrival_ns, gone_ns={i: at_ns + shift[i] for i, at_ns in self.gone_ns.items()})

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all that can change a run: the columns, the caps, the hang-ups, the loop."""
        sha = hashlib.sha256()
        columns = [self.arrival_ns, self.prompt_tokens, self.truth.column()]
        more: list[object] = []
        if self.kind is not None:
            columns.append(self.kind)
            more.append(self.classes)
        if self.prefixes is not None:
            columns += [self.prefixes.offsets, self.prefixes.ids]
            more.append(self.prefixes.block_tokens)
        if self.closed is not None:
            columns.append(self.closed.think_ns)
            more.append(self.closed.users)
        for column in columns:
            sha.update(column.astype("<i8").tobytes())
        sha.update(repr((self.max_tokens, sorted(self.gone_ns.items()), *more)).encode())
        return sha.hexdigest()

    def describe(self) -> dict[str, str | int | float | None]:
        """For a log's header: name, requests, mean rate in requests/s (None if all arrive at once), sha256.

        `users` and `think_s` (mean) of a closed loop, which has no rate; `prefix_block_tokens` if prompts name what they hold.
        """
        rate = None if self.closed is not None or math.isinf(self.mean_rate) else self.mean_rate
        found: dict[str, str | int | float | None] = {
            "name": self.name,
            "requests": len(self),
            "mean_rate_rps": rate,
            "sha256": self.digest(),
        }
        if self.closed is not None:
            found |= {"users": self.closed.users, "think_s": float(self.closed.think_ns.mean()) / NS_PER_S}
        if self.prefixes is not None:
            found["prefix_block_tokens"] = self.prefixes.block_tokens
        return found


def _read_only(values: NDArray[np.int64], column: str, name: str) -> NDArray[np.int64]:
    """A view that cannot be written through. InputError unless it is one dimension of whole numbers."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{column} must be one column of whole numbers", name)
    view = array.astype(np.int64, copy=False).view()
    view.flags.writeable = False
    return view
