"""Mixtures of progressions against numpy on every value written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasewise.record.gaps import Mixture

ENTRY = st.tuples(
    st.integers(0, 50) | st.floats(0, 1e6),
    st.sampled_from([0.0, 0.0, 1.0, 0.5]) | st.floats(0, 1e3),
    st.integers(0, 12),
    st.integers(0, 5),
)


def mixture(entries: list[tuple[float, float, int, int]]) -> Mixture:
    low, slope, count, weight = zip(*entries, strict=True) if entries else ((), (), (), ())
    return Mixture(np.array(low, float), np.array(slope, float), np.array(count, np.int64), np.array(weight, np.int64))


def expanded(entries: list[tuple[float, float, int, int]]) -> np.ndarray:
    values = [low + i * slope for low, slope, count, weight in entries for i in range(count) for _ in range(weight)]
    return np.sort(np.array(values, float))


@given(st.lists(ENTRY, max_size=12), st.lists(st.floats(0, 1), min_size=1, max_size=4))
@settings(max_examples=400, deadline=None)
def test_quantiles_are_those_of_all_values(entries: list[tuple[float, float, int, int]], shares: list[float]) -> None:
    shares = [*shares, 0.5, 0.9, 0.99, 1.0]
    found, values = mixture(entries), expanded(entries)
    assert found.total == len(values)
    got = found.quantiles(shares)
    if not len(values):
        assert all(np.isnan(got))
        assert np.isnan(found.mean)
        return
    # Where a share falls on a sample within rounding, either neighbour is right: no sample is that close otherwise.
    for share, value in zip(shares, got, strict=True):
        exact = share * len(values)
        ranks = {max(1, int(np.ceil(exact - 1e-9))), max(1, int(np.ceil(exact)))}
        assert value in {values[rank - 1] for rank in ranks}
        assert value == np.quantile(values, (min(ranks) - 0.5) / len(values), method="inverted_cdf") or len(ranks) > 1
    assert found.mean == pytest.approx(values.mean(), rel=1e-9)


@given(st.lists(st.lists(ENTRY, max_size=5), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_pooling_is_writing_all_out(parts: list[list[tuple[float, float, int, int]]]) -> None:
    values = expanded([entry for part in parts for entry in part])
    pooled = Mixture.pooled([mixture(part) for part in parts])
    assert pooled.total == len(values)
    if len(values):
        assert pooled.quantiles([0.5]) == [values[int(np.ceil(0.5 * len(values))) - 1]]


def test_a_heavy_entry_outweighs_many_light_ones() -> None:
    found = mixture([(1.0, 0.0, 1, 1000), (5.0, 1.0, 100, 1)])
    assert found.quantiles([0.5, 0.9, 0.95, 1.0]) == [1.0, 1.0, 49.0, 104.0]
