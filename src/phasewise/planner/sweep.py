"""Many deployments that differ in one or two settings: how much each carries, or whether each carries a given rate.

Every point is a search, or a simulation, of its own: what becomes of one does not depend on the others, on their order, or on
how many processes there are. After Splitwise's provisioning (ISCA'24): enumerate the machines, simulate, keep those that
are within the objectives. It does not know what its settings mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from phasewise.control.deployment import as_written
from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, Resolved
from phasewise.perf.cost import price_per_hour
from phasewise.planner.capacity import TOLERANCE, Capacity, Probe, doubts, probe, searched
from phasewise.planner.grid import Axis, Point, parse_size, points
from phasewise.planner.objective import Objective, as_objective, check, worst
from phasewise.planner.source import Source, source
from phasewise.planner.workers import Workers, cores
from phasewise.sim.simulate import check_fit
from phasewise.workload.workload import Workload


class Swept(msgspec.Struct, frozen=True):
    """What became of one point. Rates in requests/s over all replicas, fields as `Capacity` has them.

    At one rate, `rate` is that rate if it is feasible, else `infeasible` is; `saturation` is then None. `error` says why the
    point could not be run at all.
    """

    point: Point
    rate: float | None = None
    infeasible: float | None = None
    bound_by: tuple[str, ...] = ()
    saturation: float | None = None
    probes: tuple[Probe, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None

    @property
    def per_device(self) -> float | None:
        """Goodput per device, requests/s."""
        return None if self.rate is None else self.rate / self.point.devices

    @property
    def per_dollar(self) -> float | None:
        """Goodput per US dollar an hour; None if a device has no price."""
        price = None if self.point.resolved is None else price_per_hour(self.point.resolved)
        return self.rate / price if self.rate is not None and price else None

    @property
    def decisive(self) -> Probe | None:
        """The probe at `rate`; if no rate holds, the last one."""
        return next((p for p in self.probes if p.rate == self.rate), self.probes[-1] if self.probes else None)


class Sweep(msgspec.Struct, frozen=True):
    """What became of every point, in order of the product of `axes`, the last of them varying fastest. `at`: the one rate at
    which all ran (None: capacities were searched); `left_out`: how many points have another number of devices than wanted."""

    axes: tuple[Axis, ...]
    found: tuple[Swept, ...]
    left_out: int
    objective: Objective
    at: float | None
    tolerance: float
    requests: int
    seed: int

    def margin(self, one: Swept) -> tuple[str, float] | None:
        """The score that is nearest to its limit and the ratio of the two (above 1: it misses), at the decisive probe."""
        return None if one.decisive is None else worst(self.objective, one.decisive.scores)

    @property
    def ranked(self) -> list[int]:
        """The points by goodput per device, the highest first; equals by how far they are from their limits, then in order."""

        def key(index: int) -> tuple[float, bool, float]:
            one = self.found[index]
            margin = self.margin(one)
            return -(one.per_device or 0.0), one.error is not None, margin[1] if margin is not None else 0.0

        return sorted(range(len(self.found)), key=key)

    @property
    def best(self) -> int | None:
        """Which point comes first; None if nothing is within the objective."""
        first = self.ranked[0]
        return None if self.found[first].rate is None else first


def sweep(
    deployment: Deployment,
    workload: str | Path | Workload,
    objective: Objective | Sequence[str],
    over: Mapping[str, Iterable[object]],
    *,
    at: float | None = None,
    devices: str | None = None,
    requests: int | None = None,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    jobs: int | None = None,
) -> Sweep:
    """The capacity of `deployment` with every combination of settings, or whether each holds at the rate `at`, requests/s.

    `over`: values by key as `--set` takes it, such as `{"replicas.0.count": range(1, 9)}`. `devices`: only combinations of so
    many, "40" or "..40" or "32..40". The rest as `capacity` takes it. InputError for whatever makes no sense.
    """
    axes = tuple(Axis(key, tuple(str(value) for value in values)) for key, values in over.items())
    found, left_out = points(as_written(deployment), axes, None if devices is None else parse_size(devices))
    opened = source(workload, requests, seed, most_replicas(found))
    with Workers(cores() if jobs is None else jobs) as workers:
        return swept(axes, found, left_out, opened, as_objective(objective), workers, at=at, tolerance=tolerance)


def most_replicas(found: Sequence[Point]) -> int:
    """Of any point; one if there is none that has some."""
    return max((len(point.resolved.replicas) for point in found if point.resolved is not None), default=1)


def swept(
    axes: Sequence[Axis],
    found: Sequence[Point],
    left_out: int,
    requests: Source,
    objective: Objective,
    workers: Workers,
    *,
    at: float | None = None,
    tolerance: float = TOLERANCE,
    progress: Callable[[int], None] | None = None,
) -> Sweep:
    """`sweep` of points that are known; `progress` is told how many simulations are done. InputError if none can be run."""
    workload = requests.at(1.0 if at is None else at)
    errors: dict[int, str] = {}
    runs: dict[int, Resolved] = {}
    for i, point in enumerate(found):
        try:
            if point.resolved is None:
                raise InputError(point.error or "")
            check(objective, point.resolved.deployment.slo)
            check_fit(point.resolved, workload)
            runs[i] = point.resolved
        except InputError as error:
            errors[i] = str(error)
    outcomes: list[Capacity | InputError] | list[Probe | InputError]
    if at is None:
        outcomes = searched(list(runs.values()), requests, objective, tolerance, workers, progress)
    else:
        outcomes = _at(list(runs.values()), requests, objective, at, workers, progress)
    by_point = dict(zip(runs, outcomes, strict=True))
    errors |= {i: str(outcome) for i, outcome in by_point.items() if isinstance(outcome, InputError)}
    if len(errors) == len(found):
        first = f", the first, {found[0].name}" if len(found) > 1 else ""
        raise InputError(f"no point of the sweep can be run{first}: {errors[0]}", "--sweep")
    ended = tuple(
        Swept(point, error=errors[i]) if i in errors else _swept(point, by_point[i], requests)
        for i, point in enumerate(found)
    )
    return Sweep(tuple(axes), ended, left_out, objective, at, tolerance, requests.requests, requests.seed)


def _at(
    arms: Sequence[Resolved],
    requests: Source,
    objective: Objective,
    rate: float,
    workers: Workers,
    progress: Callable[[int], None] | None,
) -> list[Probe | InputError]:
    outcomes: list[Probe | InputError] = []
    for future in workers.gather(probe, [(arm, requests, rate, objective) for arm in arms], progress):
        try:
            outcomes.append(future.result())
        except InputError as error:
            outcomes.append(error)
    return outcomes


def _swept(point: Point, outcome: Capacity | Probe | InputError, requests: Source) -> Swept:
    assert not isinstance(outcome, InputError)
    if isinstance(outcome, Capacity):
        ends = (outcome.rate, outcome.high, outcome.bound_by, outcome.saturation, outcome.probes)
        return Swept(point, *ends, tuple(outcome.notes))
    held, failed = (outcome.rate, None) if outcome.feasible else (None, outcome.rate)
    notes = tuple(doubts(outcome, requests.requests))
    return Swept(point, held, failed, outcome.missed, None, (outcome,), notes)
