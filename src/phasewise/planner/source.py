"""One workload at any rate: the same requests on a stretched time axis. It does not know what asks for them.

A described workload draws the same lengths and the same relative gaps at every rate (`workload.synth`), and a trace is
stretched: so two rates, or two policies, differ in nothing but what is studied (common random numbers).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from phasewise.workload.source import load
from phasewise.workload.workload import Workload

# Of a description. A backlog that grows by 2.2 % of the arrivals is seen with so many, and every replica settles.
LEAST_REQUESTS, REPLICA_REQUESTS = 10_000, 2_000


@dataclass(frozen=True)
class Source:
    """`requests` requests of a description by name or path, drawn from `seed`, or of a whole trace."""

    origin: str | Workload
    requests: int
    seed: int

    @property
    def name(self) -> str:
        """The workload's own name."""
        return self.origin.name if isinstance(self.origin, Workload) else Path(self.origin).stem

    def at(self, rate: float | None) -> Workload:
        """The requests at `rate` requests/s (None: its own), as `workload.load` gives them. InputError as there."""
        if isinstance(self.origin, Workload):
            return (self.origin if rate is None else self.origin.at_rate(rate)).head(self.requests)
        return load(self.origin, rate=rate, requests=self.requests, seed=self.seed)

    def at_once(self) -> Workload:
        """All requests at time 0, nobody leaving."""
        one = self.at(1.0)
        return replace(one, arrival_ns=np.zeros(len(one), np.int64), gone_ns={})


def source(origin: str | Path | Workload, requests: int | None = None, seed: int = 0, replicas: int = 1) -> Source:
    """A source of the first `requests` requests (None: a whole trace; of a description 2,000 a
    replica, and 10,000 at least).

    InputError if it cannot be read, holds fewer, or has no rate to change.
    """
    whole = origin if isinstance(origin, Workload) else load(origin, seed=seed)
    described = whole.source is None and not isinstance(origin, Workload)
    most = max(LEAST_REQUESTS, REPLICA_REQUESTS * replicas) if described else len(whole)
    found = Source(str(origin) if described else whole, most if requests is None else requests, seed)
    found.at(1.0)
    return found
