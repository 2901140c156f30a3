"""The worker: an engine and the room beside it, alone in a process, on one thread.

It looks at messages between any two iterations, so that whatever interrupts a leap ends it at the next step boundary. Nothing
leaves it before the events that it follows from are in its part of the run log. It ends with the gateway: it holds one end of
a pipe whose other end nobody else has, and where the system allows has itself killed with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import signal
import sys
import traceback
from heapq import heappop, heappush
from pathlib import Path
from select import select
from typing import Any, NamedTuple

import zmq

from phasewise.control.loop import Loop
from phasewise.control.ports import EngineFactory, Place
from phasewise.control.rooms import open_instance
from phasewise.core.action import Enter, Forget, Interrupt, Regroup, Run, WakeAt
from phasewise.core.errors import InputError, PhasewiseError
from phasewise.core.event import Began, Killed, Woken
from phasewise.core.message import UP, Cancelled, Refused, Submit
from phasewise.core.stream import Emitted, Work
from phasewise.core.units import NS_PER_S
from phasewise.live.clock import WallClock
from phasewise.live.wire import Burst, Fell, Quit, Standing, Wire, connect
from phasewise.record.header import Header
from phasewise.record.parts import Part, Unfolded
from phasewise.record.roomlog import RoomLog

_WOKEN = Woken()
_PR_SET_PDEATHSIG = 1
_LONGEST_S = 3600.0


class Task(NamedTuple):
    """What a worker process is started with: which replica it is, what runs it, where the gateway listens.

    `log` is its part of the run log (None: none is kept), and `killed` what is to be written there of the process before it.
    """

    header: Header
    replica: int
    factory: EngineFactory
    epoch_ns: int
    address: str
    log: Path | None = None
    killed: tuple[int, Killed] | None = None


class Worker:
    """The pump of one replica: messages, alarms and steps, in this order, as long as any of them is due."""

    def __init__(self, task: Task, wire: Wire, lifeline: int) -> None:
        resolved = task.header.resolved
        self._wire = wire
        self._lifeline = lifeline
        self._clock = clock = WallClock(task.epoch_ns)
        self._part = None if task.log is None else Part(task.log, task.header, 1 + task.replica)
        if self._part is not None and task.killed is not None:
            self._part.add(*task.killed, [])
        self._journal = RoomLog(Unfolded(), _nowhere if self._part is None else self._part.write)
        room = open_instance(resolved, task.replica, pages=True)
        (state,) = room.states
        self._ledger = state.ledger
        self._tokens: list[Emitted] = []
        self._engine = engine = task.factory(Place(resolved, task.replica, state, clock, self._tokens.append))
        self._alarms: list[int] = []
        self._outbox: list[Any] = []
        # What came for an attempt whose `Submit` is still to come: why the engine will not have it, empty if it will.
        self._refused: dict[tuple[int, int], str] = {}
        # The attempts that the engine knows, and whether they have begun.
        self._known: dict[int, tuple[int, bool]] = {}
        self._begun: list[tuple[int, int, int]] = []
        self._run_id = -1
        self._since_ns = 0
        self._told_free = state.ledger.free
        ports: dict[type, Any] = dict.fromkeys(UP, self._outbox.append)
        ports |= {Run: self._run, Interrupt: engine.interrupt, Forget: self._forget, WakeAt: self._alarm}
        ports |= {Regroup: engine.regroup, Enter: engine.enter, Refused: self._let_go, Cancelled: self._let_go}
        self._loop = Loop(room, clock, self._journal, ports)
        self._loop.take(Began())
        self._settle()

    def serve(self) -> None:
        """Until told to quit, or nobody is there to tell."""
        gc.collect()
        gc.freeze()
        while self._turn():
            pass
        self._settle()
        if self._part is not None:
            self._part.close()

    def _turn(self) -> bool:
        """Look at everything once, and run one iteration if one is due; otherwise sleep. False: that was all."""
        for message in self._wire.receive():
            if isinstance(message, Quit):
                return False
            self._hear(message)
        alarms, clock = self._alarms, self._clock
        while alarms and alarms[0] <= clock.now_ns:
            heappop(alarms)
            self._loop.take(_WOKEN)
        self._settle()
        due_ns = self._engine.due_ns()
        if due_ns is not None and due_ns <= clock.now_ns:
            self._advance()
            return True
        if due_ns is None and self._ledger.free != self._told_free:
            self._told_free = self._ledger.free
            self._wire.send(Standing(self._told_free))
        if alarms:
            due_ns = alarms[0] if due_ns is None else min(due_ns, alarms[0])
        return self._sleep(due_ns)

    def _sleep(self, until_ns: int | None) -> bool:
        """Until then, or until a message comes. False: the gateway is gone."""
        if self._wire.readable:
            return True
        wait_s = _LONGEST_S if until_ns is None else (until_ns - self._clock.now_ns) / NS_PER_S
        ready = select((self._wire.fd, self._lifeline), (), (), max(0.0, min(wait_s, _LONGEST_S)))[0]
        return self._lifeline not in ready

    def _hear(self, message: Any) -> None:
        if isinstance(message, Work):
            self._accept(message)
            return
        if isinstance(message, Submit):
            reason = self._refused.pop((message.request.id, message.epoch), "")
            if reason:
                self._outbox.append(Refused(message.request.id, message.epoch, reason))
                return
        self._loop.take(message)

    def _accept(self, work: Work) -> None:
        known = self._known.get(work.request)
        if known is not None and known[0] >= work.epoch:
            return  # an order that was repeated
        try:
            self._engine.accept(work)
        except InputError as error:
            self._refused[work.request, work.epoch] = str(error)
        else:
            self._known[work.request] = work.epoch, False

    def _advance(self) -> None:
        """One iteration: its tokens first, then what follows from it."""
        done = self._engine.advance()
        now_ns, tokens = self._clock.now_ns, self._tokens
        self._told_free = free = self._ledger.free
        self._wire.send(Burst(self._run_id, now_ns, now_ns - self._since_ns, free, tokens, self._begun))
        self._since_ns = now_ns
        if self._begun:
            self._begun = []
        tokens.clear()
        if done is not None:
            self._loop.take(done)
            for request in done.ended:
                self._known.pop(request, None)
            self._settle()

    def _settle(self) -> None:
        """Write down what has happened, then let it be heard."""
        self._journal.flush()
        outbox = self._outbox
        if outbox:
            for message in outbox:
                self._wire.send(message)
            outbox.clear()

    # --- ports

    def _run(self, action: Run) -> None:
        self._run_id = action.id
        self._since_ns = now_ns = self._clock.now_ns
        for chunk in action.plan.chunks:
            epoch, begun = self._known[chunk.request]
            if not begun:
                self._known[chunk.request] = epoch, True
                self._begun.append((chunk.request, epoch, now_ns))
        self._engine.run(action)

    def _alarm(self, action: WakeAt) -> None:
        heappush(self._alarms, action.at_ns)

    def _forget(self, action: Forget) -> None:
        self._known.pop(action.request, None)
        self._engine.forget(action)

    def _let_go(self, action: Refused | Cancelled) -> None:
        """The room is done with a request; the engine may not have heard so, if the request had not begun."""
        if action.request in self._known:
            self._forget(Forget(action.request))
        self._outbox.append(action)


def main() -> None:
    """What runs in the process: the task comes through the pipe that is the lifeline as well."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # These reach the gateway too, which drains before it has its workers quit.
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    lifeline = sys.stdin.buffer
    task: Task = pickle.load(lifeline)
    context: zmq.Context[Any] = zmq.Context()
    wire = connect(context, task.address)
    code = 0
    try:
        Worker(task, wire, lifeline.fileno()).serve()
    except Exception as error:
        wrong = isinstance(error, PhasewiseError)
        if not wrong:
            traceback.print_exc()
        wire.send(Fell(str(error) or type(error).__name__, wrong))
        code = 1
    wire.close()
    context.term()
    sys.stderr.flush()
    # At once: whatever the engine's libraries would still tidy up is gone with the process.
    os._exit(code)


def _die_with_parent() -> None:
    """Where the system can: be killed when the gateway dies, even in the middle of a long step."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _nowhere(segment: bytes) -> None:
    """No log is kept."""
