"""Runs of small worlds whose rooms are looked at after every event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phasewise.control.loop import Loop
from phasewise.core.action import Action
from phasewise.core.fault import Scenario
from phasewise.core.spec import Resolved
from phasewise.perf.latency import LatencyModel
from phasewise.record.header import Header
from phasewise.record.runlog import Recorder, RunLog
from phasewise.sim.simulate import simulate
from phasewise.sim.world import World
from phasewise.workload.workload import Workload
from worlds import ToyLatency

Watch = Callable[[int, int, Any, Any, list[Action]], None]
"""Told `(at_ns, replica, room, event, actions)` after each event that a replica has taken."""


class Watched(World):
    """A world whose replicas are shown to `watch`, those that are opened again after a death too."""

    def __init__(self, watch: Watch, *given: Any, **named: Any) -> None:
        self._watch = watch
        super().__init__(*given, **named)

    def _loop(self, i: int) -> Loop:
        loop = super()._loop(i)
        room, watch = loop.room, self._watch

        def told(handler: Any) -> Any:
            def handle(event: Any, now_ns: int) -> list[Action]:
                actions: list[Action] = handler(event, now_ns)
                watch(now_ns, i, room, event, actions)
                return actions

            return handle

        loop._handlers = {kind: told(handler) for kind, handler in room.handlers.items()}
        return loop


def watched(
    resolved: Resolved,
    load: Workload,
    watch: Watch,
    scenario: Scenario | None = None,
    latency: LatencyModel | None = None,
) -> tuple[World, RunLog]:
    """The world after a run, and the log; `latency` is what every replica's steps take."""
    recorder = Recorder(Header("test", resolved, load.describe(), 0, scenario=scenario))
    physics = latency or ToyLatency()
    world = Watched(watch, resolved, load, recorder, lambda i: physics, 0, scenario, lambda i: physics)
    world.run()
    return world, recorder.close()


def ran(resolved: Resolved, load: Workload, scenario: Scenario | None = None) -> RunLog:
    """The log of a run that nobody watches."""
    return simulate(resolved, load, physics=lambda i: ToyLatency(), scenario=scenario)
