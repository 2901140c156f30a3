"""The scores against brute force: every token of every request written out from the events, and counted plainly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoded import Told, requests, steps
from fleets import LINKS, fleet
from phasewise.control.replay import replay
from phasewise.core.action import Outcome
from phasewise.core.fault import Drains, Scenario
from phasewise.core.spec import MIXED, Slo
from phasewise.policy import catalog
from phasewise.record.header import Header
from phasewise.record.metrics import Scored, joint_attainment, summary, token_deadlines
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from roving import Roving
from worlds import ARMS, ToyLatency, mixed, random_gone, random_rows, toy_resolved, workload

SLO = Slo(ttft_s=40e-6, tpot_s=6e-6)
REFERENCE = (((1, 5_000.0), (40, 9_000.0), (200, 60_000.0)), (5_000.0, 4.5))


def percentile(values: list[float], share: float) -> float | None:
    """The smallest sample that at least `share` of the samples do not exceed."""
    ordered = sorted(values)
    for i, value in enumerate(ordered):
        if (i + 1) / len(ordered) >= share - 1e-12:
            return value
    return None


def spread(values: list[float]) -> dict[str, float | None]:
    mean = math.fsum(values) / len(values) if values else None
    return {"mean": mean, **{f"p{round(q * 100)}": percentile(values, q) for q in (0.5, 0.9, 0.99)}}


def plain(run: RunLog, slo: Slo) -> dict[str, Any]:
    """The summary as the definitions read, from the tokens one by one."""
    told = requests(run)
    done = [r for r in told.values() if r.outcome is Outcome.FINISHED]
    counted = sum(r.outcome is not Outcome.CANCELLED for r in told.values())
    several = [r for r in done if len(r.token_ns) > 1]
    first = min(r.arrival_ns for r in told.values())
    tokens = sum(len(r.token_ns) for r in told.values())
    last = max((t for r in told.values() for t in r.token_ns), default=-1)
    iterations = [step for replica in range(run.rooms - 1) for step in steps(run, replica)]
    gaps = [b - a for r in told.values() for a, b in zip(r.token_ns, r.token_ns[1:], strict=False)]
    in_time = [ttft(r) <= 1e9 * slo.ttft_s for r in done]
    smooth = [len(r.token_ns) < 2 or tpot(r) <= 1e9 * slo.tpot_s for r in done]
    dues = [
        all(t <= r.arrival_ns + 1e9 * (slo.ttft_s + i * slo.tpot_s) + 1e-3 for i, t in enumerate(r.token_ns))
        for r in done
    ]
    share = (lambda flags: sum(flags) / counted) if counted else (lambda flags: None)
    return {
        "requests": len(told),
        "completed": len(done),
        "rejected": sum(r.outcome is Outcome.REJECTED for r in told.values()),
        "cancelled": sum(r.outcome is Outcome.CANCELLED for r in told.values()),
        "failed": 0,
        "iterations": len(iterations),
        "tokens_in": sum(r.prompt for r in done),
        "tokens_out": tokens,
        "preemptions": sum(r.preemptions for r in told.values()),
        "forced": sum(step.forced for step in iterations),
        "throughput_tokens_per_s": tokens / ((last - first) / 1e9) if last > first else None,
        "simulated_s": (max((s.end_ns for s in iterations), default=first) - first) / 1e9,
        "ttft_s": spread([ttft(r) / 1e9 for r in done]),
        "tbt_s": spread([gap / 1e9 for gap in gaps]),
        "tpot_s": spread([tpot(r) / 1e9 for r in several]),
        "e2e_s": spread([e2e(r) / 1e9 for r in done]),
        "delay_s": spread([((r.first_chunk_ns or 0) - r.arrival_ns) / 1e9 for r in done]),
        "joint_attainment": {
            "ttft": share(in_time),
            "tpot": share(smooth),
            "joint": share([a and b for a, b in zip(in_time, smooth, strict=True)]),
        },
        "token_deadlines": {"attained": share(dues)},
        "slowdown": {
            "ttft": spread([ttft(r) / alone(r)[0] for r in done]),
            "tbt": spread([tpot(r) / alone(r)[1] for r in several]),
            "e2e": spread([e2e(r) / alone(r)[2] for r in done]),
        },
    }


def ttft(r: Told) -> float:
    return r.token_ns[0] - r.arrival_ns


def e2e(r: Told) -> float:
    return r.token_ns[-1] - r.arrival_ns


def tpot(r: Told) -> float:
    return (r.token_ns[-1] - r.token_ns[0]) / (len(r.token_ns) - 1)


def alone(r: Told) -> tuple[float, float, float]:
    """TTFT, mean gap and E2E of the same request on an idle replica, its decode steps added up one by one."""
    grid, (base, slope) = REFERENCE
    first = float(np.interp(r.prompt, [n for n, _ in grid], [t for _, t in grid]))
    n = len(r.token_ns)
    decodes = [base + slope * (r.prompt + i) for i in range(n - 1)]
    return first, sum(decodes) / max(1, n - 1), first + sum(decodes)


def close(got: Any, wanted: Any, where: str) -> None:
    if isinstance(wanted, dict):
        assert set(got) == set(wanted), where
        for key, value in wanted.items():
            close(got[key], value, f"{where}.{key}")
    elif isinstance(wanted, float):
        assert got == pytest.approx(wanted, rel=1e-6, abs=3e-9), where
    else:
        assert got == wanted, where


def compare(run: RunLog, slo: Slo = SLO) -> dict[str, Any]:
    events = sum(1 for room in range(run.rooms) for _ in run.records(room))
    header = Header(run.header.version, run.header.resolved, {}, 0, *REFERENCE)
    got = summary(header, run.tables, events)
    wanted = plain(run, slo)
    scores = got.pop("scores")
    assert got["events"] == run.summary["events"] == events
    for name, value in wanted.items():
        close(scores[name] if name in scores else got[name], value, name)
    close(
        scores["pooled_tbt"], {"tbt_p99_s": wanted["tbt_s"]["p99"], "delay_p50_s": wanted["delay_s"]["p50"]}, "pooled"
    )
    told = requests(run)
    inside = {i for i, r in told.items() if r.outcome is Outcome.INSIDE}
    assert not inside or run.header.resolved.deployment.batcher.name in ("wait", "nested-wait")
    assert all(len(r.token_ns) == r.tokens for i, r in told.items() if i not in inside)
    done = [r.token_ns for _, r in sorted(told.items()) if r.outcome is Outcome.FINISHED]
    scored = Scored(run.tables)
    for tpot_ns in (500.0, 5_300.0, 6_100.0, 30_000.0):
        latest = [max(t - i * tpot_ns for i, t in enumerate(times)) for times in done]
        assert list(scored.latest_ns(tpot_ns)) == pytest.approx(latest, rel=1e-9, abs=3)
    return wanted


@st.composite
def worlds(draw: st.DrawFn) -> RunLog:
    """Few blocks, few seats, people leaving, one to three replicas, a wire that may take time, leaps in pieces."""
    arm = draw(st.sampled_from(list(ARMS)))
    name, params = ARMS[arm]
    rows = draw(random_rows(most=12, prompt=70, output=30, gap_ns=draw(st.sampled_from([20_000, 200_000]))))
    gone = draw(st.one_of(st.just({}), random_gone(rows)))
    seats = draw(st.integers(1, 6))
    if arm in ("sarathi", "vllm-v1", "static"):
        params = {"max_seqs": seats}
    if arm in ("sarathi", "vllm-v1"):
        params["token_budget"] = seats + draw(st.integers(0, 40))
    size = draw(st.sampled_from([1, 4, 16]))
    replicas = draw(st.integers(1, 3))
    blocks = [max(2, draw(st.integers(60, 130)) // size) for _ in range(replicas)]
    wire_s = draw(st.sampled_from([0.0, 7e-6]))
    resolved = toy_resolved(name, params, blocks, size, replicas=replicas, wire_s=wire_s, slo=SLO)
    latency = ToyLatency(whole=draw(st.booleans()), split=draw(st.sampled_from([None, 3])))
    return simulate(resolved, mixed(rows, gone), physics=lambda i: latency)


@given(worlds())
@settings(max_examples=300, deadline=None)
def test_every_score_is_what_its_definition_says(run: RunLog) -> None:
    compare(run)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_cohorts_regrouped_at_random_are_scored_alike(data: st.DataObject) -> None:
    """Several cohorts a step, some standing still, residents moved before leaps, and moved and preempted at once."""
    rows = data.draw(random_rows(most=10, prompt=40, output=30, gap_ns=30_000))
    gone = data.draw(st.one_of(st.just({}), random_gone(rows)))
    size = data.draw(st.sampled_from([1, 4, 16]))
    latency = ToyLatency(whole=data.draw(st.booleans()), split=data.draw(st.sampled_from([None, 3])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalog.PAPERS, ("batcher", "roving"), (Roving, "test"))
        resolved = toy_resolved(
            "roving", {"seed": data.draw(st.integers(0, 1 << 20))}, max(5, 90 // size), size, slo=SLO
        )
        run = simulate(resolved, workload(rows, gone), physics=lambda i: latency)
        compare(run)
        assert replay(run) == run.summary["events"]


@pytest.mark.parametrize("arm", ARMS)
@given(data=st.data())
@settings(deadline=None)
def test_answers_that_move_between_replicas_are_scored_alike(arm: str, data: st.DataObject) -> None:
    """Under any batcher; the last replica stays. An answer may come from several replicas, and the way between is a gap."""
    name, params = ARMS[arm]
    rows = data.draw(random_rows(most=10, prompt=40, output=30, gap_ns=30_000))
    gone = data.draw(st.one_of(st.just({}), random_gone(rows)))
    replicas = data.draw(st.integers(2, 3))
    wire_s, link = data.draw(st.sampled_from([0.0, 2e-6])), data.draw(st.sampled_from(LINKS))
    toy = {"blocks": 12, "block_tokens": 8, "wire_s": wire_s, "slo": SLO}
    resolved = fleet([MIXED] * replicas, name, params, link=link, **toy)
    drains = tuple(Drains(data.draw(st.integers(1, 300_000)), i, True) for i in range(replicas - 1))
    latency = ToyLatency(whole=data.draw(st.booleans()), split=data.draw(st.sampled_from([None, 3])))
    run = simulate(resolved, mixed(rows, gone), physics=lambda i: latency, scenario=Scenario(drains))
    compare(run)
    assert replay(run, lambda i: latency) == run.summary["events"]


def toy(rows: list[Any], gone: dict[int, int] | None = None, **world: Any) -> RunLog:
    return simulate(toy_resolved(slo=SLO, **world), workload(rows, gone), physics=lambda i: ToyLatency())


def test_under_heavy_preemption() -> None:
    rows = [(i * 500, 30, 28) for i in range(12)]
    for name in ("sarathi", "vllm-v1"):
        run = toy(rows, batcher=name, params={"max_seqs": 8, "token_budget": 40}, blocks=70, block_tokens=1)
        assert compare(run)["preemptions"] >= 8


def test_preempted_with_its_first_token_just_out() -> None:
    """Both prompts are done in a step in which nobody decodes, and there is no block for two to go on."""
    rows = [(0, 5, 1), (1, 10, 5), (2, 10, 5)]
    run = toy(rows, batcher="vllm-v1", params={"max_seqs": 4, "token_budget": 40}, blocks=21, block_tokens=1)
    assert compare(run)["preemptions"] == 1
    assert requests(run)[2].preemptions == 1


def test_all_answers_of_one_token() -> None:
    wanted = compare(toy([(i * 100, 20, 1) for i in range(6)]))
    assert wanted["tbt_s"]["p50"] is None
    assert wanted["tpot_s"]["mean"] is None
    assert wanted["joint_attainment"]["tpot"] == 1.0


def test_nobody_was_served() -> None:
    """One does not fit, the other hangs up as it arrives."""
    wanted = compare(toy([(5, 2000, 3), (9, 20, 5)], {1: 9}))
    assert (wanted["rejected"], wanted["cancelled"], wanted["joint_attainment"]["joint"]) == (1, 1, 0.0)


def test_all_cancelled() -> None:
    wanted = compare(toy([(0, 50, 30), (1, 50, 30)], {0: 0, 1: 40_000}))
    assert (wanted["cancelled"], wanted["joint_attainment"]["joint"]) == (2, None)


def test_a_replica_that_never_gets_anything() -> None:
    compare(toy([(0, 50, 5)], replicas=3))


def test_one_request_by_hand() -> None:
    """Prompt 4 and 3 tokens; a step takes 5000 + 40 per token + 3 per token of context + pairs."""
    run = toy([(1_000, 4, 3)])
    prefill = 5_000 + 4 * 40 + 4 * ((4 + 1) // 2)
    decode = [5_000 + 40 + 3 * context for context in (4, 5)]
    got = run.summary
    assert got["ttft_s"]["p50"] == pytest.approx(prefill / 1e9)
    assert got["tbt_s"]["p50"] == pytest.approx(decode[0] / 1e9)
    assert got["tbt_s"]["p90"] == pytest.approx(decode[1] / 1e9)
    assert got["e2e_s"]["mean"] == pytest.approx((prefill + sum(decode)) / 1e9)
    assert got["throughput_tokens_per_s"] == pytest.approx(3 / ((prefill + sum(decode)) / 1e9))
    assert got["delay_s"]["p50"] == 0


def test_a_late_token_in_the_middle_is_not_forgiven() -> None:
    """One long prompt delays a token that later ones make up for: the deadlines say no, the mean TPOT says yes."""
    slo = Slo(ttft_s=6e-6, tpot_s=5.6e-6)
    run = simulate(
        toy_resolved(params={"token_budget": 64}, slo=slo),
        workload([(0, 10, 60), (12_000, 60, 2)]),
        physics=lambda i: ToyLatency(per_context=0),
    )
    times = requests(run)[0].token_ns
    late = [t - (6e3 + i * 5.6e3) for i, t in enumerate(times)]
    assert max(late) > 0 > late[-1]
    scored = Scored(run.tables)
    assert joint_attainment(scored, slo)["tpot"] == 1.0
    assert token_deadlines(scored, slo) == {"attained": 0.0}
