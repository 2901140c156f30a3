"""Arrival processes: when requests come. They know no length, file or model.

Renewal processes (`poisson`, `gamma`, `weibull`, `fixed`) draw independent gaps, the first arrival at time 0; another rate
stretches their time axis. `clients` are many of them side by side. `onoff` and `curve` have a time axis of their own (how
long a burst lasts, what the clock says): another rate scales their rates and leaves it alone. A `closed` loop has no rate:
its arrivals follow from the run.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import numpy as np

from phasewise.core.errors import InputError
from phasewise.workload.closed import Closed
from phasewise.workload.curve import RateCurve, linear, steps
from phasewise.workload.lengths import Floats, Part, require
from phasewise.workload.workload import MAX_ARRIVAL_S, checked_rate

MAX_CV = 100.0
MAX_SWITCHES = 50_000_000
MAX_CLIENTS = 10_000
_GAPS = 64
_CV = f"give 0.01 to {MAX_CV:g} (or kind 'fixed' for none)"


class Poisson(Part, frozen=True, tag="poisson"):
    """Independent exponential gaps. `rate` in requests/s."""

    rate: float

    def __post_init__(self) -> None:
        checked_rate(self.rate)

    def starts(self, rng: np.random.Generator, n: int, rate: float) -> Floats:
        """Arrival times of `n` requests in seconds, the first at 0, at `rate` requests/s."""
        return _renewal(rng.standard_exponential(n - 1), rate)


class Gamma(Part, frozen=True, tag="gamma"):
    """Independent gamma gaps with coefficient of variation `cv` (1: Poisson; above: bursty). `rate` in requests/s."""

    rate: float
    cv: float

    def __post_init__(self) -> None:
        checked_rate(self.rate)
        require(0.01 <= self.cv <= MAX_CV, "cv", self.cv, _CV)

    def starts(self, rng: np.random.Generator, n: int, rate: float) -> Floats:
        """Arrival times of `n` requests in seconds, the first at 0, at `rate` requests/s."""
        return _renewal(_gamma_gaps(rng, n - 1, self.cv), rate)


class Weibull(Part, frozen=True, tag="weibull"):
    """Independent Weibull gaps of `shape` (1: Poisson; below: bursty, with a heavier tail). `rate` in requests/s.

    ServeGen (arXiv 2505.09999) finds some clients' gaps closer to it than to gamma.
    """

    rate: float
    shape: float

    def __post_init__(self) -> None:
        checked_rate(self.rate)
        require(0.2 <= self.shape <= 100, "shape", self.shape, "give 0.2 to 100")

    def starts(self, rng: np.random.Generator, n: int, rate: float) -> Floats:
        """Arrival times of `n` requests in seconds, the first at 0, at `rate` requests/s."""
        return _renewal(rng.weibull(self.shape, n - 1) / math.gamma(1 + 1 / self.shape), rate)


class FixedGaps(Part, frozen=True, tag="fixed"):
    """One request every 1/rate seconds."""

    rate: float

    def __post_init__(self) -> None:
        checked_rate(self.rate)

    def starts(self, rng: np.random.Generator, n: int, rate: float) -> Floats:
        """Arrival times of `n` requests in seconds, the first at 0, at `rate` requests/s; draws nothing."""
        return _renewal(np.ones(n - 1), rate)


class OnOff(Part, frozen=True, tag="onoff"):
    """A Poisson process that switches between two rates (a Markov-modulated Poisson process of two states).

    It stays on and off for exponential times with means `on_s` and `off_s`, and begins in its steady state. Rates in
    requests/s; the mean is (rate_on on_s + rate_off off_s) / (on_s + off_s).
    """

    rate_on: float
    on_s: float
    off_s: float
    rate_off: float = 0.0

    def __post_init__(self) -> None:
        checked_rate(self.rate_on)
        require(0 <= self.rate_off < math.inf, "rate_off", self.rate_off, "give requests/s, 0 or more")
        for name in ("on_s", "off_s"):
            value = getattr(self, name)
            require(0 < value <= MAX_ARRIVAL_S, name, value, "give a mean duration in seconds, above 0")

    @property
    def rate(self) -> float:
        """Mean rate, requests/s."""
        return (self.rate_on * self.on_s + self.rate_off * self.off_s) / (self.on_s + self.off_s)

    def starts(self, rng: np.random.Generator, n: int, rate: float) -> Floats:
        """Arrival times of `n` requests in seconds at a mean of `rate` requests/s; states begin at 0 and last as stated."""
        factor = rate / self.rate
        switches = 2 * n / rate / (self.on_s + self.off_s)
        if switches > MAX_SWITCHES:
            wanted = f"{n:,} requests at {rate:g} requests/s take {switches:.3g} switches on and off"
            raise InputError(f"{wanted}; give longer on_s and off_s, or a higher rate")
        points, states = rng.spawn(2)
        due = np.cumsum(points.standard_exponential(n)) / factor
        is_on = bool(states.random() < self.on_s / (self.on_s + self.off_s))
        means, rates = np.array([self.on_s, self.off_s]), np.array([self.rate_on, self.rate_off])
        lengths = np.empty(0)
        which = np.empty(0, np.int64)
        while True:
            more = int(switches) + 64
            which = (np.arange(len(which) + more) + (not is_on)) % 2
            lengths = np.append(lengths, states.standard_exponential(more))
            spent = lengths * means[which]
            if float((spent * rates[which]).sum()) > due[-1]:
                break
        begin = np.cumsum(spent) - spent
        return RateCurve(begin, float(begin[-1] + spent[-1]), rates[which], rates[which]).times(due)


class Curve(Part, frozen=True, tag="curve"):
    """A rate that follows the clock: through `points` of (t_s, requests/s), again and again.

    `shape` linear: straight lines, and from the last point back to the first one's rate at `period_s` (None: the curve
    ends at its last point). `steps`: each rate holds until the next point, the last until `period_s` (None: as long as
    the step before it). Arrivals are independent given the rate (`cv` 1); another `cv` makes gaps gamma on the axis of
    the cumulative rate, so more or less bursty at the same mean.
    """

    points: tuple[tuple[float, float], ...]
    shape: Literal["linear", "steps"] = "linear"
    period_s: float | None = None
    cv: float = 1.0

    def __post_init__(self) -> None:
        points = self.points
        if len(points) < 2:
            raise InputError(f"{len(points)} points; give two at least, as [t_s, rate]")
        require(points[0][0] == 0, "first t_s", points[0][0], "a curve begins at 0")
        for (before, _), (at, _) in pairwise(points):
            require(before < at <= MAX_ARRIVAL_S, "t_s", at, f"times climb, and {before:g} stands before it")
        for _, rate in points:
            require(0 <= rate < math.inf, "rate", rate, "give requests/s, 0 or more")
        require(max(rate for _, rate in points) > 0, "highest rate", 0, "give requests/s, above 0 somewhere")
        if self.period_s is not None:
            right = points[-1][0] <= self.period_s if self.shape == "linear" else points[-1][0] < self.period_s
            require(right and self.period_s <= MAX_ARRIVAL_S, "period_s", self.period_s, "it ends after the last point")
        require(0.01 <= self.cv <= MAX_CV, "cv", self.cv, _CV)

    def curve(self) -> RateCurve:
        """One period of it."""
        points = list(self.points)
        if self.shape == "linear":
            return linear(points, self.period_s or points[-1][0])
        return steps(points, self.period_s or 2 * points[-1][0] - points[-2][0])

    @property
    def rate(self) -> float:
        """Mean rate over a period, requests/s."""
        return self.curve().mean_rate

    def starts(self, rng: np.random.Generator, n: int, rate: float) -> Floats:
        """Arrival times of `n` requests in seconds from the curve's start, its rates scaled to a mean of `rate`."""
        curve = self.curve()
        gaps = rng.standard_exponential(n) if self.cv == 1 else _gamma_gaps(rng, n, self.cv)
        return curve.repeated(np.cumsum(gaps) * (curve.mean_rate / rate))


