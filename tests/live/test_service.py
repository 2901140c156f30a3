"""One replica in a process of its own, behind the gateway's half of the control plane: what was simulated is what runs."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from phasewise.control.rooms import open_instance
from phasewise.core.action import Outcome, Run
from phasewise.core.errors import InputError, LogError
from phasewise.core.request import Request
from phasewise.core.stream import Emitted
from phasewise.live.answer import Answer
from phasewise.live.fleet import LiveService
from phasewise.live.service import Wanted
from phasewise.sim.paced import WORDS, Paced
from served import UNWANTED, Moody, ask, broken, check_log, phases, quick, read, run, serving, toy, whole, wrong
from worlds import ConstantLatency, toy_resolved


def test_answers_come_whole_and_the_log_replays(tmp_path: Path) -> None:
    sizes = [(1 + 7 * (i % 23), 1 + i % 40) for i in range(200)]

    async def scene() -> None:
        async with serving(toy(params={"max_seqs": 12}), quick(), tmp_path / "log") as service:
            found = await asyncio.gather(*(ask(service, *size) for size in sizes))
            for (answer, tokens), (_, count) in zip(found, sizes, strict=True):
                assert whole(tokens, count)
                assert answer.outcome == Outcome.FINISHED
                assert all(t.text == f" {WORDS[t.token]}" for t in tokens)
                queue_s, prefill_s, decode_s = phases(answer)
                assert queue_s >= 0 < prefill_s
                assert (decode_s > 0) == (count > 1)
            assert {len(tokens) for _, tokens in found} == {count for _, count in sizes}

    run(scene())
    log = check_log(tmp_path / "log")
    found, steps = log.summary, log.tables.steps[0]
    assert found["requests"] == found["completed"] == len(sizes)
    assert found["tokens_in"] == sum(prompt for prompt, _ in sizes)
    assert found["tokens_out"] == sum(tokens for _, tokens in sizes)
    assert (log.tables.requests["tokens"] == [tokens for _, tokens in sizes]).all()
    # Every step is a row of its own, as measured: none overlaps another, and together they took no less than the model says.
    assert (steps["steps"] == 1).all()
    assert found["iterations"] == len(steps)
    assert (steps["end_ns"] >= steps["start_ns"]).all()
    assert (steps["start_ns"][1:] >= steps["end_ns"][:-1]).all()
    assert steps["end_ns"][-1] - steps["start_ns"][0] >= len(steps) * 200_000
    assert log.header.workload["requests"] == len(sizes)


def test_the_log_says_when_each_phase_was(tmp_path: Path) -> None:
    """What a client is told of its phases is what the log says of them, but for the while in which a step is seen to."""

    async def scene() -> tuple[float, float, float]:
        async with serving(toy(), quick(1_000_000), tmp_path / "log") as service:
            answer, tokens = await ask(service, 100, 30)
            assert whole(tokens, 30)
            return phases(answer)

    queue_s, prefill_s, decode_s = run(scene())
    found = check_log(tmp_path / "log").summary
    assert found["iterations"] == 2 + 29
    assert queue_s == pytest.approx(found["delay_s"]["mean"], abs=0.05)
    assert queue_s + prefill_s == pytest.approx(found["ttft_s"]["mean"], abs=0.05)
    assert queue_s + prefill_s + decode_s == pytest.approx(found["e2e_s"]["mean"], abs=0.05)
    assert queue_s + prefill_s + decode_s > 31 * 0.001


def test_a_leap_is_cut_short_by_a_newcomer(tmp_path: Path) -> None:
    """While one answer leaps, another request comes: it does not wait for the leap's end."""

    async def scene() -> None:
        async with serving(toy(), quick(500_000), tmp_path / "log") as service:
            long = service.submit(Wanted((1, 2, 3), 2_000))
            await long.more()
            _, tokens = await ask(service, 10, 5)
            assert whole(tokens, 5)
            assert long.delivered < 1_000
            long.cancel()
            assert await long.more() != () or long.outcome == Outcome.CANCELLED

    run(scene())
    log = check_log(tmp_path / "log")
    leaps = [a for _, _, actions in log.records(1) for a in actions if isinstance(a, Run) and a.repeat != 1]
    assert leaps


