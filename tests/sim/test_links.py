"""Flows against closed forms: alone, sharing, waiting for their sender, on links that change; and their rounding."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluid import Begun, ends, run, world
from phasewise.perf.links import visible_ns


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
