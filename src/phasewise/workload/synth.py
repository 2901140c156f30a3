"""Makes up workloads: arrivals and lengths from stated distributions. It does not know files, models or policies.

Arrivals, prompts, outputs and classes draw from four child streams of one seed. So another rate keeps every length and
the relative pattern of arrivals (common random numbers), another length distribution keeps the arrivals and the order of
sizes, and a longer run begins with the shorter one.
"""

from __future__ import annotations

import math
from numbers import Integral

import msgspec
import numpy as np

from phasewise.core.errors import InputError
from phasewise.core.spec import RequestClass, Slo
from phasewise.core.units import NS_PER_S
from phasewise.workload.arrivals import Arrivals, Open, Renewal
from phasewise.workload.closed import Closed
from phasewise.workload.lengths import Floats, Lengths, Tokens, require
from phasewise.workload.merge import merge
from phasewise.workload.truth import Truth
from phasewise.workload.workload import (
    MAX_ARRIVAL_S,
    MAX_TOKENS,
    NO_RATE,
    ClosedLoop,
    Workload,
    checked_rate,
    checked_requests,
)

MAX_REQUESTS = 10_000_000
_STREAMS = 4


class Synthetic(msgspec.Struct, frozen=True):
    """A described workload. `correlation` is Spearman's, of prompt and output length; `max_tokens` caps outputs."""

    name: str
    arrivals: Arrivals
    prompt: Lengths
    output: Lengths
    correlation: float = 0.0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        _check(self.correlation, self.max_tokens)

    @property
    def rate(self) -> float | None:
        """Mean rate in requests/s; None for a closed loop."""
        return None if isinstance(self.arrivals, Closed) else self.arrivals.rate


class ClassSpec(msgspec.Struct, frozen=True):
    """One class of a mixture: a `share` of the mixture's arrivals, or `arrivals` of its own.

    Shares are relative: those of all classes are scaled to sum to 1. The objectives in `slo` and the cap `max_tokens` go
    before the deployment's and the workload's.
    """

    name: str
    prompt: Lengths
    output: Lengths
    share: float | None = None
    arrivals: Open | None = None
    correlation: float = 0.0
    slo: Slo = Slo()
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        _check(self.correlation, self.max_tokens)
        if self.share is not None:
            require(0 < self.share < math.inf, "share", self.share, "give a number above 0")
        checked_slo(self.slo)

    @property
    def label(self) -> RequestClass:
        """What requests and records call it."""
        return RequestClass(self.name, self.slo, self.max_tokens)


class Mixture(msgspec.Struct, frozen=True):
    """Classes over one process of `arrivals`, each request's class drawn by share; or each class with its own."""

    name: str
    classes: tuple[ClassSpec, ...]
    arrivals: Arrivals | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        _check(0.0, self.max_tokens)
        names = [c.name for c in self.classes]
        if not names or len(set(names)) < len(names):
            raise InputError(f"classes {', '.join(map(repr, names)) or 'missing'}; give each a name of its own")
        for c in self.classes:
            if self.arrivals is not None and (c.share is None or c.arrivals is not None):
                raise InputError(f"class {c.name!r} needs a share, and no arrivals: the mixture has arrivals for all")
            if self.arrivals is None and (c.arrivals is None or c.share is not None):
                raise InputError(
                    f"class {c.name!r} needs arrivals, and no share: the mixture has no arrivals of its own"
                )

    @property
    def rate(self) -> float | None:
        """Mean rate of all classes in requests/s; None for a closed loop."""
        if self.arrivals is None:
            return math.fsum(c.arrivals.rate for c in self.classes if c.arrivals is not None)
        return None if isinstance(self.arrivals, Closed) else self.arrivals.rate


def generate(spec: Synthetic | Mixture, requests: int, seed: int = 0, rate: float | None = None) -> Workload:
    """`requests` requests of `spec` at a total of `rate` requests/s (None: the description's).

    The rate is the process's mean: a finite run scatters about it. InputError if a number is out of range, the last
    request would arrive after 10^9 s, or a rate is asked of a closed loop.
    """
    requests = checked_requests(requests, spec.name)
    if requests > MAX_REQUESTS:
        raise InputError(f"{requests:,} requests; give at most {MAX_REQUESTS:,}", spec.name)
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"seed {seed!r}; give a whole number, 0 or above", spec.name)
    if rate is not None:
        rate = checked_rate(rate, spec.name)
        if spec.rate is None:
            raise InputError(NO_RATE, spec.name)
    if isinstance(spec, Mixture) and spec.arrivals is None:
        return _side_by_side(spec, requests, int(seed), rate)
    return _one_process(spec, requests, np.random.SeedSequence(int(seed)), rate)


