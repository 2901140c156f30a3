"""The leap law: `repeat` is an optimisation, `closed` another. Taken away, in part or whole, the run is the same.

Four arms run the same world: as planned; single (every `repeat` 1); choppy (leaps cut at random, so that many are interrupted
or run out and are replanned identically); eager (no plan is closed, so that every arrival interrupts). Step by step they show
the same chunks, cohorts and preemptions, at the same instants, and the same messages between rooms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasewise.core.action import Run
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load
from phasewise.workload.workload import ClosedLoop
from twists import TWISTS, assert_same, catalogued
from worlds import ARMS, ConstantLatency, ToyLatency, mixed, random_gone, random_rows, toy_resolved, workload

BATCHERS = {name for name, _ in ARMS.values()}


@pytest.fixture(autouse=True, scope="module")
def twisted_batchers() -> Iterator[None]:
    with catalogued(BATCHERS):
        yield


PARAMS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "static": st.fixed_dictionaries({"max_seqs": st.integers(1, 4)}),
    "vllm-v1": st.fixed_dictionaries({"max_seqs": st.integers(1, 6), "token_budget": st.integers(6, 40)}),
    "sarathi": st.fixed_dictionaries(
        {"max_seqs": st.integers(1, 6), "token_budget": st.integers(2, 40), "watermark": st.sampled_from([0.0, 0.1])}
    ),
}


def world(data: st.DataObject, arm: str, *, ties: bool) -> tuple[Callable[[str], Any], Any]:
    """A deployment by batcher name, with little enough memory for preemption, and a workload with some clients leaving."""
    batcher, params = ARMS[arm]
    if arm in PARAMS:
        params = data.draw(PARAMS[arm])
    blocks = data.draw(st.integers(6, 14))
    block_tokens = data.draw(st.sampled_from([4, 16]))
    replicas = data.draw(st.integers(1, 2))
    wire_s = data.draw(st.sampled_from([0.0, 2e-6, 7e-6])) if ties else 0.0
    context = data.draw(st.integers(20, 40)) if batcher in ("static", "orca") else None
    rows = data.draw(random_rows(most=14, prompt=30, output=30, gap_ns=40_000, ties=ties))
    gone = data.draw(random_gone(rows))
    if ties:
        tick = 1_000
        rows = [(at // tick * tick, p, o) for at, p, o in rows]
        gone = {i: max(rows[i][0], at // tick * tick) for i, at in gone.items()}

    def deployment(name: str) -> Any:
        return toy_resolved(name, params, blocks, block_tokens, context, replicas, wire_s)

    return deployment, mixed(rows, gone)


@pytest.mark.parametrize("arm", ARMS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 3)
def test_ties_in_whole_nanoseconds_are_exact(arm: str, data: st.DataObject) -> None:
    deployment, load = world(data, arm, ties=True)
    batcher, _ = ARMS[arm]
    latency = data.draw(
        st.sampled_from(
            [
                ConstantLatency(1_000),
                ToyLatency(base=2_000, per_token=1_000, per_context=0, per_pair=0),
                ToyLatency(base=1_000, per_token=0, per_context=1_000, per_pair=0),
                ToyLatency(base=1_000, per_token=0, per_context=1_000, per_pair=0, split=3),
            ]
        )
    )
    leapt = simulate(deployment(batcher), load, physics=lambda i: latency)
    for twist in TWISTS:
        other = simulate(deployment(f"{twist}/{batcher}"), load, physics=lambda i: latency)
        assert_same(leapt, other, within_ns=0)


@pytest.mark.parametrize("arm", ARMS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 4)
def test_arrivals_that_follow_from_ends_are_exact(arm: str, data: st.DataObject) -> None:
    """A closed loop: one nanosecond's difference would move every arrival after it."""
    deployment, load = world(data, arm, ties=True)
    batcher, _ = ARMS[arm]
    think = data.draw(st.lists(st.sampled_from([0, 1_000, 7_000, 40_000]), min_size=len(load), max_size=len(load)))
    closed = ClosedLoop(data.draw(st.integers(1, 5)), np.array(think))
    load = replace(load, arrival_ns=np.zeros(len(load), np.int64), gone_ns={}, closed=closed)
    latency = ToyLatency(base=2_000, per_token=1_000, per_context=0, per_pair=0)
    leapt = simulate(deployment(batcher), load, physics=lambda i: latency)
    for twist in TWISTS:
        other = simulate(deployment(f"{twist}/{batcher}"), load, physics=lambda i: latency)
        assert_same(leapt, other, within_ns=0)


@pytest.mark.parametrize("arm", ARMS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 4)
def test_fractions_agree_within_a_microsecond(arm: str, data: st.DataObject) -> None:
    deployment, load = world(data, arm, ties=False)
    batcher, _ = ARMS[arm]
    latency = ToyLatency(whole=False)
    leapt = simulate(deployment(batcher), load, physics=lambda i: latency)
    for twist in TWISTS:
        other = simulate(deployment(f"{twist}/{batcher}"), load, physics=lambda i: latency)
        assert_same(leapt, other, within_ns=1_000)


@pytest.mark.parametrize("name", ["gemma-3-1b-it", "DeepSeek-V2-Lite"])
def test_attention_that_bends_leaps_as_well(name: str) -> None:
    """Windows and latent prompts under the roofline: a leap's pieces against single steps, with arrivals inside."""

    def run(batcher: str) -> RunLog:
        replicas = (ReplicaSpec("a100", memory_utilisation=0.6),)
        return simulate(
            Deployment(name, replicas, PolicySpec(batcher)), load("azure-conv", rate=3, requests=60, seed=1)
        )

    leapt = run("sarathi")
    for twist in ("single", "eager"):
        assert_same(leapt, run(f"{twist}/sarathi"), within_ns=1_000)


def test_the_arms_do_differ_and_the_worlds_do_preempt() -> None:
    """Were no leap ever taken, interrupted or preempted, the law would hold of nothing."""
    rows = [(i * 9_000, 20, 30) for i in range(12)]
    counts = {}
    for name in ("sarathi", *(f"{twist}/sarathi" for twist in TWISTS)):
        resolved = toy_resolved(name, {"max_seqs": 6, "token_budget": 40}, blocks=10, block_tokens=8)
        log = simulate(resolved, workload(rows), physics=lambda i: ToyLatency())
        runs = [a for _, _, actions in log.records(1) for a in actions if type(a) is Run]
        counts[name] = len(runs)
        assert log.summary["preemptions"] > 3
        assert log.summary["completed"] == 12
    assert counts["single/sarathi"] > counts["choppy/sarathi"] > counts["sarathi"]
    assert counts["eager/sarathi"] >= counts["sarathi"]
