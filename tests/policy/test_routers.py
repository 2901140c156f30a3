"""Routers: by views made by hand, by the distribution of their draws, and by what queueing theory says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from scipy.stats import chisquare

from phasewise.core.message import Report, Reserve, Submit
from phasewise.core.request import Request
from phasewise.core.spec import DECODE, MIXED, PREFILL, PolicySpec
from phasewise.policy import catalog
from phasewise.policy.fleet import ClusterView
from phasewise.policy.roles import Router, Seeded
from phasewise.policy.routing.distserve import DistServe
from phasewise.policy.routing.least_pending import LeastPending
from phasewise.policy.routing.power_of_two import PowerOfTwo
from phasewise.policy.routing.random import Random
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from worlds import ConstantLatency, Row, ToyLatency, toy_resolved, workload

ASKED = Request(99, 0, 10)
ALL_ROUTERS = ("distserve", "least-pending", "power-of-two", "random", "round-robin")


def view(*queued: int, roles: Sequence[str] | None = None, waiting: Sequence[int] | None = None) -> ClusterView:
    """Idle replicas with so many prompt tokens queued, each of one prompt unless told otherwise."""
    made = ClusterView(roles or [MIXED] * len(queued), [100] * len(queued))
    for i, tokens in enumerate(queued):
        prompts = waiting[i] if waiting else int(tokens > 0)
        made.heard(Report(i, 1, -1, prompts, tokens, 0, 0, 100))
    return made


def routed(router: Router, seen: ClusterView, source: int | None = None) -> int | None:
    found = router.route(ASKED, seen, 2, source)
    assert found is None or isinstance(found, int)
    return found


# --- by hand


@pytest.mark.parametrize("name", ALL_ROUTERS)
def test_nobody_is_able_everybody_but_one_is_barred_and_phases_are_kept(name: str) -> None:
    router = catalog.build("router", PolicySpec(name))
    roles = [PREFILL, DECODE, PREFILL, DECODE]
    seen = view(5, 5, 5, 5, roles=roles)
    assert {routed(router, seen) for _ in range(40)} <= {0, 2}
    assert {routed(router, seen, 0) for _ in range(40)} <= {1, 3}
    seen.barred = (0, 3)
    assert routed(router, seen) == 2
    assert routed(router, seen, 0) == 1
    seen.barred = (0, 1, 2, 3)
    assert routed(router, seen) is None
    assert routed(router, seen, 0) is None


def test_least_pending_counts_prompt_tokens_and_one_for_each_answer() -> None:
    seen = view(30, 12, 12, 40)
    assert routed(LeastPending(), seen) == 1
    seen.heard(Report(1, 2, -1, 1, 12, 3, 9_000, 1))
    assert routed(LeastPending(), seen) == 2
    seen.sent(2, 0, 20)
    assert routed(LeastPending(), seen) == 1
    seen.handed(1, 1, 50_000)
    assert seen.load(2).tolist() == [30, 16, 32, 40]


def test_distserve_counts_prompts_first_and_then_their_tokens() -> None:
    seen = view(10, 900, 800, 0, waiting=(2, 1, 1, 0), roles=[PREFILL, PREFILL, MIXED, DECODE])
    assert routed(DistServe(), seen) == 2
    seen.heard(Report(2, 2, -1, 0, 800, 0, 0, 9, begun=2))
    assert routed(DistServe(), seen) == 1
    seen.sent(1, 0, 1)
    seen.sent(1, 1, 1)
    assert routed(DistServe(), seen) == 0


def test_distserve_sends_answers_to_the_least_context_that_has_grown_since() -> None:
    seen = ClusterView([PREFILL, DECODE, DECODE], [9] * 3)
    seen.heard(Report(1, 0, -1, 0, 0, 2, 100, 9, moving=2, next_ns=10, step_ns=10.0))
    seen.heard(Report(2, 0, -1, 0, 0, 90, 110, 9))
    assert DistServe().route(ASKED, seen, 9, 0) == 1
    assert DistServe().route(ASKED, seen, 10_000, 0) == 2


def test_power_of_two_takes_the_lesser_of_two() -> None:
    seen = view(50, 20)
    router = PowerOfTwo()
    assert {routed(router, seen) for _ in range(50)} == {1}
    # The worst of all is never chosen, the best whenever it is drawn.
    seen = view(*range(10, 110, 10))
    chosen = Counter(routed(router, seen) for _ in range(4_500))
    assert chosen[9] == 0
    # Of 45 pairs 9 have the first, 8 the second but not the first, and so on.
    assert chisquare([chosen[i] for i in range(9)], [100 * (9 - i) for i in range(9)]).pvalue > 1e-3


@pytest.mark.parametrize("router", [Random(), PowerOfTwo()])
def test_draws_among_equals_are_even(router: Router) -> None:
    seen = view(*[7] * 13)
    chosen = Counter(routed(router, seen) for _ in range(13_000))
    assert chisquare([chosen[i] for i in range(13)]).pvalue > 1e-3


@pytest.mark.parametrize("kind", [Random, PowerOfTwo])
def test_a_seed_is_a_stream(kind: type[Random] | type[PowerOfTwo]) -> None:
    def draws(seed: int) -> list[int | None]:
        router = kind().seeded(seed)
        assert isinstance(router, Seeded)
        return [routed(router, view(*[7] * 13)) for _ in range(50)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


# --- in a fleet


def run(
    router: str,
    rows: Sequence[Row],
    replicas: int,
    step_ns: int | None = None,
    report_s: float = 0.1,
    roles: Sequence[str] | None = None,
    **params: int,
) -> RunLog:
    resolved = toy_resolved("sarathi", params, blocks=4_000, replicas=replicas)
    deployment = msgspec.structs.replace(resolved.deployment, router=PolicySpec(router), report_s=report_s)
    each = roles or [MIXED] * replicas
    found = tuple(msgspec.structs.replace(r, role=role) for r, role in zip(resolved.replicas, each, strict=True))
    resolved = msgspec.structs.replace(resolved, deployment=deployment, replicas=found)
    latency = ToyLatency() if step_ns is None else ConstantLatency(step_ns)
    return simulate(resolved, workload(rows), 5, physics=lambda i: latency)


def orders(log: RunLog, kind: type) -> list[int]:
    """The replicas that were sent orders of a kind, in order."""
    return [a.replica for _, _, actions in log.records(0) for a in actions if isinstance(a, kind)]


@pytest.mark.parametrize("name", ["distserve", "least-pending"])
def test_a_burst_within_one_report_is_spread_in_both_phases(name: str) -> None:
    """Eight at once, and eight that are handed over before any decode replica has reported anything of them."""
    rows = [(0, 40, 9)] * 8
    roles = [PREFILL] * 4 + [DECODE] * 4
    log = run(name, rows, 8, 1_000, 10.0, roles, token_budget=64)
    assert Counter(orders(log, Submit)) == dict.fromkeys(range(4), 2)
    assert Counter(orders(log, Reserve)) == dict.fromkeys(range(4, 8), 2)
    assert log.summary["completed"] == 8


@pytest.mark.parametrize("name", ALL_ROUTERS)
def test_equal_requests_at_half_load_are_split_evenly(name: str) -> None:
    """Eight replicas with half of their 16 seats taken on average: each gets its eighth, within four standard deviations."""
    n, each = 8, 3_200
    draw = np.random.default_rng(3)
    at = np.cumsum(draw.exponential(100_000 / n / 8, each)).astype(int)
    log = run(name, [(int(t), 32, 100) for t in at], n, 1_000, 5e-6, token_budget=512, max_seqs=16)
    counts = Counter(orders(log, Submit))
    assert log.summary["completed"] == each
    spread = (each / n * (1 - 1 / n)) ** 0.5
    assert all(abs(counts[i] - each / n) < (4 if name == "random" else 2) * spread for i in range(n))


def test_two_choices_leave_far_shorter_queues_than_one() -> None:
    """Mitzenmacher's result: at load 0.9 the longest of many queues is some log log n, and not log n."""
    n, load, service = 60, 0.9, 1_000
    draw = np.random.default_rng(1)
    at = np.cumsum(draw.exponential(service / n / load, 60 * 400)).astype(int)
    rows = [(int(t), 16, 1) for t in at]

    def longest_wait(name: str) -> float:
        log = run(name, rows, n, service, 0.0, token_budget=16, max_seqs=1)
        return float(log.summary["e2e_s"]["p99"])

    one, two = longest_wait("random"), longest_wait("power-of-two")
    assert two < 0.4 * one
    assert longest_wait("least-pending") < two


