"""Sarathi-Serve's ablations (its Table 4) and the shrinking chunks of its published code."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from decoded import requests, steps
from hands import Hand
from phasewise.control.resolve import resolve
from phasewise.core.action import Outcome
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, Resolved
from phasewise.policy.batching.sarathi import Sarathi
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from phasewise.workload.arrivals import Poisson
from phasewise.workload.lengths import LogNormal
from phasewise.workload.synth import Synthetic, generate
from worlds import ToyLatency, random_gone, random_rows, toy_resolved, workload


@st.composite
def runs(draw: st.DrawFn, **fixed: Any) -> tuple[RunLog, int]:
    """A small run under memory pressure, with people hanging up; and its token budget."""
    rows = draw(random_rows(most=10, prompt=60, output=25))
    gone = draw(st.one_of(st.just({}), random_gone(rows)))
    seats = draw(st.integers(1, 6))
    budget = seats + draw(st.integers(0, 30))
    size = draw(st.sampled_from([1, 4, 16]))
    params = {"max_seqs": seats, "token_budget": budget, "watermark": 0.0, **fixed}
    resolved = toy_resolved("sarathi", params, blocks=draw(st.integers(100, 160)) // size, block_tokens=size)
    return simulate(resolved, workload(rows, gone), physics=lambda i: ToyLatency()), budget


@given(runs(chunked=False))
@settings(max_examples=50, deadline=None)
def test_hybrid_only_never_splits_a_prompt(found: tuple[RunLog, int]) -> None:
    run, budget = found
    for step in steps(run):
        assert all(chunk.start == 0 and chunk.joins is not None for chunk in step.chunks)
        # The last prompt may overrun the budget; what was admitted before it left some.
        assert not step.chunks or step.tokens - step.chunks[-1].tokens < budget


@given(runs(hybrid=False))
@settings(max_examples=50, deadline=None)
def test_chunked_only_never_mixes_and_takes_turns(found: tuple[RunLog, int]) -> None:
    run, budget = found
    told = requests(run)
    stays = {r for r, t in told.items() if t.outcome is Outcome.FINISHED}
    before = None
    for step in steps(run):
        assert not (step.chunks and step.decodes), "a chunk beside decodes"
        assert not step.chunks or step.tokens <= budget
        if before is not None and before.chunks and step.chunks:
            decoding = {r for r in stays if told[r].token_ns[0] <= step.start_ns < told[r].token_ns[-1]}
            ahead = {chunk.request for chunk in step.chunks}
            assert all(told[r].preemptions for r in decoding - ahead), "decodes missed their turn"
        before = step


def ablation(params: dict[str, Any]) -> Resolved:
    """Yi-34B on two A100s, with the 8,192 tokens that the paper serves."""
    group = ReplicaSpec("a100", 1, 2)
    found = resolve(Deployment("01-ai/Yi-34B", (group,), PolicySpec("sarathi", {"token_budget": 1024, **params})))
    replicas = tuple(msgspec.structs.replace(replica, max_context=8192) for replica in found.replicas)
    return msgspec.structs.replace(found, replicas=replicas)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rate", [0.6, 0.8, 1.0])
def test_the_ablations_stand_in_the_published_order(rate: float, seed: int) -> None:
    """Table 4, chat: P50 TTFT and P99 TBT of 0.53 / 0.68 s (hybrid only), 1.04 / 0.17 (chunked only), 0.76 / 0.14 (both).

    The rate is not published. From 0.5 to 1.0 requests/s the order holds for these seeds; at 0.4 and below too
    few tokens wait for a whole prompt to show in the P99. At 0.8 we find about 0.45 / 0.51, 0.59 / 0.22 and 0.52 / 0.19.
    """
    prompt = LogNormal(0.93, median=1730, max=7000)
    output = LogNormal(0.545, median=415, max=1100)
    load = generate(Synthetic("chat", Poisson(rate), prompt, output), 300, seed)
    ttft, tbt = {}, {}
    for arm, params in {"both": {}, "chunked": {"hybrid": False}, "hybrid": {"chunked": False}}.items():
        found = simulate(ablation(params), load, seed).summary
        ttft[arm], tbt[arm] = found["ttft_s"]["p50"], found["tbt_s"]["p99"]
    assert tbt["both"] < tbt["chunked"] < tbt["hybrid"]
    assert ttft["hybrid"] < ttft["both"] < ttft["chunked"]


def chunks_of(run: RunLog, request: int = 0) -> list[int]:
    return [chunk.tokens for step in steps(run) for chunk in step.chunks if chunk.request == request]


@pytest.mark.parametrize(("budget", "low", "stages"), [(512, 128, 4), (1024, 96, 5), (200, 64, 3), (512, 128, 1)])
def test_a_lone_prompt_is_cut_as_the_schedule_has_it(budget: int, low: int, stages: int) -> None:
    """linspace(low, high, stages) reversed, to multiples of 32: the stage by the share of the span that is computed."""
    span, prompt = 4096, 5000
    params = {"token_budget": budget, "chunk_low": low, "chunk_stages": stages, "chunk_span": span}
    run = simulate(
        toy_resolved("sarathi", params, blocks=400), workload([(0, prompt, 3)]), physics=lambda i: ToyLatency()
    )
    sizes = np.linspace(budget, low, stages)
    sizes[1:] = np.round(sizes[1:] / 32) * 32
    wanted, computed = [], 0
    while computed < prompt:
        wanted.append(min(int(sizes[min(stages - 1, computed * stages // span)]), prompt - computed))
        computed += wanted[-1]
    assert chunks_of(run) == wanted
    assert wanted == sorted(wanted, reverse=True)


@given(st.data())
@example(None)
@settings(max_examples=60, deadline=None)
def test_shrinking_chunks_never_exceed_the_budget(data: st.DataObject | None) -> None:
    # 49 tokens are nearer to 64 than to 32, and 64 are above the budget of 50.
    budget, low, stages, hybrid = 50, 48, 3, True
    rows = [(0, 200, 9), (1, 120, 9), (2, 3, 40)]
    if data is not None:
        budget = data.draw(st.integers(1, 120))
        low, stages = data.draw(st.integers(1, budget)), data.draw(st.integers(1, 6))
        hybrid = data.draw(st.booleans())
        rows = data.draw(random_rows(most=8, prompt=150, output=20))
    params = {"token_budget": budget, "chunk_low": low, "chunk_stages": stages, "chunk_span": 150, "hybrid": hybrid}
    run = simulate(
        toy_resolved("sarathi", params, blocks=220, block_tokens=1), workload(rows), physics=lambda i: ToyLatency()
    )
    assert run.summary["completed"] + run.summary["rejected"] == len(rows)
    for step in steps(run):
        assert step.tokens <= budget or not step.chunks


def test_decodes_without_a_block_leave_their_turn_to_the_prompt_before_them() -> None:
    """Shrinking chunks let a short prompt overtake a long one. Alone, it then finds no block: it must not take the turn."""
    policy = Sarathi(
        token_budget=64, watermark=0.0, hybrid=False, chunk_stages=2, chunk_low=32, chunk_span=64, max_seqs=4
    )
    hand = Hand(policy, blocks=203, block_tokens=1, max_context=203)
    hand.submit(0, 200)
    hand.submit(1, 3)
    for _ in range(60):
        run = hand.flying[0]
        assert run.decodes + len(run.plan.chunks) > 0
        if hand.state.cohorts["all"].count == 1 and hand.state.prefilling:
            break
        hand.done(steps=1)
    assert list(hand.state.prefilling) == [0]
    assert hand.ledger.free == 0
    chunks = 0
    while hand.state.prefilling:
        assert hand.flying[0].plan.chunks, "the decode has no block to go on with"
        chunks += 1
        hand.done(steps=1)
    assert chunks > 1
    # Now the long one decodes, and the last to be admitted makes room for it.
    assert hand.flying[0].plan.preempt == (1,)


def test_neither_chunks_nor_hybrid_batches_is_another_policy() -> None:
    with pytest.raises(ValueError, match="vllm-v0"):
        Sarathi(chunked=False, hybrid=False)
    with pytest.raises(ValueError, match="chunk_low"):
        Sarathi(token_budget=64, chunk_stages=2, chunk_low=65)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_one_look_comes_to_what_the_budget_comes_to(data: st.DataObject) -> None:
    """Without the short cut for a lone prompt every event and action is the same, with memory scarce and with plenty."""
    rows = data.draw(random_rows(most=12, prompt=60, output=25))
    gone = data.draw(random_gone(rows))
    params = {
        "token_budget": data.draw(st.integers(2, 40)),
        "max_seqs": data.draw(st.integers(1, 6)),
        "watermark": data.draw(st.sampled_from([0.0, 0.1])),
    }
    cache = data.draw(st.booleans())
    resolved = toy_resolved("sarathi", params, data.draw(st.integers(8, 40)), 8, prefix_cache=cache)
    short = simulate(resolved, workload(rows, gone), physics=lambda i: ToyLatency())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("phasewise.policy.batching.sarathi.lone", lambda *look: None)
        long = simulate(resolved, workload(rows, gone), physics=lambda i: ToyLatency())
    assert list(short.segments()) == list(long.segments())