def test_who_leaves_frees_every_block(tmp_path: Path) -> None:
    """Clients leave: before their first step, in their prompts, while they decode, at their end. Then a prompt that needs all
    the blocks is served."""
    resolved = toy(blocks=64, params={"max_seqs": 8, "watermark": 0.0})

    async def scene() -> None:
        async with serving(resolved, quick(), tmp_path / "log") as service:
            answers = [service.submit(Wanted(tuple(range(40)), 400)) for _ in range(30)]
            for answer in answers[::3]:
                answer.cancel()
                answer.cancel()
            for i, answer in enumerate(answers):
                if not answer.over:
                    await answer.more()
                    if i % 2:
                        await answer.more()
                answer.cancel()
                while await answer.more():
                    pass
                assert answer.outcome == Outcome.CANCELLED
            most = resolved.replicas[0].max_context
            _, tokens = await ask(service, most - 1, 9)
            assert [t.end for t in tokens] == ["length"], "the context is full after one token"
            while service.load().kv_usage:
                await asyncio.sleep(0)
            assert service.load().waiting == service.load().running == 0

    run(scene())
    log = check_log(tmp_path / "log")
    assert (log.summary["cancelled"], log.summary["completed"]) == (30, 1)
    room = open_instance(log.header.resolved, 0)
    for at_ns, event, _ in log.records(1):
        room.handlers[type(event)](event, at_ns)
    (state,) = room.states
    assert state.ledger.free == state.ledger.blocks
    assert not state.running
    assert not state.waiting


@pytest.mark.parametrize("batcher", ["vllm-v0", "vllm-v1", "orca", "static", "nested-wait", "distserve"])
def test_what_is_preempted_goes_on_where_it_was(batcher: str, tmp_path: Path) -> None:
    """Under every batcher, too few blocks for all: tokens still come once and in order."""
    nested = {"boundaries": [3, 9], "thresholds": [2, 2, 1], "max_seqs": 6, "max_wait_s": 30e-6}
    resolved = toy_resolved(batcher, nested if batcher == "nested-wait" else {"max_seqs": 8}, 24, 8)

    async def scene() -> None:
        async with serving(resolved, quick(50_000), tmp_path / "log") as service:
            for _, tokens in await asyncio.gather(*(ask(service, 20, 40) for _ in range(12))):
                assert whole(tokens, 40)

    run(scene())
    log = check_log(tmp_path / "log")
    assert log.summary["tokens_out"] == 12 * 40
    assert log.summary["preemptions"] or batcher in ("orca", "static")


