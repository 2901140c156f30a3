"""Runs behind `distserve.py`: rates by the paper's two rules, attainment, what transfers take. Numbers, no tables.

It does not know what the paper reports.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from distserve_arms import devices, workload

from phasewise.core.spec import DECODE, Resolved, Slo
from phasewise.core.units import NS_PER_S
from phasewise.planner.capacity import TOLERANCE, saturation
from phasewise.planner.objective import Attainment, Objective, judge, percentiles
from phasewise.planner.search import Bracket, path
from phasewise.planner.source import source
from phasewise.planner.workers import Workers
from phasewise.record.metrics import Scored, joint_attainment
from phasewise.record.window import backlog_growth, middle, part
from phasewise.sim.simulate import simulate

SHARE = 0.9
BEYOND = 1.5
Rate = float | None
"""A capacity in requests/s; None: not within the objective at any rate tried."""


def rules(slo: Slo) -> tuple[Objective, Objective]:
    """90 % of the requests within both objectives, as the paper plots it; P90 of each by itself, as its simulator searches."""
    return Attainment(SHARE), percentiles((f"ttft={slo.ttft_s}@p90", f"tpot={slo.tpot_s}@p90"))


class Found(NamedTuple):
    """Capacities of one arm by each rule, requests/s for each device, and which objective fails at half as much again."""

    joint: Rate
    apart: Rate
    fails: str


def kept(deployment: Resolved, data: str, requests: int, seed: int, rate: float) -> tuple[bool, ...]:
    """Whether a rate is within capacity, by each rule: one run, judged twice, as `planner.capacity` judges."""
    log = simulate(deployment, source(workload(data, requests, seed)).at(rate), seed)
    scored = Scored(part(log.tables, middle(log.tables)))
    steady = backlog_growth(log.tables) <= 1
    return tuple(steady and not judge(rule, scored, log.header)[1] for rule in rules(deployment.deployment.slo))


def capacities(deployment: Resolved, data: str, requests: int, seed: int = 0) -> Found:
    """The searches of `planner.capacity` by both rules, which share their runs."""
    start = saturation(deployment, source(workload(data, requests, seed)))
    known: dict[float, tuple[bool, ...]] = {}
    found: list[Rate] = []
    for rule in range(2):
        while True:
            end = path(start, {rate: verdict[rule] for rate, verdict in known.items()}, TOLERANCE)[1]
            if isinstance(end, Bracket):
                break
            known[end] = kept(deployment, data, requests, seed, end)
        found.append(end.low)
    size = devices(deployment)
    joint, apart = (None if rate is None else rate / size for rate in found)
    rate = found[0] or min(known)
    return Found(joint, apart, fails(deployment, data, requests, seed, BEYOND * rate))


def fails(deployment: Resolved, data: str, requests: int, seed: int, rate: float) -> str:
    """Which objective fewer requests keep at a rate."""
    log = simulate(deployment, source(workload(data, requests, seed)).at(rate), seed)
    shares = joint_attainment(Scored(part(log.tables, middle(log.tables))), deployment.deployment.slo)
    return "TTFT" if (shares["ttft"] or 0.0) < (shares["tpot"] or 0.0) else "TPOT"


class Bench(NamedTuple):
    """What every search shares."""

    workers: Workers
    requests: int
    seed: int = 0

    def search(self, arms: Sequence[Resolved], data: Sequence[str]) -> list[Found]:
        """Of each arm on its data."""
        rows = [
            self.workers.submit(capacities, arm, name, self.requests, self.seed)
            for arm, name in zip(arms, data, strict=True)
        ]
        return [row.result() for row in rows]


def attainments(
    deployment: Resolved, per_device: Sequence[float], requests: int = 1_000, seeds: int = 3
) -> list[float]:
    """The share of all requests within both objectives at each rate (requests/s for each device), a mean over seeds."""
    found = []
    for rate in per_device:
        shares = []
        for seed in range(seeds):
            log = simulate(deployment, source(workload("chat", requests, seed)).at(rate * devices(deployment)), seed)
            shares.append(joint_attainment(Scored(log.tables), deployment.deployment.slo)["joint"] or 0.0)
        found.append(sum(shares) / seeds)
    return found


class Moved(NamedTuple):
    """Transfers of one run: seconds that 95 % of them take at most, the share within 30 ms, and their share of all requests'
    end-to-end latency; `waiting` is the share of the time from the first token to where the decode replica begins."""

    p95_s: float
    within: float
    share: float
    waiting: float


def moved(deployment: Resolved, data: str, requests: int, rate: float, limit_s: float = 0.03) -> Moved:
    """What the keys and values take on their way, at a rate (all replicas)."""
    log = simulate(deployment, source(workload(data, requests)).at(rate))
    transfers = np.concatenate(log.tables.transfers)
    took_s = (transfers["end_ns"] - transfers["began_ns"]) / NS_PER_S
    scored = Scored(log.tables)
    began: dict[int, int] = {}
    for replica, steps, spans in zip(deployment.replicas, log.tables.steps, log.tables.spans, strict=True):
        if replica.role == DECODE:
            first = steps["start_ns"][np.clip(spans["first_chunk"], 0, None)]
            for request, at_ns in zip(spans["request"].tolist(), first.tolist(), strict=True):
                began[request] = min(at_ns, began.get(request, at_ns))
    done = scored.requests
    first_ns = done["arrival_ns"] + scored.ttft_s * NS_PER_S
    waits_s = [began[i] - at for i, at in zip(done["request"].tolist(), first_ns.tolist(), strict=True) if i in began]
    total_s = float(scored.e2e_s.sum())
    return Moved(
        float(np.quantile(took_s, 0.95)),
        float((took_s <= limit_s).mean()),
        float(took_s.sum()) / total_s,
        sum(waits_s) / NS_PER_S / total_s,
    )


def mean_lengths(data: str, requests: int = 20_000) -> tuple[float, float]:
    """Of prompts and answers, after the cut, tokens."""
    drawn = workload(data, requests)
    return float(drawn.prompt_tokens.mean()), float(drawn.truth.column().mean())


def say(what: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
