"""The leap law and the no-oracle law for fleets: hand-over, links that share, and everything that may go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleets import BATCHERS, LINKS, random_roles, tight_fleet
from laws.test_no_oracle import assert_blind, permuted
from mishaps import random_faults, random_moves
from phasewise.core.fault import Scenario
from phasewise.core.spec import PolicySpec
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from twists import TWISTS, assert_same, catalogued
from worlds import ConstantLatency, ToyLatency, random_gone, random_rows, workload


@pytest.fixture(autouse=True, scope="module")
def twisted_batchers() -> Iterator[None]:
    with catalogued(set(BATCHERS)):
        yield


def under(resolved: Any, batcher: str) -> Any:
    """The same fleet under another batcher of the same parameters."""
    spec = PolicySpec(batcher, resolved.deployment.batcher.params)
    return msgspec.structs.replace(resolved, deployment=msgspec.structs.replace(resolved.deployment, batcher=spec))


def run(resolved: Any, load: Any, latency: Any, scenario: Scenario | None = None) -> RunLog:
    return simulate(resolved, load, physics=lambda i: latency, scenario=scenario)


@pytest.mark.parametrize("faults", [None, random_faults, random_moves], ids=["sound", "faults", "moves"])
@pytest.mark.parametrize("batcher", BATCHERS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 2)
def test_ties_in_whole_nanoseconds_are_exact(batcher: str, faults: Any, data: st.DataObject) -> None:
    rows = data.draw(random_rows(most=12, prompt=30, output=30, gap_ns=40_000))
    gone = data.draw(random_gone(rows))
    tick = 1_000
    rows = [(at // tick * tick, p, o) for at, p, o in rows]
    gone = {i: max(rows[i][0], at // tick * tick) for i, at in gone.items()}
    roles = data.draw(random_roles(most=3))
    lossy = data.draw(st.booleans())
    scenario = None if faults is None else data.draw(faults(len(roles), lossy=lossy, until_ns=300_000, tick=tick))
    resolved = tight_fleet(
        roles,
        batcher,
        blocks=data.draw(st.integers(7, 16)),
        link=data.draw(st.sampled_from(LINKS)),
        wire_s=data.draw(st.sampled_from([0.0, 2e-6, 7e-6])),
        patience_s=50e-6 if lossy else None,
        host_blocks=data.draw(st.sampled_from([0, 100])),
    )
    latency = data.draw(
        st.sampled_from(
            [
                ConstantLatency(1_000),
                ToyLatency(base=2_000, per_token=1_000, per_context=0, per_pair=0),
                ToyLatency(base=1_000, per_token=0, per_context=1_000, per_pair=0, split=3),
            ]
        )
    )
    leapt = run(resolved, workload(rows, gone), latency, scenario)
    for twist in TWISTS:
        other = run(under(resolved, f"{twist}/{batcher}"), workload(rows, gone), latency, scenario)
        assert_same(leapt, other, within_ns=0)
        for mine, theirs in zip(leapt.tables.transfers, other.tables.transfers, strict=True):
            assert mine.tolist() == theirs.tolist()


@pytest.mark.parametrize("batcher", BATCHERS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 3)
def test_no_action_before_the_first_end_knows_a_length(batcher: str, data: st.DataObject) -> None:
    rows = [(at, p, o + 5) for at, p, o in data.draw(random_rows(most=12, prompt=30, output=60))]
    roles = data.draw(random_roles())
    resolved = tight_fleet(
        roles, batcher, blocks=data.draw(st.integers(16, 30)), max_context=120, link=data.draw(st.sampled_from(LINKS))
    )
    one = workload(rows)
    other = permuted(one, data.draw(st.integers(0, 99)))
    a, b = (run(resolved, load, ToyLatency()) for load in (one, other))
    assert_blind(a, b)