def test_many_at_once_and_several_replicas(tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(toy(replicas=2), quick(1_000_000), tmp_path / "log") as service:
            assert all(pid != os.getpid() for pid in service.pids)
            for _, tokens in await asyncio.gather(*(ask(service, 16, 24) for _ in range(400))):
                assert whole(tokens, 24)

    run(scene())
    log = check_log(tmp_path / "log")
    assert log.summary["completed"] == 400
    assert all(len(np.unique(spans["request"])) == 200 for spans in log.tables.spans)


def test_prompts_that_begin_alike_are_found(tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(toy(prefix_cache=True), quick(), tmp_path / "log") as service:
            await ask(service, 40, 4)
            await ask(service, 40, 4)
            await ask(service, 47, 4)
            await ask(service, 40, 4, first=1)

    run(scene())
    log = check_log(tmp_path / "log")
    # Of 40 tokens the last is always computed, so four of five blocks of eight are found; of 47 all five.
    assert sorted((int(s["request"]), int(s["cached"])) for s in log.tables.spans[0]) == [
        (0, 0),
        (1, 32),
        (2, 40),
        (3, 0),
    ]


def test_what_no_engine_serves_is_rejected(tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(toy(replicas=2), Moody(), tmp_path / "log") as service:
            answer, tokens = await ask(service, 5, 5, first=UNWANTED)
            assert (answer.outcome, answer.reason, tokens) == (Outcome.REJECTED, "no engine can follow this schema", [])
            _, tokens = await ask(service, 5, 5)
            assert whole(tokens, 5)

    run(scene())
    assert check_log(tmp_path / "log").summary["rejected"] == 1


def test_what_is_wrong_at_once_is_said_at_once() -> None:
    async def scene() -> None:
        async with serving(toy(blocks=16, params={"watermark": 0.0}), quick()) as service:
            assert service.max_context == 128
            for prompt, tokens, said in (((), 1, "at least one token"), ((1,), 0, "at least one token")):
                with pytest.raises(InputError, match=said):
                    service.submit(Wanted(prompt, tokens))
            with pytest.raises(InputError, match="the prompt has 128 tokens, and 128 is all that fits"):
                service.submit(Wanted(tuple(range(128)), 1))

    run(scene())


@pytest.mark.parametrize(("world", "said"), [({"pp": 2}, "pipeline")])
def test_what_cannot_be_served_is_said(world: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LiveService(toy(**world), quick(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("factory", "said"), [(wrong, "the file is no model"), (broken, "no replica could be started")]
)
def test_an_engine_that_cannot_be_made_is_no_service(factory: object, said: str, tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(toy(), factory, tmp_path / "log"):
            raise AssertionError("it serves")

    with pytest.raises(InputError, match=said):
        run(scene())


def test_a_drain_finishes_what_is_inside_and_takes_no_more(tmp_path: Path) -> None:
    """Signals that reach the workers too, as those of a terminal or a service manager do, leave them at their work."""

    async def scene() -> None:
        async with serving(toy(), quick(), tmp_path / "log") as service:
            answers = [asyncio.create_task(ask(service, 10, 50)) for _ in range(20)]
            await asyncio.sleep(0)
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(service.pids[0] or 0, number)
            draining = asyncio.create_task(service.drain(60.0))
            await asyncio.sleep(0)
            with pytest.raises(InputError, match="shutting down"):
                service.submit(Wanted((1,), 1))
            await draining
            for _, tokens in await asyncio.gather(*answers):
                assert whole(tokens, 50)

    run(scene())
    assert check_log(tmp_path / "log").summary["completed"] == 20


def test_what_a_drain_has_no_time_for_is_cancelled(tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(toy(), quick(), tmp_path / "log") as service:
            answer = service.submit(Wanted((1, 2), 10_000))
            await answer.more()
            await service.drain(0.0)
            await read(answer)
            assert answer.outcome == Outcome.CANCELLED

    run(scene())
    assert check_log(tmp_path / "log").summary["cancelled"] == 1


def test_two_services_do_not_write_one_log(tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(toy(), quick(), tmp_path / "log"):
            with pytest.raises(LogError, match="another process writes it"):
                await LiveService(toy(), quick(), None, log=tmp_path / "log").start()  # type: ignore[arg-type]

    run(scene())


def test_drawn_answers_end_by_themselves() -> None:
    async def scene() -> None:
        async with serving(toy(), Paced(ConstantLatency(20_000), 12.0, seed=3)) as service:
            found = [tokens for _, tokens in await asyncio.gather(*(ask(service, 4, 40) for _ in range(200)))]
            lengths = [len(tokens) for tokens in found]
            assert all((len(t) == 40) == (t[-1].end == "length") for t in found)
            assert {t[-1].end for t in found} == {"stop", "length"}
            assert 9 < sum(lengths) / len(lengths) < 14

    run(scene())


def test_an_answer_that_could_not_follow_its_schema_has_failed() -> None:
    answer = Answer(Request(0, 0, 2), Wanted((1, 2), 5), lambda answer: None)
    answer.replica, answer.epoch = 0, 0
    answer.take(Emitted(0, 0, 0, 7, "{"), 10)
    answer.take(Emitted(0, 0, 1, 9, "", (), "fault"), 20)
    assert answer.outcome == Outcome.FAILED
    assert "schema" in answer.reason
    assert [one.token for one in asyncio.run(answer.more())] == [7]
    assert not asyncio.run(answer.more())
