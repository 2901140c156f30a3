"""Makes up workloads: arrivals and lengths from stated distributions. It does not know files, models or policies.

Arrivals, prompts and outputs draw from three child streams of one seed, and arrivals are drawn as gaps with mean 1.
So another rate keeps every length and the relative pattern of arrivals (common random numbers), another length
distribution keeps the arrivals and the order of sizes, and a longer run begins with the shorter one.
"""

from __future__ import annotations

import math
from numbers import Integral

import msgspec
import numpy as np
from numpy.typing import NDArray

from phasewise.core.errors import InputError
from phasewise.core.units import NS_PER_S
from phasewise.workload.truth import Truth
from phasewise.workload.workload import MAX_ARRIVAL_S, MAX_TOKENS, Workload, checked_rate, checked_requests

MAX_REQUESTS = 10_000_000
MAX_CV = 100.0
MAX_SIGMA = 10.0
Floats = NDArray[np.float64]
Tokens = NDArray[np.int64]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """One distribution, told from its siblings in a file by `kind`."""


class Poisson(_Part, frozen=True, tag="poisson"):
    """Independent exponential gaps. `rate` in requests/s."""

    rate: float

    def __post_init__(self) -> None:
        checked_rate(self.rate)

    def gaps(self, rng: np.random.Generator, n: int) -> Floats:
        """`n` gaps in units of the mean gap."""
        return rng.standard_exponential(n)


class Gamma(_Part, frozen=True, tag="gamma"):
    """Independent gamma gaps with coefficient of variation `cv` (1: Poisson; above: bursty). `rate` in requests/s."""

    rate: float
    cv: float

    def __post_init__(self) -> None:
        checked_rate(self.rate)
        _require(0.01 <= self.cv <= MAX_CV, "cv", self.cv, f"give 0.01 to {MAX_CV:g} (or kind 'fixed' for none)")

    def gaps(self, rng: np.random.Generator, n: int) -> Floats:
        """`n` gaps in units of the mean gap."""
        shape = self.cv**-2
        return rng.standard_gamma(shape, n) / shape


class FixedGaps(_Part, frozen=True, tag="fixed"):
    """One request every 1/rate seconds."""

    rate: float

    def __post_init__(self) -> None:
        checked_rate(self.rate)

    def gaps(self, rng: np.random.Generator, n: int) -> Floats:
        """`n` gaps in units of the mean gap; draws nothing."""
        return np.ones(n)


class FixedLength(_Part, frozen=True, tag="fixed"):
    """The same length for all, in tokens."""

    tokens: int

    def __post_init__(self) -> None:
        _require(1 <= self.tokens <= MAX_TOKENS, "tokens", self.tokens, f"give 1 to {MAX_TOKENS:,}")

    def lengths(self, normals: Floats) -> Tokens:
        """One length for each standard normal."""
        return np.full(len(normals), self.tokens, dtype=np.int64)


class LogNormal(_Part, frozen=True, tag="lognormal"):
    """exp(mu + sigma Z), rounded, then clipped to `min`..`max` tokens; `mean` or `median` is that before the clip."""

    sigma: float
    mean: float | None = None
    median: float | None = None
    min: int = 1
    max: int = MAX_TOKENS

    def __post_init__(self) -> None:
        _require(0 <= self.sigma <= MAX_SIGMA, "sigma", self.sigma, f"give 0 to {MAX_SIGMA:g}")
        if (self.mean is None) == (self.median is None):
            raise InputError("lognormal lengths need a mean or a median; give exactly one")
        name, centre = ("mean", self.mean) if self.mean is not None else ("median", self.median)
        assert centre is not None
        _require(1 <= centre <= MAX_TOKENS, name, centre, f"give 1 to {MAX_TOKENS:,} tokens")
        _require(1 <= self.min <= MAX_TOKENS, "min", self.min, f"give 1 to {MAX_TOKENS:,} tokens")
        _require(self.min <= self.max <= MAX_TOKENS, "max", self.max, f"give {self.min:,} to {MAX_TOKENS:,} tokens")

    def lengths(self, normals: Floats) -> Tokens:
        """One length for each standard normal."""
        mu = math.log(self.median) if self.median is not None else math.log(self.mean or 1.0) - self.sigma**2 / 2
        return np.clip(np.rint(np.exp(mu + self.sigma * normals)), self.min, self.max).astype(np.int64)


