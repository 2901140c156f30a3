"""The fluid model that WAIT stands on: its thresholds, what waiting costs at low load, and where latency stays flat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.policy.batching.wait import Kind, StepModel, cohort_tokens, fluid_thresholds
from phasewise.policy.catalog import build
from phasewise.sim.simulate import simulate
from worlds import ConstantLatency, Row, ToyLatency, classed, toy_resolved, workload

STEP_NS = 1_000
KINDS = st.builds(Kind, st.integers(1, 2000), st.integers(1, 500), st.floats(0.1, 20))


@given(st.lists(KINDS, min_size=1, max_size=4), st.floats(1e-3, 0.1), st.floats(0.01, 0.98))
@settings(max_examples=100, deadline=None)
def test_fluid_thresholds_are_just_above_the_fluid_point(kinds: list[Kind], base_s: float, load: float) -> None:
    types = {str(i): kind for i, kind in enumerate(kinds)}
    model = StepModel(base_s, load / sum(kind.rate * kind.tokens for kind in kinds))
    found = fluid_thresholds(types, model)
    tokens = cohort_tokens((kind, found[name]) for name, kind in types.items())
    step_s = base_s + model.per_token_s * tokens
    assert all(step_s < found[name] / kind.rate for name, kind in types.items())
    fluid_s = base_s / (1 - load)
    assert all(found[name] >= kind.rate * fluid_s for name, kind in types.items())
    # Whole numbers cost at most one more of each in every stage, and the search goes up by a hundredth.
    rounding = base_s + model.per_token_s * cohort_tokens((kind, 1) for kind in kinds)
    least_s = rounding / (1 - load)
    assert all(found[name] <= 1.02 * kind.rate * least_s + 1 for name, kind in types.items())
    if len(kinds) == 1:
        n = found["0"]
        assert n == 1 or base_s + model.per_token_s * cohort_tokens([(kinds[0], n - 1)]) >= (n - 1) / kinds[0].rate


def test_cohort_tokens_by_hand() -> None:
    """Prompt 4, output 3: stages hold 4, 5, 6 and 7 tokens."""
    assert Kind(4, 3, 1.0).tokens == 22
    assert cohort_tokens([(Kind(4, 3, 1.0), 5), (Kind(10, 1, 1.0), 2)]) == 110 + 2 * 21


def test_beyond_the_fluid_region_is_an_error() -> None:
    with pytest.raises(InputError, match=r"deployment.yaml: batcher 'wait': the types bring 1"):
        build(
            "batcher",
            PolicySpec(
                "wait",
                {
                    "types": {"a": {"prompt": 100, "output": 9, "rate": 1.0}},
                    "step_model": {"base_s": 1, "per_token_s": 1},
                },
            ),
            "deployment.yaml",
        )


def poisson(rate: float, n: int, prompt: int, output: int, seed: int) -> list[Row]:
    at = np.cumsum(np.random.default_rng(seed).exponential(1e9 / rate, n)).astype(np.int64)
    return [(t, prompt, output) for t in at.tolist()]


@pytest.mark.parametrize("n", [2, 5])
def test_at_low_load_gathering_costs_half_the_others_gaps(n: int) -> None:
    """Extra mean wait (n - 1) / (2 rate)."""
    rate = 1_000.0
    world = toy_resolved("wait", {"threshold": n, "max_seqs": 10_000}, blocks=4_000)
    run = simulate(world, workload(poisson(rate, 12_000, 10, 3, n)), physics=lambda i: ConstantLatency(STEP_NS))
    assert run.summary["delay_s"]["mean"] == pytest.approx((n - 1) / (2 * rate), rel=0.03)
    assert run.summary["completed"] > 11_900


def mean_latency_s(rate: float, n: int, requests: int) -> float:
    world = toy_resolved("wait", {"threshold": n, "max_seqs": 10_000}, blocks=200_000, block_tokens=1)
    physics = ToyLatency(base=20_000, per_token=10, per_context=10, per_pair=0)
    run = simulate(world, workload(poisson(rate, requests, 30, 20, 7)), physics=lambda i: physics)
    assert run.summary["preemptions"] == 0
    return float(run.summary["e2e_s"]["mean"])


def test_latency_is_flat_below_the_boundary_and_grows_above_it() -> None:
    """The paper's step, d0 + d1 M: 2,000 and 20,000 requests at 0.9 of the fluid boundary, and at 1.1 of a threshold's."""
    kind = Kind(30, 20, 0.9 / (10e-9 * Kind(30, 20, 1.0).tokens))
    n = fluid_thresholds({"one": kind}, StepModel(20e-6, 10e-9))["one"]
    few, many = (mean_latency_s(kind.rate, n, requests) for requests in (2_000, 20_000))
    assert many == pytest.approx(few, rel=0.1)
    # A step of n prompts and n in each of the 19 stages that have a token to come.
    step_s = 20e-6 + 10e-9 * n * sum(30 + s for s in range(20))
    over = 1.1 * n / step_s
    few, many = (mean_latency_s(over, n, requests) for requests in (2_000, 20_000))
    assert many > 2 * few


def test_near_overload_wait_is_flat_where_a_greedy_batcher_drifts() -> None:
    """The paper's mix of 512/20 and 512/50, Llama-2-7B on an A100, here at 24 requests/s, between 2,000 and 8,000 requests.

    The paper has +464 % for Sarathi and +63 % for thresholds at 22 requests/s, over 2,000 to 20,000; its A100 is the
    Vidur simulator's and ours the roofline's, so the rate at which they drift apart is not the same.
    """
    output = {"short": 20, "long": 50}
    types = {name: Kind(512, tokens, 12.0) for name, tokens in output.items()}
    drift = {}
    for name, params in (("sarathi", {"max_seqs": 512}), ("wait", {"types": types, "threshold": 1, "max_seqs": 1_000})):
        group = ReplicaSpec("a100")
        deployment = Deployment("meta-llama/Llama-2-7b-hf", (group,), PolicySpec(name, params), max_context=4096)
        means = []
        for n in (2_000, 8_000):
            rng = np.random.default_rng(1)
            at = np.cumsum(rng.exponential(1e9 / 24, 8_000)).astype(int)[:n].tolist()
            kinds = [("long", "short")[int(k)] for k in rng.integers(0, 2, 8_000)[:n]]
            rows = [(t, 512, output[k]) for t, k in zip(at, kinds, strict=True)]
            found = simulate(deployment, classed(rows, kinds)).summary
            assert found["preemptions"] == 0
            means.append(found["e2e_s"]["mean"])
        drift[name] = means[1] / means[0] - 1
    assert drift["wait"] < 0.2
    assert drift["sarathi"] > 5 * drift["wait"]
    assert drift["sarathi"] > 1
