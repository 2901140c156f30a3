"""Distributions of prompt and output lengths, in tokens. They know no file, no arrival and no other column.

A length is a function of one standard normal: so two columns can be joined by a copula, and another distribution of the
same kind of request keeps who is long and who is short.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from phasewise.core.errors import InputError
from phasewise.workload.workload import MAX_TOKENS

MAX_SIGMA = 10.0
Floats = NDArray[np.float64]
Tokens = NDArray[np.int64]
_OFF_ONE = 1e-3  # by how much published probabilities, rounded, may miss a sum of 1


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """One distribution, told from its siblings in a file by `kind`."""


class FixedLength(Part, frozen=True, tag="fixed"):
    """The same length for all, in tokens."""

    tokens: int

    def __post_init__(self) -> None:
        require(1 <= self.tokens <= MAX_TOKENS, "tokens", self.tokens, f"give 1 to {MAX_TOKENS:,}")

    def lengths(self, normals: Floats) -> Tokens:
        """One length for each standard normal."""
        return np.full(len(normals), self.tokens, dtype=np.int64)


class LogNormal(Part, frozen=True, tag="lognormal"):
    """exp(mu + sigma Z), rounded, then clipped to `min`..`max` tokens; `mean` or `median` is that before the clip."""

    sigma: float
    mean: float | None = None
    median: float | None = None
    min: int = 1
    max: int = MAX_TOKENS

    def __post_init__(self) -> None:
        require(0 <= self.sigma <= MAX_SIGMA, "sigma", self.sigma, f"give 0 to {MAX_SIGMA:g}")
        if (self.mean is None) == (self.median is None):
            raise InputError("lognormal lengths need a mean or a median; give exactly one")
        name, centre = ("mean", self.mean) if self.mean is not None else ("median", self.median)
        assert centre is not None
        require(1 <= centre <= MAX_TOKENS, name, centre, f"give 1 to {MAX_TOKENS:,} tokens")
        require(1 <= self.min <= MAX_TOKENS, "min", self.min, f"give 1 to {MAX_TOKENS:,} tokens")
        require(self.min <= self.max <= MAX_TOKENS, "max", self.max, f"give {self.min:,} to {MAX_TOKENS:,} tokens")

    def lengths(self, normals: Floats) -> Tokens:
        """One length for each standard normal."""
        mu = math.log(self.median) if self.median is not None else math.log(self.mean or 1.0) - self.sigma**2 / 2
        return np.clip(np.rint(np.exp(mu + self.sigma * normals)), self.min, self.max).astype(np.int64)


class QuantileTable(Part, frozen=True, tag="quantiles"):
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
            require(p[i - 1] < p[i], "probability", p[i], f"they must climb, and {p[i - 1]:g} stands before it")
            require(v[i - 1] <= v[i], "value", v[i], f"they must not fall, and {v[i - 1]:g} stands before it")
        require(v[0] >= 1, "value", v[0], f"give 1 to {MAX_TOKENS:,} tokens")
        require(v[-1] <= MAX_TOKENS, "value", v[-1], f"give 1 to {MAX_TOKENS:,} tokens")

    def lengths(self, normals: Floats) -> Tokens:
        """One length for each standard normal."""
        tokens = np.interp(normal_cdf(normals), self.probabilities, self.values)
        return np.rint(tokens).astype(np.int64)


class Histogram(Part, frozen=True, tag="histogram"):
    """Bins `(tokens from, tokens below, probability)`: every whole length in a bin is as likely as the next.

    Bins climb and do not overlap; probabilities sum to 1 within 0.001, and are scaled to sum to it.
    """

    bins: tuple[tuple[int, int, float], ...]

    def __post_init__(self) -> None:
        if not self.bins:
            raise InputError("no bins; give at least one, as [tokens from, tokens below, probability]")
        end = 1
        for low, below, p in self.bins:
            require(low >= end, "bin from", low, f"bins climb without overlap; give {end:,} tokens or more")
            require(low < below <= MAX_TOKENS, "bin below", below, f"give {low + 1:,} to {MAX_TOKENS:,} tokens")
            require(0 <= p <= 1, "probability", p, "give 0 to 1")
            end = below
        total = math.fsum(p for _, _, p in self.bins)
        if abs(total - 1) > _OFF_ONE:
            raise InputError(f"probabilities sum to {total:g}; they must sum to 1")

    def lengths(self, normals: Floats) -> Tokens:
        """One length for each standard normal."""
        low, below, p = (np.array(column) for column in zip(*(b for b in self.bins if b[2] > 0), strict=True))
        upto = np.cumsum(p) / p.sum()
        u = normal_cdf(normals)
        bin_ = np.minimum(np.searchsorted(upto, u, side="right"), len(p) - 1)
        within = 1 - (upto[bin_] - u) / (p / p.sum())[bin_]
        length = low[bin_] + np.floor(within * (below - low)[bin_])
        found: Tokens = np.clip(length, low[bin_], below[bin_] - 1).astype(np.int64)
        return found


class Empirical(Part, frozen=True, tag="empirical"):
    """The lengths that were seen, each as likely as the next; `values` in tokens, in any order."""

    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise InputError("no values; give at least one length in tokens")
        for value in (min(self.values), max(self.values)):
            require(1 <= value <= MAX_TOKENS, "value", value, f"give 1 to {MAX_TOKENS:,} tokens")

    def lengths(self, normals: Floats) -> Tokens:
        """One length for each standard normal."""
        ranked = np.sort(np.array(self.values, np.int64))
        rank = np.floor(normal_cdf(normals) * len(ranked)).astype(np.int64)
        found: Tokens = ranked[np.minimum(rank, len(ranked) - 1)]
        return found


Lengths = FixedLength | LogNormal | QuantileTable | Histogram | Empirical


def normal_cdf(normals: Floats) -> Floats:
    """The standard normal distribution function, from erfc: relative error below 1e-12 from z = -30 up."""
    return 0.5 * np.fromiter(map(math.erfc, (normals * -math.sqrt(0.5)).tolist()), np.float64, len(normals))


def require(right: bool, name: str, value: float, what: str) -> None:
    """InputError unless `right`: `name` and its value, and what would be right."""
    if not right:
        raise InputError(f"{name} {value!r} is out of range; {what}")
