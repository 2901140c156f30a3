"""A workload's columns, requests and time axis."""

import gc
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.errors import InputError
from phasewise.core.request import Request
from phasewise.workload import Truth, Workload

ROWS = st.lists(
    st.tuples(st.integers(0, 10**15), st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=40
)


def build(rows, **more):
    arrival, prompt, output = (np.array(column, dtype=np.int64) for column in zip(*sorted(rows), strict=True))
    return Workload("w", arrival, prompt, Truth(output), **more)


def evenly(n, gap_ns=1_000_000_000, start_ns=0, **more):
    return build([(start_ns + i * gap_ns, 10 + i, 20 + i) for i in range(n)], **more)


@given(ROWS, st.none() | st.integers(1, 10**6))
def test_requests_are_the_columns(rows, cap):
    workload = build(rows, max_tokens=cap)
    made = list(workload.requests())
    assert made == [Request(i, at, p, cap) for i, (at, p) in enumerate((r[0], r[1]) for r in sorted(rows))]
    assert all(type(r.arrival_ns) is int and type(r.prompt_tokens) is int for r in made)
    outputs = [workload.truth.output_tokens(r.id) for r in made]
    assert outputs == [min(r[2], cap or 10**6) for r in sorted(rows)]


def test_requests_pass_slice_borders_and_can_be_read_twice():
    workload = evenly(10_001)
    for _ in range(2):
        assert [r.id for r in workload.requests()] == list(range(10_001))
    assert [r.prompt_tokens for r in workload.requests()] == workload.prompt_tokens.tolist()


def test_requests_are_lazy():
    workload = evenly(200_000)
    stream = workload.requests()
    before = sys.getallocatedblocks()
    for _ in range(100_000):
        next(stream)
    gc.collect()
    assert sys.getallocatedblocks() - before < 30_000  # one slice, not 100,000 requests


def test_mean_rate_counts_gaps():
    assert evenly(11, gap_ns=500_000_000, start_ns=7).mean_rate == 2.0
    assert evenly(1).mean_rate == float("inf")
    assert evenly(1).describe()["mean_rate_rps"] is None


@given(ROWS, st.floats(0.01, 1000))
def test_at_rate_stretches_the_axis(rows, rate):
    workload = build(rows)
    if workload.mean_rate == float("inf") or workload.arrival_ns[-1] * (workload.mean_rate / rate) > 9e17:
        return
    factor = workload.mean_rate / rate
    other = workload.at_rate(rate)
    assert np.abs(other.arrival_ns - workload.arrival_ns * factor).max() <= 0.5 + 1e-15 * other.arrival_ns[-1]
    assert (np.diff(other.arrival_ns) >= 0).all()
    assert other.prompt_tokens.tolist() == workload.prompt_tokens.tolist()
    assert other.truth.column().tolist() == workload.truth.column().tolist()


def test_at_rate_reaches_the_rate_and_keeps_patience():
    workload = evenly(101, start_ns=40, gone_ns={7: 8_000_000_040})
    other = workload.at_rate(4.0)
    assert other.mean_rate == pytest.approx(4.0, rel=1e-9)
    assert other.gone_ns[7] - int(other.arrival_ns[7]) == 1_000_000_000
    assert other.gone_ns.keys() == {7}
    assert workload.mean_rate == 1.0


def test_head_cuts_all_columns():
    workload = evenly(10, gone_ns={1: 5_000_000_000, 8: 9_000_000_000}, source="t.csv")
    first = workload.head(3)
    assert [r.id for r in first.requests()] == [0, 1, 2]
    assert first.truth.column().tolist() == [20, 21, 22]
    assert first.gone_ns == {1: 5_000_000_000}
    assert first.where(2) == workload.where(2) == "t.csv:4"
    with pytest.raises(InputError, match=r"t\.csv: holds 10 requests, 11 were asked for; ask for at most 10"):
        workload.head(11)
    for n in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="whole number"):
            workload.head(n)


def test_where_names_the_request_without_a_file():
    assert evenly(17).where(16) == "request 16 of w"


def test_the_digest_sees_every_column():
    rows = [(0, 5, 6), (10, 7, 8)]
    same = build(rows)
    others = [
        build([(0, 5, 6), (11, 7, 8)]),
        build([(0, 5, 6), (10, 9, 8)]),
        build([(0, 5, 6), (10, 7, 9)]),
        build(rows, max_tokens=100),
        build(rows, gone_ns={0: 3}),
    ]
    assert same.digest() == build(rows).digest()
    assert len({same.digest(), *(w.digest() for w in others)}) == 6
    assert same.describe() == {"name": "w", "requests": 2, "mean_rate_rps": 1e8, "sha256": same.digest()}


def test_columns_cannot_be_written():
    workload = evenly(3)
    with pytest.raises(ValueError, match="read-only"):
        workload.arrival_ns[0] = 5
    with pytest.raises(AttributeError):
        workload.name = "other"


@pytest.mark.parametrize(
    ("arrival", "prompt", "output", "more", "says"),
    [
        ([], [], [], {}, "no requests"),
        ([1, 2], [1], [1, 1], {}, "2 arrivals, 1 prompts and 2 outputs"),
        ([5, 9, 8], [1, 1, 1], [1, 1, 1], {}, "request 2 of w: arrives before"),
        ([1, 2], [1, 0], [1, 1], {}, "request 1 of w: empty prompt"),
        ([1.5, 2], [1, 1], [1, 1], {}, "whole numbers"),
        ([1, 2], [1, 1], [1, 1], {"max_tokens": 0}, "max_tokens 0"),
        ([1, 2], [1, 1], [1, 1], {"gone_ns": {1: 1}}, "request 1 of w: gone before"),
        ([1, 2], [1, 1], [1, 1], {"gone_ns": {2: 9}}, "request 2 of w"),
    ],
)
def test_columns_that_disagree(arrival, prompt, output, more, says):
    with pytest.raises(InputError, match=says):
        Workload("w", np.array(arrival), np.array(prompt), Truth(np.array(output, dtype=np.int64)), **more)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), True, "5"])
def test_what_is_no_rate(rate):
    with pytest.raises(InputError, match="requests per second"):
        evenly(3).at_rate(rate)


def test_rates_that_cannot_be_had():
    with pytest.raises(InputError, match="one instant"):
        build([(4, 1, 1), (4, 1, 1)]).at_rate(2)
    with pytest.raises(InputError, match="higher rate"):
        evenly(3).at_rate(1e-12)
