"""A part of a run against brute force over its tokens, and the growth of a backlog against what it is defined by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoded import requests
from phasewise.core.action import Outcome
from phasewise.core.spec import Slo
from phasewise.record.metrics import Scored, joint_attainment, token_deadlines
from phasewise.record.runlog import RunLog
from phasewise.record.window import backlog_growth, middle, part
from phasewise.sim.simulate import simulate
from worlds import ToyLatency, random_gone, random_rows, toy_resolved, workload

SLO = Slo(ttft_s=60e-6, tpot_s=7e-6)


@st.composite
def worlds(draw: st.DrawFn) -> RunLog:
    """Few blocks and seats, so that requests are preempted; clients that leave; one or two replicas."""
    name = draw(st.sampled_from(["sarathi", "vllm-v1", "static"]))
    rows = draw(random_rows(most=14, prompt=60, output=30, gap_ns=draw(st.sampled_from([5_000, 40_000, 200_000]))))
    gone = draw(st.one_of(st.just({}), random_gone(rows)))
    params: dict[str, Any] = {"max_seqs": (seats := draw(st.integers(1, 6)))}
    if name != "static":
        params["token_budget"] = seats + draw(st.integers(0, 40))
    size = draw(st.sampled_from([1, 16]))
    replicas = draw(st.integers(1, 2))
    resolved = toy_resolved(name, params, draw(st.integers(60, 130)) // size, size, replicas=replicas, slo=SLO)
    return simulate(resolved, workload(rows, gone), physics=lambda i: ToyLatency())


@given(worlds(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_any_part_scores_as_its_tokens_say(run: RunLog, random: Any) -> None:
    chosen = np.array([random.random() < 0.5 for _ in run.tables.requests], bool)
    told = requests(run)
    mine = [told[int(request)] for request in run.tables.requests["request"][chosen]]
    done = [r for r in mine if r.outcome is Outcome.FINISHED]
    scored = Scored(part(run.tables, chosen))
    gaps = sorted(b - a for r in mine for a, b in zip(r.token_ns, r.token_ns[1:], strict=False))
    assert scored.gaps_ns.total == len(gaps)
    for share in (0.01, 0.3, 0.5, 0.9, 0.99, 1.0) if gaps else ():
        want = gaps[max(0, int(np.ceil(share * len(gaps) - 1e-9)) - 1)]
        assert scored.gaps_ns.quantiles([share])[0] == pytest.approx(want, abs=3)
    if gaps:
        assert scored.gaps_ns.mean == pytest.approx(np.mean(gaps), rel=1e-6)
    np.testing.assert_allclose(scored.ttft_s, [(r.token_ns[0] - r.arrival_ns) / 1e9 for r in done], atol=3e-9)
    np.testing.assert_allclose(scored.e2e_s, [(r.token_ns[-1] - r.arrival_ns) / 1e9 for r in done], atol=3e-9)
    counted = sum(r.outcome is not Outcome.CANCELLED for r in mine)
    if counted:
        ttft, tpot = 1e9 * (SLO.ttft_s or 0), 1e9 * (SLO.tpot_s or 0)
        prompt_ones = [r for r in done if r.token_ns[0] - r.arrival_ns <= ttft]
        assert joint_attainment(scored, SLO)["ttft"] == pytest.approx(len(prompt_ones) / counted)
        in_time = [all(t - r.arrival_ns <= ttft + i * tpot for i, t in enumerate(r.token_ns)) for r in done]
        assert token_deadlines(scored, SLO)["attained"] == pytest.approx(sum(in_time) / counted)


@given(worlds())
@settings(max_examples=60, deadline=None)
def test_all_residents_by_their_stays_are_those_of_the_steps(run: RunLog) -> None:
    """The gaps of everyone weigh as many as decoded in each iteration after their first token: nobody is missed."""
    gaps = Scored(run.tables).gaps_ns
    decoded = sum(int((s["decodes"] * s["steps"]).sum()) for s in run.tables.steps)
    resumed = gaps.total - decoded
    stays = sum(int((s["tokens"] > 0).sum()) for s in run.tables.spans)
    who = {int(r) for s in run.tables.spans for r in s["request"][s["tokens"] > 0]}
    assert resumed == stays - len(who)


@pytest.mark.parametrize(("n", "kept"), [(1, 1), (2, 2), (9, 9), (10, 8), (11, 9), (2000, 1600)])
def test_the_middle_is_by_number_of_arrival(n: int, kept: int) -> None:
    run = simulate(toy_resolved(), workload([(i * 100_000, 5, 2) for i in range(n)]), physics=lambda i: ToyLatency())
    chosen = middle(run.tables)
    assert chosen.sum() == kept
    cut = (n - kept) // 2
    assert np.flatnonzero(chosen).tolist() == list(range(cut, n - cut))


def served(gap_ns: int, n: int = 2000, service_ns: int = 10_000) -> RunLog:
    """One request every gap, each alone in a step of so long."""
    latency = ToyLatency(base=service_ns, per_token=0, per_context=0, per_pair=0)
    resolved = toy_resolved("vllm-v1", {"token_budget": 8, "max_seqs": 1})
    return simulate(resolved, workload([(i * gap_ns, 8, 1) for i in range(n)]), physics=lambda i: latency)


@pytest.mark.parametrize("over", [1.02, 1.06, 1.5])
def test_growth_is_the_share_of_arrivals_that_pile_up(over: float) -> None:
    """With arrivals like clockwork at `over` times the service rate, 1 - 1/over of the 1,600 scored stay behind."""
    growth = backlog_growth(served(int(10_000 / over)).tables)
    assert growth == pytest.approx((1 - 1 / over) * 1600 / (2 * 1600**0.5), rel=0.03)
    assert (growth > 1) == (over > 1.05)


def test_nothing_grows_below_saturation() -> None:
    assert abs(backlog_growth(served(10_200).tables)) < 0.01
    assert backlog_growth(served(10_000, n=2).tables) == 0


def test_rejected_requests_are_never_inside() -> None:
    rows = [(i * 20_000, 8 if i % 2 else 5000, 1) for i in range(400)]
    run = simulate(toy_resolved(), workload(rows), physics=lambda i: ToyLatency(base=10_000))
    assert run.summary["rejected"] == 200
    assert abs(backlog_growth(run.tables)) < 0.05
