"""True lengths: what was given comes back, clipped or dealt anew, and cannot be written into."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.errors import InputError
from phasewise.workload import Truth

LENGTHS = st.lists(st.integers(1, 10_000_000), min_size=1, max_size=50)


@given(LENGTHS, st.integers(1, 10_000_000))
def test_lengths_come_back_and_clip(lengths, cap):
    truth = Truth(np.array(lengths))
    assert len(truth) == len(lengths)
    assert [truth.output_tokens(i) for i in range(len(truth))] == lengths
    assert truth.clipped(cap).column().tolist() == [min(n, cap) for n in lengths]
    assert truth.column().tolist() == lengths  # clipping made a new one
    assert type(truth.output_tokens(0)) is int


def test_permuted_deals_the_same_lengths_to_others():
    truth = Truth(np.arange(1, 101))
    dealt = truth.permuted(3)
    assert sorted(dealt.column().tolist()) == truth.column().tolist()
    assert dealt.column().tolist() != truth.column().tolist()
    assert dealt.column().tolist() == truth.permuted(3).column().tolist()
    assert dealt.column().tolist() != truth.permuted(4).column().tolist()
    assert [dealt.output_tokens(i) for i in range(100)] == dealt.column().tolist()


def test_nobody_writes_into_it():
    given_lengths = np.array([5, 6])
    truth = Truth(given_lengths)
    given_lengths[0] = 99
    assert truth.column().tolist() == [5, 6]
    with pytest.raises(ValueError, match="read-only"):
        truth.column()[0] = 1


@pytest.mark.parametrize("lengths", [[3, 0], [3, -2], [[1, 2]]])
def test_what_is_no_column_of_lengths(lengths):
    with pytest.raises(InputError):
        Truth(np.array(lengths))
