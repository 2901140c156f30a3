"""The leap law where a router reads reports: step by step or in leaps, a fleet says the same at the same instants.

Replicas report by a belief equal to the physics. The replay law holds of the same worlds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleets import fleet, split
from phasewise.control.replay import replay
from phasewise.core.fault import Drains, Scenario
from phasewise.core.message import Report
from phasewise.core.spec import MIXED
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from twists import catalogued, messages
from worlds import ARMS, ConstantLatency, ToyLatency, mixed, random_gone, random_rows, toy_resolved, workload

ROUTERS = ("distserve", "least-pending", "power-of-two", "random", "round-robin")
FOUR = (MIXED,) * 4
BATCHERS = ("sarathi", "vllm-v0", "wait, late", "distserve", "splitwise", "splitwise, short of seats")


@pytest.fixture(autouse=True, scope="module")
def twisted_batchers() -> Iterator[None]:
    with catalogued({ARMS[arm][0] for arm in BATCHERS}):
        yield


@pytest.mark.parametrize("arm", BATCHERS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 3)
def test_in_whole_nanoseconds_reports_are_the_same_to_the_last(arm: str, data: st.DataObject) -> None:
    batcher, params = ARMS[arm]
    rows = data.draw(random_rows(most=14, prompt=30, output=30, gap_ns=40_000))
    rows = [(at // 1_000 * 1_000, prompt, output) for at, prompt, output in rows]
    gone = {i: max(rows[i][0], at // 1_000 * 1_000) for i, at in data.draw(random_gone(rows)).items()}
    blocks = data.draw(st.integers(6, 14))
    wire_s = data.draw(st.sampled_from([0.0, 2e-6]))
    report_s = data.draw(st.sampled_from([0.0, 3e-6, 20e-6]))
    latency = data.draw(
        st.sampled_from(
            [
                ConstantLatency(1_000),
                ToyLatency(base=2_000, per_token=1_000, per_context=0, per_pair=0),
                ToyLatency(base=1_000, per_token=0, per_context=1_000, per_pair=0),
                ToyLatency(base=1_000, per_token=0, per_context=1_000, per_pair=0, split=3),
                ToyLatency(),
            ]
        )
    )
    router = data.draw(st.sampled_from(ROUTERS))
    roles = data.draw(st.sampled_from([FOUR, split(2, 2)])) if "wait" not in arm else FOUR
    drained = data.draw(st.lists(st.sampled_from([0, 2]), unique=True))
    drains = tuple(Drains(data.draw(st.integers(1, 300)) * 1_000, i, True) for i in drained)

    toy = {"router": router, "report_s": report_s, "blocks": blocks, "block_tokens": 8, "wire_s": wire_s}
    scenario = Scenario(drains) if drains else None

    def run(name: str) -> RunLog:
        own = fleet(roles, name, params, **toy)
        return simulate(own, mixed(rows, gone), 3, physics=lambda i: latency, scenario=scenario)

    leapt, stepped = run(batcher), run(f"single/{batcher}")
    for room in range(leapt.rooms):
        assert messages(leapt, room) == messages(stepped, room)
    assert replay(leapt, lambda i: latency) == leapt.summary["events"]


@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 3)
def test_in_fractions_of_nanoseconds_reports_agree(data: st.DataObject) -> None:
    rows = data.draw(random_rows(most=14, prompt=30, output=30, gap_ns=40_000, ties=False))
    latency = ToyLatency(whole=False)

    def run(name: str) -> RunLog:
        params, toy = {"max_seqs": 4, "token_budget": 16}, {"blocks": 14, "block_tokens": 8}
        own = fleet([MIXED] * 3, name, params, router="least-pending", report_s=20e-6, **toy)
        return simulate(own, mixed(rows), physics=lambda i: latency)

    leapt, stepped = run("sarathi"), run("single/sarathi")
    for room in range(leapt.rooms):
        for (at, one), (then, other) in zip(messages(leapt, room), messages(stepped, room), strict=True):
            assert abs(at - then) <= 1_000
            if isinstance(one, Report):
                assert msgspec.to_builtins(one) == pytest.approx(msgspec.to_builtins(other), rel=1e-9, abs=1_000)
                one, other = plain(one), plain(other)
            assert one == other


def plain(report: Report) -> Report:
    """A report without its times."""
    return msgspec.structs.replace(report, at_ns=0, next_ns=0, step_ns=0.0, slope_ns=0.0)


def test_reports_come_at_most_every_so_often_and_say_what_has_changed() -> None:
    """A burst, then silence: the last report is of an idle replica, and nothing is on its way any more."""
    rows = [(i * 3_000, 20, 8) for i in range(30)]
    toy = {"blocks": 40, "block_tokens": 8}
    resolved = fleet([MIXED, MIXED], router="least-pending", report_s=50e-6, **toy)
    log = simulate(resolved, workload(rows), physics=lambda i: ToyLatency())
    assert log.summary["completed"] == 30
    for room in (1, 2):
        reports = [m for _, m in messages(log, room) if isinstance(m, Report)]
        assert len(reports) > 3
        assert all(b.at_ns - a.at_ns >= 50_000 for a, b in itertools.pairwise(reports))
        taken = [m.request.id for _, m in messages(log, 0) if getattr(m, "replica", -1) == room - 1]
        last = reports[-1]
        assert (last.taken, last.queued, last.decodes, last.free, last.next_ns) == (taken[-1], 0, 0, 40, -1)


def test_without_a_router_that_looks_nobody_reports() -> None:
    log = simulate(toy_resolved(replicas=2), workload([(0, 30, 5)]), physics=lambda i: ToyLatency())
    assert not [m for room in (1, 2) for _, m in messages(log, room) if isinstance(m, Report)]
