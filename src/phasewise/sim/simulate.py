"""`simulate(deployment, workload, seed) -> RunLog`: a re-entrant, picklable call; the command line and planners call it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import perf_counter

from phasewise.control.resolve import resolve
from phasewise.control.rooms import Beliefs
from phasewise.core.errors import InputError
from phasewise.core.fault import Mangles, Scenario
from phasewise.core.spec import Deployment, Resolved, ResolvedReplica
from phasewise.core.step import ALL, Chunk
from phasewise.core.version import VERSION
from phasewise.perf.latency import LatencyModel
from phasewise.perf.physics import latency_model
from phasewise.record.header import Header
from phasewise.record.runlog import Recorder, RunLog
from phasewise.sim.world import Physics, World
from phasewise.workload.workload import Workload


def simulate(
    deployment: Deployment | Resolved,
    workload: Workload,
    seed: int = 0,
    *,
    log: str | Path | None = None,
    scenario: Scenario | None = None,
    physics: Physics | None = None,
    beliefs: Beliefs | None = None,
    progress: Callable[[int], None] | None = None,
) -> RunLog:
    """Run a workload through a deployment on virtual time, and sum it up in `RunLog.summary`.

    `seed` is for policies that draw by chance; a workload is drawn before it comes here. `log` streams the run log to a file,
    which appears when the run is complete; `scenario` says what goes wrong. `physics` replaces the deployment's latency models,
    `beliefs` those that replicas report by (None: the same as the physics). `progress` is told now and then how many requests
    have arrived. InputError for whatever makes no sense.
    """
    resolved = deployment if isinstance(deployment, Resolved) else resolve(deployment)
    check_fit(resolved, workload)
    models = Roofs(resolved) if physics is None else physics
    check_faults(resolved, scenario)
    alone = resolved.reference
    single = models(0) if alone is None else latency_model(resolved.deployment, resolved.model, alone)
    ttft, decode = _reference(single, resolved)
    header = Header(VERSION, resolved, workload.describe(), seed, ttft, decode, workload.classes, scenario)
    recorder = Recorder(header, log)
    try:
        world = World(resolved, workload, recorder, models, seed, scenario, beliefs or models)
        with _uncollected():
            began = perf_counter()
            world.run(progress)
            run = recorder.close()
            found = run.summary
            wall_s = perf_counter() - began
    except BaseException:
        recorder.abandon()
        raise
    recorder.keep()
    found["wall_s"] = wall_s
    found["requests_per_wall_s"] = len(workload) / wall_s
    return run


def check_fit(resolved: Resolved, workload: Workload) -> None:
    """InputError if no request of the workload fits the longest context of any replica: there is nothing to simulate."""
    limit = max(replica.max_context for replica in resolved.replicas)
    shortest = int(workload.prompt_tokens.argmin())
    tokens = int(workload.prompt_tokens[shortest])
    if tokens < limit:
        return
    wanted = resolved.deployment.max_context or resolved.model.max_context
    bound = "the KV memory holds" if limit < wanted else "the context is"
    remedy = (
        "give more devices (tp, pp)" if limit < wanted else "raise max_context, or take a model with a longer context"
    )
    what = f"no request fits: the shortest prompt has {tokens:,} tokens, and {bound} {limit:,}, output included"
    raise InputError(f"{what}; {remedy}", workload.where(shortest))


def check_faults(resolved: Resolved, scenario: Scenario | None) -> None:
    """InputError if messages are to be late or lost and nobody would ask again."""
    if scenario is None or resolved.deployment.patience_s is not None:
        return
    if any(isinstance(fault, Mangles) for fault in scenario.faults):
        raise InputError("messages are late or lost, and nothing is asked again; set patience_s", scenario.name or None)


class Roofs:
    """The latency model of each replica, a roofline unless its deployment names another; equal replicas share one, and with
    it what it remembers."""

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        self._of = cache(self._model)

    def __call__(self, replica: int) -> LatencyModel:
        return self._of(self._resolved.replicas[replica])

    def _model(self, spec: ResolvedReplica) -> LatencyModel:
        return latency_model(self._resolved.deployment, self._resolved.model, spec)


def _reference(model: LatencyModel, resolved: Resolved) -> tuple[tuple[tuple[int, float], ...], tuple[float, float]]:
    """Unloaded times for slowdowns: the TTFT of prompts of about equal ratios, and the line of a lone decode.

    Where that is not straight, the line goes through its first step and through one at the longest context.
    """
    longest = max(2, resolved.replicas[0].max_context)
    lengths = sorted({min(longest, round(longest ** (i / 64))) for i in range(65)})
    prefill = tuple((n, model.pieces((Chunk(0, 0, n, n, ALL),), 0, 0, 1)[0][0]) for n in lengths)
    pieces = model.pieces((), 1, 0, longest)
    (first, slope, steps), (start, more, n) = pieces[0], pieces[-1]
    if steps < longest:
        slope = (start + (n - 1) * more - first) / (longest - 1)
    return prefill, (first, slope)


@contextmanager
def _uncollected() -> Iterator[None]:
    """The cyclic collector off: the rooms make no cycles, and it would look through every live request again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