def test_least_pending_beats_turns_on_the_tail_of_long_prompts() -> None:
    draw = np.random.default_rng(2)
    at = np.cumsum(draw.exponential(9_000, 3_000)).astype(int)
    prompts = np.minimum(8 + draw.pareto(1.3, 3_000) * 40, 4_000).astype(int)
    rows = [(int(t), int(p), 20) for t, p in zip(at, prompts, strict=True)]
    tails = {name: run(name, rows, 8, None, 20e-6, token_budget=256).summary["ttft_s"]["p99"] for name in ALL_ROUTERS}
    assert tails["least-pending"] < 0.8 * tails["round-robin"]
    assert tails["power-of-two"] < tails["random"]


def test_old_reports_do_not_send_everybody_to_one_replica() -> None:
    """Orders under way are counted, so that reports a hundred arrivals apart cost some, and not everything."""
    draw = np.random.default_rng(4)
    at = np.cumsum(draw.exponential(10_000, 1_500)).astype(int)
    rows = [(int(t), 64, 12) for t in at]
    fresh, old = (run("least-pending", rows, 6, None, s, token_budget=128) for s in (0.0, 2e-3))
    assert len(orders(fresh, Submit)) == len(orders(old, Submit)) == 1_500
    shares = Counter(orders(old, Submit))
    assert max(shares.values()) < 2 * min(shares.values())
    assert fresh.summary["ttft_s"]["p99"] <= old.summary["ttft_s"]["p99"]
