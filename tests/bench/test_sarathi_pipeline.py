"""The bench that holds Sarathi-Serve's pipelines beside ours: small runs of its parts, orderings that must hold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "papers"))
import sarathi_pipeline as script
import sarathi_pipeline_runs as runs

from phasewise.planner.workers import Workers


@pytest.fixture(scope="module")
def bench():
    with Workers(1) as workers:
        yield runs.Bench(workers, 400)


def test_arms_are_the_paper_s():
    pipes = runs.arm(runs.FALCON, "sarathi", "chat", token_budget=512)
    (replica,) = pipes.replicas
    assert (replica.tp, replica.pp, replica.max_context) == (4, 2, 8192)
    assert pipes.batcher(0).params["max_seqs"] == 64
    assert replica.device.network_gb_s * replica.tp == runs.ETHERNET_GB_S
    (across,) = runs.arm(runs.FALCON_TP8, "vllm-v0", "arxiv").replicas
    assert (across.tp, across.pp, across.device.link_gb_s) == (8, 1, runs.ETHERNET_GB_S)
    assert runs.sarathi(runs.LLAMA, "relaxed") == {"token_budget": 1536}
    assert runs.sarathi(runs.FALCON, "relaxed") == {"token_budget": 2048}
    assert [runs.arm(runs.LLAMA._replace(seats=128), "orca", "chat").batcher(0).params["max_seqs"]] == [128]


def test_a_pass_is_its_stages_and_the_network_costs_tensor_parallelism_most():
    pipes, across, node = (runs.step(s, 32, 4096) for s in (runs.FALCON, runs.FALCON_TP8, runs.FALCON_NODE))
    assert pipes.stage_s < pipes.whole_s < 2.1 * pipes.stage_s
    assert across.whole_s == across.stage_s > node.whole_s
    slow, fast = (runs.step(s, prompt=4096).whole_s for s in (runs.FALCON_TP8, runs.FALCON))
    assert slow > fast


def test_sarathi_holds_the_strict_limit_at_higher_rates_than_the_others(bench):
    found = runs.llama(bench, "chat", "strict")
    assert list(found.rates) == ["orca", "vllm-v0", "sarathi"]
    assert min(script.over(found.rates)) > 2
    assert found.limit_s == 1
    assert found.own_limit_s == pytest.approx(5 * runs.step(runs.LLAMA, 32, 4096).whole_s)


def test_stages_stand_idle_less_with_chunks(bench):
    found = {run.name: run for run in runs.bubbles(bench, runs.LLAMA, "chat")}
    idle = {name: sum(run.shares[kind] for kind in ("pb1", "pb2", "pb3")) for name, run in found.items()}
    assert idle["sarathi, 512"] < idle["sarathi, 2,048"] < idle["orca"] < 1
    assert len({run.rate for run in found.values()}) == 1


def test_ratios_are_of_the_last_arm():
    assert script.over({"a": 2.0, "b": None, "c": 5.0}) == [2.5, None]
    assert script.said([2.5, None]) == "2.50 / ?"
