"""What goes wrong in a simulated world: it carries out a scenario, and what follows from it outside the rooms.

A replica that dies takes its room, its executor and its pulls with it; whoever watches the replicas tells the cluster, over
the same wire as all messages. It counts, as the data path does, what had reached the clients. It does not know what the cluster
makes of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappush
from math import prod
from typing import Any, Protocol

import msgspec
import numpy as np

from phasewise.control.loop import Loop
from phasewise.core.action import Boot, Perished, Stop
from phasewise.core.event import Began, Died, Drain, Lost, Start, Switch
from phasewise.core.fault import Cuts, Dies, Drains, Fault, Mangles, Scenario, Slows, Starts, Switches, holds
from phasewise.core.message import Finished, Submit
from phasewise.core.spec import Resolved
from phasewise.core.units import to_ns
from phasewise.sim.clock import VirtualClock
from phasewise.sim.executor import ModelledExecutor
from phasewise.sim.pump import Mail
from phasewise.sim.transfers import Transfers

_AFTER = 1 << 60  # number of a fault: at one instant, after every message
_STREAM = 2  # of the scenario's seed; the random failures have those below


class Stage(Protocol):
    """What a scenario needs of the world that it happens in."""

    resolved: Resolved
    clock: VirtualClock
    wire_ns: int
    inbox: deque[Mail] | list[Mail]
    takes: list[Callable[[Any], None]]
    instances: list[Loop]
    executors: list[ModelledExecutor]
    transfers: Transfers | None
    cluster: Loop

    def reborn(self, i: int) -> None: ...


class Mishaps:
    """A scenario at work in a world whose inbox is a heap."""

    def __init__(self, world: Stage, scenario: Scenario) -> None:
        self._world = world
        self._scenario = scenario
        self._numbers = self._followed = 0
        self._cold_ns = to_ns(world.resolved.deployment.cold_start_s)
        self._mangles = [fault for fault in scenario.faults if isinstance(fault, Mangles)]
        self._draws = np.random.default_rng(np.random.SeedSequence(scenario.seed, spawn_key=(_STREAM,)))
        self._alive = [True] * len(world.resolved.replicas)
        # How often each has died, in fact and as far as the cluster has heard.
        self._deaths = [0] * len(world.resolved.replicas)
        self._heard = [0] * len(world.resolved.replicas)
        self._booting: set[int] = set()
        # What slows a replica, or bears upon a link, now: many more may be past or to come.
        self._slowing: dict[Any, list[Any]] = {}
        # Taken out by an operator: these come back only if they are started, not after a death.
        self._drained: set[int] = set()
        self._returns: dict[int, int | None] = {}
        # replica -> request -> tokens, of those whose end the cluster has not heard of
        self._unheard: list[dict[int, int]] = [{} for _ in world.resolved.replicas]
        self._left = 0
        self.last_ns = 0
        self._room = len(world.resolved.replicas) + 1  # its own number, after the cluster's
        inbox: list[Mail] = []
        world.inbox = self._inbox = inbox

    def begin(self) -> None:
        """Put everything that will happen into the world's inbox."""
        world, replicas = self._world, len(self._alive)
        for i in range(replicas):
            world.takes[i] = self._door(i, world.takes[i])
        # The room after the cluster's is this.
        world.takes.append(self.take)
        for replica in self._scenario.absent():
            self._alive[replica] = False
            self._post(0, self._room, Lost(replica, returns=True))
        for number, fault in enumerate(self._scenario.timed()):
            if not isinstance(fault, Mangles):
                self._fault(fault.at_ns, number, fault)
            until_ns = getattr(fault, "until_ns", None)
            if isinstance(fault, Slows | Cuts) and until_ns is not None:
                self._fault(until_ns, number, fault)

    def _fault(self, at_ns: int, number: int, fault: Any) -> None:
        self.last_ns = max(self.last_ns, at_ns)
        heappush(self._inbox, (at_ns, _AFTER + number, self._room, fault))

    def _follow(self, at_ns: int, what: Start | Boot) -> None:
        """Have something that follows from a fault happen, after all faults of that instant."""
        self._followed += 1
        self._fault(at_ns, len(self._scenario.faults) + self._followed, what)

    def _post(self, at_ns: int, room: int, message: Any) -> None:
        self._numbers += 1
        heappush(self._inbox, (at_ns, self._numbers, room, message))

    # --- the wire

    def to_instance(self, action: Any) -> None:
        """The port of the cluster's messages. It sends to the process that it knows of, which may be gone."""
        self._send(action.replica, action, (self._heard[action.replica], action))

    def to_cluster(self, replica: int) -> Callable[[Any], None]:
        """The port of a replica's messages."""
        unheard = self._unheard[replica]

        def send(action: Any) -> None:
            if type(action) is Finished:
                unheard[action.request] = action.tokens
            self._send(self._room, action, (replica, self._deaths[replica], action))

        return send

    def _send(self, room: int, message: Any, letter: Any) -> None:
        """Put a message under way. With the replica's death the connection is gone, and what is under way on it."""
        now_ns = self._world.clock.now_ns
        at_ns = now_ns + self._world.wire_ns
        kind = type(message).__name__.lower()
        for fault in self._mangles:
            if fault.kind in (None, kind) and holds(fault, now_ns) and self._draws.random() < fault.share:
                if fault.delay_ns is None:
                    return
                at_ns += fault.delay_ns
        self._post(at_ns, room, letter)

    def _door(self, replica: int, take: Callable[[Any], None]) -> Callable[[Any], None]:
        """What brings events to a replica, if it is there."""

        def arrive(letter: Any) -> None:
            deaths, event = letter if isinstance(letter, tuple) else (self._deaths[replica], letter)
            if self._alive[replica] and deaths == self._deaths[replica]:
                if isinstance(event, Submit) and event.from_token:
                    self._world.executors[replica].resume(event.request.id, event.from_token)
                take(event)

        return arrive

    def alive(self, replica: int) -> bool:
        """Whether a replica's process is there."""
        return self._alive[replica]

    def counted(self, ended: Callable[[Any], None], requests: int) -> Callable[[Any], None]:
        """The port of `Ended`: once all requests are over, what would still go wrong is of no interest."""
        self._left = requests

        def tell(action: Any) -> None:
            self._left -= 1
            if not self._left:
                self._inbox[:] = [mail for mail in self._inbox if not isinstance(mail[3], Fault | Start | Boot)]
                heapify(self._inbox)
            ended(action)

        return tell

    # --- what happens

    def take(self, fault: Fault | Any) -> None:
        """The instant of a fault, of its end, or of something that follows has come."""
        cluster = self._world.cluster.take
        match fault:
            case (replica, deaths, message):
                if deaths == self._heard[replica]:
                    if type(message) is Finished:
                        self._unheard[replica].pop(message.request, None)
                    cluster(message)
            case Lost():
                self._heard[fault.replica] = self._deaths[fault.replica]
                returns, finished = fault.returns and fault.replica not in self._drained, self._unheard[fault.replica]
                cluster(msgspec.structs.replace(fault, finished=tuple(finished.items()), returns=returns))
                self._unheard[fault.replica].clear()
            case Dies():
                self._die(fault.replica, fault.back_ns)
            case Slows():
                self._bearing(fault, fault.replica)
                self._slow(fault.replica)
            case Cuts():
                self._cut(fault)
            case Drains():
                self._drained.add(fault.replica)
                cluster(Drain(fault.replica, fault.move))
            case Starts():
                self._drained.discard(fault.replica)
                cluster(Start(fault.replica))
            case Start():
                if fault.replica not in self._drained:
                    cluster(fault)
            case Switches():
                cluster(Switch(fault.replica, fault.role))
            case Boot():
                self._boot(fault.replica)
            case _:
                raise AssertionError(f"what is {fault}?")

    def _die(self, replica: int, back_ns: int | None) -> None:
        if not self._alive[replica]:
            return
        world = self._world
        self._returns[replica] = back_ns
        world.instances[replica].take(Died(world.executors[replica].cut()))
        self._alive[replica] = False
        self._deaths[replica] += 1
        for lane in world.executors[replica].lanes:
            lane.run = None
        assert world.transfers is not None
        world.transfers.gone(replica)

    def perished(self, replica: int) -> Callable[[Perished], None]:
        """The port of a replica's last word: the cluster hears that it is lost, after all that it has sent."""

        def tell(action: Perished) -> None:
            world, back_ns = self._world, self._returns[replica]
            heard_ns = world.clock.now_ns + world.wire_ns
            self._post(heard_ns, self._room, Lost(replica, action.delivered, returns=back_ns is not None))
            if back_ns is not None:
                # It is not started again before anybody knows that it is gone.
                self._follow(max(back_ns, heard_ns), Start(replica))

        return tell

    def ordered(self, action: Boot | Stop) -> None:
        """The port of the cluster's orders about whole replicas."""
        replica = action.replica
        if isinstance(action, Stop) or replica in self._booting:
            return
        if self._alive[replica]:
            self._world.instances[replica].take(Began())
        else:
            self._booting.add(replica)
            self._follow(self._world.clock.now_ns + self._cold_ns, action)

    def _boot(self, replica: int) -> None:
        self._booting.discard(replica)
        if self._alive[replica] or replica in self._drained:
            return
        self._alive[replica] = True
        self._world.reborn(replica)
        self._world.takes[replica] = self._door(replica, self._world.takes[replica])
        self._slow(replica)
        self._world.takes[replica](Began())

    def _bearing(self, fault: Slows | Cuts, upon: Any) -> list[Any]:
        """What bears upon a replica or a link, now that this begins or ends."""
        found = self._slowing.setdefault(upon, [])
        if holds(fault, self._world.clock.now_ns):
            found.append(fault)
        elif fault in found:
            found.remove(fault)
        return found

    def _slow(self, replica: int) -> None:
        """Set a replica's pace by all that slows it now."""
        if self._alive[replica]:
            self._world.executors[replica].slow(prod((f.factor for f in self._slowing.get(replica, ())), start=1.0))

    def _cut(self, fault: Cuts) -> None:
        """Set a link as all that bears upon it now has it."""
        ends = (fault.source, fault.target)
        factor: float | None = 1.0
        for one in self._bearing(fault, ends):
            factor = None if factor is None or one.factor is None else factor * one.factor
        assert self._world.transfers is not None
        self._world.transfers.cut(*ends, factor)
