"""Made-up workloads have the moments they state, and share their random numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import ks_1samp, lognorm, spearmanr

from phasewise.core.errors import InputError
from phasewise.workload.arrivals import FixedGaps, Gamma, Poisson
from phasewise.workload.lengths import FixedLength, LogNormal, QuantileTable, normal_cdf
from phasewise.workload.synth import Synthetic, generate

CHAT = LogNormal(median=400, sigma=0.8)
TABLE = QuantileTable(probabilities=(0, 0.25, 0.5, 1), values=(10, 20, 200, 1000))


def make(arrivals=Poisson(rate=5), prompt=CHAT, output=CHAT, n=40_000, seed=0, rate=None, **more):
    return generate(Synthetic("w", arrivals, prompt, output, **more), n, seed, rate)


@pytest.mark.parametrize(
    ("arrivals", "cv"), [(Poisson(rate=5), 1.0), (Gamma(rate=5, cv=0.3), 0.3), (Gamma(5, 2.5), 2.5)]
)
@pytest.mark.parametrize("rate", [None, 0.7, 300.0])
def test_mean_rate_and_burstiness(arrivals, cv, rate):
    workload = make(arrivals, rate=rate)
    gaps = np.diff(workload.arrival_ns)
    assert workload.mean_rate == pytest.approx(rate or 5, rel=5 * cv / math.sqrt(len(gaps)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)
    assert workload.arrival_ns[0] == 0


def test_poisson_gaps_are_exponential_and_independent():
    gaps = np.diff(make(Poisson(rate=5)).arrival_ns) / 1e9
    assert ks_1samp(gaps, lambda x: 1 - np.exp(-5 * x)).pvalue > 1e-3
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 5 / math.sqrt(len(gaps))


def test_fixed_gaps_and_lengths():
    workload = make(FixedGaps(rate=8), FixedLength(tokens=512), FixedLength(tokens=1), n=5)
    assert workload.arrival_ns.tolist() == [0, 125_000_000, 250_000_000, 375_000_000, 500_000_000]
    assert workload.prompt_tokens.tolist() == [512] * 5
    assert workload.truth.column().tolist() == [1] * 5


@pytest.mark.parametrize("arrivals", [Poisson(rate=5), Gamma(rate=5, cv=4), FixedGaps(rate=5)])
def test_another_rate_keeps_lengths_and_relative_arrivals(arrivals):
    slow, fast = make(arrivals, rate=1.0, n=2000), make(arrivals, rate=7.0, n=2000)
    assert slow.prompt_tokens.tolist() == fast.prompt_tokens.tolist()
    assert slow.truth.column().tolist() == fast.truth.column().tolist()
    assert np.abs(slow.arrival_ns / 7.0 - fast.arrival_ns).max() <= 1.0


def test_each_column_has_a_stream_of_its_own():
    base = make(n=500)
    other_prompt = make(prompt=TABLE, n=500)
    assert other_prompt.arrival_ns.tolist() == base.arrival_ns.tolist()
    assert other_prompt.truth.column().tolist() == base.truth.column().tolist()
    order = np.argsort(base.prompt_tokens, kind="stable")
    assert (np.diff(other_prompt.prompt_tokens[order]) >= -1).all()  # the same ranks, up to rounding
    other_arrivals = make(Gamma(rate=5, cv=3), n=500)
    assert other_arrivals.prompt_tokens.tolist() == base.prompt_tokens.tolist()
    assert other_arrivals.truth.column().tolist() == base.truth.column().tolist()


@pytest.mark.parametrize("arrivals", [Poisson(rate=5), Gamma(rate=5, cv=4)])
def test_a_longer_run_begins_with_the_shorter(arrivals):
    short, long = make(arrivals, n=100, correlation=0.5), make(arrivals, n=10_000, correlation=0.5)
    assert short.digest() == long.head(100).digest()


def test_the_seed_is_the_only_chance():
    assert make(n=50, seed=3).digest() == make(n=50, seed=3).digest()
    assert make(n=50, seed=3).digest() != make(n=50, seed=4).digest()


def test_lognormal_follows_its_law():
    by_median = make(prompt=LogNormal(median=4000, sigma=0.5)).prompt_tokens
    assert ks_1samp(by_median, lognorm(0.5, scale=4000).cdf).pvalue > 1e-3
    by_mean = make(prompt=LogNormal(mean=4000, sigma=0.5)).prompt_tokens
    assert by_mean.mean() == pytest.approx(4000, rel=0.015)
    clipped = make(prompt=LogNormal(median=400, sigma=1, min=300, max=500)).prompt_tokens
    assert (clipped.min(), clipped.max()) == (300, 500)
    assert make(prompt=LogNormal(median=1, sigma=3)).prompt_tokens.min() == 1


@given(st.lists(st.integers(1, 5000), min_size=2, max_size=12).map(sorted))
def test_a_quantile_table_gives_its_quantiles_back(values):
    probabilities = tuple(i / (len(values) - 1) for i in range(len(values)))
    table = QuantileTable(probabilities=probabilities, values=tuple(values))
    normals = np.random.default_rng(1).standard_normal(20_000)
    lengths = table.lengths(normals)
    assert values[0] <= lengths.min()
    assert lengths.max() <= values[-1]
    order = np.argsort(normals)
    assert (np.diff(lengths[order]) >= 0).all()  # the k-th smallest normal gives the k-th smallest length
    for p, v in zip(probabilities, values, strict=True):
        share_below = (lengths < v).mean()  # rounding moves at most half a token
        share_up_to = (lengths <= v).mean()
        assert share_below - 0.02 <= p <= share_up_to + 0.02


def test_quantile_round_trip_through_an_empirical_table():
    normals = np.random.default_rng(2).standard_normal(100_000)
    first = CHAT.lengths(normals)
    p = np.linspace(0, 1, 101)
    table = QuantileTable(probabilities=tuple(p.tolist()), values=tuple(np.quantile(first, p).tolist()))
    second = table.lengths(np.random.default_rng(3).standard_normal(100_000))
    inner = p[2:-2]
    assert np.quantile(second, inner) == pytest.approx(np.quantile(first, inner), rel=0.03)


@pytest.mark.parametrize("rho", [-1.0, -0.6, 0.0, 0.3, 0.9, 1.0])
def test_rank_correlation(rho):
    workload = make(prompt=LogNormal(median=1e5, sigma=0.5), output=LogNormal(median=1e5, sigma=0.7), correlation=rho)
    got = spearmanr(workload.prompt_tokens, workload.truth.column()).statistic
    assert got == pytest.approx(rho, abs=0.02)


def test_correlation_does_not_change_a_column_by_itself():
    tied, free = make(correlation=0.8), make()
    assert tied.prompt_tokens.tolist() == free.prompt_tokens.tolist()
    assert np.median(tied.truth.column()) == pytest.approx(400, rel=0.03)


def test_normal_cdf_is_accurate_in_both_tails():
    x = np.linspace(-30, 9, 2001)
    assert normal_cdf(x) == pytest.approx(ndtr(x), rel=1e-12, abs=0)


def test_max_tokens_caps_outputs_and_is_all_that_requests_say():
    workload = make(max_tokens=300, n=2000)
    free = make(n=2000)
    assert workload.truth.column().tolist() == np.minimum(free.truth.column(), 300).tolist()
    assert {r.max_tokens for r in workload.requests()} == {300}
    assert {r.max_tokens for r in free.requests()} == {None}


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Poisson(rate=0), "rate 0"),
        (lambda: Gamma(rate=1, cv=0), "cv 0"),
        (lambda: Gamma(rate=1, cv=float("nan")), "cv nan"),
        (lambda: FixedGaps(rate=float("inf")), "rate inf"),
        (lambda: FixedLength(tokens=0), "tokens 0"),
        (lambda: FixedLength(tokens=10_000_001), "tokens 10000001"),
        (lambda: LogNormal(sigma=-0.1, mean=5), "sigma -0.1"),
        (lambda: LogNormal(sigma=1), "exactly one"),
        (lambda: LogNormal(sigma=1, mean=5, median=5), "exactly one"),
        (lambda: LogNormal(sigma=1, mean=0), "mean 0"),
        (lambda: LogNormal(sigma=1, median=float("nan")), "median nan"),
        (lambda: LogNormal(sigma=1, mean=5, min=10, max=9), "max 9"),
        (lambda: LogNormal(sigma=1, mean=5, min=0), "min 0"),
        (lambda: QuantileTable(probabilities=(0, 1), values=(1,)), "2 probabilities and 1 values"),
        (lambda: QuantileTable(probabilities=(), values=()), "two at least"),
        (lambda: QuantileTable(probabilities=(0, 0.9), values=(1, 2)), "the last 1"),
        (lambda: QuantileTable(probabilities=(0.1, 1), values=(1, 2)), "the first must be 0"),
        (lambda: QuantileTable(probabilities=(0, 0.5, 0.5, 1), values=(1, 2, 3, 4)), "must climb"),
        (lambda: QuantileTable(probabilities=(0, 0.5, 1), values=(1, 3, 2)), "must not fall"),
        (lambda: QuantileTable(probabilities=(0, 1), values=(0, 2)), "value 0"),
        (lambda: QuantileTable(probabilities=(0, 1), values=(1, 1e8)), "value 100000000"),
        (lambda: make(n=5, correlation=1.1), "correlation 1.1"),
        (lambda: make(n=5, max_tokens=0), "max_tokens 0"),
        (lambda: make(n=0), "0 requests"),
        (lambda: make(n=10_000_001), "at most 10,000,000"),
        (lambda: make(n=5, seed=-1), "seed -1"),
        (lambda: make(n=5, seed=0.5), "seed 0.5"),
        (lambda: make(n=5, rate=-2), "rate -2"),
        (lambda: make(n=5, rate=1e-300), "higher rate"),
    ],
)
def test_numbers_out_of_range(build, says):
    with pytest.raises(InputError, match=says):
        build()
