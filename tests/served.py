"""Services for tests: a toy deployment in real processes, steps of a fraction of a millisecond, engines that misbehave."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from phasewise.control.ports import Place
from phasewise.core.errors import InputError
from phasewise.core.spec import Resolved
from phasewise.core.stream import Emitted, Work
from phasewise.live.answer import Answer
from phasewise.live.fleet import LiveService
from phasewise.live.service import Wanted
from phasewise.perf.latency import LatencyModel
from phasewise.record.columns import ClusterColumns, InstanceColumns
from phasewise.record.parts import parts_of
from phasewise.record.runlog import RunLog
from phasewise.sim.paced import Paced, PacedExecutor
from worlds import ConstantLatency, toy_resolved

Found = TypeVar("Found")

DEADLY, UNWANTED = 666, 13
"""Tokens of a prompt that a `Moody` engine dies of, and that it refuses."""


def quick(step_ns: int = 200_000) -> Paced:
    """Every step takes a fifth of a millisecond, answers are as long as they may be."""
    return Paced(ConstantLatency(step_ns), None)


class Moody(NamedTuple):
    """An engine that dies when it computes some prompts, and refuses others."""

    latency: LatencyModel = ConstantLatency(200_000)

    def __call__(self, place: Place) -> PacedExecutor:
        return _Moody(place, self.latency, None, 0)


class _Moody(PacedExecutor):
    def accept(self, work: Work) -> None:
        if UNWANTED in work.prompt:
            raise InputError("no engine can follow this schema")
        super().accept(work)

    def advance(self) -> Any:
        if any(DEADLY in work.prompt for work in self._works.values()):
            os._exit(9)
        return super().advance()


def wrong(place: Place) -> PacedExecutor:
    """An engine whose model cannot be read."""
    raise InputError("the file is no model")


def broken(place: Place) -> PacedExecutor:
    """An engine with a fault in it."""
    os._exit(3)


def toy(**world: Any) -> Resolved:
    """A toy deployment with seats and blocks for plenty."""
    params = {"max_seqs": 64, "token_budget": 64, **world.pop("params", {})}
    return toy_resolved(params=params, **{"blocks": 2048, "block_tokens": 8, **world})


def run(scene: Coroutine[Any, Any, Found]) -> Found:
    """Play a scene to its end; one that hangs fails."""
    return asyncio.run(asyncio.wait_for(scene, 120.0))


@asynccontextmanager
async def serving(resolved: Resolved, factory: Any, log: Path | None = None, **more: Any) -> AsyncIterator[LiveService]:
    """A service that is up; it is closed at the end."""
    service = LiveService(resolved, factory, None, log=log, **more)  # type: ignore[arg-type]
    await service.start()
    try:
        yield service
    finally:
        await service.close()


async def read(answer: Answer) -> list[Emitted]:
    """All tokens of an answer."""
    found: list[Emitted] = []
    while more := await answer.more():
        found += more
    return found


async def ask(service: LiveService, prompt: int, tokens: int, first: int = 0) -> tuple[Answer, list[Emitted]]:
    """An answer of so many tokens at most to a prompt of so many, and all of it."""
    answer = service.submit(Wanted(tuple(range(first, first + prompt)), tokens))
    return answer, await read(answer)


def whole(tokens: list[Emitted], count: int) -> bool:
    """Whether these are tokens 0 to `count`, each once and in order, the last one with the end."""
    ends = [token.end for token in tokens]
    return [t.index for t in tokens] == list(range(count)) and ends == [None] * (count - 1) + ["length"]


def phases(answer: Answer) -> tuple[float, float, float]:
    """The seconds of an answer's phases; it went through all of them."""
    assert answer.queue_s is not None
    assert answer.prefill_s is not None
    assert answer.decode_s is not None
    return answer.queue_s, answer.prefill_s, answer.decode_s


ALONE = """
import sys
sys.modules["phasewise.workload"] = sys.modules["phasewise.sim"] = sys.modules["phasewise.live"] = None
from phasewise.control.replay import replay
from phasewise.record.runlog import RunLog
print(replay(RunLog.read(sys.argv[1])))
"""


def check_log(path: Path) -> RunLog:
    """Both rooms take the same actions in a fresh process with another hash seed, and the columns are those of the events."""
    log = RunLog.read(path)
    environment = {**os.environ, "PYTHONHASHSEED": "424242"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, path], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == log.summary["events"] == sum(len(list(log.records(room))) for room in range(log.rooms))
    requests = ClusterColumns()
    requests.fold(log.records(0))
    assert requests.table().tobytes() == log.tables.requests.tobytes()
    for i, steps in enumerate(log.tables.steps):
        columns = InstanceColumns()
        columns.fold(list(log.records(1 + i)))
        assert columns.tables()[0].tobytes() == steps.tobytes()
    assert not parts_of(path)
    return log


class Fragile(NamedTuple):
    """An engine that needs a file to be there."""

    path: str

    def __call__(self, place: Place) -> PacedExecutor:
        if not Path(self.path).exists():
            os._exit(4)
        return quick()(place)
