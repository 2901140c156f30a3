"""The simulated world: rooms in their loops, executors behind them, and the ways between them.

Which event is next is the affair of `pump`, what goes wrong that of `mishaps`; without a scenario nothing of it is in the way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappush
from itertools import accumulate
from typing import Any

from phasewise.control.loop import Loop
from phasewise.control.rooms import Beliefs, open_cluster, open_instance
from phasewise.core.action import (
    Action,
    Boot,
    Drop,
    Ended,
    Enter,
    Forget,
    Interrupt,
    Perished,
    Pull,
    Regroup,
    Run,
    Stop,
    WakeAt,
)
from phasewise.core.errors import InputError
from phasewise.core.event import Arrived, Gone
from phasewise.core.fault import Scenario
from phasewise.core.message import DOWN, UP, Evicted
from phasewise.core.request import Request
from phasewise.core.spec import MIXED, Resolved
from phasewise.core.units import NS_PER_S, to_ns
from phasewise.core.view import InstanceState
from phasewise.perf.latency import LatencyModel
from phasewise.perf.pipeline import staged
from phasewise.policy import catalog
from phasewise.policy.prediction.none import NoPrediction
from phasewise.policy.roles import Oracular
from phasewise.record.runlog import Recorder
from phasewise.sim.clock import VirtualClock
from phasewise.sim.executor import ModelledExecutor
from phasewise.sim.mishaps import Mishaps
from phasewise.sim.pipeline import PipelinedExecutor
from phasewise.sim.pump import Mail, Seat, pump, silence
from phasewise.sim.transfers import Transfers
from phasewise.sim.users import Users
from phasewise.workload.workload import Workload

LULL_NS = 3600 * NS_PER_S
"""When nothing has run for so long, and nothing is to come but alarms, what is inside stays there."""

Physics = Callable[[int], LatencyModel]
"""The latency model of a replica, by its index."""


class World:
    """Rooms in their loops, executors behind them, one clock, one heap.

    Rooms are numbered: the replicas, the cluster, then `mishaps` if there are any, and the users (-1).
    """

    def __init__(
        self,
        resolved: Resolved,
        workload: Workload,
        recorder: Recorder,
        physics: Physics,
        seed: int = 0,
        scenario: Scenario | None = None,
        beliefs: Beliefs | None = None,
    ) -> None:
        self.resolved = resolved
        self.clock = VirtualClock()
        self.wire_ns = to_ns(resolved.deployment.wire_s)
        self.executors: list[ModelledExecutor] = []
        self.instances: list[Loop] = []
        self._seats: list[Seat] = []
        self.states: dict[int, tuple[InstanceState, ...]] = {}
        self._workload = workload
        self._recorder = recorder
        self._physics = physics
        self._beliefs = beliefs
        self._alarms: list[tuple[int, int]] = []
        self._n = n = len(resolved.replicas)
        # Step ends of one instant come by replica, then lane: the place of each replica's first lane; transfers come last.
        *self._orders, self._last_order = accumulate((replica.pp for replica in resolved.replicas), initial=0)
        self._arrived = arrivals(resolved, workload)
        self._users = None if workload.closed is None else Users(workload, self.clock, self._alarms, self._arrived)
        self.inbox: deque[Mail] | list[Mail] = deque()
        self.mishaps = None if scenario is None else Mishaps(self, scenario)
        self.transfers = self._transfers(scenario)
        down = self._post(None) if self.mishaps is None else self.mishaps.to_instance
        ports: dict[type, Callable[[Any], None]] = dict.fromkeys(DOWN, down)
        ports |= dict.fromkeys((Boot, Stop), _nothing if self.mishaps is None else self.mishaps.ordered)
        ended = _nothing if self._users is None else self._users.ended
        ports[Ended] = ended if self.mishaps is None else self.mishaps.counted(ended, len(workload))
        ports[WakeAt] = self._alarm(n)
        self._up = self._post(n)
        self.cluster = Loop(open_cluster(resolved, seed), self.clock, recorder.cluster, ports)
        for i in range(n):
            self.instances.append(self._loop(i))
            self._seats += self._seated(i)
        self.takes: list[Callable[[Any], None]] = [loop.take for loop in self.instances]
        self.takes.append(self.cluster.take)
        if self.mishaps is not None:
            self.mishaps.begin()

    def _transfers(self, scenario: Scenario | None) -> Transfers | None:
        """Nothing is handed over where every replica serves both phases for good."""
        if scenario is None and all(r.role == MIXED and not r.host_blocks for r in self.resolved.replicas):
            return None

        def there(source: int, request: int, epoch: int) -> bool:
            if self.mishaps is not None and not self.mishaps.alive(source):
                return False
            for state in self.states[source]:
                resident = state.parked.get(request) or state.running.get(request)
                if resident is not None and resident.epoch == epoch:
                    return request in state.parked or resident.cohort is not None
            return False

        return Transfers(
            self.resolved, self.clock, self._last_order, there, lambda target, event: self.takes[target](event)
        )

    def _loop(self, i: int) -> Loop:
        """A replica's loop, with an executor of its own."""
        spec, clock = self.resolved.replicas[i], self.clock
        truth, order = self._workload.truth, self._orders[i]
        if spec.pp > 1:
            stages = staged(self._physics(i), spec.pp)
            executor: ModelledExecutor = PipelinedExecutor(clock, stages, truth, spec.max_context, order, spec.pp)
        else:
            executor = ModelledExecutor(clock, self._physics(i), truth, spec.max_context, order)
        if i == len(self.executors):
            self.executors.append(executor)
        self.executors[i] = executor
        up = self._up if self.mishaps is None else self.mishaps.to_cluster(i)
        ports: dict[type, Callable[[Any], None]] = dict.fromkeys(UP, up)
        ports |= {Run: executor.run, Interrupt: executor.interrupt, Forget: executor.forget}
        ports |= {Regroup: executor.regroup, Enter: executor.enter, WakeAt: self._alarm(i)}
        if self.mishaps is not None:
            ports[Perished] = self.mishaps.perished(i)
        if (transfers := self.transfers) is not None:
            ports |= {Pull: lambda action: transfers.pull(i, action), Drop: lambda action: transfers.drop(i, action)}

            def run(action: Run) -> None:
                executor.run(action)
                plan = action.plan
                if plan.chunks:
                    transfers.computing(i, action, executor.lanes[plan.lane].end_ns)
                if plan.preempt:
                    transfers.preempted(i, plan.preempt)

            def evicted(action: Evicted) -> None:
                up(action)
                transfers.computed(i)

            ports |= {Run: run, Evicted: evicted}
        room = open_instance(self.resolved, i, self._beliefs)
        self.states[i] = room.states
        return Loop(room, clock, self._recorder.instances[i], ports)

    def reborn(self, i: int) -> None:
        """A replica's process begins anew: another room, another executor."""
        self.instances[i] = self._loop(i)
        self.takes[i] = self.instances[i].take
        seats, first = self._seated(i), self._orders[i]
        self._seats[first : first + len(seats)] = seats

    def _seated(self, i: int) -> list[Seat]:
        """What the pump looks at of a replica's executor, lane by lane."""
        executor = self.executors[i]
        return [(lane, executor.done, i, number) for number, lane in enumerate(executor.lanes)]

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Pump events until nothing is left to happen."""
        outside = self._outside(progress)
        if self._users is not None:
            # The last of the takers, which an alarm calls by the index -1.
            self.takes.append(self._users.open(self.cluster.take, progress))
            outside = silence()
        pump(
            self.clock,
            outside,
            self.inbox,
            self._alarms,
            self._seats,
            self.takes,
            self.cluster.take,
            self.transfers,
            self._lull_ns,
        )

    def _lull_ns(self) -> int:
        """When it has been quiet for so long that nothing more is to be expected."""
        last_ns = max(lane.end_ns for executor in self.executors for lane in executor.lanes)
        last_arrival_ns = int(self._workload.arrival_ns.max())
        return max(last_ns, last_arrival_ns, self.mishaps.last_ns if self.mishaps else 0) + LULL_NS

    def _outside(self, progress: Callable[[int], None] | None) -> Iterator[tuple[int, Any]]:
        """What comes from the gateway: arrivals, and clients leaving (first, at one instant); then never anything again."""
        leaving = deque(sorted((at, request) for request, at in self._workload.gone_ns.items()))
        arrived = self._arrived
        for request in self._workload.requests():
            at_ns = request.arrival_ns
            while leaving and leaving[0][0] <= at_ns and leaving[0][1] < request.id:
                gone_ns, who = leaving.popleft()
                yield gone_ns, Gone(who)
            yield at_ns, arrived(request)
            if progress is not None and not request.id % 1024:
                progress(request.id)
        for gone_ns, who in leaving:
            yield gone_ns, Gone(who)
        yield from silence()

    def _alarm(self, room: int) -> Callable[[WakeAt], None]:
        alarms = self._alarms
        return lambda action: heappush(alarms, (action.at_ns, room))

    def _post(self, room: int | None) -> Callable[[Any], None]:
        """What sends messages to a room; None: to the replica that each one names."""
        clock, wire_ns, inbox = self.clock, self.wire_ns, self.inbox

        def post(message: Any) -> None:
            inbox.append((clock.now_ns + wire_ns, 0, message.replica if room is None else room, message))

        return post


def arrivals(resolved: Resolved, workload: Workload) -> Callable[[Request], Arrived]:
    """What makes the event of a request, with what the deployment's predictor says of it: here, and only here, an oracle is
    shown the truth."""
    predictor = catalog.build("predictor", resolved.deployment.predictor)
    if isinstance(predictor, NoPrediction):
        return Arrived
    if isinstance(predictor, Oracular):
        if not resolved.deployment.oracle:
            raise InputError(
                f"predictor {resolved.deployment.predictor.name} reads the truth; have 'oracle' in its name"
            )
        predictor = predictor.shown(workload.truth)
    return lambda request: Arrived(request, predictor.predict(request))


def _nothing(action: Action) -> None:
    """Nobody waits for this."""