def _one_process(
    spec: Synthetic | Mixture, n: int, seed: np.random.SeedSequence, rate: float | None, *, at_zero: bool = True
) -> Workload:
    """`n` requests of one arrival process; `at_zero` says whether a renewal process may begin with an arrival."""
    streams = [np.random.default_rng(child) for child in seed.spawn(_STREAMS)]
    arrival_ns, closed = np.zeros(n, np.int64), None
    arrivals = spec.arrivals
    assert arrivals is not None
    if isinstance(arrivals, Closed):
        closed = arrivals.loop(streams[0], n)
    else:
        late = int(not at_zero and isinstance(arrivals, Renewal))
        arrival_ns = _instants(arrivals, streams[0], n + late, arrivals.rate if rate is None else rate, spec.name)[
            late:
        ]
    if isinstance(spec, Synthetic):
        prompt, output = _pair(spec, *(stream.standard_normal(n) for stream in streams[1:3]))
        return Workload(spec.name, arrival_ns, prompt, Truth(output), spec.max_tokens, closed=closed)
    return _mixed(spec, streams[1:], arrival_ns, closed)


def _instants(arrivals: Open, rng: np.random.Generator, n: int, rate: float, name: str) -> Tokens:
    """Arrivals in nanoseconds. InputError if the last comes too late."""
    try:
        with np.errstate(over="ignore"):
            start = arrivals.starts(rng, n, rate)
    except InputError as error:
        raise InputError(str(error), name) from None
    if not float(start[-1]) <= MAX_ARRIVAL_S:
        raise InputError(f"at {rate:g} requests/s the last arrives after 10^9 s; give a higher rate", name)
    return np.rint(start * NS_PER_S).astype(np.int64)


def _mixed(
    spec: Mixture, streams: list[np.random.Generator], arrival_ns: Tokens, closed: ClosedLoop | None
) -> Workload:
    """A mixture over given arrivals: each request's class by share, its lengths by its class."""
    n = len(arrival_ns)
    first, second = (stream.standard_normal(n) for stream in streams[:2])
    shares = np.array([c.share for c in spec.classes])
    upto = np.cumsum(shares) / shares.sum()
    which = np.minimum(np.searchsorted(upto, streams[2].random(n), side="right"), len(shares) - 1)
    prompt, output = np.empty(n, np.int64), np.empty(n, np.int64)
    for i, c in enumerate(spec.classes):
        mine = which == i
        prompt[mine], output[mine] = _pair(c, first[mine], second[mine])
    labels = tuple(c.label for c in spec.classes)
    truth = Truth(output)
    return Workload(
        spec.name, arrival_ns, prompt, truth, spec.max_tokens, kind=which + 1, classes=labels, closed=closed
    )


def _side_by_side(spec: Mixture, n: int, seed: int, rate: float | None) -> Workload:
    """A mixture whose classes arrive independently: the first `n` of all, in order of time."""
    factor = 1.0 if rate is None or spec.rate is None else rate / spec.rate
    parts = []
    for i, c in enumerate(spec.classes):
        assert c.arrivals is not None
        one = Synthetic(spec.name, c.arrivals, c.prompt, c.output, c.correlation, spec.max_tokens)
        # Children beyond those of a single process, so that no class shares its chance with one.
        child = np.random.SeedSequence(seed, spawn_key=(_STREAMS + i,))
        part = _one_process(one, n, child, c.arrivals.rate * factor, at_zero=False)
        parts.append(part.labelled(c.label))
    return merge(spec.name, parts).head(n)


def _pair(spec: Synthetic | ClassSpec, prompt: Floats, own: Floats) -> tuple[Tokens, Tokens]:
    """Prompts and outputs from two standard normals each, joined by a Gaussian copula with the given rank correlation.

    Pearson's correlation of the normals is 2 sin(pi rho / 6) for Spearman's rho.
    """
    pearson = 2 * math.sin(math.pi * spec.correlation / 6)
    output = pearson * prompt + math.sqrt(max(0.0, 1 - pearson**2)) * own
    return spec.prompt.lengths(prompt), spec.output.lengths(output)


def checked_slo(slo: Slo) -> None:
    """InputError unless every objective is a time above 0."""
    for name, value in msgspec.structs.asdict(slo).items():
        require(value is None or 0 < value < 1e6, name, value or 0, "give seconds above 0")


def _check(correlation: float, max_tokens: int | None) -> None:
    require(-1 <= correlation <= 1, "correlation", correlation, "give -1 to 1")
    if max_tokens is not None:
        require(1 <= max_tokens <= MAX_TOKENS, "max_tokens", max_tokens, f"give 1 to {MAX_TOKENS:,}")
