"""Orca and vLLM's first scheduler: what they promise, read off the iterations of small simulations, and the stall test."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from decoded import requests, steps
from phasewise.core.action import Outcome
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.core.step import Chunk
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load
from worlds import Row, ToyLatency, random_gone, random_rows, toy_resolved, workload

PAIR: list[Row] = [(0, 16, 400), (0, 16, 500)]
LONG: Row = (500_000, 4096, 10)


def toy(name: str, rows: list[Row], gone: dict[int, int] | None = None, **world: Any) -> RunLog:
    return simulate(toy_resolved(name, **world), workload(rows, gone), physics=lambda i: ToyLatency())


def gaps(run: RunLog, request: int) -> list[float]:
    return [b - a for a, b in itertools.pairwise(requests(run)[request].token_ns)]


@st.composite
def runs(draw: st.DrawFn, name: str) -> tuple[RunLog, int]:
    """A small run under memory pressure, with people hanging up; and its seats."""
    rows = draw(random_rows(most=10, prompt=60, output=25))
    gone = draw(st.one_of(st.just({}), random_gone(rows)))
    seats = draw(st.integers(1, 6))
    params: dict[str, Any] = {"max_seqs": seats}
    if name == "vllm-v0":
        params["token_budget"] = draw(st.none() | st.integers(1, 120))
    size = draw(st.sampled_from([1, 4, 16]))
    blocks = draw(st.integers(100, 160)) // size
    context = draw(st.integers(40, 70)) if name == "orca" else None
    return toy(name, rows, gone, params=params, blocks=blocks, block_tokens=size, max_context=context), seats


@given(runs("orca"))
@settings(max_examples=50, deadline=None)
def test_orca_decodes_everybody_always_and_never_preempts(found: tuple[RunLog, int]) -> None:
    run, seats = found
    told = requests(run)
    decoding: set[int] = set()
    for step in steps(run):
        assert not step.preempt
        assert all(chunk.start == 0 and chunk.joins is not None for chunk in step.chunks), "a prompt in pieces"
        assert len(step.schedule) <= seats
        assert set(step.decodes) <= decoding
        assert {r for r in decoding if told[r].outcome is Outcome.FINISHED} <= set(step.decodes)
        decoding = {r for r in step.schedule if told[r].token_ns[-1] > step.end_ns}


def test_orca_admits_together_or_one_at_a_time() -> None:
    rows = [(0, 5, 6), (0, 7, 6), (0, 9, 6), (0, 3, 6)]
    world: dict[str, Any] = {"blocks": 9, "block_tokens": 8, "max_context": 24}
    together = steps(toy("orca", rows, **world))
    assert [sorted(c.request for c in s.chunks) for s in together if s.chunks] == [[0, 1, 2], [3]]
    assert {chunk.hold for step in together for chunk in step.chunks} == {24}
    single = steps(toy("orca", rows, params={"one_prefill": True}, **world))
    assert [(s.chunks[0].request, len(s.decodes)) for s in single if s.chunks] == [(0, 0), (1, 1), (2, 2), (3, 2)]


def test_orca_gives_the_stalled_their_token_at_the_end_of_the_long_iteration() -> None:
    run = toy("orca", [*PAIR, LONG], params={"max_seqs": 8}, blocks=2000, max_context=8192)
    told = requests(run)
    [prompt] = [step for step in steps(run) if any(chunk.request == 2 for chunk in step.chunks)]
    assert set(prompt.decodes) == {0, 1}
    whole = ToyLatency().pieces((Chunk(2, 0, LONG[1], 8192),), 2, sum(prompt.decodes.values()), 1)[0][0]
    for request in (0, 1):
        long = [gap for gap in gaps(run, request) if gap > whole / 2]
        assert long == [whole]
        assert prompt.end_ns in told[request].token_ns


def test_vllm_v0_stalls_everybody_once_and_for_the_prompt() -> None:
    """Exactly one gap, of the prompt's time and the next decode's; and no token of anybody during the prompt."""
    run = toy("vllm-v0", [*PAIR, LONG], blocks=2000)
    told = requests(run)
    found = steps(run)
    at, prompt = next((i, step) for i, step in enumerate(found) if any(chunk.request == 2 for chunk in step.chunks))
    assert not prompt.decodes
    for request in (0, 1):
        assert not [t for t in told[request].token_ns if prompt.start_ns < t <= prompt.end_ns]
        long = [gap for gap in gaps(run, request) if gap > (prompt.end_ns - prompt.start_ns) / 2]
        assert long == [found[at + 1].end_ns - prompt.start_ns]


@given(runs("vllm-v0"))
@settings(max_examples=60, deadline=None)
def test_vllm_v0_never_mixes_and_keeps_to_its_order(found: tuple[RunLog, int]) -> None:
    run, seats = found
    told = requests(run)
    budget = run.header.resolved.deployment.batcher.params["token_budget"]
    order: list[int] = []
    for step in steps(run):
        assert not (step.chunks and step.decodes), "prompts beside decodes"
        for victim in step.preempt:
            later = order[order.index(victim) + 1 :]
            assert all(told[r].outcome is Outcome.CANCELLED for r in later), "not the last one running"
            del order[order.index(victim) :]
        assert not (step.preempt and step.chunks)
        order += [chunk.request for chunk in step.chunks]
        alive = [r for r in order if told[r].outcome is not Outcome.CANCELLED]
        assert alive == sorted(alive), "somebody was passed over"
        assert all(chunk.start == 0 and chunk.joins is not None for chunk in step.chunks)
        assert budget is None or len(step.chunks) < 2 or step.tokens <= budget
        order = [r for r in order if told[r].outcome is Outcome.CANCELLED or told[r].token_ns[-1] > step.end_ns]
        assert len([r for r in order if told[r].outcome is not Outcome.CANCELLED]) <= seats


def test_the_batchers_of_the_picture_stand_in_its_order() -> None:
    """One load above what Orca carries (Sarathi-Serve, section 3): static has the best P99 TBT and the least throughput."""
    tbt, tokens = {}, {}
    for name in ("static", "orca", "vllm-v0", "sarathi"):
        params = {"max_seqs": 32} if name == "static" else {}
        deployment = Deployment(
            "meta-llama/Llama-3.1-8B", (ReplicaSpec("a100"),), PolicySpec(name, params), max_context=8192
        )
        found = simulate(deployment, load("azure-conv", rate=12, requests=300, seed=3), 3).summary
        tbt[name], tokens[name] = found["tbt_s"]["p99"], found["throughput_tokens_per_s"]
    assert max(tbt["static"], tbt["sarathi"]) < 0.5 * min(tbt["orca"], tbt["vllm-v0"])
    assert tokens["static"] < tokens["orca"]
    assert tokens["orca"] < tokens["vllm-v0"]
