"""`simulate(deployment, workload, seed) -> RunLog`: a re-entrant, picklable call; the command line and planners call it.

The pump below is the whole of the simulator's logic: which event is next. One heap holds the promised ends of runs, one
queue the messages under way, one iterator what comes from outside.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from heapq import heappop, heappush
from pathlib import Path
from time import perf_counter
from typing import Any

from phasewise.control.loop import Loop
from phasewise.control.resolve import resolve
from phasewise.control.rooms import open_cluster, open_instance
from phasewise.core.action import Ended, Forget, Interrupt, Regroup, Run, WakeAt
from phasewise.core.errors import InputError
from phasewise.core.event import Arrived, Gone, Woken
from phasewise.core.message import Cancel, Cancelled, Finished, Refused, Submit
from phasewise.core.spec import Deployment, Resolved, ResolvedReplica
from phasewise.core.step import ALL, Chunk
from phasewise.core.units import to_ns
from phasewise.core.version import VERSION
from phasewise.perf.latency import LatencyModel
from phasewise.perf.physics import latency_model
from phasewise.perf.pipeline import staged
from phasewise.record.header import Header
from phasewise.record.runlog import Recorder, RunLog
from phasewise.sim.clock import VirtualClock
from phasewise.sim.executor import ModelledExecutor
from phasewise.sim.pipeline import PipelinedExecutor
from phasewise.sim.users import Users
from phasewise.workload.workload import Workload

NEVER = 1 << 62
WOKEN = Woken()
Physics = Callable[[int], LatencyModel]
"""The latency model of a replica, by its index."""


def simulate(
    deployment: Deployment | Resolved,
    workload: Workload,
    seed: int = 0,
    *,
    log: str | Path | None = None,
    physics: Physics | None = None,
    progress: Callable[[int], None] | None = None,
) -> RunLog:
    """Run a workload through a deployment on virtual time, and sum it up in `RunLog.summary`.

    `seed` stands in the log's header, for policies that draw by chance: none does yet, and a workload is drawn before it comes
    here.
    `log` streams the run log to a file, which appears when the run is complete; `physics` replaces the deployment's latency
    models; `progress` is told now and then how many requests have arrived. InputError for whatever makes no sense.
    """
    resolved = deployment if isinstance(deployment, Resolved) else resolve(deployment)
    check_fit(resolved, workload)
    models = Roofs(resolved) if physics is None else physics
    ttft, decode = _reference(models(0), resolved)
    header = Header(VERSION, resolved, workload.describe(), seed, ttft, decode, workload.classes)
    recorder = Recorder(header, log)
    try:
        world = World(resolved, workload, recorder, models)
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


class World:
    """The simulated world: rooms in their loops, executors behind them, one clock, one heap."""

    def __init__(self, resolved: Resolved, workload: Workload, recorder: Recorder, physics: Physics) -> None:
        self._workload = workload
        self._clock = clock = VirtualClock()
        # Every message takes equally long, so they arrive in the order in which they were sent.
        self._inbox: deque[tuple[int, Callable[[Any], None], Any]] = deque()
        self._alarms: list[tuple[int, int]] = []
        self._wire_ns = to_ns(resolved.deployment.wire_s)
        # By the order of simultaneous step ends: replica, then lane.
        self._lanes: list[tuple[Loop, ModelledExecutor, int]] = []
        self.instances: list[Loop] = []
        down = self._to_instance
        self._users = None if workload.closed is None else Users(workload, clock, self._alarms)
        ended = (lambda action: None) if self._users is None else self._users.ended
        self._cluster = Loop(
            open_cluster(resolved), clock, recorder.cluster, {Submit: down, Cancel: down, Ended: ended}
        )
        for i, spec in enumerate(resolved.replicas):
            order = len(self._lanes)
            executor = _executor(clock, physics(i), workload, spec, order)
            up = self._to_cluster
            ports: dict[type, Callable[[Any], None]] = {Finished: up, Refused: up, Cancelled: up}
            ports |= {Run: executor.run, Interrupt: executor.interrupt, Forget: executor.forget}
            ports[Regroup] = executor.regroup
            ports[WakeAt] = self._alarm(order)
            loop = Loop(open_instance(resolved, i), clock, recorder.instances[i], ports)
            self._lanes += [(loop, executor, lane) for lane in range(spec.pp)]
            self.instances.append(loop)

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Pump events, in the order that `core.event` lays down, until nothing is left to happen."""
        clock, agenda, inbox, alarms = self._clock, self._clock.agenda, self._inbox, self._alarms
        takes: list[Callable[[Any], None]] = [loop.take for loop, _, _ in self._lanes]
        dones = [executor.done for _, executor, _ in self._lanes]
        lanes = [executor.lanes[lane] for _, executor, lane in self._lanes]
        numbers = [lane for _, _, lane in self._lanes]
        outside = self._outside(progress)
        if self._users is not None:
            # The last of the takers, which an alarm calls by the index -1.
            takes.append(self._users.open(self._cluster.take, progress))
            outside = _silence()
        outside_ns, event = next(outside)
        while True:
            mail = inbox and inbox[0][0] <= outside_ns
            next_ns = inbox[0][0] if mail else outside_ns
            if alarms and alarms[0][0] < next_ns and (not agenda or alarms[0][0] < agenda[0][0]):
                clock.now_ns, order = heappop(alarms)
                takes[order](WOKEN)
            elif agenda and agenda[0][0] <= next_ns:
                at_ns, order = heappop(agenda)
                lane = lanes[order]
                # A promise that no longer agrees with its lane has been superseded.
                if lane.end_ns == at_ns and lane.run is not None:
                    clock.now_ns = at_ns
                    takes[order](dones[order](numbers[order]))
            elif mail:
                clock.now_ns, take, message = inbox.popleft()
                take(message)
            elif event is not None:
                clock.now_ns = outside_ns
                self._cluster.take(event)
                outside_ns, event = next(outside)
            else:
                return

    def _outside(self, progress: Callable[[int], None] | None) -> Iterator[tuple[int, Any]]:
        """What comes from the gateway: arrivals, and clients leaving (first, at one instant); then never anything again."""
        leaving = deque(sorted((at, request) for request, at in self._workload.gone_ns.items()))
        for request in self._workload.requests():
            at_ns = request.arrival_ns
            while leaving and leaving[0][0] <= at_ns and leaving[0][1] < request.id:
                gone_ns, who = leaving.popleft()
                yield gone_ns, Gone(who)
            yield at_ns, Arrived(request)
            if progress is not None and not request.id % 1024:
                progress(request.id)
        for gone_ns, who in leaving:
            yield gone_ns, Gone(who)
        yield from _silence()

    def _alarm(self, order: int) -> Callable[[WakeAt], None]:
        return lambda action: heappush(self._alarms, (action.at_ns, order))

    def _to_instance(self, action: Submit | Cancel) -> None:
        self._inbox.append((self._clock.now_ns + self._wire_ns, self.instances[action.replica].take, action))

    def _to_cluster(self, action: Finished | Refused | Cancelled) -> None:
        self._inbox.append((self._clock.now_ns + self._wire_ns, self._cluster.take, action))


def _executor(
    clock: VirtualClock, physics: LatencyModel, workload: Workload, spec: ResolvedReplica, order: int
) -> ModelledExecutor:
    """The devices of one replica; `order` is the place of its first lane among simultaneous step ends."""
    if spec.pp > 1:
        return PipelinedExecutor(clock, staged(physics, spec.pp), workload.truth, spec.max_context, order, spec.pp)
    return ModelledExecutor(clock, physics, workload.truth, spec.max_context, order)


def _silence() -> Iterator[tuple[int, Any]]:
    """Nothing from outside, for ever."""
    while True:
        yield NEVER, None


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
