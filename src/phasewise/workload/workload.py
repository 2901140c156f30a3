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
from phasewise.core.units import NS_PER_S
from phasewise.workload.truth import Truth

MAX_TOKENS = 10_000_000  # a longer prompt or output is taken for a mistake
MAX_ARRIVAL_S = 1_000_000_000  # 31 years, and still an int64 of nanoseconds
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
class Workload:
    """Requests 0..n-1 in order of arrival, with their true output lengths set apart.

    `arrival_ns` counts nanoseconds on the source's own axis (it need not start at 0). `max_tokens` is the workload's
    cap on every output, None for the context limit; `truth` is clipped to it. `gone_ns` maps a request to the instant
    at which its client hangs up. `source` is the file, if rows of one became the requests, and `first_row` the line
    of request 0 in it (the header is line 1). InputError if the columns disagree.
    """

    name: str
    arrival_ns: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    truth: Truth
    max_tokens: int | None = None
    gone_ns: Mapping[int, int] = field(default_factory=dict)
    source: str | None = None
    first_row: int = 2

    def __post_init__(self) -> None:
        for column in ("arrival_ns", "prompt_tokens"):
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
        for request_id, at_ns in self.gone_ns.items():
            if not 0 <= request_id < n or at_ns < int(self.arrival_ns[request_id]):
                raise InputError("gone before it arrived; give a later instant", self.where(request_id))

    def __len__(self) -> int:
        return len(self.arrival_ns)

    def where(self, request_id: int) -> str:
        """The place to name in a message: "trace.csv:17", or "request 15 of azure-conv"."""
        if self.source is not None:
            return f"{self.source}:{self.first_row + request_id}"
        return f"request {request_id} of {self.name}"

    def requests(self) -> Iterator[Request]:
        """The requests in order of arrival, made a slice at a time: none is kept here."""
        for low in range(0, len(self), _SLICE):
            arrivals = self.arrival_ns[low : low + _SLICE].tolist()
            prompts = self.prompt_tokens[low : low + _SLICE].tolist()
            yield from map(Request, range(low, low + len(arrivals)), arrivals, prompts, repeat(self.max_tokens))

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
        if n == len(self):
            return self
        gone = {i: at_ns for i, at_ns in self.gone_ns.items() if i < n}
        arrival_ns, prompt_tokens = self.arrival_ns[:n], self.prompt_tokens[:n]
        return replace(self, arrival_ns=arrival_ns, prompt_tokens=prompt_tokens, truth=self.truth.head(n), gone_ns=gone)

    def at_rate(self, rate: float) -> Workload:
        """The time axis stretched so that this whole workload's mean rate becomes `rate` requests/s.

        A client's patience (hang-up minus arrival) is its own and stays as it is. InputError if `rate` is no rate, or
        all requests arrive at one instant, or the last would arrive more than 10^9 s after the axis starts.
        """
        place = self.source or self.name
        factor = self.mean_rate / checked_rate(rate, place)
        if math.isinf(self.mean_rate):
            raise InputError("all arrivals at one instant have no rate to change; leave the rate out", place)
        if int(self.arrival_ns[-1]) * factor > MAX_ARRIVAL_S * NS_PER_S:
            raise InputError(f"at {rate:g} requests/s the last arrives after 10^9 s; give a higher rate", place)
        arrival_ns = np.rint(self.arrival_ns * factor).astype(np.int64)
        shift = {i: int(arrival_ns[i]) - int(self.arrival_ns[i]) for i in self.gone_ns}
        return replace(self, arrival_ns=arrival_ns, gone_ns={i: at_ns + shift[i] for i, at_ns in self.gone_ns.items()})

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all that can change a run: the three columns, the cap, the hang-ups."""
        sha = hashlib.sha256()
        for column in (self.arrival_ns, self.prompt_tokens, self.truth.column()):
            sha.update(column.astype("<i8").tobytes())
        sha.update(repr((self.max_tokens, sorted(self.gone_ns.items()))).encode())
        return sha.hexdigest()

    def describe(self) -> dict[str, str | int | float | None]:
        """For a log's header: name, requests, mean rate in requests/s (None if all arrive at once), sha256."""
        rate = None if math.isinf(self.mean_rate) else self.mean_rate
        return {"name": self.name, "requests": len(self), "mean_rate_rps": rate, "sha256": self.digest()}


def _read_only(values: NDArray[np.int64], column: str, name: str) -> NDArray[np.int64]:
    """A view that cannot be written through. InputError unless it is one dimension of whole numbers."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{column} must be one column of whole numbers", name)
    view = array.astype(np.int64, copy=False).view()
    view.flags.writeable = False
    return view
