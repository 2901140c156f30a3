"""Objectives: read as written, judged as defined."""

from __future__ import annotations

import numpy as np
import pytest

from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, Slo
from phasewise.planner.objective import (
    Attainment,
    Objective,
    Percentiles,
    Target,
    TokenDeadlines,
    check,
    judge,
    parse_target,
    percentiles,
    words,
    worst,
)
from phasewise.record.metrics import Scored
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("tbt=0.1@p99", Target("tbt", 0.1, 99.0)),
        (" delay = 2 @p50", Target("delay", 2.0, 50.0)),
        ("slowdown=5@p99.9", Target("slowdown", 5.0, 99.9)),
        ("e2e=1e-3@p100", Target("e2e", 0.001, 100.0)),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tbt", "not an objective; write METRIC=SECONDS@pNN, such as tbt=0.1@p99"),
        ("tbt=0.1", "not an objective"),
        ("tbt=0.1@99", "not an objective"),
        ("tbt=fast@p99", "not an objective"),
        ("tbt=0.1@p9.9.9", "not an objective"),
        ("tbd=0.1@p99", "unknown metric 'tbd'; did you mean 'tbt'?"),
        ("tbt=0@p99", "limit 0; give seconds above 0"),
        ("tbt=nan@p99", "limit nan; give seconds"),
        ("slowdown=-1@p99", "limit -1; give a factor above 0"),
        ("tbt=0.1@p101", "percentile 101; give one above 0, up to 100"),
        ("tbt=0.1@p0", "percentile 0"),
    ],
)
def test_bad_targets(text: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        percentiles([text])
    assert str(caught.value).startswith(f"--slo {text}: {complaint}")


def test_splitwise_names_its_nine_slowdowns() -> None:
    nine = percentiles(["splitwise"])
    limits = {target.name: target.limit for target in nine.targets}
    assert limits == {
        "slowdown_ttft@p50": 2.0, "slowdown_ttft@p90": 3.0, "slowdown_ttft@p99": 6.0,
        "slowdown_tbt@p50": 1.25, "slowdown_tbt@p90": 1.5, "slowdown_tbt@p99": 5.0,
        "slowdown@p50": 1.25, "slowdown@p90": 1.5, "slowdown@p99": 5.0,
    }  # fmt: skip
    assert percentiles([f"{name.replace('@', f'={limit}@')}" for name, limit in limits.items()]) == nine
    assert len(percentiles(["splitwise", "tbt=0.1@p99"]).targets) == 10
    with pytest.raises(InputError, match="slowdown@p50 is limited twice"):
        percentiles(["slowdown=3@p50", "splitwise"])


@pytest.mark.parametrize(
    ("objective", "scores", "found"),
    [
        (percentiles(["tbt=0.1@p99", "delay=2@p50"]), {"tbt@p99": 0.05, "delay@p50": 0.2}, ("tbt@p99", 0.5)),
        (percentiles(["tbt=0.1@p99", "delay=2@p50"]), {"tbt@p99": 0.05, "delay@p50": 6.0}, ("delay@p50", 3.0)),
        (percentiles(["tbt=0.1@p99"]), {}, ("tbt@p99", np.inf)),
        (Attainment(0.9), {"attainment": 0.6, "attainment_ttft": 0.1}, ("attainment", 1.5)),
        (TokenDeadlines(0.9), {"token_deadlines": 0.0}, ("token_deadlines", np.inf)),
    ],
)
def test_the_worst_score_is_the_one_nearest_to_or_furthest_beyond_its_limit(
    objective: Objective, scores: dict[str, float], found: tuple[str, float]
) -> None:
    name, ratio = worst(objective, scores)
    assert (name, ratio) == (found[0], pytest.approx(found[1]))


def test_one_limit_for_one_percentile() -> None:
    percentiles(["tbt=0.1@p99", "tbt=0.05@p50"])
    with pytest.raises(InputError, match="tbt@p99 is limited twice"):
        percentiles(["tbt=0.1@p99", "tbt=0.2@p99"])


@pytest.mark.parametrize(
    ("objective", "slo", "complaint"),
    [
        (Percentiles(()), Slo(), "no objective"),
        (
            Attainment(0.9),
            Slo(),
            r"--attainment: the deployment has no slo.ttft_s and no slo.tpot_s; give them, such as --set",
        ),
        (TokenDeadlines(0.9), Slo(ttft_s=1), "--token-deadlines: the deployment has no slo.tpot_s"),
        (Attainment(90), Slo(1, 1), "90 is not a share; give one above 0, up to 1"),
        (TokenDeadlines(0), Slo(1, 1), "0 is not a share"),
    ],
)
def test_objectives_that_make_no_sense(objective: Objective, slo: Slo, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        check(objective, slo)


@pytest.fixture(scope="module")
def run() -> RunLog:
    deployment = Deployment(
        "meta-llama/Llama-3.1-8B", (ReplicaSpec("h100"),), PolicySpec("vllm-v1"), slo=Slo(0.1, 0.02)
    )
    return simulate(deployment, load("azure-conv", rate=8, requests=500))


def test_scores_are_those_of_the_summary(run: RunLog) -> None:
    scored = Scored(run.tables)
    s = run.summary
    texts = [
        f"{m}=1@{p}"
        for m in ("ttft", "tbt", "tpot", "e2e", "delay", "slowdown", "slowdown_ttft", "slowdown_tbt")
        for p in ("p50", "p90", "p99")
    ]
    scores, _ = judge(percentiles(texts), scored, run.header)
    for metric in ("ttft", "tbt", "tpot", "e2e", "delay"):
        for at in ("p50", "p90", "p99"):
            assert scores[f"{metric}@{at}"] == s[f"{metric}_s"][at]
    for name, metric in (("slowdown", "e2e"), ("slowdown_ttft", "ttft"), ("slowdown_tbt", "tbt")):
        assert scores[f"{name}@p90"] == s["scores"]["slowdown"][metric]["p90"]
    joint = s["scores"]["joint_attainment"]
    found = judge(Attainment(0.5), scored, run.header)[0]
    assert found == {"attainment": joint["joint"], "attainment_ttft": joint["ttft"], "attainment_tpot": joint["tpot"]}
    assert judge(TokenDeadlines(0.5), scored, run.header)[0] == {
        "token_deadlines": s["scores"]["token_deadlines"]["attained"]
    }


def test_a_limit_is_met_up_to_itself(run: RunLog) -> None:
    scored = Scored(run.tables)
    p75 = float(np.sort(scored.ttft_s)[374])
    at = Percentiles((Target("ttft", p75, 75.0),))
    below = Percentiles((Target("ttft", np.nextafter(p75, 0), 75.0), Target("e2e", 1e6, 99.0)))
    assert judge(at, scored, run.header)[1] == ()
    assert judge(below, scored, run.header)[1] == ("ttft@p75",)


def test_no_samples_is_an_error_and_not_a_success() -> None:
    deployment = Deployment("meta-llama/Llama-3.1-8B", (ReplicaSpec("h100"),))
    one = load("azure-conv", requests=1)
    run = simulate(deployment, type(one)("one", one.arrival_ns, one.prompt_tokens, one.truth, max_tokens=1))
    with pytest.raises(InputError, match="there is no tbt to limit: the run has only answers of one token"):
        judge(percentiles(["tbt=1@p99"]), Scored(run.tables), run.header)


def test_words() -> None:
    assert words(percentiles(["tbt=0.1@p99", "slowdown=5@p50"])) == "tbt p99 ≤ 0.1 s, slowdown p50 ≤ 5 x"
    assert words(Attainment(0.9), Slo(1, 0.05)) == "0.9 of the requests within TTFT ≤ 1 s, TPOT ≤ 0.05 s"
