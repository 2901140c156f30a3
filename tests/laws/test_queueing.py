"""A prefill-only replica is a queue that books have formulas for; and any run obeys Little's law."""

from __future__ import annotations

import numpy as np
import pytest

from phasewise.control.resolve import resolve
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.perf.roofline import Roofline
from phasewise.record.metrics import Scored
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import Roofs, simulate
from phasewise.workload.arrivals import Poisson
from phasewise.workload.lengths import FixedLength
from phasewise.workload.source import load
from phasewise.workload.synth import Synthetic, generate

BUDGET = 512
DEPLOYMENT = Deployment(
    "meta-llama/Llama-3.1-8B", (ReplicaSpec("h100"),), PolicySpec("sarathi", {"token_budget": BUDGET})
)


def prefill_only(load_share: float, requests: int) -> tuple[RunLog, float]:
    """A run of prompts that fill the budget, one output token each, and the seconds that one takes."""
    physics = Roofs(resolve(DEPLOYMENT))(0)
    assert isinstance(physics, Roofline)
    service_s = physics.prefill_ns(BUDGET) / 1e9
    spec = Synthetic("prefill-only", Poisson(load_share / service_s), FixedLength(BUDGET), FixedLength(1))
    return simulate(DEPLOYMENT, generate(spec, requests, seed=3)), service_s


def test_waiting_is_lindleys_recursion() -> None:
    log, service_s = prefill_only(0.8, 5_000)
    requests = log.tables.requests
    arrivals = requests["arrival_ns"] / 1e9
    waits = np.zeros(len(arrivals))
    for n, gap in enumerate(np.diff(arrivals)):
        waits[n + 1] = max(0.0, waits[n] + service_s - gap)
    scored = Scored(log.tables)
    assert waits.max() > 5 * service_s
    np.testing.assert_allclose(scored.delay_s, waits, rtol=0, atol=1e-6)
    np.testing.assert_allclose(scored.ttft_s, waits + service_s, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rho", [0.5, 0.7])
def test_mean_ttft_is_that_of_an_md1_queue(rho: float) -> None:
    """TTFT = D + R D^2 / (2 (1 - R D)): M/D/1 with service time D, arrival rate R, load R D."""
    log, service_s = prefill_only(rho, 100_000)
    waiting = rho * service_s / (2 * (1 - rho))
    scored = Scored(log.tables)
    assert scored.delay_s.mean() == pytest.approx(waiting, rel=0.05)
    assert scored.ttft_s.mean() == pytest.approx(service_s + waiting, rel=0.05)


@pytest.mark.parametrize("batcher", ["vllm-v1", "sarathi"])
def test_littles_law(batcher: str) -> None:
    """Requests decoding, summed over the steps, are requests times the time that each decodes: L = lambda W."""
    deployment = Deployment("meta-llama/Llama-3.1-8B", (ReplicaSpec("h100"),), PolicySpec(batcher))
    log = simulate(deployment, load("azure-conv", rate=9, requests=2_000))
    assert log.summary["preemptions"] == 0
    steps = log.tables.steps[0]
    scored = Scored(log.tables)
    from_steps = float(((steps["end_ns"] - steps["start_ns"]) * steps["decodes"]).sum()) / 1e9
    from_requests = float((scored.e2e_s - scored.ttft_s).sum())
    assert from_steps == pytest.approx(from_requests, rel=1e-9)
    # And of everyone in the house: arrivals and departures, counted in time order, against sojourns.
    arrival = log.tables.requests["arrival_ns"]
    instants = np.concatenate([arrival, arrival + np.rint(scored.e2e_s * 1e9).astype(np.int64)])
    change = np.concatenate([np.ones(len(arrival)), -np.ones(len(arrival))])
    order = np.argsort(instants, kind="stable")
    inside = np.cumsum(change[order])[:-1]
    area_s = float((inside * np.diff(instants[order])).sum()) / 1e9
    assert area_s == pytest.approx(float(scored.e2e_s.sum()), rel=1e-6)
