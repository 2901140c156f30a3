"""Flows against closed forms, against a fluid that moves in small steps, and by the properties of a fair share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasewise.perf.links import visible_ns
from phasewise.sim.clock import VirtualClock
from phasewise.sim.links import Flows


class Begun(NamedTuple):
    at_ns: int
    source: int
    target: int
    nbytes: int
    ready_in_ns: int | None = None
    last_bytes: int = 0


class Slowed(NamedTuple):
    at_ns: int
    source: int | None
    target: int | None
    factor: float


def world(out: list[float], into: list[float], now_ns: int = 0) -> tuple[VirtualClock, Flows]:
    clock = VirtualClock(now_ns)
    return clock, Flows(clock, out, into)


def begin(flows: Flows, flow: int, begun: Begun) -> None:
    ready = None if begun.ready_in_ns is None else begun.at_ns + begun.ready_in_ns
    flows.begin(flow, begun.source, begun.target, begun.nbytes, ready, begun.last_bytes)


def ends(clock: VirtualClock, flows: Flows) -> dict[int, int]:
    """Look whenever asked to, until nothing is under way: when each flow ended."""
    found = {}
    while (next_ns := flows.next_ns()) is not None:
        clock.now_ns = next_ns
        found |= dict.fromkeys(flows.ended(), next_ns)
    return found


def run(out: list[float], into: list[float], script: list[Begun | Slowed], looks: Sequence[int] = ()) -> dict[int, int]:
    """When each flow of a script in order of time ended; `looks` are instants at which somebody looks in vain."""
    clock, flows = world(out, into)
    found: dict[int, int] = {}
    begun = 0
    for i, at_ns in sorted(
        [(i, s.at_ns) for i, s in enumerate(script)] + [(-1, at) for at in looks], key=lambda x: x[1]
    ):
        while (next_ns := flows.next_ns()) is not None and next_ns <= at_ns:
            clock.now_ns = next_ns
            found |= dict.fromkeys(flows.ended(), next_ns)
        clock.now_ns = at_ns
        step = script[i]
        if i < 0:
            assert flows.ended() == []
        elif isinstance(step, Slowed):
            flows.scale(step.source, step.target, step.factor)
        else:
            begin(flows, begun, step)
            begun += 1
    return found | ends(clock, flows)


# Closed forms


@given(st.integers(0, 10**13), st.floats(0.01, 1e4), st.integers(0, 10**16))
def test_a_lone_flow_takes_its_bytes_over_its_rate(nbytes: int, rate: float, start_ns: int) -> None:
    clock, flows = world([rate, 1.0], [1.0, 2 * rate], start_ns)
    flows.begin(7, 0, 1, nbytes)
    took = flows.next_ns() - start_ns
    exact = Fraction(nbytes) / Fraction(rate)
    assert -Fraction(1, 1000) <= took - exact < 1
    if exact.denominator == 1:
        assert took == exact
    clock.now_ns = start_ns + max(0, took - 1)
    assert flows.ended() == [7] * (took == 0)
    clock.now_ns = start_ns + took
    assert flows.ended() == [7] * (took > 0)
    assert flows.next_ns() is None
    assert flows.ended() == []


def test_two_receivers_share_a_sender_and_two_senders_a_receiver() -> None:
    assert run([10.0], [10.0, 10.0], [Begun(0, 0, 0, 1000), Begun(0, 0, 1, 3000)]) == {0: 200, 1: 400}
    assert run([10.0, 10.0], [10.0], [Begun(0, 0, 0, 1000), Begun(0, 1, 0, 3000)]) == {0: 200, 1: 400}


def test_what_a_slow_receiver_leaves_is_the_others() -> None:
    clock, flows = world([10.0], [2.0, 100.0])
    flows.begin(0, 0, 0, 1000)
    flows.begin(1, 0, 1, 4000)
    assert (flows.rate(0), flows.rate(1)) == (2.0, 8.0)
    assert ends(clock, flows) == {0: 500, 1: 500}


def test_max_min_of_three_flows_by_hand() -> None:
    # Two flows into a receiver of 6 take 3 each; the second sender's other flow takes what that leaves of 10.
    _, flows = world([10.0, 10.0], [6.0, 10.0])
    for flow, (source, target) in enumerate([(0, 0), (1, 0), (1, 1)]):
        flows.begin(flow, source, target, 10**6)
    assert [flows.rate(flow) for flow in range(3)] == [3.0, 3.0, 7.0]


def test_one_direction_leaves_the_other_alone() -> None:
    assert run([10.0, 10.0], [10.0, 10.0], [Begun(0, 0, 1, 1000), Begun(0, 1, 0, 1000)]) == {0: 100, 1: 100}


def test_a_newcomer_slows_who_is_there_and_leaves() -> None:
    # Alone for 40 ns (400 bytes), half for 40 ns (200), alone for the last 400.
    assert run([10.0], [10.0, 10.0], [Begun(0, 0, 0, 1000), Begun(40, 0, 1, 200)]) == {0: 120, 1: 80}


def test_thirds_come_out_whole() -> None:
    assert run([1.0], [1.0] * 3, [Begun(0, 0, i, 1000) for i in range(3)]) == {0: 3000, 1: 3000, 2: 3000}


def test_a_link_without_bounds_takes_no_time() -> None:
    clock, flows = world([math.inf, 3.0], [math.inf, math.inf], 5)
    flows.begin(3, 0, 0, 10**15)
    flows.begin(1, 0, 1, 0)
    flows.begin(2, 0, 1, 10, ready_ns=9, last_bytes=1)
    flows.begin(4, 1, 1, 30)
    assert flows.next_ns() == 5
    assert flows.ended() == [1, 3]
    assert ends(clock, flows) == {2: 9, 4: 15}


def test_a_layer_wise_flow_waits_for_its_sender() -> None:
    # 90 of 100 bytes are away after 9 ns, the last ten leave at 50; a late sender's are hidden behind the rest.
    assert run([10.0], [10.0], [Begun(0, 0, 0, 100, 50, 10)]) == {0: 51}
    assert run([10.0], [10.0], [Begun(0, 0, 0, 100, 8, 10)]) == {0: 10}
    assert run([10.0], [10.0], [Begun(0, 0, 0, 100, 9, 10)]) == {0: 10}
    assert run([10.0], [10.0], [Begun(0, 0, 0, 100, 50, 500)]) == {0: 60}
    assert run([10.0], [10.0], [Begun(0, 0, 0, 0, 50, 0)]) == {0: 50}


def test_who_waits_for_its_sender_takes_no_share() -> None:
    script = [Begun(0, 0, 0, 100, 100, 50), Begun(0, 0, 1, 1050)]
    # Both at 5 until the first has sent 50 at 10 ns; the second alone until 100; both at 5, the last 50 of each.
    assert run([10.0], [10.0, 10.0], script) == {0: 110, 1: 115}


@given(st.integers(0, 10**7), st.integers(0, 10**6), st.integers(1, 100), st.integers(1, 50))
def test_a_layer_wise_flow_alone_is_the_closed_form(nbytes: int, layer_ns: int, layers: int, rate: int) -> None:
    nbytes -= nbytes % layers
    prompt_ns = layer_ns * layers
    # It begins when the first layer is computed.
    begun = Begun(layer_ns, 0, 0, nbytes, prompt_ns - layer_ns, nbytes // layers)
    took = run([float(rate)], [1e9], [begun])[0] - prompt_ns
    assert abs(took - visible_ns(nbytes, prompt_ns, layers, float(rate), True)) <= 1


# Links that change


@pytest.mark.parametrize("who", [(0, 1), (0, None), (None, 1), (None, None)])
@given(nbytes=st.integers(1, 10**9), rate=st.floats(0.1, 100.0), factor=st.sampled_from([1.0, 2.0, 7.0]))
def test_a_slow_link_takes_longer_by_its_factor(
    who: tuple[int | None, int | None], nbytes: int, rate: float, factor: float
) -> None:
    _, flows = world([rate, rate], [rate, rate])
    flows.scale(*who, factor)
    flows.begin(0, 0, 1, nbytes)
    assert flows.next_ns() == pytest.approx(factor * nbytes / rate, rel=1e-12, abs=1)
    flows.scale(*who, 1)
    assert flows.next_ns() == pytest.approx(nbytes / rate, rel=1e-12, abs=1)


def test_a_slow_pair_leaves_the_rest_to_others() -> None:
    clock, flows = world([10.0], [10.0, 10.0])
    flows.begin(0, 0, 0, 10_000)
    flows.begin(1, 0, 1, 10_000)
    clock.now_ns = 100
    flows.scale(0, 0, 5)
    assert (flows.rate(0), flows.rate(1)) == (2.0, 8.0)
    flows.scale(0, None, 2)
    assert (flows.rate(0), flows.rate(1)) == (1.0, 4.0)
    flows.scale(0, 0, 1)
    assert (flows.rate(0), flows.rate(1)) == (2.5, 2.5)
    flows.scale(0, None, 1)
    assert ends(clock, flows) == {0: 2000, 1: 2000}


@pytest.mark.parametrize("capacity", [10.0, math.inf])
def test_nothing_passes_a_link_that_stands(capacity: float) -> None:
    clock, flows = world([capacity, 10.0], [10.0, capacity])
    flows.scale(0, 1, math.inf)
    flows.begin(0, 0, 1, 100)
    flows.begin(1, 0, 1, 100, ready_ns=20, last_bytes=100)
    assert ends(clock, flows) == {}
    clock.now_ns = 1000
    flows.scale(0, 1, 1)
    assert ends(clock, flows) == ({0: 1020, 1: 1020} if capacity < math.inf else {0: 1000, 1: 1000})


def test_dropped_flows_are_gone_and_leave_their_share() -> None:
    clock, flows = world([10.0, 10.0], [10.0, 10.0])
    for flow, (source, target) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (0, 0)]):
        flows.begin(flow, source, target, 1000)
    assert flows.drop_between(0, 0) == [0, 4]
    assert flows.drop_between(1, None) == [2, 3]
    assert flows.rate(1) == 10.0
    flows.drop(1)
    flows.drop(1)
    assert flows.next_ns() is None
    flows.begin(1, 0, 0, 1000)
    assert flows.drop_between(1, None) == []
    assert flows.drop_between(None, None) == [1]
    assert ends(clock, flows) == {}


def test_a_flow_is_under_way_until_its_end_was_told() -> None:
    clock, flows = world([10.0], [10.0, 10.0])
    flows.begin(2, 0, 0, 100)
    flows.begin(1, 0, 1, 100)
    clock.now_ns = 20
    flows.begin(5, 0, 1, 100)
    assert flows.rate(5) == 10.0
    with pytest.raises(AssertionError, match="flow 2 is under way already"):
        flows.begin(2, 0, 0, 1)
    assert flows.next_ns() == 20
    assert flows.drop_between(0, 0) == [2]
    flows.begin(6, 0, 0, 0)
    flows.drop(6)
    assert flows.ended() == [1]


def test_who_looks_late_finds_each_end_where_it_was() -> None:
    clock, flows = world([10.0], [10.0, 10.0, 10.0])
    flows.begin(9, 0, 0, 100)
    flows.begin(3, 0, 1, 1000)
    clock.now_ns = 10_000
    flows.begin(1, 0, 2, 0)
    assert flows.ended() == [1, 3, 9]


# Random worlds

CAPACITY = st.sampled_from([1.0, 2.0, 3.0, 5.0, 8.0])
CARDS = st.lists(CAPACITY, min_size=3, max_size=3)
WHO = st.integers(0, 2)
BEGUN = st.builds(
    Begun, st.integers(0, 100), WHO, WHO, st.integers(0, 400), st.none() | st.integers(0, 100), st.integers(0, 100)
)
SLOWED = st.builds(Slowed, st.integers(0, 100), st.none() | WHO, st.none() | WHO, st.sampled_from([1.0, 2.0, 4.0]))
SCRIPT = st.lists(BEGUN | SLOWED, min_size=1, max_size=8).map(lambda script: sorted(script, key=lambda s: s.at_ns))


class Naive:
    """A fluid in small steps. Rates grow by small amounts in turn, as long as nothing that bounds them is full."""

    PER_NS = 4
    GROWTH = 1 / 240

    def __init__(self, out: list[float], into: list[float]) -> None:
        self.out, self.into = out, into
        self.factors: dict[tuple[int | None, int | None], float] = {}
        self.left: dict[int, float] = {}
        self.begun: dict[int, Begun] = {}
        self.known: dict[tuple[int, ...], dict[int, float]] = {}

    def bounds(self, flow: int) -> list[tuple[str, float]]:
        source, target = self.begun[flow].source, self.begun[flow].target
        slow = self.factors.get((None, None), 1.0)
        out = self.out[source] / slow / self.factors.get((source, None), 1.0)
        into = self.into[target] / slow / self.factors.get((None, target), 1.0)
        pair = min(out, into) / self.factors.get((source, target), 1.0)
        return [(f"out {source}", out), (f"in {target}", into), (f"{source} to {target}", pair)]

    def rates(self, flows: tuple[int, ...]) -> dict[int, float]:
        if flows not in self.known:
            rates = dict.fromkeys(flows, 0.0)
            used: dict[str, float] = {}
            growing = list(flows)
            while growing:
                for flow in list(growing):
                    bounds = self.bounds(flow)
                    if any(used.get(name, 0.0) + self.GROWTH > bound + 1e-9 for name, bound in bounds):
                        growing.remove(flow)
                        continue
                    rates[flow] += self.GROWTH
                    for name, _ in bounds:
                        used[name] = used.get(name, 0.0) + self.GROWTH
            self.known[flows] = rates
        return self.known[flows]

    def run(self, script: list[Begun | Slowed]) -> dict[int, float]:
        todo, found, tick = list(script), {}, 0
        while todo or self.left:
            now = tick / self.PER_NS
            while todo and todo[0].at_ns <= now:
                step = todo.pop(0)
                if isinstance(step, Slowed):
                    self.factors[step.source, step.target] = step.factor
                    self.known.clear()
                else:
                    self.left[len(self.begun)] = step.nbytes
                    self.begun[len(self.begun)] = step
            may = {}
            for flow, left in self.left.items():
                begun = self.begun[flow]
                early = begun.ready_in_ns is not None and now < begun.at_ns + begun.ready_in_ns
                may[flow] = left - (min(begun.last_bytes, begun.nbytes) if early else 0)
                if left <= 1e-9 and not early:
                    found[flow] = now
            for flow in found:
                self.left.pop(flow, None)
            going = tuple(flow for flow in self.left if may[flow] > 1e-9)
            for flow, rate in self.rates(going).items():
                self.left[flow] -= min(may[flow], rate / self.PER_NS)
            tick += 1
        return found


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


def test_many_changes_of_rate_lose_no_time() -> None:
    clock, flows = world([3.0], [3.0, 3.0])
    flows.begin(0, 0, 0, 1_000_000)
    for i in range(1, 20_001):
        clock.now_ns += 1
        flows.begin(i, 0, 1, 1_000_000_000)
        clock.now_ns += 1
        flows.drop(i)
    # Of two nanoseconds one at half the rate: 4.5 bytes.
    assert flows.next_ns() == 40_000 + math.ceil((1_000_000 - 90_000) / 3)


def test_what_others_do_elsewhere_costs_no_rounding() -> None:
    clock, flows = world([0.3, 1.0], [0.3, 1.0])
    flows.begin(0, 0, 0, 10**12)
    alone = flows.next_ns()
    for i in range(1, 10_001):
        clock.now_ns += 1
        flows.begin(i, 1, 1, 10**9)
        flows.drop(i)
    assert flows.next_ns() == alone


def test_rounding_costs_no_nanosecond() -> None:
    clock, flows = world([25.0], [25.0] * 3)
    flows.begin(0, 0, 0, 300)
    for i, others in enumerate([2, 2, 0, 2]):
        ids = [10 * (i + 1) + other for other in range(others)]
        for other, flow in enumerate(ids):
            flows.begin(flow, 0, 1 + other, 10**9)
        clock.now_ns += 1
        for flow in ids:
            flows.drop(flow)
    # Three thirds of 25 bytes and once 25, then 250 bytes alone: all the thirds make a whole.
    assert flows.next_ns() == 4 + 10
