"""Faults as values: through bytes and back, in order, and when they hold."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.fault import (
    MESSAGES,
    Cuts,
    Dies,
    Drains,
    Fault,
    Mangles,
    Scenario,
    Slows,
    Starts,
    Switches,
    holds,
)

TIMES = st.integers(0, 1 << 62)
LATER = st.none() | TIMES
REPLICAS = st.integers(0, 10_000)
FACTORS = st.floats(1e-3, 1e6)
MEMBERS = {
    Dies: st.builds(Dies, TIMES, REPLICAS, LATER),
    Slows: st.builds(Slows, TIMES, REPLICAS, FACTORS, LATER),
    Cuts: st.builds(Cuts, TIMES, st.none() | REPLICAS, st.none() | REPLICAS, st.none() | FACTORS, LATER),
    Drains: st.builds(Drains, TIMES, REPLICAS),
    Starts: st.builds(Starts, TIMES, REPLICAS),
    Switches: st.builds(Switches, TIMES, REPLICAS, st.sampled_from(["prefill", "decode", "mixed"])),
    Mangles: st.builds(Mangles, st.none() | st.sampled_from(MESSAGES), st.floats(1e-9, 1), LATER, TIMES, LATER),
}
SCENARIOS = st.builds(
    Scenario, st.lists(st.one_of(*MEMBERS.values())).map(tuple), st.integers(0, (1 << 63) - 1), st.text()
)


def test_every_member_is_tried() -> None:
    assert set(MEMBERS) == set(typing.get_args(Fault))


@given(SCENARIOS)
def test_bytes_and_back(scenario: Scenario) -> None:
    for code in (msgspec.msgpack, msgspec.json):
        back = code.decode(code.encode(scenario), type=Scenario)
        assert back == scenario
        assert [type(fault) for fault in back.faults] == [type(fault) for fault in scenario.faults]


def test_a_fault_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Dies(0, 0).replica = 1


def test_an_unknown_field_is_no_fault() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"type": "dies", "at_ns": 0, "replica": 0, "why": 1}), type=Fault)


def test_in_order_of_time_then_as_they_stand() -> None:
    a, b, c, d = Drains(5, 0), Mangles("submit", 0.5), Dies(5, 0), Slows(0, 1, 2.0)
    assert Scenario((a, b, c, d)).timed() == (b, d, a, c)
    assert Scenario((c, a)).timed() == (c, a)


def test_who_is_absent_at_the_beginning() -> None:
    assert Scenario((Starts(9, 4), Dies(2, 0), Starts(5, 1))).absent() == (1, 4)
    assert Scenario().absent() == ()


@given(st.integers(0, 30))
def test_a_window_has_its_first_instant_and_not_its_last(at: int) -> None:
    for fault in (Slows(10, 0, 2.0, 20), Cuts(10, None, 1, None, 20), Mangles(None, 1.0, None, 10, 20)):
        assert holds(fault, at) == (at in range(10, 20))
    assert holds(Slows(10, 0, 2.0), at) == (at >= 10)
