"""Flows in random worlds: against a fluid that moves in small steps, and by the properties of a fair share."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluid import Begun, Naive, Slowed, begin, run, world

CAPACITY = st.sampled_from([1.0, 2.0, 3.0, 5.0, 8.0])
CARDS = st.lists(CAPACITY, min_size=3, max_size=3)
WHO = st.integers(0, 2)
BEGUN = st.builds(
    Begun, st.integers(0, 100), WHO, WHO, st.integers(0, 400), st.none() | st.integers(0, 100), st.integers(0, 100)
)
SLOWED = st.builds(Slowed, st.integers(0, 100), st.none() | WHO, st.none() | WHO, st.sampled_from([1.0, 2.0, 4.0]))
SCRIPT = st.lists(BEGUN | SLOWED, min_size=1, max_size=8).map(lambda script: sorted(script, key=lambda s: s.at_ns))


@settings(max_examples=150, deadline=None)
@given(CARDS, CARDS, SCRIPT)
def test_a_fluid_in_small_steps_does_the_same(
    out: list[float], into: list[float], script: list[Begun | Slowed]
) -> None:
    found, expected = run(out, into, script), Naive(out, into).run(script)
    assert found.keys() == expected.keys()
    for flow, end in expected.items():
        assert found[flow] == pytest.approx(end, rel=0.01, abs=4), (flow, found, expected)


@given(CARDS, CARDS, SCRIPT, st.lists(st.integers(0, 400), max_size=20))
def test_looking_more_often_changes_nothing(
    out: list[float], into: list[float], script: list[Begun | Slowed], looks: list[int]
) -> None:
    assert run(out, into, script, looks) == run(out, into, script)


def capacities(out: list[float], into: list[float], slow: dict[tuple[int, int], float]) -> dict[str, float]:
    found = {f"out {i}": c for i, c in enumerate(out)} | {f"in {i}": c for i, c in enumerate(into)}
    return found | {f"{i} to {j}": min(out[i], into[j]) / factor for (i, j), factor in slow.items()}


@given(
    st.lists(st.floats(0.1, 50.0), min_size=4, max_size=4),
    st.lists(st.floats(0.1, 50.0), min_size=4, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12),
    st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.floats(1.0, 10.0), max_size=3),
)
def test_a_fair_share(
    out: list[float], into: list[float], ways: list[tuple[int, int]], slow: dict[tuple[int, int], float]
) -> None:
    """No bound is exceeded, and each flow has a bound that is used up and that nobody uses more: there is only one such
    share, the max-min fair one (Bertsekas and Gallager, section 6.5.2)."""
    _, flows = world(out, into)
    for (i, j), factor in slow.items():
        flows.scale(i, j, factor)
    for flow, (i, j) in enumerate(ways):
        flows.begin(flow, i, j, 10**9)
    bounds = capacities(out, into, slow)
    users: dict[str, list[float]] = {name: [] for name in bounds}
    routes = [[name for name in (f"out {i}", f"in {j}", f"{i} to {j}") if name in bounds] for i, j in ways]
    for flow, route in enumerate(routes):
        for name in route:
            users[name].append(flows.rate(flow))
    used = {name: sum(rates) for name, rates in users.items()}
    assert all(used[name] <= bounds[name] * (1 + 1e-9) for name in bounds)
    for flow, route in enumerate(routes):
        mine = flows.rate(flow)
        assert any(
            used[name] >= bounds[name] * (1 - 1e-9) and mine >= max(users[name]) * (1 - 1e-9) for name in route
        ), (flow, mine, users, bounds)


@given(CARDS, CARDS, SCRIPT, st.integers(0, 100), WHO)
def test_every_byte_arrives_once_and_the_dropped_take_no_others_along(
    out: list[float], into: list[float], script: list[Begun | Slowed], drop_ns: int, dead: int
) -> None:
    """The rates, summed nanosecond by nanosecond, give each flow's bytes when it ends; who is dropped has sent no more."""
    clock, flows = world(out, into)
    begun: dict[int, Begun] = {}
    sent: dict[int, float] = {}
    under_way: list[int] = []
    todo = list(script)
    while todo or under_way or clock.now_ns <= drop_ns:
        over = flows.ended()
        for flow in over:
            excess = sent[flow] - begun[flow].nbytes
            # It ends at the first whole nanosecond at which all is sent, so up to one nanosecond's bytes are too many; and
            # as many again if it had to wait, which it begins at the first whole nanosecond too.
            rounded = 1 if begun[flow].ready_in_ns is None else 2
            most = min(out[begun[flow].source], into[begun[flow].target])
            assert -1e-6 <= excess <= rounded * most + 1e-6
        under_way = [flow for flow in under_way if flow not in over]
        while todo and todo[0].at_ns <= clock.now_ns:
            step = todo.pop(0)
            if isinstance(step, Slowed):
                flows.scale(step.source, step.target, step.factor)
            else:
                flow = len(begun)
                begun[flow], sent[flow] = step, 0.0
                under_way.append(flow)
                begin(flows, flow, step)
        if clock.now_ns == drop_ns:
            gone = flows.drop_between(dead, None)
            assert gone == [flow for flow in under_way if begun[flow].source == dead]
            assert all(sent[flow] <= begun[flow].nbytes + 2 * out[dead] for flow in gone)
            under_way = [flow for flow in under_way if flow not in gone]
        for flow in under_way:
            sent[flow] += flows.rate(flow)
        clock.now_ns += 1
    assert flows.next_ns() is None
