"""The highest rate within an objective: probes of one workload at many rates, each a `simulate()`.

A rate is feasible if the requests of the middle 80 % of its arrivals keep the objective and the backlog does not grow
(`record.window`); every request is served to its end. All probes see the same requests on a stretched time axis. The search
is Sarathi-Serve's in kind (OSDI'24, section 5; bisection to 2.5 % of the rate) and starts at the offline saturation rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

import msgspec

from phasewise.control.resolve import resolve
from phasewise.core.action import Outcome
from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, Resolved
from phasewise.core.units import NS_PER_S
from phasewise.planner.objective import Objective, Scores, as_objective, check, judge
from phasewise.planner.search import Bracket, ahead, path
from phasewise.planner.source import Source, source
from phasewise.planner.workers import Workers, cores
from phasewise.record.metrics import Scored, distribution
from phasewise.record.window import backlog_growth, middle, part
from phasewise.sim.simulate import check_fit, simulate
from phasewise.workload.workload import Workload

TOLERANCE = 0.025
FINEST, COARSEST = 1e-4, 0.5
BACKLOG = "backlog"
SETTLED = 5.0


class Probe(msgspec.Struct, frozen=True):
    """One rate, simulated. `scores` are the objective's, of the middle 80 % of the arrivals; `missed` names those that miss,
    and `backlog` if `backlog_growth` (in units of what chance explains) is above 1. `turnovers` is the time in which
    the scored requests arrived, over their median E2E: below 5 the run is too short to have settled."""

    rate: float
    feasible: bool
    scores: Scores
    missed: tuple[str, ...]
    backlog_growth: float
    turnovers: float
    rejected: int


class Capacity(msgspec.Struct, frozen=True):
    """The outcome of a search. Rates in requests/s, over all replicas.

    `rate` is the highest found feasible (None: not even the lowest tried), `high` the lowest found infeasible (None: not
    even the highest tried), `bound_by` what missed there. `probes` are in the order in which the search asked for them,
    `saturation` is the offline throughput, at which it began. `basis` says what the step times rest on.
    """

    rate: float | None
    high: float | None
    bound_by: tuple[str, ...]
    probes: tuple[Probe, ...]
    saturation: float
    objective: Objective
    tolerance: float
    requests: int
    seed: int
    basis: str

    @property
    def notes(self) -> list[str]:
        """What a reader must know before trusting it, one line each; most often nothing."""
        return _notes(self)


def capacity(
    deployment: Deployment | Resolved,
    workload: str | Path | Workload,
    objective: Objective | Sequence[str],
    *,
    requests: int | None = None,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    jobs: int | None = None,
) -> Capacity:
    """The highest rate at which `deployment` serves `workload` within `objective`; a pure function, whatever `jobs` is.

    `objective`: percentiles as text, such as `["tbt=0.1@p99", "delay=2@p50"]`, or an object of `planner.objective`.
    `requests`: None for a whole trace; of a description 2,000 a replica, and 10,000 at least. `tolerance`: the width of
    the final bracket, as a share of its upper end. `jobs`: processes (None: one a core); a script that uses several needs
    the usual `if __name__ == "__main__":`. InputError for whatever makes no sense.
    """
    resolved = deployment if isinstance(deployment, Resolved) else resolve(deployment)
    opened = source(workload, requests, seed, len(resolved.replicas))
    with Workers(cores() if jobs is None else jobs) as workers:
        return capacities([resolved], opened, as_objective(objective), tolerance, workers)[0]


def capacities(
    arms: Sequence[Resolved],
    requests: Source,
    objective: Objective,
    tolerance: float,
    workers: Workers,
    progress: Callable[[int], None] | None = None,
) -> list[Capacity]:
    """`capacity` of several deployments, side by side; InputError if one of them has none to find."""
    workload = requests.at(1.0)
    for arm in arms:
        check_fit(arm, workload)
    found = []
    for one in searched(arms, requests, objective, tolerance, workers, progress):
        if isinstance(one, InputError):
            raise one
        found.append(one)
    return found


def searched(
    arms: Sequence[Resolved],
    requests: Source,
    objective: Objective,
    tolerance: float,
    workers: Workers,
    progress: Callable[[int], None] | None = None,
) -> list[Capacity | InputError]:
    """The capacity of every deployment, or why it has none. Idle workers run ahead on both answers to a probe under way;
    `progress` is told how many simulations are done."""
    check_tolerance(tolerance)
    for arm in arms:
        check(objective, arm.deployment.slo)
    starts = workers.gather(saturation, [(arm, requests) for arm in arms], progress)
    searches = [_Search(start, tolerance) for start in starts]
    running: dict[Future[Probe], tuple[_Search, float]] = {}
    done = len(arms)
    while any(search.wanted for search in searches):
        for index, rate in _wishes(searches, workers.jobs - len(running)):
            search = searches[index]
            search.asked.add(rate)
            running[workers.submit(probe, arms[index], requests, rate, objective)] = (search, rate)
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            search, rate = running.pop(future)
            search.learn(rate, future)
            done += 1
            if progress is not None:
                progress(done)
    return [s.outcome(objective, requests, arm.basis) for s, arm in zip(searches, arms, strict=True)]


def check_tolerance(tolerance: float, where: str | None = None) -> None:
    """InputError, led by `where`, unless it is a share of the rate that a search can end at."""
    if not FINEST <= tolerance <= COARSEST:
        raise InputError(f"tolerance {tolerance:g}; give a share of the rate, {FINEST:g} to {COARSEST:g}", where)


def saturation(deployment: Resolved, requests: Source) -> float:
    """Offline throughput in requests/s: all requests at time 0, served / (last token - first arrival), to four digits."""
    log = simulate(deployment, requests.at_once(), requests.seed)
    if not log.summary["completed"]:
        raise InputError("no request of the workload was served to its end; nothing to search for")
    scored = Scored(log.tables)
    return float(f"{len(scored.requests) / (scored.last_token_ns / NS_PER_S):.4g}")


def probe(deployment: Resolved, requests: Source, rate: float, objective: Objective) -> Probe:
    """One rate, simulated and judged."""
    log = simulate(deployment, requests.at(rate), requests.seed)
    tables = log.tables
    scored = Scored(part(tables, middle(tables)))
    scores, missed = judge(objective, scored, log.header)
    growth = backlog_growth(tables)
    missed += (BACKLOG,) if growth > 1 else ()
    arrivals = scored.tables.requests["arrival_ns"]
    span_s = int(arrivals[-1] - arrivals[0]) / NS_PER_S
    e2e_s = distribution(scored.e2e_s)["p50"]
    rejected = int((tables.requests["outcome"] == Outcome.REJECTED).sum())
    return Probe(rate, not missed, scores, missed, growth, span_s / e2e_s if e2e_s else 0.0, rejected)


class _Search:
    """One search under way: the probes known, the rates asked for, and `wanted`: the next rate, then guesses; none if the
    search is over. It is over, too, when the next rate cannot be probed: what a guess comes to alone decides nothing."""

    def __init__(self, start: Future[float], tolerance: float) -> None:
        self.tolerance = tolerance
        self.probes: dict[float, Probe] = {}
        self.asked: set[float] = set()
        self.wanted: list[float] = []
        self._errors: dict[float, InputError] = {}
        self._failed: InputError | None = None
        self._start = 0.0
        try:
            self._start = start.result()
            self._look_ahead()
        except InputError as error:
            self._failed = error

    def _known(self) -> dict[float, bool]:
        return {rate: found.feasible for rate, found in self.probes.items()}

    def learn(self, rate: float, answer: Future[Probe]) -> None:
        """What became of a rate that was asked for."""
        try:
            self.probes[rate] = answer.result()
        except InputError as error:
            self._errors[rate] = error
        self._look_ahead()

    def _look_ahead(self) -> None:
        self.wanted = ahead(self._start, self._known(), self.tolerance)
        if self.wanted and self.wanted[0] in self._errors:
            self._failed = self._errors[self.wanted[0]]
            self.wanted = []

    def outcome(self, objective: Objective, requests: Source, basis: str) -> Capacity | InputError:
        if self._failed is not None:
            return self._failed
        asked, end = path(self._start, self._known(), self.tolerance)
        assert isinstance(end, Bracket)
        probes = tuple(self.probes[rate] for rate in asked)
        bound_by = () if end.high is None else self.probes[end.high].missed
        about = (objective, self.tolerance, requests.requests, requests.seed, basis)
        return Capacity(end.low, end.high, bound_by, probes, self._start, *about)


def _wishes(searches: Sequence[_Search], free: int) -> list[tuple[int, float]]:
    """What to run next: every search's next rate before anyone's first guess, and so on."""
    wishes = [
        (turn, index, rate)
        for index, search in enumerate(searches)
        for turn, rate in enumerate(search.wanted)
        if rate not in search.asked
    ]
    return [(index, rate) for _, index, rate in sorted(wishes)[:free]]


def _notes(found: Capacity) -> list[str]:
    rates = [p.rate for p in found.probes]
    notes = []
    if found.rate is None:
        notes.append(f"not within the objective even at {min(rates):.3g} requests/s, the lowest rate tried")
    elif found.high is None:
        notes.append(f"within the objective at every rate tried, up to {max(rates):.3g} requests/s; try more requests")
    best = next((p for p in found.probes if p.rate == found.rate), found.probes[-1])
    return notes + doubts(best, found.requests)


def doubts(found: Probe, requests: int) -> list[str]:
    """What makes one probe, of so many requests, less than it seems, one line each; most often nothing."""
    notes = []
    if found.turnovers < SETTLED:
        what = f"the scored requests arrive within {found.turnovers:.1f} times the time that one takes (median E2E)"
        notes.append(f"{what}: the run is too short to settle; give more requests")
    if found.rejected:
        notes.append(f"{found.rejected:,} of {requests:,} requests rejected: longer than the context")
    return notes
