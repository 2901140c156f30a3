"""The laws with Splitwise's router: leaps change nothing, every room replays, and only an oracle looks ahead.

Small fleets with pools, links that take time, machines that change their roles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.test_no_oracle import actions_before, assert_blind, first_end_ns, permuted
from phasewise.control.replay import replay
from phasewise.core.errors import InputError
from phasewise.core.event import Arrived
from phasewise.core.message import SetRole
from phasewise.core.spec import DECODE, MIXED, PREFILL, LinkSpec, PolicySpec
from phasewise.policy import catalog
from phasewise.policy.prediction.oracle import Oracle
from phasewise.record.columns import ClusterColumns
from phasewise.sim.simulate import simulate
from phasewise.workload.truth import Truth
from phasewise.workload.workload import ClosedLoop, Workload
from pools import pooled
from twists import TWISTS, catalogued, messages, steps
from worlds import ToyLatency, random_gone, random_rows, workload

BATCHERS = ("splitwise", "sarathi")
ROLES = ((PREFILL, PREFILL, DECODE, DECODE), (PREFILL, DECODE), (PREFILL, DECODE, MIXED), (MIXED, MIXED))
PREDICTORS = ("oracle", "none", "mean")


@pytest.fixture(autouse=True, scope="module")
def twisted_batchers() -> Iterator[None]:
    with catalogued(set(BATCHERS)):
        yield


def drawn(data: st.DataObject) -> tuple[dict[str, Any], Any]:
    """A fleet short of memory, with a queue that is soon too long, and a workload with some clients leaving."""
    fleet = {
        "roles": data.draw(st.sampled_from(ROLES)),
        "params": {"token_budget": data.draw(st.sampled_from([16, 40])), "max_seqs": data.draw(st.integers(2, 5))},
        "predictor": data.draw(st.sampled_from(PREDICTORS)),
        "long_queue": data.draw(st.sampled_from([20, 60])),
        "link": LinkSpec("free", data.draw(st.sampled_from([None, 0.01, 0.1])), transfer="layer-wise"),
        "blocks": data.draw(st.integers(9, 20)),
        "block_tokens": 8,
        "wire_s": data.draw(st.sampled_from([0.0, 2e-6])),
    }
    rows = data.draw(random_rows(most=14, prompt=40, output=30, gap_ns=30_000))
    rows = [(at // 1_000 * 1_000, p, o) for at, p, o in rows]
    gone = {i: max(rows[i][0], at // 1_000 * 1_000) for i, at in data.draw(random_gone(rows)).items()}
    return fleet, workload(rows, gone)


@pytest.mark.parametrize("batcher", BATCHERS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 2)
def test_leaps_change_nothing(batcher: str, data: st.DataObject) -> None:
    fleet, load = drawn(data)
    latency = ToyLatency(base=2_000, per_token=1_000, per_context=0, per_pair=0)
    leapt = simulate(pooled(batcher=batcher, **fleet), load, physics=lambda i: latency)
    for twist in TWISTS:
        other = simulate(pooled(batcher=f"{twist}/{batcher}", **fleet), load, physics=lambda i: latency)
        for room in range(leapt.rooms):
            assert messages(leapt, room) == messages(other, room)
            assert room == 0 or steps(leapt, room) == steps(other, room)


@pytest.mark.parametrize("batcher", BATCHERS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 2)
def test_every_room_replays(batcher: str, data: st.DataObject) -> None:
    fleet, load = drawn(data)
    log = simulate(pooled(batcher=batcher, **fleet), load, physics=lambda i: ToyLatency(whole=False))
    assert replay(log) == log.summary["events"]
    again = ClusterColumns()
    again.fold(log.records(0))
    assert again.changes().tobytes() == log.tables.changes.tobytes()


def test_the_worlds_do_change_roles() -> None:
    """Were no machine ever lent, the laws would hold of nothing."""
    rows = [(i * 2_000, 30, 20) for i in range(18)] + [(2_000_000, 30, 20), (4_000_000, 30, 20)]
    fleet = pooled(blocks=12, block_tokens=8, long_queue=60, params={"token_budget": 40, "max_seqs": 4})
    log = simulate(fleet, workload(rows), physics=lambda i: ToyLatency())
    roles = [action.role for _, action in messages(log, 0) if isinstance(action, SetRole)]
    assert {MIXED, PREFILL, DECODE} <= set(roles)
    assert log.summary["completed"] == 20


@pytest.mark.parametrize("predictor", ["none", "mean"])
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 2)
def test_without_an_oracle_the_true_lengths_change_nothing(predictor: str, data: st.DataObject) -> None:
    rows = [(at, p, o + 5) for at, p, o in data.draw(random_rows(most=14, prompt=40, output=60))]
    fleet = pooled(predictor=predictor, blocks=data.draw(st.integers(16, 40)), block_tokens=8, long_queue=60)
    one = workload(rows)
    other = permuted(one, data.draw(st.integers(0, 99)))
    a, b = (simulate(fleet, w, physics=lambda i: ToyLatency()) for w in (one, other))
    assert_blind(a, b)
    assert a.summary["oracle"] is False


def test_an_oracle_looks_ahead_and_says_so() -> None:
    """The third answer goes to the machine with the shorter ones, whichever these are."""
    one = workload([(0, 10, 100), (0, 10, 20), (10, 10, 30)])
    other = workload([(0, 10, 20), (0, 10, 100), (10, 10, 30)])
    fleet = pooled(predictor="oracle")
    a, b = (simulate(fleet, w, physics=lambda i: ToyLatency()) for w in (one, other))
    end_ns = min(first_end_ns(a), first_end_ns(b))
    assert actions_before(a, 0, end_ns) != actions_before(b, 0, end_ns)
    assert a.summary["oracle"] is True
    assert fleet.deployment.oracle


def test_an_oracle_by_another_name_is_refused() -> None:
    class Sly(Oracle):
        __slots__ = ()

    catalog.PAPERS["predictor", "clairvoyant"] = (Sly, "test")
    try:
        with pytest.raises(InputError, match="have 'oracle' in its name"):
            simulate(pooled(predictor="clairvoyant"), workload([(0, 10, 10)]), physics=lambda i: ToyLatency())
    finally:
        del catalog.PAPERS["predictor", "clairvoyant"]


def test_users_of_a_closed_loop_are_predicted_too() -> None:
    closed = ClosedLoop(2, np.zeros(4, np.int64))
    load = Workload("toy", np.zeros(4, np.int64), np.full(4, 10), Truth(np.array([3, 4, 5, 6])), closed=closed)
    log = simulate(pooled(predictor="oracle"), load, physics=lambda i: ToyLatency())
    assert [e.predicted for _, e, _ in log.records(0) if isinstance(e, Arrived)] == [3, 4, 5, 6]


def test_predictors_say_what_they_know() -> None:
    mean = catalog.build("predictor", PolicySpec("mean", {"tokens": 50}))
    plain, capped = (next(workload([(0, 5, 3)], max_tokens=most).requests()) for most in (None, 20))
    assert (mean.predict(plain), mean.predict(capped)) == (50, 20)
    assert catalog.build("predictor", PolicySpec("none")).predict(plain) is None
