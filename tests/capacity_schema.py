"""What the documents of `capacity` and of its sweeps have in common, strictly: no key may be missing or unknown."""

from __future__ import annotations

from simulate_schema import Strict


class ProbeDocument(Strict):
    rate_rps: float
    feasible: bool
    scores: dict[str, float]
    missed: list[str]
    backlog_growth: float
    turnovers: float
    rejected: int


class Same(Strict):
    name: str
    requests: int
    sha256: str
