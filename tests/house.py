"""A replica's room around a real executor, pumped on a clock that counts: what a worker does, without a process or a wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from phasewise.control.loop import Loop
from phasewise.control.ports import EngineFactory, Place
from phasewise.control.replay import replay
from phasewise.control.rooms import open_instance
from phasewise.core.action import Forget, Interrupt, Regroup, Run, WakeAt
from phasewise.core.event import Woken
from phasewise.core.kv import BlockLedger
from phasewise.core.message import UP, Cancel, Submit
from phasewise.core.request import Request
from phasewise.core.spec import Resolved
from phasewise.core.stream import Emitted, Work
from phasewise.record.header import Header
from phasewise.record.runlog import Recorder, RunLog
from worlds import toy_resolved

TICK_NS = 1_000


class Ticking:
    """A clock on which every look takes a microsecond."""

    def __init__(self) -> None:
        self._now_ns = 0

    @property
    def now_ns(self) -> int:
        self._now_ns += TICK_NS
        return self._now_ns

    def reach(self, at_ns: int) -> None:
        """Let time pass until then."""
        self._now_ns = max(self._now_ns, at_ns)


class House:
    """One room, one executor. `submit` and `cancel` whenever you like; `step` lets one iteration happen."""

    def __init__(self, build: EngineFactory, batcher: str = "sarathi", params: Any = None, **world: Any) -> None:
        self.resolved: Resolved = toy_resolved(batcher, params, **world)
        self.clock = Ticking()
        self.room: Any = open_instance(self.resolved, 0, pages=True)
        self.ledger: BlockLedger = self.room.state.ledger
        self.recorder = Recorder(Header("test", self.resolved, {"name": "live"}, 0))
        self.emitted: dict[int, list[Emitted]] = {}
        self.up: list[Any] = []
        self.runs: list[Run] = []
        self._alarms: list[int] = []
        self.engine = engine = build(Place(self.resolved, 0, self.room.state, self.clock, self._take))
        ports: dict[type, Callable[[Any], None]] = dict.fromkeys(UP, self.up.append)

        def run(action: Run) -> None:
            self.runs.append(action)
            engine.run(action)

        ports |= {Run: run, Interrupt: engine.interrupt, Forget: engine.forget, Regroup: engine.regroup}
        ports[WakeAt] = lambda action: self._alarms.append(action.at_ns)
        self.loop = Loop(self.room, self.clock, self.recorder.instances[0], ports)

    def _take(self, one: Emitted) -> None:
        self.emitted.setdefault(one.request, []).append(one)

    def submit(self, work: Work, kind: str = "", prefix_ids: Sequence[int] = (), prefix_tokens: int = 0) -> None:
        """What a gateway sends: the text first, then the order."""
        self.engine.accept(work)
        prompt = len(work.prompt) - work.from_token
        request = Request(work.request, 0, prompt, work.max_tokens, kind, tuple(prefix_ids), prefix_tokens)
        self.loop.take(Submit(0, request, work.epoch, work.from_token))

    def cancel(self, request: int, epoch: int = 0) -> None:
        self.loop.take(Cancel(0, request, epoch))

    def step(self) -> bool:
        """One iteration, or an alarm; False when nothing is left to do."""
        if self.engine.due_ns() is not None:
            done = self.engine.advance()
            if done is not None:
                self.loop.take(done)
            return True
        if self._alarms:
            self.clock.reach(self._alarms.pop(0))
            self.loop.take(Woken())
            return True
        return False

    def finish(self) -> None:
        while self.step():
            pass

    def tokens(self, request: int) -> list[int]:
        """What came of a request, which must be every index once, in order."""
        said = self.emitted.get(request, [])
        first = said[0].index if said else 0
        assert [one.index for one in said] == list(range(first, first + len(said)))
        return [one.token for one in said]

    def text(self, request: int) -> str:
        return "".join(one.text for one in self.emitted.get(request, []))

    def close(self) -> RunLog:
        """The log, replayed; nothing may be held any more."""
        assert self.ledger.free == self.ledger.blocks
        log = self.recorder.close()
        assert replay(log) == log.events
        return log