class QuantileTable(_Part, frozen=True, tag="quantiles"):
    """The inverse distribution function at some probabilities, straight lines between, rounded to whole tokens.

    `probabilities` climb from 0 to 1; `values`, in tokens, never fall.
    """

    probabilities: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        p, v = self.probabilities, self.values
        if len(p) != len(v) or len(p) < 2:
            raise InputError(f"{len(p)} probabilities and {len(v)} values; give as many of each, two at least")
        if p[0] != 0 or p[-1] != 1:
            raise InputError(f"probabilities run from {p[0]:g} to {p[-1]:g}; the first must be 0 and the last 1")
        for i in range(1, len(p)):
            _require(p[i - 1] < p[i], "probability", p[i], f"they must climb, and {p[i - 1]:g} stands before it")
            _require(v[i - 1] <= v[i], "value", v[i], f"they must not fall, and {v[i - 1]:g} stands before it")
        _require(v[0] >= 1, "value", v[0], f"give 1 to {MAX_TOKENS:,} tokens")
        _require(v[-1] <= MAX_TOKENS, "value", v[-1], f"give 1 to {MAX_TOKENS:,} tokens")

    def lengths(self, normals: Floats) -> Tokens:
        """One length for each standard normal."""
        tokens = np.interp(normal_cdf(normals), self.probabilities, self.values)
        return np.rint(tokens).astype(np.int64)


Arrivals = Poisson | Gamma | FixedGaps
Lengths = FixedLength | LogNormal | QuantileTable


class Synthetic(msgspec.Struct, frozen=True):
    """A described workload. `correlation` is Spearman's, of prompt and output length; `max_tokens` caps outputs."""

    name: str
    arrivals: Arrivals
    prompt: Lengths
    output: Lengths
    correlation: float = 0.0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        _require(-1 <= self.correlation <= 1, "correlation", self.correlation, "give -1 to 1")
        if self.max_tokens is not None:
            _require(1 <= self.max_tokens <= MAX_TOKENS, "max_tokens", self.max_tokens, f"give 1 to {MAX_TOKENS:,}")


def generate(spec: Synthetic, requests: int, seed: int = 0, rate: float | None = None) -> Workload:
    """`requests` requests of `spec`, the first at time 0, at `rate` requests/s (None: the description's).

    The rate is the process's mean: a finite run scatters about it, by about cv / sqrt(requests). InputError if a
    number is out of range, or the last request would arrive after 10^9 s.
    """
    requests = checked_requests(requests, spec.name)
    if requests > MAX_REQUESTS:
        raise InputError(f"{requests:,} requests; give at most {MAX_REQUESTS:,}", spec.name)
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"seed {seed!r}; give a whole number, 0 or above", spec.name)
    rate = spec.arrivals.rate if rate is None else checked_rate(rate, spec.name)
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(int(seed)).spawn(3)]
    start = np.zeros(requests)
    np.cumsum(spec.arrivals.gaps(streams[0], requests - 1), out=start[1:])
    if float(start[-1]) / rate > MAX_ARRIVAL_S:
        raise InputError(f"at {rate:g} requests/s the last arrives after 10^9 s; give a higher rate", spec.name)
    prompt, output = _normal_pairs(streams[1], streams[2], requests, spec.correlation)
    return Workload(
        name=spec.name,
        arrival_ns=np.rint(start / rate * NS_PER_S).astype(np.int64),
        prompt_tokens=spec.prompt.lengths(prompt),
        truth=Truth(spec.output.lengths(output)),
        max_tokens=spec.max_tokens,
    )


def normal_cdf(normals: Floats) -> Floats:
    """The standard normal distribution function, from erfc: relative error below 1e-12 from z = -30 up."""
    return 0.5 * np.fromiter(map(math.erfc, (normals * -math.sqrt(0.5)).tolist()), np.float64, len(normals))


def _normal_pairs(
    first: np.random.Generator, second: np.random.Generator, n: int, spearman: float
) -> tuple[Floats, Floats]:
    """Standard normals joined by a Gaussian copula with the given rank correlation (Pearson's is 2 sin(pi rho / 6))."""
    prompt, own = first.standard_normal(n), second.standard_normal(n)
    pearson = 2 * math.sin(math.pi * spearman / 6)
    return prompt, pearson * prompt + math.sqrt(max(0.0, 1 - pearson**2)) * own


def _require(right: bool, name: str, value: float, what: str) -> None:
    if not right:
        raise InputError(f"{name} {value!r} is out of range; {what}")
