"""Prefill and decode replicas apart: queues that books have formulas for, and a fleet that is as good as its worse half."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from fleets import Lines, fleet, split
from phasewise.core.spec import MIXED, LinkSpec, Resolved, Slo
from phasewise.planner.capacity import capacity, probe
from phasewise.planner.objective import Percentiles, percentiles
from phasewise.planner.source import source
from phasewise.record.metrics import Scored
from phasewise.sim.simulate import simulate
from phasewise.workload.arrivals import FixedGaps, Poisson
from phasewise.workload.lengths import FixedLength
from phasewise.workload.synth import Synthetic, generate
from phasewise.workload.workload import Workload

PROMPT, OUTPUT = 512, 64
SLO = Slo(0.4, 0.04)
SERVICE_S = 0.1152
"""One prompt. 90 % of an M/D/1 queue's customers are through it within 0.4 s at 5.6 a second (a test below)."""
LINES = Lines(SERVICE_S * 1e3 / PROMPT, 24.0, 0.51)
"""Of the decode steps' two numbers one is chosen for 10 requests/s, the other for what both phases together then come to."""
BOTH = percentiles((f"ttft={SLO.ttft_s}@p90", f"tpot={SLO.tpot_s}@p90"))
"""Each percentile by itself, as the published simulator scores them: so the phases can be held apart."""


def served(roles: tuple[str, ...], lines: Lines = LINES, batcher: str = "distserve", **more: Any) -> Resolved:
    """A fleet with memory to spare."""
    return fleet(roles, batcher, lines=lines, blocks=100_000, **more)


def demand(output: int, requests: int = 3_000, rate: float = 1.0) -> Workload:
    return generate(Synthetic("fixed", Poisson(rate), FixedLength(PROMPT), FixedLength(output)), requests, 3)


def holds(deployment: Resolved, rate: float, requests: int) -> bool:
    """Whether a fleet serves prompts and answers within both objectives at a rate."""
    return probe(deployment, source(demand(OUTPUT, requests)), rate, BOTH).feasible


def goodput(deployment: Resolved, output: int, objective: Percentiles, requests: int) -> float:
    found = capacity(deployment, demand(output, requests), objective, tolerance=0.01, jobs=1)
    assert found.rate is not None
    return found.rate


@cache
def prefill_goodput() -> float:
    """Of one prefill replica alone, requests/s: answers of one token."""
    return goodput(served(split(1, 1)), 1, percentiles((f"ttft={SLO.ttft_s}@p90",)), 10_000)


@cache
def decode_goodput(requests: int) -> float:
    """Of one decode replica alone, requests/s: prompts take no time."""
    return goodput(served(split(1, 1), LINES._replace(token_ms=0.0)), OUTPUT, BOTH, requests)


def within(t_s: float, rate: float, service_s: float) -> float:
    """P(waiting <= t) in an M/D/1 queue (Erlang): (1 - R D) sum_k (-R (t - k D))^k / k! exp(R (t - k D)), k = 0..t / D."""
    late = [rate * (t_s - k * service_s) for k in range(int(t_s / service_s) + 1)]
    return (1 - rate * service_s) * sum((-x) ** k / math.factorial(k) * math.exp(x) for k, x in enumerate(late))


@pytest.mark.parametrize("load", [0.5, 0.7])
@pytest.mark.parametrize("replicas", [1, 3])
def test_ttft_of_prefill_replicas_is_that_of_md1_queues(load: float, replicas: int) -> None:
    """TTFT = D + R D^2 / (2 (1 - R D)) at each of N replicas, with R / N (DistServe, section 3.1)."""
    deployment = served(split(replicas, 1), router="random")
    log = simulate(deployment, demand(1, 45_000, replicas * load / SERVICE_S))
    rate = load / SERVICE_S
    expected_s = SERVICE_S + rate * SERVICE_S**2 / (2 * (1 - rate * SERVICE_S))
    assert Scored(log.tables).ttft_s.mean() == pytest.approx(expected_s, rel=0.05)


def test_taking_turns_is_better_than_drawing_lots() -> None:
    """Arrivals at each of N replicas that take turns are more even than Poisson, so the formula is a bound."""
    work = demand(1, 20_000, 3 * 0.7 / SERVICE_S)
    turns, lots = (Scored(simulate(served(split(3, 1), router=r), work).tables) for r in ("round-robin", "random"))
    assert turns.delay_s.mean() < 0.6 * lots.delay_s.mean()


@pytest.mark.parametrize("link", ["free", "ethernet-25g"])
def test_at_low_load_the_fleets_ttft_is_the_prompts_time_alone(link: str) -> None:
    """The first token comes from the prefill replica; what the link takes is seen between the first and the second."""
    spec = Synthetic("slow", FixedGaps(0.1), FixedLength(PROMPT), FixedLength(OUTPUT))
    deployment = served(split(2, 1), link=LinkSpec(link))
    scored = Scored(simulate(deployment, generate(spec, 50)).tables)
    np.testing.assert_allclose(scored.ttft_s, SERVICE_S + 1e-6, rtol=0, atol=2e-9)
    alone = Scored(simulate(served(split(1, 1)), generate(spec, 50).head(1)).tables)
    assert (scored.tpot_s > alone.tpot_s[0]).all() == (link != "free")


def test_one_prefill_replica_keeps_what_the_queue_keeps() -> None:
    """Its goodput is the rate at which an M/D/1 queue has 90 % through within the objective: 5.6, as in the lecture."""
    assert within(SLO.ttft_s - SERVICE_S, 5.6, SERVICE_S) == pytest.approx(0.9, abs=0.001)
    assert prefill_goodput() == pytest.approx(5.6, rel=0.03)


@pytest.mark.parametrize(("prefills", "decodes"), [(1, 1), (1, 2), (2, 1), (3, 2)])
def test_a_fleet_is_as_good_as_its_worse_phase(prefills: int, decodes: int) -> None:
    """min(n g_p, m g_d) for n prefill and m decode replicas, where keys and values move in no time."""
    deployment = served(split(prefills, decodes), router="random")
    expected = min(prefills * prefill_goodput(), decodes * decode_goodput(3_000))
    assert holds(deployment, 0.95 * expected, 3_000 * decodes)
    assert not holds(deployment, 1.05 * expected, 3_000 * decodes)


def test_the_lectures_example() -> None:
    """5.6 requests/s of prompts, 10 of answers: 2P1D serves 3.3 a device, which is twice what both phases on one do: 1.6."""
    answers = served(split(1, 1), LINES._replace(token_ms=0.0))
    apart = served(split(2, 1))
    beside = served((MIXED,), batcher="vllm-v0")
    for deployment, rate in ((answers, 10), (apart, 3 * 3.3), (beside, 1.6)):
        assert holds(deployment, 0.96 * rate, 10_000)
        assert not holds(deployment, 1.04 * rate, 10_000)
