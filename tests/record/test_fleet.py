"""What a fleet's groups did, against the events and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import decoded
from fleets import LINKS, fleet
from phasewise.core.event import Lost, Pulled
from phasewise.core.fault import Dies, Drains, Scenario, Starts
from phasewise.core.spec import DECODE, MIXED, PREFILL, LinkSpec
from phasewise.record.fleet import groups, is_fleet
from phasewise.record.runlog import RunLog
from phasewise.record.states import ABSENT, BOOTING, DRAINING, SERVING, states
from watched import ran
from worlds import Row, random_rows, workload

US = 1_000
"""Nanoseconds."""


def grouped(log: RunLog) -> dict[str, dict[str, object]]:
    return {group["role"]: group for group in log.summary["fleet"]["groups"]}


@given(random_rows(most=12, output=20), st.sampled_from(LINKS))
def test_shares_and_transfers_are_those_of_the_events(rows: list[Row], link: LinkSpec) -> None:
    resolved = fleet((PREFILL, DECODE, MIXED), params={"token_budget": 24}, link=link)
    log = ran(resolved, workload(rows))
    found = grouped(log)
    assert [found[role]["replicas"] for role in (PREFILL, DECODE, MIXED)] == [1, 1, 1]
    length = max(int(steps["end_ns"].max(initial=0)) for steps in log.tables.steps) - rows[0][0]
    spent_s = []
    for i, role in enumerate((PREFILL, DECODE, MIXED)):
        steps = decoded.steps(log, i)
        times: dict[str, float] = {"prefill": 0.0, "decode": 0.0, "both": 0.0}
        for step in steps:
            times["both" if step.chunks and step.decodes else "prefill" if step.chunks else "decode"] += (
                step.end_ns - step.start_ns
            )
        busy = sum(times.values())
        assert found[role]["busy_share"] == pytest.approx(busy / length)
        for name, spent in times.items():
            assert found[role][f"{name}_share"] == (pytest.approx(spent / busy) if busy else None)
        batches = [len(step.decodes) for step in steps if step.decodes]
        assert found[role]["mean_decodes"] == (pytest.approx(np.mean(batches)) if batches else None)
        pulls = [(at, e) for at, e, _ in log.records(1 + i) if isinstance(e, Pulled)]
        assert found[role]["received"] == len(pulls)
        spent_s += [(at - e.began_ns) / 1e9 for at, e in pulls]
    assert found[PREFILL]["sent"] == sum(1 for i in range(3) for e in log.tables.transfers[i] if e["source"] == 0)
    assert log.summary["fleet"]["handed_over"] == len(spent_s)
    mean = log.summary["fleet"]["transfer_s"]["mean"]
    assert mean == (pytest.approx(np.mean(spent_s)) if spent_s else None)


def test_the_states_of_replicas() -> None:
    rows = [(i * 20 * US, 20, 20) for i in range(40)]
    faults = (Dies(100 * US, 0, 200 * US), Drains(150 * US, 1), Starts(300 * US, 2))
    log = ran(fleet((MIXED,) * 4, cold_start_s=50e-6), workload(rows), Scenario(faults))
    first, second, third, fourth = states(log.header, log.tables)
    assert [state for state, _, _ in first.stretches] == [SERVING, ABSENT, BOOTING, SERVING]
    assert [begin for _, begin, _ in first.stretches] == [0, 100 * US, 200 * US, 250 * US]
    assert first.deaths.tolist() == [100 * US]
    assert [state for state, _, _ in second.stretches] == [SERVING, DRAINING, ABSENT]
    assert [(s, b) for s, b, _ in third.stretches] == [(ABSENT, 0), (BOOTING, 300 * US), (SERVING, 350 * US)]
    assert third.deaths.tolist() == []
    assert [state for state, _, _ in fourth.stretches] == [SERVING]
    for one in (first, second, third, fourth):
        assert one.stretches[0][1] == 0
        assert all(a[2] == b[1] for a, b in zip(one.stretches, one.stretches[1:], strict=False))
    (group,) = log.summary["fleet"]["groups"]
    assert group["replicas_lost"] == log.summary["fleet"]["replicas_lost"] == 1
    # Those that waited there for their first chunk begin anew as well.
    assert 0 < group["requests_lost"] <= log.summary["fleet"]["retries"]
    lost = [event for _, event, _ in log.records(0) if isinstance(event, Lost) and event.replica == 0]
    assert group["requests_lost"] == sum(1 for _, tokens in lost[0].delivered if tokens)
    present = sum(one.spent_ns(SERVING, DRAINING) for one in (first, second, third, fourth))
    busy = sum(int((steps["end_ns"] - steps["start_ns"]).sum()) for steps in log.tables.steps)
    assert group["busy_share"] == pytest.approx(busy / present)


def test_what_is_a_fleet() -> None:
    assert not is_fleet(fleet((MIXED,)))
    assert is_fleet(fleet((MIXED, MIXED)))
    assert is_fleet(fleet((PREFILL, DECODE)))
    assert groups(fleet((PREFILL, DECODE, DECODE))) == [[0], [1, 2]]
    assert "fleet" not in ran(fleet((MIXED,)), workload([(0, 4, 4)])).summary
