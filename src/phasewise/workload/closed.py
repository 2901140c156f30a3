"""Closed loops: how many users there are, and how long they think. It knows no length, file or model."""

from __future__ import annotations

import numpy as np

from phasewise.core.units import NS_PER_S
from phasewise.workload.lengths import MAX_SIGMA, Floats, Part, require
from phasewise.workload.workload import MAX_ARRIVAL_S, ClosedLoop

MAX_USERS = 1_000_000


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
