"""The stages of a life leave no gap and do not overlap, add up to E2E, and are where the events say that things happened."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleets import LINKS, SHAPES, fleet
from mishaps import clients_who_leave, random_mishaps
from phasewise.core.action import Outcome
from phasewise.core.errors import InputError
from phasewise.core.event import Pulled
from phasewise.core.fault import Dies, Scenario
from phasewise.core.spec import DECODE, PREFILL, LinkSpec
from phasewise.record.columns import HANDED, LOST, PREEMPTED
from phasewise.record.metrics import Scored
from phasewise.record.runlog import RunLog
from phasewise.record.stages import KINDS, life, stages
from watched import ran
from worlds import ARMS, mixed, random_rows, workload

SLOW = LinkSpec("free", gb_s=0.001, latency_us=5.0, transfer="serialised")


def kinds(log: RunLog, request: int) -> list[tuple[str, int]]:
    return [(stage.kind, stage.replica) for stage in life(log.tables, request)]


@pytest.mark.parametrize("arm", ["sarathi", "vllm-v0", "vllm-v1", "distserve", "nested-wait, late"])
@given(data=st.data())
@settings(max_examples=settings.default.max_examples)
def test_stages_add_up(arm: str, data: st.DataObject) -> None:
    rows = data.draw(random_rows(most=14, prompt=50, output=30))
    roles = data.draw(st.sampled_from(SHAPES))
    more: dict[str, Any] = {"blocks": data.draw(st.integers(8, 24)), "block_tokens": 8, "max_context": 60}
    resolved = fleet(roles, *ARMS[arm], link=data.draw(st.sampled_from(LINKS)), **more)
    scenario = data.draw(random_mishaps(len(roles), moves=True))
    log = ran(resolved, mixed(rows, clients_who_leave(data, rows, roles)), scenario)
    tables = log.tables
    scored = Scored(tables)
    e2e_ns = dict(
        zip(scored.requests["request"].tolist(), np.round(scored.e2e_s * 1e9).astype(int).tolist(), strict=True)
    )
    every = stages(tables)
    for row in tables.requests:
        number = int(row["request"])
        mine = every[every["request"] == number]
        assert [KINDS[kind] for kind in mine["kind"]] == [stage.kind for stage in life(tables, number)]
        assert (mine["end_ns"] > mine["begin_ns"]).all()
        assert (mine["begin_ns"][1:] == mine["end_ns"][:-1]).all()
        length = int((mine["end_ns"] - mine["begin_ns"]).sum())
        if row["outcome"] == Outcome.FINISHED:
            assert length == e2e_ns[number]
        elif row["outcome"] != Outcome.INSIDE:
            assert length == row["end_ns"] - row["arrival_ns"]
        if len(mine):
            assert mine["begin_ns"][0] == row["arrival_ns"]
    if not scenario:
        waits = np.bincount(every["request"], every["kind"] == KINDS.index("preempted"), len(rows))
        spans = np.concatenate(tables.spans)
        thrown = np.bincount(spans["request"][spans["left"] == PREEMPTED], minlength=len(rows))
        assert (waits <= thrown).all()
        assert KINDS.index("lost") not in every["kind"]


@given(random_rows(most=10, output=20), st.sampled_from(LINKS))
def test_transfers_and_tokens_are_those_of_the_events(rows: Any, link: LinkSpec) -> None:
    log = ran(fleet((PREFILL, DECODE, DECODE), params={"token_budget": 24}, link=link), workload(rows))
    pulled = {}
    for replica in range(3):
        for at_ns, event, _ in log.records(1 + replica):
            if isinstance(event, Pulled):
                pulled[event.request] = (replica, event.began_ns, at_ns)
    scored = Scored(log.tables)
    for i, row in enumerate(scored.requests):
        found = life(log.tables, int(row["request"]))
        by = {stage.kind: stage for stage in found}
        if row["tokens"] == 1 or row["request"] not in pulled:
            continue
        replica, began_ns, end_ns = pulled[row["request"]]
        first_ns = by["prefill"].end_ns
        assert first_ns - row["arrival_ns"] == round(scored.ttft_s[i] * 1e9)
        if "transfer" in by:
            transfer = by["transfer"]
            assert (transfer.replica, transfer.begin_ns, transfer.end_ns) == (replica, max(began_ns, first_ns), end_ns)
        else:
            assert end_ns == first_ns or began_ns == end_ns
        assert ("hand-over" in by) == (began_ns > first_ns)
        assert by["decode"].replica == replica


def test_a_life_with_everything_in_it() -> None:
    """Two prompts, one of them handed over while its target dies; it begins anew on the other one."""
    rows = [(0, 40, 30), (1_000, 40, 30)]
    resolved = fleet((PREFILL, DECODE, DECODE), params={"token_budget": 100}, link=SLOW)
    calm = ran(resolved, workload(rows))
    assert kinds(calm, 0) == [("prefill", 0), ("transfer", 1), ("decode", 1)]
    assert kinds(calm, 1)[:2] == [("queue", -1), ("prefill", 0)]
    middle = life(calm.tables, 0)[-1].begin_ns + 20_000
    log = ran(resolved, workload(rows), Scenario((Dies(middle, 1),)))
    assert kinds(log, 0) == [
        ("prefill", 0),
        ("transfer", 1),
        ("decode", 1),
        ("prefill again", 0),
        ("hand-over", 0),
        ("transfer", 2),
        ("decode", 2),
    ]
    assert np.concatenate(log.tables.spans)["left"].tolist().count(LOST) == 1
    died = next(stage for stage in life(log.tables, 0) if stage.kind == "decode")
    assert died.end_ns == middle


def test_a_dead_source_and_a_dead_target() -> None:
    rows = [(0, 40, 30)]
    resolved = fleet((PREFILL, PREFILL, DECODE, DECODE), params={"token_budget": 100}, link=SLOW)
    calm = life(ran(resolved, workload(rows)).tables, 0)
    under_way = calm[1].begin_ns + 1_000
    log = ran(resolved, workload(rows), Scenario((Dies(under_way, 0),)))
    assert kinds(log, 0)[:2] == [("prefill", 0), ("hand-over", 0)]
    assert kinds(log, 0)[-3:] == [("prefill again", 1), ("transfer", 3), ("decode", 3)]
    assert log.tables.spans[0]["left"].tolist() == [HANDED]
    log = ran(resolved, workload(rows), Scenario((Dies(under_way, 2),)))
    assert kinds(log, 0) == [("prefill", 0), ("hand-over", 0), ("transfer", 3), ("decode", 3)]
    assert life(log.tables, 0)[1].end_ns == under_way


def test_a_request_that_is_not_there() -> None:
    log = ran(fleet((PREFILL, DECODE)), workload([(0, 4, 4)]))
    with pytest.raises(InputError, match="no request 7; the run has 0 to 0"):
        life(log.tables, 7)
