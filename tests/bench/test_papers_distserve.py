"""The bench that holds DistServe's published claims beside ours: its deployments and lengths, small runs of its parts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "papers"))
import distserve as script
import distserve_arms as arms
import distserve_runs as runs

from phasewise.core.step import ALL, Chunk
from phasewise.perf.hardware import device
from phasewise.perf.memory import kv_blocks
from phasewise.perf.models import model
from phasewise.planner.capacity import capacity
from phasewise.sim.simulate import Roofs

SMALL, _, LARGE, *_ = arms.APPLICATIONS


@pytest.mark.parametrize(
    ("data", "prompt", "answer"), [("chat", 755.5, 200.3), ("code", 171.3, 98.2), ("summaries", 1738.3, 90.7)]
)
def test_lengths_have_the_means_of_the_paper_after_the_cut(data: str, prompt: float, answer: float) -> None:
    found = runs.mean_lengths(data)
    assert found[0] == pytest.approx(prompt, rel=0.03)
    assert found[1] == pytest.approx(answer, rel=0.04)


@pytest.mark.parametrize("data", dict.fromkeys(app.data for app in arms.APPLICATIONS))
def test_everybody_fits_the_context_and_comes_at_the_rate_asked_for(data: str) -> None:
    drawn = arms.workload(data, 2_000)
    assert (drawn.prompt_tokens + drawn.truth.column() < arms.CONTEXT).all()
    assert drawn.mean_rate == pytest.approx(1.0)


def test_placements_are_those_of_the_artifact() -> None:
    small, large = arms.placed(SMALL), arms.placed(LARGE)
    assert [(r.role, r.tp, r.pp) for r in small.replicas] == [("prefill", 2, 1), ("decode", 1, 1)]
    assert [(r.role, r.tp, r.pp) for r in large.replicas] == [("prefill", 4, 1), ("decode", 2, 2)]
    assert [arms.devices(d) for d in (small, large, arms.placed_175b())] == [3, 8, 21]


def test_the_memory_is_within_a_few_per_cent_of_the_published() -> None:
    for (name, tp, pp), told in script.TOKENS.items():
        ours = arms.BLOCK * kv_blocks(model(name), device(arms.DEVICE), tp, arms.MEMORY, arms.BLOCK, pp=pp)
        assert ours == pytest.approx(told, rel=0.04)


def test_both_rules_share_their_runs_and_change_no_capacity() -> None:
    deployment = arms.colocated(SMALL, arms.VLLM)
    found = runs.capacities(deployment, "chat", 300)
    work = arms.workload("chat", 300)
    alone = [capacity(deployment, work, rule, jobs=1).rate for rule in runs.rules(SMALL.slo)]
    assert [found.joint, found.apart] == alone
    assert found.joint <= found.apart


def test_the_example_of_the_published_simulator() -> None:
    """1.56 a device, on a grid of 0.16: the same bound on the decodes' context, and no other memory."""
    deployment = arms.roomy(arms.pair(2, 1, decode_tokens=50_000))
    rate = script.EXAMPLE * arms.devices(deployment)
    assert runs.kept(deployment, "chat", 2_000, 0, 0.92 * rate)[1]
    assert not runs.kept(deployment, "chat", 2_000, 0, 1.08 * rate)[1]


@pytest.mark.parametrize(
    ("name", "deployment", "rates"),
    [
        ("vLLM, TP 1", arms.colocated(arms.SIMULATED, arms.VLLM, 1), (1, 2, 3)),
        ("vLLM, TP 2", arms.colocated(arms.SIMULATED, arms.VLLM, 2), (1, 2, 3)),
        ("DistServe, TP 1 + TP 1", arms.pair(1, 1), (1, 2)),
        ("DistServe, TP 2 + TP 1", arms.pair(2, 1), (1, 2)),
    ],
)
def test_attainment_is_that_of_the_published_simulator_on_its_step_times(name, deployment, rates) -> None:
    """Up to where the queue grows: beyond, in that simulator, decodes ride along with prompts at no cost."""
    found = runs.attainments(arms.roomy(arms.earlier(deployment)), rates, seeds=2)
    told = script.STORED[name][: len(rates)]
    assert [100 * share for share in found] == pytest.approx(told, abs=6)


def prefill_ms(roof, tokens: int) -> float:
    return roof.pieces((Chunk(0, 0, tokens, tokens, ALL),), 0, 0, 1)[0][0] / 1e6


def decode_ms(roof, sequences: int, context: int) -> float:
    return roof.pieces((), sequences, context, 1)[0][0] / 1e6


def test_step_times_of_that_version_are_as_written() -> None:
    prompts, answers = map(Roofs(arms.earlier(arms.pair(2, 1))), range(2))
    (step, token, square), _ = arms.EARLIER[2]
    assert prefill_ms(prompts, 1_000) == pytest.approx(step + 1e3 * token + 1e6 * square)
    _, (base, sequence, context) = arms.EARLIER[1]
    assert decode_ms(answers, 10, 990) == pytest.approx(base + 10 * sequence + 1_000 * context)
    plain, longer = Roofs(arms.pair(2, 1)), Roofs(arms.slower(arms.pair(2, 1), 7.0))
    assert prefill_ms(longer(0), 500) - prefill_ms(plain(0), 500) == pytest.approx(7)
    assert decode_ms(longer(1), 9, 99) - decode_ms(plain(1), 9, 99) == pytest.approx(7)


def test_a_thin_link_hurts() -> None:
    """OPT-66B at 1.6 requests/s: with NVLink well within, at 25 Gbit/s beyond what the link itself carries."""
    within = [runs.kept(arms.placed(LARGE, link), "chat", 1_500, 0, 1.6) for link in (arms.NVLINK, arms.ETHERNET)]
    assert within == [(True, True), (False, False)]


def test_transfers_over_nvlink_are_short_and_a_small_part_of_the_whole() -> None:
    found = runs.moved(arms.placed(LARGE), "chat", 500, 2.0)
    assert found.within > 0.95
    assert found.share < 0.001
    assert found.share < found.waiting < 0.02
    wide, thin = found, runs.moved(arms.placed(LARGE, arms.ETHERNET), "chat", 500, 0.5)
    assert thin.p95_s > 50 * wide.p95_s


def test_slower_steps_serve_less() -> None:
    vllm = arms.colocated(SMALL, arms.VLLM)
    rates = [runs.capacities(arms.slower(vllm, ms), "chat", 500).joint for ms in (0, 20)]
    assert rates[1] < 0.6 * rates[0]


def test_tighter_objectives_turn_the_order() -> None:
    """At 1.3 requests/s a device both keep the paper's objectives; at four fifths of them, only the fleet does."""
    for scale, vllm in ((1.0, True), (0.8, False)):
        app = SMALL.scaled(scale)
        kept = [
            runs.kept(arm, "chat", 2_000, 0, 1.3 * arms.devices(arm))[0]
            for arm in (arms.placed(app), arms.colocated(app, arms.VLLM))
        ]
        assert kept == [True, vllm]


def test_the_script_prints_markdown(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["distserve.py", "--memory", "--jobs", "1"])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("| facebook/opt-66b  | 2 ") for line in lines)