class Clients(Part, frozen=True, tag="clients"):
    """Many clients side by side, each a gamma renewal process of (rate, cv): what ServeGen finds in production.

    Time 0 is a moment like any other: each client's first gap is what is left of one that has begun. Another rate
    stretches the time axis of all. Who sent a request is not kept.
    """

    clients: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        require(1 <= len(self.clients) <= MAX_CLIENTS, "clients", len(self.clients), f"give 1 to {MAX_CLIENTS:,}")
        for rate, cv in self.clients:
            require(0 < rate < math.inf, "rate", rate, "give requests/s, above 0 and finite")
            require(0.01 <= cv <= MAX_CV, "cv", cv, f"give 0.01 to {MAX_CV:g}")

    @property
    def rate(self) -> float:
        """Mean rate of all clients, requests/s."""
        return math.fsum(rate for rate, _ in self.clients)

    def starts(self, rng: np.random.Generator, n: int, rate: float) -> Floats:
        """Arrival times of the first `n` requests of all clients in seconds, at a total mean of `rate` requests/s."""
        streams = rng.spawn(len(self.clients))
        at = [_from_now_on(stream, own, cv) for stream, (own, cv) in zip(streams, self.clients, strict=True)]
        until = n / self.rate
        while True:
            for i, (stream, (own, cv)) in enumerate(zip(streams, self.clients, strict=True)):
                while at[i][-1] <= until:
                    # One gap at a time would be slow, and a fixed number keeps the order of the draws.
                    more = np.cumsum(_gamma_gaps(stream, _GAPS, cv)) / own
                    at[i] = np.append(at[i], at[i][-1] + more)
            due = np.concatenate([times[times <= until] for times in at])
            if len(due) >= n:
                return np.sort(due)[:n] * (self.rate / rate)
            until *= 1.5


Renewal = Poisson | Gamma | Weibull | FixedGaps
Open = Renewal | OnOff | Curve | Clients
Arrivals = Open | Closed


def _renewal(gaps: Floats, rate: float) -> Floats:
    """Arrivals in seconds, the first at 0, from gaps in units of the mean gap: drawn so, every rate shares its pattern."""
    start = np.zeros(len(gaps) + 1)
    np.cumsum(gaps, out=start[1:])
    return start / rate


def _from_now_on(rng: np.random.Generator, rate: float, cv: float) -> Floats:
    """When the first arrival after a moment comes: a uniform share of a gap as such moments meet them, so the longer the more.

    Of gamma gaps of shape k those are gamma of shape k + 1.
    """
    shape = cv**-2
    return np.array([rng.random() * rng.standard_gamma(shape + 1) / shape / rate])


def _gamma_gaps(rng: np.random.Generator, n: int, cv: float) -> Floats:
    """`n` gamma gaps of mean 1."""
    shape = cv**-2
    return rng.standard_gamma(shape, n) / shape
