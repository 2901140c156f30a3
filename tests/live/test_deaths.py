"""Processes that die: of the worker nobody notices but by waiting, with the gateway everything ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from phasewise.control.replay import replay
from phasewise.core.action import Outcome
from phasewise.core.event import Killed, Lost
from phasewise.live.fleet import LiveService
from phasewise.record.columns import LOST
from phasewise.record.parts import parts_of, rescue
from served import DEADLY, Fragile, Moody, ask, check_log, quick, run, serving, toy, whole

GATEWAY = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from phasewise.live.service import Wanted
    from served import quick, serving, toy

    async def main():
        async with serving(toy(replicas=2), quick(), Path(sys.argv[1])) as service:
            answers = [service.submit(Wanted((1, 2, 3), 100_000)) for _ in range(8)]
            for answer in answers:
                await answer.more()
            print(*service.pids, flush=True)
            await asyncio.gather(*(answer.more() for answer in answers for _ in range(1)))
            await asyncio.Event().wait()

    asyncio.run(main())
    """
)


def test_a_worker_that_is_killed_is_replaced_and_nobody_misses_a_token(tmp_path: Path) -> None:
    """It dies twice while answers are under way, some of which have begun: each index comes once, in order."""

    async def scene() -> list[int | None]:
        pids = []
        async with serving(toy(params={"max_seqs": 16}), quick(), tmp_path / "log") as service:
            answers = [asyncio.create_task(ask(service, 5 + i, 60 + i)) for i in range(40)]
            for i in (0, 20):
                first, _ = await answers[i]
                assert first.outcome == Outcome.FINISHED
                pids.append(service.pids[0])
                os.kill(service.pids[0] or 0, signal.SIGKILL)
            for i, (answer, tokens) in enumerate(await asyncio.gather(*answers)):
                assert whole(tokens, 60 + i)
                assert answer.deaths <= 2
            pids.append(service.pids[0])
        return pids

    pids = run(scene())
    log = check_log(tmp_path / "log")
    assert len(set(pids)) == 3
    assert None not in pids
    assert log.summary["completed"] == 40
    deaths = [event for _, event, _ in log.records(1) if isinstance(event, Killed)]
    assert len(deaths) == 2
    lost = [event for _, event, _ in log.records(0) if isinstance(event, Lost) and event.delivered]
    assert len(lost) == 2
    spans = log.tables.spans[0]
    assert (spans["left"] == LOST).sum() > 0
    # The columns have what was computed, clients what came. What was under way at a death is computed again; of what came, only
    # an iteration at each death can be missing, whose end was not written any more.
    assert log.summary["tokens_out"] >= sum(60 + i for i in range(40)) - 2 * 16


def test_deaths_leave_no_descriptor_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    async def scene() -> None:
        async with serving(toy(), quick()) as service:
            await ask(service, 4, 4)
            open_now = len(os.listdir("/proc/self/fd"))
            for _ in range(3):
                os.kill(service.pids[0] or 0, signal.SIGKILL)
                _, tokens = await ask(service, 4, 400)
                assert whole(tokens, 400)
                assert len(os.listdir("/proc/self/fd")) == open_now
            assert list(tmp_path.iterdir()) == []

    run(scene())
    assert list(tmp_path.iterdir()) == []


def test_a_service_may_be_closed_while_it_starts(tmp_path: Path) -> None:
    """At several stages of the start: before the process is there, and while it imports."""

    async def scene(turns: int) -> None:
        service = LiveService(toy(), quick(), None, log=tmp_path / "log")  # type: ignore[arg-type]
        starting = asyncio.create_task(service.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        await service.close()
        assert service.pids == (None,)

    for turns in (0, 1, 3, 6, 30, 300):
        run(scene(turns))
        assert not parts_of(tmp_path / "log")


def test_a_request_that_kills_is_given_up_and_others_are_not(tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(toy(), Moody(), tmp_path / "log") as service:
            good = [asyncio.create_task(ask(service, 4, 30)) for _ in range(4)]
            bad, tokens = await ask(service, 3, 30, first=DEADLY)
            assert (bad.outcome, tokens) == (Outcome.FAILED, [])
            assert bad.reason == "the model's process died 3 times while it served the request"
            found = [await task for task in good]
            assert all(answer.outcome in (Outcome.FINISHED, Outcome.FAILED) for answer, _ in found)
            _, tokens = await ask(service, 4, 30)
            assert whole(tokens, 30)

    run(scene())
    check_log(tmp_path / "log")


def test_a_process_that_cannot_come_back_ends_what_waits_for_it(tmp_path: Path) -> None:
    """The engine's file is gone when the process is to be started again: requests fail, and the service is not ready."""
    flag = tmp_path / "model"
    flag.write_text("here")

    async def scene() -> None:
        async with serving(toy(), Fragile(str(flag)), tmp_path / "log") as service:
            task = asyncio.create_task(ask(service, 4, 100_000))
            await asyncio.sleep(0)
            flag.unlink()
            os.kill(service.pids[0] or 0, signal.SIGKILL)
            answer, _ = await task
            assert answer.outcome == Outcome.FAILED
            assert answer.reason == "no replica is left for prefill"
            assert not service.ready

    run(scene())
    assert check_log(tmp_path / "log").summary["failed"] == 1


def test_a_gateway_that_is_killed_leaves_no_worker_and_a_log_to_be_rescued(tmp_path: Path) -> None:
    path = tmp_path / "log"
    source = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{source / 'src'}{os.pathsep}{source / 'tests'}"}
    gateway = subprocess.Popen(
        [sys.executable, "-c", GATEWAY, path], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert gateway.stdout is not None
    workers = [os.pidfd_open(int(pid)) for pid in gateway.stdout.readline().split()]
    assert len(workers) == 2
    gateway.kill()
    for worker in workers:
        # A process's descriptor is readable once it is dead.
        assert select.select([worker], [], [], 10.0)[0]
        os.close(worker)
    gateway.communicate()
    assert len(parts_of(path)) == 3
    log = rescue(path)
    assert log is not None
    assert not parts_of(path)
    found = check_log(tmp_path / "log.1")
    assert found.summary["requests"] == 8
    assert found.summary["iterations"] > 0 == found.summary["completed"]
    assert replay(log) == found.summary["events"]
