"""The parts of `bench/papers/wait.py`: its sums against brute force, the published invariants on small runs, its bad input."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from phasewise.core.kv import BlockLedger
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.core.step import ALL, Chunk
from phasewise.core.version import COMPILED
from phasewise.policy.batching.wait import Kind, StepModel, cohort_tokens
from phasewise.sim.simulate import simulate
from phasewise.workload.synth import generate

PAPERS = Path(__file__).parents[2] / "bench" / "papers"
MODEL = "meta-llama/Meta-Llama-3-8B"


@pytest.fixture(scope="module")
def papers() -> Iterator[tuple[ModuleType, ModuleType, ModuleType]]:
    sys.path.insert(0, str(PAPERS))
    try:
        import wait  # type: ignore[import-not-found]
        import wait_arms  # type: ignore[import-not-found]
        import wait_runs  # type: ignore[import-not-found]

        yield wait, wait_arms, wait_runs
    finally:
        sys.path.remove(str(PAPERS))
        for name in ("wait", "wait_arms", "wait_runs"):
            sys.modules.pop(name, None)


@pytest.mark.skipif(COMPILED, reason="a compiled ledger cannot be spied on")
@pytest.mark.parametrize(
    ("batcher", "params"),
    [
        ("vllm-v0", {"max_seqs": 6}),
        ("vllm-v1", {"max_seqs": 5, "token_budget": 64}),
        ("wait", {"threshold": 2, "max_wait_s": 0.05}),
        ("nested-wait", {"boundaries": [8, 20], "thresholds": [3, 2, 1], "max_seqs": 12, "max_wait_s": 0.05}),
    ],
)
def test_the_kv_peak_is_what_the_ledger_held(
    papers: Any, batcher: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With blocks of one token: the most held before anything was given back, and everything is given back in the end."""
    _, _, runs = papers
    seen, release = [0], BlockLedger.release

    def spy(self: BlockLedger, resident: Any) -> None:
        seen.append(self.blocks - self.free)
        release(self, resident)

    monkeypatch.setattr(BlockLedger, "release", spy)
    deployment = Deployment(
        MODEL, (ReplicaSpec("a100"),), PolicySpec(batcher, params), block_tokens=1, prefix_cache=False
    )
    spec = papers[1].fixed("mix", (40, 30), (90, 12))
    log = simulate(deployment, generate(spec, 120, 3, 40.0))
    assert log.summary["completed"] == 120
    assert runs.kv_peak(log.tables, -1) == max(seen) > 0


def test_a_run_that_preempts_has_filled_its_memory(papers: Any) -> None:
    _, arms, runs = papers
    arm = arms.greedy()[0]
    found = runs.run(runs.Job(arm, arms.fixed("long", (64, 400)), 500.0, 60, MODEL, 9_000))
    assert found.restarts > 0
    assert found.kv_peak == found.kv_tokens


def test_memory_is_what_was_asked_for(papers: Any) -> None:
    _, arms, runs = papers
    for tokens in (20_000, 137_000, 400_000):
        job = runs.Job(arms.greedy()[0], arms.fixed("one", (512, 20)), 1.0, 1, MODEL, tokens)
        [replica] = runs.deployed(job).replicas
        assert 0 <= tokens - 16 * replica.blocks < 16


@pytest.mark.parametrize("rate", [18.0, 26.0])
def test_whole_cohorts_stay_within_m_and_nobody_is_preempted(papers: Any, rate: float) -> None:
    """The memory holds M and no more than the blocks' rounding on top; the longest wait is off."""
    bench, arms, runs = papers
    fit = runs.cohort_fit(MODEL, [(512, 20), (512, 50)])
    arm = arms.cohort(bench.MIX, rate, fit.model)
    most = arms.tokens(arm)
    assert most == cohort_tokens([(Kind(512, 20, 1.0), 1), (Kind(512, 50, 1.0), 1)])
    found = runs.run(runs.Job(arm, bench.MIX, rate, 600, MODEL, int(most) + 16 * 72))
    assert (found.restarts, found.forced) == (0, 0)
    assert 0.8 * most < found.kv_peak <= most
    assert found.finished + found.inside == 600
    assert found.inside <= 72 + 600 * 0.1


