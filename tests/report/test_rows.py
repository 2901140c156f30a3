"""The wording of a run: units, rounding, dashes for what does not exist."""

from __future__ import annotations

import pytest

from phasewise.core.spec import PolicySpec, Slo
from phasewise.record.runlog import RunLog
from phasewise.report.rows import (
    counts,
    duration,
    facts,
    latency_rows,
    number,
    policy_text,
    share,
    side_by_side,
)
from phasewise.sim.simulate import simulate
from worlds import ToyLatency, toy_resolved, workload

ROWS = [(0, 30, 10), (20_000, 50, 1), (40_000, 12, 20)]


def ran(batcher: str = "sarathi", slo: Slo | None = None, replicas: int = 1) -> RunLog:
    return simulate(toy_resolved(batcher, slo=slo, replicas=replicas), workload(ROWS), physics=lambda i: ToyLatency())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0000123, "0.0123 ms"),
        (0.0083, "8.3 ms"),
        (0.9994, "999 ms"),
        (1.24, "1.24 s"),
        (119.4, "119 s"),
        (3975.0, "66 min 15 s"),
        (7320.0, "2 h 02 min"),
        (None, "–"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.04123, "0.0412"),
        (8.3, "8.30"),
        (53.21, "53.2"),
        (1204.4, "1,204"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0 %"), (1.0, "100.0 %"), (0.99996, "99.9 %"), (0.00001, "0.1 %"), (0.5, "50.0 %"), (None, "–")],
)
def test_only_all_is_all(value: float | None, text: str) -> None:
    assert share(value) == text


def test_policy_text() -> None:
    assert policy_text(PolicySpec("round-robin")) == "round-robin"
    assert (
        policy_text(PolicySpec("sarathi", {"token_budget": 512, "max_seqs": 8}))
        == "sarathi (token_budget 512, max_seqs 8)"
    )


def test_facts_name_everything_that_ran() -> None:
    found = dict(facts(ran(replicas=2).header, 3))
    assert list(found) == ["model", "replicas", "batcher", "router", "workload", "times rest on"]
    assert found["replicas"].startswith("2 × toy · context up to ")
    assert found["times rest on"] == "toy"
    assert "router" not in dict(facts(ran().header, 3))


def test_counts_and_objectives() -> None:
    found = dict(counts(ran(slo=Slo(ttft_s=1.0))))
    assert found["requests"] == "3 arrived · 3 completed"
    assert found["tokens"] == "92 in · 31 out"
    assert found["objectives"] == "TTFT ≤ 1 s: met by 100.0 % of the requests"
    assert "objectives" not in dict(counts(ran()))


def test_busy_is_the_share_of_the_time_in_steps() -> None:
    log = ran()
    steps = log.tables.steps[0]
    busy = (steps["end_ns"] - steps["start_ns"]).sum() / (steps["end_ns"].max() - 0)
    assert dict(counts(log))["replicas busy"].startswith(share(float(busy)))


def test_latency_rows_are_the_summary_in_one_unit_each() -> None:
    summary = {
        "ttft_s": {"mean": 12.0, "p50": 0.041, "p90": 30.2, "p99": 45.0},
        **{
            key: {"mean": 0.0083, "p50": 0.008, "p90": 1.5, "p99": None}
            for key in ("tbt_s", "tpot_s", "e2e_s", "delay_s")
        },
    }
    ttft, tbt, *_ = latency_rows(summary)
    assert (ttft.name, ttft.unit, ttft.cells) == ("TTFT", "s", ("12.0", "0.0410", "30.2", "45.0"))
    assert (tbt.unit, tbt.cells) == ("ms", ("8.30", "8.00", "1,500", "–"))


def test_side_by_side_is_a_cell_a_run() -> None:
    runs = [(name, ran(name, Slo(ttft_s=1.0))) for name in ("static", "sarathi", "vllm-v1")]
    rows = {row.name: row for row in side_by_side(runs)}
    assert all(len(row.cells) == 3 for row in rows.values())
    assert rows["completed"].cells == ("3", "3", "3")
    assert rows["in time"].note == "TTFT ≤ 1 s"
    assert "rejected" not in rows
    for i, (_, log) in enumerate(runs):
        assert rows["TTFT p99"].cells[i] == number(log.summary["ttft_s"]["p99"] * 1e3)


@pytest.mark.parametrize(
    ("max_wait_s", "ends"),
    [(None, "3 arrived · 1 completed · 2 still inside"), (1e-4, "3 arrived · 3 completed")],
)
def test_who_is_still_inside_and_what_was_forced_is_said(max_wait_s: float | None, ends: str) -> None:
    """Three requests and a threshold of two: the third never starts, unless a longest wait makes it."""
    resolved = toy_resolved("wait", {"threshold": 2, "max_wait_s": max_wait_s})
    log = simulate(resolved, workload(ROWS), physics=lambda i: ToyLatency())
    told = dict(counts(log))
    assert told["requests"] == ends
    forced = log.summary["forced"]
    assert told["simulated"].endswith(f"preemptions · {forced} forced" if forced else "preemptions")
    assert bool(forced) is (max_wait_s is not None)
