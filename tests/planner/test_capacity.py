"""Capacities against what queueing theory says of a replica that only computes prompts, and against themselves."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from phasewise.control.resolve import resolve
from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, Slo
from phasewise.perf.roofline import Roofline
from phasewise.planner.capacity import BACKLOG, Capacity, Probe, capacity, probe, saturation
from phasewise.planner.compare import compare
from phasewise.planner.objective import Attainment, Percentiles, Target, percentiles
from phasewise.planner.source import source
from phasewise.sim.simulate import Roofs
from phasewise.workload.arrivals import Poisson
from phasewise.workload.lengths import FixedLength
from phasewise.workload.source import load
from phasewise.workload.synth import Synthetic, generate
from phasewise.workload.workload import Workload

BUDGET = 512
REPLICA = (ReplicaSpec("h100"),)
PREFILL = Deployment("meta-llama/Llama-3.1-8B", REPLICA, PolicySpec("sarathi", {"token_budget": BUDGET}))
CHAT = Deployment("meta-llama/Llama-3.1-8B", REPLICA, PolicySpec("vllm-v1"), slo=Slo(0.5, 0.025))


def prompts(requests: int, seed: int = 5) -> Workload:
    """Prompts that fill the budget and one token of output: a queue of one server with one service time."""
    return generate(Synthetic("prompts", Poisson(1.0), FixedLength(BUDGET), FixedLength(1)), requests, seed)


@cache
def service_s() -> float:
    physics = Roofs(resolve(PREFILL))(0)
    assert isinstance(physics, Roofline)
    return physics.prefill_ns(BUDGET) / 1e9


def waits_less(rho: float, services: float) -> float:
    """P(W <= t), t = services x D, of M/D/1 (Erlang): (1 - rho) sum_k (rho (k - t/D))^k / k! exp(-rho (k - t/D))."""
    terms = (
        (rho * (k - services)) ** k / math.factorial(k) * math.exp(-rho * (k - services))
        for k in range(int(services) + 1)
    )
    return (1 - rho) * math.fsum(terms)


@pytest.mark.parametrize(("services", "share"), [(1.5, 0.9), (4.0, 0.9), (2.0, 0.5)])
def test_capacity_under_a_limit_on_waiting_is_that_of_an_md1_queue(services: float, share: float) -> None:
    low, high = 0.0, 1.0
    for _ in range(50):
        rho = (low + high) / 2
        low, high = (rho, high) if waits_less(rho, services) >= share else (low, rho)
    objective = Percentiles((Target("delay", services * service_s(), 100 * share),))
    found = capacity(PREFILL, prompts(25_000), objective, jobs=1, tolerance=0.01)
    assert found.bound_by == ("delay@p90" if share == 0.9 else "delay@p50",)
    assert found.rate is not None
    assert found.rate * service_s() == pytest.approx(low, rel=0.03)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_without_a_limit_that_binds_the_backlog_does(seed: int) -> None:
    """Capacity is then the service rate: within what 2,000 arrivals can tell, 5 %."""
    found = capacity(PREFILL, prompts(2000, seed), percentiles(["ttft=1000@p99"]), jobs=1)
    assert found.bound_by == (BACKLOG,)
    assert found.rate is not None
    assert found.rate * service_s() == pytest.approx(1.0, abs=0.08)
    assert found.saturation * service_s() == pytest.approx(1.0, rel=0.001)


@pytest.mark.parametrize(("rho", "grows"), [(0.5, False), (0.8, False), (0.9, False), (1.1, True), (1.3, True)])
@pytest.mark.parametrize("seed", range(5))
def test_the_backlog_rule_tells_stable_from_overloaded_at_2000_requests(rho: float, grows: bool, seed: int) -> None:
    requests = source(prompts(2000, seed))
    found = probe(resolve(PREFILL), requests, rho / service_s(), percentiles(["ttft=1e6@p99"]))
    assert (BACKLOG in found.missed) == grows


@cache
def chat(jobs: int) -> Capacity:
    objective = percentiles(["tbt=0.05@p99", "delay=2@p50"])
    return capacity(CHAT, "azure-conv", objective, requests=1000, seed=3, jobs=jobs)


def test_the_result_does_not_depend_on_the_number_of_jobs() -> None:
    assert chat(1) == chat(3)


def test_the_bracket_is_as_narrow_as_promised_and_its_ends_are_probes() -> None:
    found = chat(1)
    by_rate = {p.rate: p for p in found.probes}
    assert found.rate is not None
    assert found.high is not None
    assert found.high - found.rate <= 0.025 * found.high
    assert by_rate[found.rate].feasible
    assert not by_rate[found.high].feasible
    assert by_rate[found.high].missed == found.bound_by
    assert found.saturation == found.probes[0].rate
    assert found.notes == []


def test_every_probe_on_one_side_answers_alike() -> None:
    """Feasible below, infeasible above: what the search takes for granted, looked at over a grid."""
    found = chat(1)
    assert found.rate is not None
    requests = source("azure-conv", 1000, 3)
    answers = [
        probe(resolve(CHAT), requests, found.rate * times, found.objective).feasible
        for times in (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.3, 1.6)
    ]
    assert answers == [True] * 5 + [False] * 3


def test_a_stricter_objective_and_a_slower_device_have_less() -> None:
    def rate(limit: float, device: str = "h100") -> float:
        deployment = Deployment(CHAT.model, (ReplicaSpec(device),), CHAT.batcher)
        objective = Percentiles((Target("ttft", limit, 90.0),))
        return capacity(deployment, "azure-conv", objective, requests=2000, jobs=1).rate or 0.0

    assert rate(0.1) < rate(0.3) < rate(1.0)
    assert rate(0.3, "a100-80gb") < rate(0.3)


def test_attainment() -> None:
    found = capacity(CHAT, "azure-conv", Attainment(0.9), requests=2000, jobs=1)
    by_rate = {p.rate: p for p in found.probes}
    assert found.rate is not None
    assert by_rate[found.rate].scores["attainment"] >= 0.9
    assert found.high is not None
    assert by_rate[found.high].scores["attainment"] < 0.9
    assert found.bound_by == ("attainment",)


def test_an_objective_out_of_reach_is_said_in_words() -> None:
    found = capacity(CHAT, "azure-conv", percentiles(["tbt=0.001@p50"]), requests=200, jobs=1)
    assert (found.rate, found.high) == (None, found.probes[-1].rate)
    assert found.notes[0].startswith("not within the objective even at 0.0")


def test_an_objective_that_nothing_breaks_is_said_in_words() -> None:
    """Four requests pile up by four at most, which no rule can tell from chance."""
    found = capacity(CHAT, "azure-conv", percentiles(["tbt=10@p50"]), requests=4, jobs=1)
    assert found.high is None
    assert found.bound_by == ()
    assert any("within the objective at every rate tried, up to" in note for note in found.notes)
    assert any("too short to settle" in note for note in found.notes)


def test_probes_see_the_same_requests_on_a_stretched_axis(tmp_path: str) -> None:
    requests = source("azure-conv", 300, 7)
    slow, fast = requests.at(2.0), requests.at(5.0)
    assert (slow.prompt_tokens == fast.prompt_tokens).all()
    assert (slow.truth.column() == fast.truth.column()).all()
    np.testing.assert_allclose(slow.arrival_ns, fast.arrival_ns * 2.5, atol=3)
    alone = load("azure-conv", rate=5.0, requests=300, seed=7)
    assert alone.digest() == fast.digest()


def test_a_trace_is_stretched_as_simulate_does(tmp_path: object) -> None:
    path = f"{tmp_path}/t.csv"
    rows = [f"{i * 0.3 + (i % 7) * 0.01:.3f},{50 + i % 40},{5 + i % 9}" for i in range(90)]
    with open(path, "w") as file:
        file.write("arrival_s,input_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    assert source(path).at(4.0).digest() == load(path, rate=4.0).digest()
    assert source(path, 30).at(4.0).digest() == load(path, rate=4.0, requests=30).digest()
    assert source(path).requests == 90


def test_the_default_number_of_requests_grows_with_the_fleet() -> None:
    assert source("azure-conv").requests == 10_000
    assert source("azure-conv", replicas=8).requests == 16_000


@pytest.mark.parametrize("tolerance", [0.0, 0.6, float("nan")])
def test_a_tolerance_that_makes_no_sense(tolerance: float) -> None:
    with pytest.raises(InputError, match=r"give a share of the rate, 0.0001 to 0.5"):
        capacity(CHAT, "azure-conv", percentiles(["tbt=1@p99"]), requests=20, tolerance=tolerance, jobs=1)


def test_nothing_that_fits() -> None:
    small = Deployment(CHAT.model, REPLICA, max_context=2)
    with pytest.raises(InputError, match="no request fits"):
        capacity(small, "azure-conv", percentiles(["tbt=1@p99"]), requests=20, jobs=1)


def test_saturation_is_offline_throughput_over_mean_output() -> None:
    resolved = resolve(CHAT)
    requests = source("azure-conv", 400)
    from phasewise.sim.simulate import simulate

    log = simulate(resolved, requests.at_once())
    mean_output = log.summary["tokens_out"] / log.summary["completed"]
    assert saturation(resolved, requests) == pytest.approx(
        log.summary["throughput_tokens_per_s"] / mean_output, rel=1e-3
    )


def test_compare_with_and_without_an_objective() -> None:
    arms = {name: Deployment(CHAT.model, REPLICA, PolicySpec(name)) for name in ("vllm-v1", "sarathi")}
    requests = source("azure-conv", 300)
    plain = compare(arms, "azure-conv", requests=300, jobs=1, rate=4.0)
    over = compare(arms, "azure-conv", requests=300, jobs=1, rates=[2.0, 6.0])
    full = compare(arms, "azure-conv", requests=300, jobs=1, objective=["ttft=0.3@p90"])
    assert [arm.name for arm in full.arms] == ["vllm-v1", "sarathi"]
    assert plain.capacities == (None, None)
    assert plain.probes == ((), ())
    assert [p.rate for p in over.probes[0]] == [2.0, 6.0]
    assert all(p.feasible or p.missed == (BACKLOG,) for own in over.probes for p in own)
    assert [log.header.resolved.deployment.batcher.name for log in full.runs] == ["vllm-v1", "sarathi"]
    for found, own in zip(full.capacities, full.probes, strict=True):
        assert found is not None
        assert [p.rate for p in own] == sorted({p.rate for p in own})
        assert {p.rate for p in found.probes} < {p.rate for p in own}
    again: Probe = full.probes[0][0]
    assert probe(full.arms[0].deployment, requests, again.rate, full.objective) == again