def test_waiting_costs_what_the_closed_form_says(papers: Any) -> None:
    """At low load a request waits (n - 1) / (2 rate) longer for its prompt, and its tokens come at the pace of arrivals."""
    bench, arms, runs = papers
    rate, n = 2.0, 4
    kinds = {"512/20": {"prompt": 512, "output": 20, "rate": rate, "threshold": n}}
    late = runs.run(runs.Job(runs.Arm("x", "wait", {"types": kinds}), bench.ONE, rate, 3000, MODEL))
    prompt = runs.run(runs.Job(arms.greedy()[0], bench.ONE, rate, 3000, MODEL))
    assert late.ttft_s - prompt.ttft_s == pytest.approx((n - 1) / (2 * rate), rel=0.15)
    # The first token follows the prompt; each of the 19 others needs n arrivals.
    assert late.mean_s - late.ttft_s == pytest.approx(19 * n / rate, rel=0.05)


def test_a_fit_finds_the_line_and_says_how_far_it_carries(papers: Any) -> None:
    _, _, runs = papers
    kv = np.linspace(1e3, 1e5, 40)
    times = 0.01 + 2e-7 * kv
    inside = kv <= 5e4
    fit = runs.fitted(kv, np.where(inside, times, 2 * times), inside)
    assert (fit.base_s, fit.per_token_s) == (pytest.approx(0.01), pytest.approx(2e-7))
    assert (fit.r2, fit.error, fit.beyond) == (pytest.approx(1), pytest.approx(0, abs=1e-9), pytest.approx(0.5))


def test_thresholds_beyond_the_fluid_region_are_said_to_be(papers: Any) -> None:
    bench, arms, _ = papers
    # One request of each type a second brings 38,349 tokens: at 1 us each the region ends at 52 requests/s.
    model = StepModel(0.01, 1e-6)
    assert arms.cohort(bench.MIX, 50.0, model).setting.startswith("n = 7")
    assert "beyond" in arms.cohort(bench.MIX, 53.0, model).setting


def test_wrapped_step_times(papers: Any) -> None:
    _, _, runs = papers

    class Line:
        def pieces(self, chunks: Any, decodes: int, context: int, steps: int) -> tuple[tuple[float, float, int], ...]:
            return ((100.0 * decodes + sum(c.tokens for c in chunks), float(decodes), steps),)

    chunk = (Chunk(0, 0, 512, 512, ALL),)
    assert runs.DecodeOnly(Line()).pieces(chunk, 0, 0, 1) == ((1.0, 0.0, 1),)
    assert runs.DecodeOnly(Line()).pieces(chunk, 3, 9, 2) == Line().pieces((), 3, 9, 2)
    assert runs.SlowBeyond(Line()).pieces(chunk, 127, 9, 2) == Line().pieces(chunk, 127, 9, 2)
    assert runs.SlowBeyond(Line()).pieces((), 129, 9, 2) == ((pytest.approx(1.386 * 12_900), 1.386 * 129, 2),)


def test_the_best_of_a_grid_is_one_that_has_finished(papers: Any) -> None:
    _, _, runs = papers
    arm = runs.Arm("x", "wait", {})
    slow, stuck = (runs.Result(s, s, s, 1.0, 0, 1, 2, n, 100 - n, 0, arm) for s, n in ((9.0, 95), (1.0, 20)))
    assert runs.best([stuck, slow]) is slow
    assert runs.best([stuck]) is stuck
    assert runs.averaged([slow, runs.Result(1.0, 1, 1, 1.0, 2, 5, 2, 97, 3, 0, arm)]) == runs.Result(
        5.0, 5.0, 5.0, 1.0, 1, 5, 2, 96, 4, 0, arm
    )


def test_the_mix_is_as_published(papers: Any) -> None:
    _, arms, _ = papers
    spec = arms.lmsys_like()
    for lengths, mean, median in ((spec.prompt, 58.6, 21), (spec.output, 147.3, 116)):
        assert lengths.median * math.exp(lengths.sigma**2 / 2) == pytest.approx(mean)
        assert lengths.median == median
    work = generate(spec, 20_000, 0)
    for arm in arms.nested(spec):
        for boundary, share in zip(arm.params["boundaries"], arm.params["survival"][1:], strict=True):
            assert (work.truth.column() > boundary).mean() == pytest.approx(share, abs=0.02)


def test_the_command(papers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bench, _, _ = papers
    bench.main(["fit", "decode", "--jobs", "1", "--seeds", "1", "--requests-scale", "0.002", "--markdown"])
    out = capsys.readouterr().out
    assert "| published, Llama-2-7B |" in out
    assert "Decode only 630/20" in out
    with pytest.raises(SystemExit) as caught:
        bench.main(["grwoth"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "unknown part 'grwoth'; did you mean 'growth'?\n"
