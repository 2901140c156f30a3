"""The view of the fleet: what it works in since the last report, against replaying the steps one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.message import Report
from phasewise.core.spec import DECODE, MIXED, PREFILL
from phasewise.policy.fleet import ClusterView

STEP = st.one_of(st.integers(1, 50).map(float), st.floats(1.0, 50.0))


def ends(next_ns: int, step_ns: float, slope_ns: float, upto_ns: int) -> list[int]:
    """When iterations end, one by one: the one in progress, and then those that begin at its end."""
    found, spent, step = [next_ns], 0.0, step_ns
    while found[-1] <= upto_ns:
        spent += step
        step += slope_ns
        found.append(next_ns + int(spent + 0.5))
    return found


@given(
    st.lists(
        st.tuples(st.integers(100, 140), STEP, st.sampled_from([0.0, 0.25, 1.0, 3.0]), st.integers(0, 4)), min_size=1
    ),
    st.integers(100, 3_000),
)
def test_context_is_that_of_counting_the_steps(rows: list[tuple[int, float, float, int]], now_ns: int) -> None:
    view = ClusterView([MIXED] * len(rows), [9] * len(rows))
    wanted = []
    for i, (next_ns, step, slope, moving) in enumerate(rows):
        view.heard(Report(i, 100, -1, 0, 0, 5, 70, 3, moving=moving, next_ns=next_ns, step_ns=step, slope_ns=slope))
        wanted.append(70 + moving * sum(end <= now_ns for end in ends(next_ns, step, slope, now_ns)))
    assert view.contexts(now_ns).tolist() == wanted


@given(
    st.lists(st.tuples(STEP, st.integers(0, 9), st.integers(0, 300), st.integers(0, 40)), min_size=1),
    st.integers(100, 3_000),
)
def test_pending_tokens_are_those_of_counting_the_chunks(rows: list[tuple[float, int, int, int]], now_ns: int) -> None:
    """With chunks each iteration takes as long as the one in progress, which began at the report."""
    view = ClusterView([MIXED] * len(rows), [9] * len(rows))
    left = []
    for i, (step, chunk, queued, sent) in enumerate(rows):
        view.heard(Report(i, 100, -1, 1, queued, 2, 0, 3, 1, chunk=chunk, next_ns=100 + int(step + 0.5), step_ns=step))
        view.sent(i, 7, sent)
        n = 0
        while 100 + int((n + 1) * step + 0.5) <= now_ns:
            n += 1
        # The first end is rounded, and the others count from it.
        n = sum(end <= now_ns for end in ends(100 + int(step + 0.5), step, 0.0, now_ns))
        left.append(max(0, queued - n * chunk))
    sent = [row[3] for row in rows]
    assert view.pending(now_ns).tolist() == [a + b for a, b in zip(left, sent, strict=True)]
    assert view.load(now_ns).tolist() == [a + b + 2 for a, b in zip(left, sent, strict=True)]
    assert view.loads(range(len(rows)), now_ns) == view.load(now_ns).tolist()
    assert view.prompts(now_ns).tolist() == [(2 if a else 0) + 1 for a in left]


def test_what_idles_stands_still() -> None:
    view = ClusterView([MIXED], [9])
    view.heard(Report(0, 5, -1, 3, 40, 2, 60, 1))
    for now_ns in (5, 6, 10**15):
        assert view.contexts(now_ns)[0] == 60
        assert view.pending(now_ns)[0] == 40
        assert view.load(now_ns)[0] == 42
        assert view.prompts(now_ns)[0] == 3


def test_orders_count_until_a_report_says_that_they_were_taken() -> None:
    view = ClusterView([MIXED, MIXED], [9, 9])
    view.sent(1, 10, 100)
    view.sent(1, 11, 200)
    view.handed(1, 12, 50)
    assert (view.pending(0)[1], view.load(0)[1], view.contexts(0)[1], view.prompts(0)[1]) == (300, 301, 50, 2)
    view.heard(Report(1, 1, 10, 1, 100, 0, 0, 9))
    assert (view.pending(1)[1], view.load(1)[1], view.prompts(1)[1]) == (300, 301, 2)
    # The guest is reported before it decodes, and counts once.
    view.heard(Report(1, 2, 12, 1, 200, 1, 100, 9, guests=1, guest_tokens=50))
    assert (view.pending(2)[1], view.load(2)[1], view.contexts(2)[1]) == (200, 202, 150)
    view.heard(Report(1, 3, 12, 0, 0, 2, 150, 9))
    assert (view.pending(3)[1], view.load(3)[1], view.contexts(3)[1]) == (0, 2, 150)
    assert view.load(3)[0] == 0


def test_an_order_that_was_lost_is_forgotten_with_the_next_one_taken() -> None:
    view = ClusterView([MIXED], [9])
    view.sent(0, 1, 100)
    view.sent(0, 2, 30)
    view.heard(Report(0, 1, 2, 1, 30, 0, 0, 9))
    assert view.pending(1)[0] == 30


def test_old_news_is_no_news_and_the_lost_have_nothing() -> None:
    view = ClusterView([MIXED], [9])
    view.heard(Report(0, 5, 3, 1, 30, 2, 10, 4))
    view.heard(Report(0, 4, 2, 7, 70, 7, 70, 7))
    assert (view.pending(5)[0], view.waiting[0], view.free[0]) == (30, 1, 4)
    view.sent(0, 4, 8)
    view.emptied(0)
    assert (view.load(6)[0], view.contexts(6)[0], view.free[0], view.at_ns[0]) == (0, 0, 9, 0)


@pytest.mark.parametrize(("barred", "chosen"), [((), 2), ((2,), 1), ((1, 2), None)])
def test_the_least_is_sought_among_the_able(barred: tuple[int, ...], chosen: int | None) -> None:
    view = ClusterView([PREFILL, MIXED, DECODE, DECODE], [9] * 4)
    view.set_open(3, False)
    view.barred = barred
    for i, queued in enumerate((1, 5, 5, 0)):
        view.heard(Report(i, 1, -1, 1, queued, 0, 0, 9))
    view.sent(1, 0, 1)
    assert view.least(view.load(1), DECODE) == chosen
