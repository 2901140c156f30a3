"""Several deployments side by side on one workload: their runs at one rate, their capacities, their latencies over rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path

import msgspec

from phasewise.control.resolve import resolve
from phasewise.core.errors import InputError
from phasewise.core.fault import Scenario
from phasewise.core.spec import Deployment, Resolved
from phasewise.planner.capacity import BACKLOG, TOLERANCE, Capacity, Probe, capacities, probe
from phasewise.planner.objective import Objective, Percentiles, Target, as_objective
from phasewise.planner.source import Source, source
from phasewise.planner.workers import Workers, cores
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import check_faults, check_fit, simulate
from phasewise.workload.workload import Workload

SEEN = Percentiles((Target("ttft", math.inf, 99.0), Target("tbt", math.inf, 99.0)))
"""What is looked at over rates when nobody set an objective: limits that nothing misses."""
STEPS = 10


class Arm(msgspec.Struct, frozen=True):
    """One deployment of a comparison, under the name that tables and figures give it; `scenario` says what goes wrong in its
    run at one rate (searches and other rates have no mishaps)."""

    name: str
    deployment: Resolved
    scenario: Scenario | None = None


class Comparison(msgspec.Struct, frozen=True):
    """One entry an arm, in order: the run at one rate (columns only, no events), the capacity (None: not searched), the
    probes in order of their rate (none: rates were not looked at)."""

    arms: tuple[Arm, ...]
    runs: tuple[RunLog, ...]
    capacities: tuple[Capacity | None, ...]
    probes: tuple[tuple[Probe, ...], ...]
    objective: Objective


def compare(
    deployments: Mapping[str, Deployment | Resolved],
    workload: str | Path | Workload,
    *,
    rate: float | None = None,
    rates: Sequence[float] | None = None,
    objective: Objective | Sequence[str] | None = None,
    requests: int | None = None,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    jobs: int | None = None,
    scenario: Scenario | None = None,
) -> Comparison:
    """Named deployments side by side on one workload: what `compared` says, with `requests`, `tolerance`, `jobs` and
    `objective` as `capacity` takes them; `scenario` says what goes wrong in each one's run."""
    arms = [Arm(name, d if isinstance(d, Resolved) else resolve(d), scenario) for name, d in deployments.items()]
    if not arms:
        raise InputError("nothing to compare; give at least one deployment")
    opened = source(workload, requests, seed, max(len(arm.deployment.replicas) for arm in arms))
    goal = None if objective is None else as_objective(objective)
    with Workers(cores() if jobs is None else jobs) as workers:
        return compared(arms, opened, workers, rate=rate, rates=rates, objective=goal, tolerance=tolerance)


def compared(
    arms: Sequence[Arm],
    requests: Source,
    workers: Workers,
    *,
    rate: float | None = None,
    rates: Sequence[float] | None = None,
    objective: Objective | None = None,
    tolerance: float = TOLERANCE,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Run every arm at `rate` (None: the workload's own), search its capacity if there is an objective, and probe `rates`.

    `rates`: None for ten steps up to just above each arm's capacity, if one was searched. Latencies over rates are those of
    the objective; without one, P99 of TTFT and TBT. InputError for whatever makes no sense.
    """
    workload = requests.at(rate)
    for arm in arms:
        check_fit(arm.deployment, workload)
        check_faults(arm.deployment, arm.scenario)
    ran = [workers.submit(_run, arm, requests, rate) for arm in arms]
    runs = tuple(future.result() for future in ran)
    resolved = [arm.deployment for arm in arms]
    found: list[Capacity | None] = [None] * len(arms)
    if objective is not None:
        found = list(capacities(resolved, requests, objective, tolerance, workers, progress))
    judged = objective or SEEN
    probes = over_rates(resolved, requests, judged, workers, found, rates)
    return Comparison(tuple(arms), runs, tuple(found), probes, judged)


def over_rates(
    arms: Sequence[Resolved],
    requests: Source,
    objective: Objective,
    workers: Workers,
    found: Sequence[Capacity | None],
    rates: Sequence[float] | None = None,
) -> tuple[tuple[Probe, ...], ...]:
    """The probes of each arm's search and of `rates` (None: even steps up to its capacity), in order of their rate."""
    known = [{p.rate: p for p in c.probes} if c is not None else {} for c in found]
    wanted = [_grid(c, found) if rates is None else rates for c in found]
    running = {
        workers.submit(probe, arm, requests, rate, objective): probes
        for arm, own, probes in zip(arms, wanted, known, strict=True)
        for rate in own
        if rate not in probes
    }
    for future in as_completed(running):
        done = future.result()
        running[future][done.rate] = done
    return tuple(tuple(probes[rate] for rate in sorted(probes)) for probes in known)


def _run(arm: Arm, requests: Source, rate: float | None) -> RunLog:
    """The run without its events, which are most of its bytes and which nobody reads."""
    log = simulate(arm.deployment, requests.at(rate), requests.seed, scenario=arm.scenario)
    return RunLog(log.header, log.tables, log.events, [])


def _grid(own: Capacity | None, everyone: Sequence[Capacity | None]) -> list[float]:
    """Even steps up to the highest capacity, for this arm up to the first above all rates at which it was steady."""
    top = max((c.high or c.rate or 0.0 for c in everyone if c is not None), default=0.0)
    if own is None or not top:
        return []
    rates = [float(f"{top * (i + 1) / STEPS:.4g}") for i in range(STEPS + 1)]
    steady = max((p.rate for p in own.probes if BACKLOG not in p.missed), default=top)
    last = next((i for i, rate in enumerate(rates) if rate > steady), STEPS)
    return rates[: last + 1]
