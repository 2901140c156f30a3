"""Arrival processes: when requests come. They know no length, file or model.

Renewal processes (`poisson`, `gamma`, `weibull`, `fixed`) draw independent gaps, the first arrival at time 0; another rate
stretches their time axis. `onoff` and `curve` have a time axis of their own (how long a burst lasts, what the clock says):
another rate scales their rates and leaves it alone. A `closed` loop has no rate: its arrivals follow from the run.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import numpy as np

from phasewise.core.errors import InputError
from phasewise.core.units import NS_PER_S
from phasewise.workload.curve import RateCurve, linear, steps
from phasewise.workload.lengths import MAX_SIGMA, Floats, Part, require
from phasewise.workload.workload import MAX_ARRIVAL_S, ClosedLoop, checked_rate

MAX_CV = 100.0
MAX_SWITCHES = 50_000_000
MAX_USERS = 1_000_000
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


class FixedThink(Part, frozen=True, tag="fixed"):
    """Always the same pause, seconds."""

    seconds: float

    def __post_init__(self) -> None:
        require(0 <= self.seconds <= MAX_ARRIVAL_S, "seconds", self.seconds, "give seconds, 0 or more")

    def pauses(self, rng: np.random.Generator, n: int) -> Floats:
        """`n` pauses in seconds; draws nothing."""
        return np.full(n, self.seconds)


class ExponentialThink(Part, frozen=True, tag="exponential"):
    """Exponential pauses with a `mean` in seconds."""

    mean: float

    def __post_init__(self) -> None:
        require(0 < self.mean <= MAX_ARRIVAL_S, "mean", self.mean, "give seconds, above 0")

    def pauses(self, rng: np.random.Generator, n: int) -> Floats:
        """`n` pauses in seconds."""
        return self.mean * rng.standard_exponential(n)


class LogNormalThink(Part, frozen=True, tag="lognormal"):
    """Lognormal pauses: exp(sigma Z) times a `median` in seconds."""

    median: float
    sigma: float

    def __post_init__(self) -> None:
        require(0 < self.median <= MAX_ARRIVAL_S, "median", self.median, "give seconds, above 0")
        require(0 <= self.sigma <= MAX_SIGMA, "sigma", self.sigma, f"give 0 to {MAX_SIGMA:g}")

    def pauses(self, rng: np.random.Generator, n: int) -> Floats:
        """`n` pauses in seconds."""
        return self.median * np.exp(self.sigma * rng.standard_normal(n))


Think = FixedThink | ExponentialThink | LogNormalThink


class Closed(Part, frozen=True, tag="closed"):
    """`users` users, each of whom sends, waits for the answer's end, thinks for `think_s`, and sends again."""

    users: int
    think_s: Think = FixedThink(0.0)

    def __post_init__(self) -> None:
        require(1 <= self.users <= MAX_USERS, "users", self.users, f"give 1 to {MAX_USERS:,}")

    def loop(self, rng: np.random.Generator, n: int) -> ClosedLoop:
        """The loop for `n` requests: the pause after each, drawn by its place in the order of arrival."""
        pauses = np.minimum(self.think_s.pauses(rng, n), MAX_ARRIVAL_S)
        return ClosedLoop(self.users, np.rint(pauses * NS_PER_S).astype(np.int64))


Renewal = Poisson | Gamma | Weibull | FixedGaps
Open = Renewal | OnOff | Curve
Arrivals = Open | Closed


def _renewal(gaps: Floats, rate: float) -> Floats:
    """Arrivals in seconds, the first at 0, from gaps in units of the mean gap: drawn so, every rate shares its pattern."""
    start = np.zeros(len(gaps) + 1)
    np.cumsum(gaps, out=start[1:])
    return start / rate


def _gamma_gaps(rng: np.random.Generator, n: int, cv: float) -> Floats:
    """`n` gamma gaps of mean 1."""
    shape = cv**-2
    return rng.standard_gamma(shape, n) / shape
