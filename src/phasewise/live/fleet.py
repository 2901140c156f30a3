"""The gateway's half of the control plane: the cluster room on the wall clock, the processes of its replicas, and the answers.

Requests come in as events, the room's orders go out over the wires, tokens go past it to the answers. Whoever speaks HTTP sees
`LiveService` as a `live.service.Service`. What becomes of a request is the room's affair, what a step is the workers'; here is
only what joins them: who is connected, what has been delivered, when a dead process is started again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from phasewise.control.loop import Loop
from phasewise.control.ports import EngineFactory
from phasewise.control.rooms import open_cluster
from phasewise.core.action import Boot, Ended, Outcome, Stop, WakeAt
from phasewise.core.errors import InputError
from phasewise.core.event import Arrived, Drain, Gone, Lost, Start, Woken
from phasewise.core.message import DOWN, Ready, Submit
from phasewise.core.request import Request
from phasewise.core.spec import RequestClass, Resolved
from phasewise.core.units import to_s
from phasewise.core.version import VERSION
from phasewise.live.answer import Answer
from phasewise.live.clock import WallClock
from phasewise.live.fit import check_servable, predictor
from phasewise.live.member import Member
from phasewise.live.prefixes import Prefixes
from phasewise.live.process import WorkerProcess
from phasewise.live.service import Load, Text, Wanted
from phasewise.live.wire import Burst, Fell, Standing
from phasewise.live.worker import Task
from phasewise.record.header import Header
from phasewise.record.parts import Part, Unfolded, join, part_path, rescue
from phasewise.record.roomlog import RoomLog
from phasewise.record.runlog import RunLog

_LOG = logging.getLogger("phasewise.live")
_WOKEN = Woken()
MOST_DEATHS = 3
"""A request that was inside so many processes when they died is not tried again: it may be why."""

_LAST_S = 5.0  # how long requests that were cancelled at the end of a drain may take to leave


class LiveService:
    """Replicas of one deployment that serve, each in a process of its own. Use it from one event loop: `start`, then `close`.

    `factory` brings each its engine. `name` is what clients call the model. `log` names the run log, which appears when the
    service is closed (None: none is kept).
    """

    def __init__(
        self,
        resolved: Resolved,
        factory: EngineFactory,
        text: Text,
        *,
        name: str | None = None,
        log: str | Path | None = None,
        seed: int = 0,
        classes: tuple[RequestClass, ...] = (),
    ) -> None:
        # The wire is reliable: nothing need be asked twice.
        deployment = msgspec.structs.replace(resolved.deployment, patience_s=None)
        self.resolved = resolved = msgspec.structs.replace(resolved, deployment=deployment)
        check_servable(resolved)
        self.model = name or resolved.model.name
        self.max_context = max(replica.max_context for replica in resolved.replicas)
        self.text = text
        self.draining = False
        self._factory = factory
        self._log = None if log is None else Path(log)
        self._header = Header(VERSION, resolved, {"name": "live", "mean_rate_rps": None}, seed, classes=classes)
        self._predictor = predictor(resolved)
        self._clock = WallClock()
        self._prefixes = Prefixes(deployment.block_tokens) if deployment.prefix_cache else None
        self._members = [Member(replica.blocks) for replica in resolved.replicas]
        self._answers: dict[int, Answer] = {}
        self._next = 0
        # What is to go to which replica: messages, and orders about its process.
        self._outbox: list[tuple[int, Any]] = []
        self._settling = False
        self._closed = False
        self._wrong: Fell | None = None
        self._last = ""
        self._kept: RunLog | None = None
        self._changed: asyncio.Event | None = None
        self._context: zmq.Context[Any] | None = None

    # --- its life

    async def start(self, within_s: float = 600.0) -> None:
        """Start the processes; back when they serve, as far as they can be started.

        InputError if what they were given cannot be served at all, TimeoutError if none is ready in time.
        """
        if self._log is not None and (found := await asyncio.to_thread(rescue, self._log)) is not None:
            _LOG.warning("an earlier run was cut short; %d of its events are kept", found.events)
        self._part = None if self._log is None else Part(part_path(self._log, 0), self._header, 0)
        self._changed = asyncio.Event()
        self._context = zmq.Context()
        self._journal = RoomLog(Unfolded(), _nowhere if self._part is None else self._part.write)
        ports: dict[type, Callable[[Any], None]] = dict.fromkeys((*DOWN, Boot, Stop), self._down)
        ports |= {Submit: self._submit, Ended: self._ended, WakeAt: self._wake_at}
        self._loop = Loop(open_cluster(self.resolved, self._header.seed), self._clock, self._journal, ports)
        for i in range(len(self._members)):
            self._take(Lost(i, returns=True))
            self._take(Start(i))
        try:
            await asyncio.wait_for(self._until(lambda: self._started), within_s)
        except BaseException:
            await self.close()
            raise
        if self._wrong is not None or not self.ready:
            wrong = self._wrong
            await self.close()
            raise InputError(wrong.reason if wrong else f"no replica could be started: {self._last}")

    async def drain(self, within_s: float) -> None:
        """Take no more; what is left when the time is over is cancelled."""
        self.draining = True
        if not await self._idle(within_s):
            for answer in list(self._answers.values()):
                answer.cancel()
            await self._idle(_LAST_S)

    async def close(self) -> RunLog | None:
        """End all that is inside, stop the processes, and give the log its name. The log; again if it was closed already."""
        if self._closed or self._changed is None:
            return self._kept
        await self.drain(0.0)
        self._closed = True
        for i, member in enumerate(self._members):
            if member.timer is not None:
                member.timer.cancel()
            self._take(Drain(i))
        self._settle()
        for member in self._members:
            if member.process is not None and not member.ready:
                member.process.kill()
            elif member.process is not None and not member.process.quitting:
                member.process.quit()
        await asyncio.gather(*(member.task for member in self._members if member.task is not None))
        self._settle()
        self._settling = True  # nothing more is to go out
        assert self._context is not None
        self._context.term()
        self._kept = await asyncio.to_thread(self._join)
        return self._kept

    def _join(self) -> RunLog | None:
        if self._part is None or self._log is None:
            return None
        self._part.close()
        for i, member in enumerate(self._members):
            if member.killed is not None:
                part = Part(part_path(self._log, 1 + i), self._header, 1 + i)
                part.add(*member.killed, [])
                part.close()
        return join(self._log)

    async def _idle(self, within_s: float) -> bool:
        """Whether nobody is inside any more, by then."""
        try:
            await asyncio.wait_for(self._until(lambda: not self._answers), within_s)
        except TimeoutError:
            return not self._answers
        return True

    async def _until(self, true: Callable[[], bool]) -> None:
        assert self._changed is not None
        while not true():
            self._changed.clear()
            await self._changed.wait()

    def _change(self) -> None:
        if self._changed is not None:
            self._changed.set()

    # --- what the gateway asks

    @property
    def ready(self) -> bool:
        return not self._closed and any(member.ready for member in self._members)

    @property
    def pids(self) -> tuple[int | None, ...]:
        """The processes of the replicas, by index (None: there is none now)."""
        return tuple(member.process.pid if member.process else None for member in self._members)

    @property
    def _started(self) -> bool:
        """Whether every replica serves, or has been given up for now; or none ever will."""
        return self._wrong is not None or all(m.ready or m.given_up for m in self._members)

    def submit(self, wanted: Wanted) -> Answer:
        """Start a request."""
        if self._changed is None or self.draining:
            raise InputError("no more requests are taken: the service is shutting down")
        prompt = wanted.prompt
        if not prompt or wanted.max_tokens < 1:
            raise InputError("a request needs a prompt of at least one token, and at least one token to answer with")
        if len(prompt) >= self.max_context:
            raise InputError(
                f"the prompt has {len(prompt)} tokens, and {self.max_context} is all that fits, answer included"
            )
        prefixes, size = ((), 0) if self._prefixes is None else (self._prefixes(prompt), self._prefixes.tokens)
        now_ns = self._clock.now_ns
        request = Request(self._next, now_ns, len(prompt), wanted.max_tokens, wanted.kind, prefixes, size)
        self._next += 1
        self._answers[request.id] = answer = Answer(request, wanted, self._leave)
        self._take(Arrived(request, None if self._predictor is None else self._predictor.predict(request)))
        return answer

    def load(self) -> Load:
        inside = [answer for answer in self._answers.values() if not answer.over]
        running = sum(answer.begun_ns >= 0 for answer in inside)
        blocks = sum(member.blocks for member in self._members if member.ready)
        free = sum(member.free for member in self._members if member.ready)
        return Load(len(inside) - running, running, 1 - free / blocks if blocks else 0.0)

    # --- the room and its ports

    def _take(self, event: Any) -> None:
        """Give the room an event. What it orders goes out with the next turn of the event loop, once it is written down."""
        self._loop.take(event)
        if not self._settling:
            self._settling = True
            asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self) -> None:
        self._settling = False
        self._journal.flush()
        outbox, self._outbox = self._outbox, []
        for replica, what in outbox:
            process = self._members[replica].process
            if isinstance(what, Boot):
                self._spawn(replica)
            elif process is not None and isinstance(what, Stop):
                process.quit()
            elif process is not None:
                process.send(what)

    def _down(self, action: Any) -> None:
        self._outbox.append((action.replica, action))

    def _submit(self, action: Submit) -> None:
        answer = self._answers[action.request.id]
        answer.replica, answer.epoch = action.replica, action.epoch
        self._outbox += (action.replica, answer.work()), (action.replica, action)

    def _ended(self, action: Ended) -> None:
        answer = self._answers.pop(action.request)
        answer.close(action.outcome, action.reason)
        self._change()

    def _wake_at(self, action: WakeAt) -> None:
        wait_s = to_s(action.at_ns - self._clock.now_ns)
        asyncio.get_running_loop().call_later(max(wait_s, 0.0), self._ring, action)

    def _ring(self, action: WakeAt) -> None:
        if self._closed:
            return
        if self._clock.now_ns < action.at_ns:
            self._wake_at(action)
        else:
            self._take(_WOKEN)

    def _leave(self, answer: Answer) -> None:
        self._take(Gone(answer.request))

    # --- replicas

    def _spawn(self, i: int) -> None:
        member = self._members[i]
        if member.process is not None or self._closed or self._context is None:
            return
        log = None if self._log is None else part_path(self._log, 1 + i)
        task = Task(self._header, i, self._factory, self._clock.epoch_ns, "", log, member.killed)
        member.process = WorkerProcess(
            self._context, lambda word: self._heard(i, word), lambda fell: self._died(i, fell)
        )
        member.task = asyncio.get_running_loop().create_task(member.process.live(task))

    def _heard(self, i: int, word: Any) -> None:
        """Something has come from a replica."""
        member = self._members[i]
        if isinstance(word, Burst):
            self._deliver(member, word)
        elif isinstance(word, Standing):
            member.free = word.free
        else:
            if isinstance(word, Ready):
                self._up(i)
            self._take(word)

    def _deliver(self, member: Member, burst: Burst) -> None:
        answers = self._answers
        member.heard(burst)
        for request, epoch, at_ns in burst.begun:
            if (answer := answers.get(request)) is not None:
                answer.began(epoch, at_ns)
        for token in burst.tokens:
            if (answer := answers.get(token.request)) is not None:
                answer.take(token, burst.at_ns)

    def _up(self, i: int) -> None:
        member = self._members[i]
        assert member.process is not None
        member.process.settled()
        member.serves(self._clock.now_ns)
        self._change()
        _LOG.info("replica %d serves, process %s", i, member.process.pid)

    def _died(self, i: int, fell: Fell) -> None:
        """Its process is dead: tell the room what was delivered, and have it started again."""
        member = self._members[i]
        quitting = member.process is not None and member.process.quitting
        if quitting or self._closed:
            member.process, member.ready = None, False
            self._change()
            return
        if member.died(self._clock.now_ns):
            _LOG.error("replica %d is lost: %s", i, fell.reason)
            self._bereave(i)
        else:
            self._last = fell.reason
            if fell.wrong and not any(each.up_ns for each in self._members):
                self._wrong = fell  # and `start` says so
            else:
                _LOG.error("replica %d does not start: %s", i, fell.reason)
            if member.given_up:
                self._take(Lost(i))
        member.timer = asyncio.get_running_loop().call_later(member.wait_s, self._again, i)
        self._change()

    def _again(self, i: int) -> None:
        if not self._closed:
            self._take(Start(i))

    def _bereave(self, i: int) -> None:
        """The replica is lost with all that was inside; requests that may be to blame are not tried again."""
        mine = [answer for answer in self._answers.values() if answer.replica == i]
        for answer in mine:
            answer.deaths += 1
            if answer.deaths >= MOST_DEATHS and not answer.over:
                answer.close(
                    Outcome.FAILED, f"the model's process died {answer.deaths} times while it served the request"
                )
                self._take(Gone(answer.request))
        finished = tuple((x.request, x.delivered) for x in mine if x.outcome == Outcome.FINISHED)
        delivered = tuple((x.request, x.delivered) for x in mine if x.outcome != Outcome.FINISHED)
        for answer in mine:
            answer.replica = -1
        self._take(Lost(i, delivered, finished, returns=True))


def _nowhere(segment: bytes) -> None:
    """No log is kept."""
