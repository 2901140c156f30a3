"""Noise: the published function, evenly spread, without state."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from phasewise.engine.noise import philox, uniform

WORD = st.integers(0, 2**64 - 1)


@given(st.tuples(WORD, WORD), st.tuples(WORD, WORD, WORD, WORD))
def test_philox_is_numpys(key, counter):
    whole = sum(word << 64 * i for i, word in enumerate(counter))
    following = tuple(((whole + 1) % 2**256) >> 64 * i & (2**64 - 1) for i in range(4))  # numpy counts before it draws
    theirs = np.random.Philox(counter=np.array(counter, np.uint64), key=np.array(key, np.uint64)).random_raw(4)
    assert philox(following, key) == tuple(int(word) for word in theirs)


@given(st.integers(), st.integers(0, 1), st.integers(0, 2**64 - 1))
def test_strictly_between_0_and_1(seed, stream, index):
    assert 0 < uniform(seed, stream, index) < 1


def test_the_extremes_stay_inside(monkeypatch):
    for word in (0, 2**64 - 1):
        monkeypatch.setattr("phasewise.engine.noise.philox", lambda *_, word=word: (word, 0, 0, 0))
        assert 0 < uniform(0, 0, 0) < 1


@pytest.mark.parametrize("along", ["seed", "index"])
def test_uniform_along_seeds_and_along_indices(along):
    n = 40_000
    drawn = np.array([uniform(*((i, 0, 5) if along == "seed" else (5, 0, i))) for i in range(n)])
    assert chisquare(np.histogram(drawn, 200, (0, 1))[0]).pvalue > 1e-3
    assert kstest(drawn, "uniform").pvalue > 1e-3
    # neighbours know nothing of each other: pairs fall evenly into 20 by 20 cells
    pairs = np.histogram2d(drawn[:-1:2], drawn[1::2], 20, [[0, 1], [0, 1]])[0].ravel()
    assert chisquare(pairs).pvalue > 1e-3


def test_seed_stream_and_index_all_count():
    drawn = {uniform(s, t, i) for s in range(12) for t in range(2) for i in range(12)}
    assert len(drawn) == 12 * 2 * 12
