"""Random failures: their rates against closed forms, what is left out against brute force, and streams that are apart."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from phasewise.control.chance import Chance, drawn
from phasewise.core.fault import Dies, Fault, Slows, Starts
from phasewise.core.units import NS_PER_S

S = NS_PER_S


def deaths(
    replicas: int = 1, mean_s: float = 100.0, until_s: int = 1_000, back_s: int | None = 0, from_s: int = 0
) -> Chance:
    return Chance(tuple(range(replicas)), mean_s, from_s * S, until_s * S, None if back_s is None else back_s * S)


def slows(
    replicas: int = 1, mean_s: float = 100.0, until_s: int = 1_000, for_s: int | None = 0, factor: float = 2.0
) -> Chance:
    return Chance(tuple(range(replicas)), mean_s, 0, until_s * S, None if for_s is None else for_s * S, factor)


def of(faults: list[Fault], replica: int) -> list[Fault]:
    return [fault for fault in faults if isinstance(fault, Dies | Slows) and fault.replica == replica]


@pytest.mark.parametrize("chance", [deaths(200, 100, 10_000), slows(200, 100, 10_000)])
def test_the_count_is_poissons(chance: Chance) -> None:
    """Points that last no time: N ~ Poisson(200 x 10,000 / 100), also replica by replica."""
    found = drawn([chance], 1, [])
    assert chance.expected == 20_000
    assert abs(len(found) - 20_000) < 4 * math.sqrt(20_000)
    counts = np.array([len(of(found, replica)) for replica in range(200)])
    # The index of dispersion of a Poisson sample is chi-squared with n - 1 degrees of freedom.
    assert 0.001 < stats.chi2.cdf(counts.var() * 200 / counts.mean(), 199) < 0.999


def test_the_count_with_repairs_is_that_of_a_renewal_process() -> None:
    """Up 100 s, down 50 s: T / 150 failures, with variance T x 100^2 / 150^3 (the central limit theorem of renewals)."""
    n, until = 200, 100_000
    found = drawn([deaths(n, 100, until, back_s=50)], 2, [])
    mean, variance = until / 150, until * 100**2 / 150**3
    # The first time up has no time down before it: 50 / 150 of a failure more, and half the squared variation of a gap less.
    edge = 50 / 150 + ((100 / 150) ** 2 - 1) / 2
    assert abs(len(found) / n - mean - edge) < 4 * math.sqrt(variance / n)


def test_times_up_are_exponential() -> None:
    found = drawn([deaths(50, 100, 20_000, back_s=300)], 3, [])
    up = []
    for replica in range(50):
        mine = [fault for fault in of(found, replica) if isinstance(fault, Dies)]
        up += [(b.at_ns - (a.back_ns or 0)) / S for a, b in pairwise(mine)]
    assert len(up) > 1_500
    assert stats.kstest(up, "expon", (0, 100)).pvalue > 0.001


def test_dying_for_good_happens_once_with_the_exponentials_chance() -> None:
    found = drawn([deaths(5_000, 100, 70, back_s=None)], 4, [])
    assert all(isinstance(fault, Dies) and fault.back_ns is None for fault in found)
    assert len({fault.replica for fault in found if isinstance(fault, Dies)}) == len(found)
    share = 1 - math.exp(-0.7)
    assert abs(len(found) - 5_000 * share) < 4 * math.sqrt(5_000 * share * (1 - share))


def test_failures_lie_in_their_window() -> None:
    found = drawn([deaths(20, 10, 1_000, from_s=900)], 5, [])
    times = [fault.at_ns for fault in found]
    assert abs(len(times) - 200) < 4 * math.sqrt(200)
    assert 900 * S < min(times) < 905 * S
    assert 995 * S < max(times) < 1_000 * S


def test_the_seed_says_all() -> None:
    chances = [deaths(3), slows(3)]
    assert drawn(chances, 6, []) == drawn(chances, 6, []) != drawn(chances, 7, [])


def test_no_two_streams_are_alike() -> None:
    chances = [deaths(5), deaths(5), slows(5), slows(5)]
    times = [fault.at_ns for fault in drawn(chances, 8, [])]
    assert len(times) > 100
    assert len(set(times)) == len(times)


def test_what_is_added_moves_nothing() -> None:
    few = drawn([deaths(3)], 9, [])
    assert of(few, 2)
    assert [fault for fault in drawn([deaths(7)], 9, []) if fault.replica < 3] == few
    assert drawn([Chance((1,), 100.0, 0, 1_000 * S, 0)], 9, []) == of(few, 1)
    assert [fault for fault in drawn([slows(3), deaths(3)], 9, []) if isinstance(fault, Dies)] == few
    assert set(few) < set(drawn([deaths(3), deaths(3)], 9, []))
    alone = drawn([slows(2)], 9, [])
    assert [f for f in drawn([slows(2), deaths(2, back_s=400)], 9, []) if isinstance(f, Slows)] == alone


def test_a_longer_draw_begins_with_the_shorter_and_another_mean_stretches() -> None:
    short, long = drawn([deaths()], 10, []), drawn([deaths(until_s=2_000)], 10, [])
    assert short
    assert long[: len(short)] == short
    stretched = drawn([deaths(mean_s=200.0, until_s=2_000)], 10, [])
    assert len(stretched) == len(short)
    assert all(abs(b.at_ns - 2 * a.at_ns) <= 1 for a, b in zip(short, stretched, strict=True))


@given(st.integers(0, 1_000), st.lists(st.tuples(st.integers(0, 900), st.integers(0, 300)), max_size=4))
def test_random_failures_against_brute_force(seed: int, spans: list[tuple[int, int]]) -> None:
    """The points that last no time are the whole draw; of them those stay that touch nothing written or kept before."""
    written: list[Fault] = [Dies(at * S, 0, (at + lasts) * S) for at, lasts in spans]
    written += [Starts(5 * S, 0), Dies(7 * S, 1)]
    taken = [
        (0, 5 * S),
        *((fault.at_ns, fault.back_ns or 0) for fault in written[: len(spans)] if isinstance(fault, Dies)),
    ]
    kept: list[tuple[int, int]] = []
    for point in drawn([deaths(mean_s=20.0)], seed, []):
        window = (point.at_ns, point.at_ns + 30 * S)
        if not any(window[0] <= end and begin <= window[1] for begin, end in [*taken, *kept]):
            kept.append(window)
    found = drawn([deaths(2, mean_s=20.0, back_s=30)], seed, written)
    assert of(found, 0) == [Dies(at, 0, back) for at, back in kept]
    assert all(fault.at_ns + 30 * S < 7 * S for fault in of(found, 1))


def test_a_failure_at_the_very_instant_of_a_return_is_left_out() -> None:
    first, second, *_ = (fault.at_ns for fault in drawn([deaths()], 12, []))
    assert Dies(first, 0, first) in drawn([deaths()], 12, [Dies(first - 9, 0, first - 1)])
    assert drawn([deaths()], 12, [Dies(first - 9, 0, first)])[0].at_ns == second
    assert drawn([deaths()], 12, [Dies(first, 0, first + 1)])[0].at_ns == second


def test_lines_that_kill_one_replica_share_its_time_and_lines_that_slow_it_do_not() -> None:
    times = [
        (f.at_ns, f.back_ns or 0)
        for f in drawn([deaths(back_s=40), deaths(mean_s=30, back_s=5)], 11, [])
        if isinstance(f, Dies)
    ]
    assert len(times) > 10
    assert all(a[1] < b[0] for a, b in pairwise(times))
    alone = [drawn([slows(mean_s=30, for_s=20, factor=factor)], 11, []) for factor in (2.0, 3.0)]
    both = drawn([slows(mean_s=30, for_s=20, factor=2.0), slows(mean_s=30, for_s=20, factor=3.0)], 11, [])
    assert both[: len(alone[0])] == alone[0]
    assert {fault.factor for fault in both if isinstance(fault, Slows)} == {2.0, 3.0}
    for line in (alone[0], alone[1]):
        assert all((a.until_ns or 0) < b.at_ns for a, b in pairwise(line))
