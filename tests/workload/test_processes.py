"""Arrival processes and lengths against closed forms: means, variances, exact inversion, bins."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import gamma
from scipy.stats import ks_1samp

from phasewise.core.errors import InputError
from phasewise.workload.arrivals import (
    Clients,
    Curve,
    Gamma,
    OnOff,
    Poisson,
    Weibull,
)
from phasewise.workload.closed import Closed, ExponentialThink, FixedThink, LogNormalThink
from phasewise.workload.curve import linear, steps
from phasewise.workload.lengths import Empirical, FixedLength, Histogram, normal_cdf
from phasewise.workload.synth import Synthetic, generate

N = 40_000


def make(arrivals, n=N, seed=0, rate=None, prompt=FixedLength(10), output=FixedLength(5)):
    return generate(Synthetic("w", arrivals, prompt, output), n, seed, rate)


def seconds(workload):
    return workload.arrival_ns / 1e9


@pytest.mark.parametrize("shape", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("rate", [None, 40.0])
def test_weibull_gaps(shape, rate):
    gaps = np.diff(seconds(make(Weibull(rate=5, shape=shape), rate=rate)))
    mean = 1 / (rate or 5)
    cv = math.sqrt(gamma(1 + 2 / shape) / gamma(1 + 1 / shape) ** 2 - 1)
    assert gaps.mean() == pytest.approx(mean, rel=5 * cv / math.sqrt(N))
    scale = mean / gamma(1 + 1 / shape)
    assert ks_1samp(gaps, lambda x: 1 - np.exp(-((x / scale) ** shape))).pvalue > 1e-3


def test_onoff_mean_and_counts():
    """The counts of a two-state process: mean, and variance in windows of W seconds (Fischer and Meier-Hellstern 1993)."""
    on, off, a, b = 30.0, 2.0, 4.0, 12.0
    process = OnOff(rate_on=on, rate_off=off, on_s=a, off_s=b)
    mean = (on * a + off * b) / (a + b)
    assert process.rate == pytest.approx(mean)
    window = 5.0
    counts, totals = [], []
    for seed in range(12):
        at = seconds(make(process, seed=seed))
        edges = np.arange(0, at[-1], window)
        counts.append(np.histogram(at, edges)[0])
        totals.append(np.count_nonzero(at < 2_000) / 2_000)
    # The rate is a stationary two-state chain: covariance p q (on - off)^2 exp(-(1/a + 1/b) t).
    p, decay = a / (a + b), 1 / a + 1 / b
    spread = p * (1 - p) * (on - off) ** 2
    variance = mean * window + 2 * spread * (window / decay - (1 - math.exp(-decay * window)) / decay**2)
    all_counts = np.concatenate(counts)
    assert all_counts.var() == pytest.approx(variance, rel=0.05)
    error = math.sqrt((mean + 2 * spread / decay) / 2_000 / 12)
    assert np.mean(totals) == pytest.approx(mean, abs=4 * error)


def test_onoff_is_silent_when_off_and_keeps_its_clock_at_another_rate():
    process = OnOff(rate_on=100, on_s=1, off_s=9)
    slow, fast = seconds(make(process, 60_000)), seconds(make(process, 600_000, rate=100))
    gaps = np.diff(slow)
    assert gaps[gaps > 0.5].mean() == pytest.approx(9.5, rel=0.17)  # pauses are the off times, of which some 600
    # At ten times the rate the bursts are where they were, ten times as dense.
    edges = np.arange(0, min(slow[-1], fast[-1]), 0.5)
    few, many = np.histogram(slow, edges)[0], np.histogram(fast, edges)[0]
    assert np.corrcoef(few, many)[0, 1] > 0.95
    assert many.sum() / few.sum() == pytest.approx(10, rel=0.05)


@given(
    st.lists(st.floats(0.01, 50), min_size=1, max_size=6),
    st.lists(st.one_of(st.just(0.0), st.floats(0.01, 20)), min_size=7, max_size=7),
    st.booleans(),
)
def test_the_inverse_of_the_cumulative_rate_is_exact(lengths, rates, straight):
    at = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    points = list(zip(at, rates, strict=False))
    if max(rate for _, rate in points) == 0:
        return
    end_s = at[-1] + 1.0
    curve = (linear if straight else steps)(points, end_s)
    knots, values = [*at, end_s], [rate for _, rate in points]

    def rate_at(t):
        if straight:
            return np.interp(t, knots, [*values, values[0]])
        return values[max(i for i, begin in enumerate(at) if begin <= t)]

    total = quad(rate_at, 0, end_s, points=knots, limit=200)[0]
    assert curve.total == pytest.approx(total, rel=1e-6)
    assert curve.mean_rate == pytest.approx(total / end_s, rel=1e-6)
    for share in (0.1, 0.37, 0.5, 0.93):
        (t,) = curve.times(np.array([share * total]))
        inside = [k for k in knots if k < t]
        assert quad(rate_at, 0, t, points=inside or None, limit=200)[0] == pytest.approx(
            share * total, rel=1e-5, abs=1e-7
        )
    (again,) = curve.repeated(np.array([2 * curve.total + 0.5 * curve.total]))
    # Where the rate is 0 several instants are as right: hold the integral against the share, not one instant to another.
    rest = again - 2 * end_s
    inside = [k for k in knots if k < rest]
    assert quad(rate_at, 0, rest, points=inside or None, limit=200)[0] == pytest.approx(0.5 * total, rel=1e-5, abs=1e-7)


DAY = Curve(points=((0, 2.0), (6, 0.5), (14, 9.0), (20, 6.0)), period_s=24)


@pytest.mark.parametrize("rate", [None, 55.0])
def test_a_curve_follows_the_clock(rate):
    """Counts by hour of the day are those of the integral of the curve, at any mean rate, over and over."""
    at = seconds(make(DAY, rate=rate))
    days = int(at[-1] // 24)
    counts = np.histogram(at[at < days * 24] % 24, np.arange(25))[0]
    scale = 1.0 if rate is None else rate / DAY.rate
    knots, values = [0, 6, 14, 20, 24], [2.0, 0.5, 9.0, 6.0, 2.0]
    expected = [days * scale * quad(lambda t: np.interp(t, knots, values), h, h + 1)[0] for h in range(24)]
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected)).all()
    assert np.sum(counts) / (days * 24) == pytest.approx(rate or DAY.rate, rel=4.5 / math.sqrt(sum(expected)))


def test_steps_hold_and_cv_is_about_the_operational_axis():
    calm = Curve(points=((0, 4.0), (10, 0.0)), shape="steps", cv=0.1)
    at = seconds(make(calm, 2_000))
    assert (at % 20 < 10).all()  # nothing arrives at rate 0
    assert calm.rate == 2.0
    counts = np.histogram(at, np.arange(0, at[-1] // 20 * 20 + 1, 20))[0]
    assert set(counts.tolist()) <= {39, 40, 41}  # gamma gaps of cv 0.1: hardly any noise


@pytest.mark.parametrize("arrivals", [Weibull(5, 0.6), OnOff(20, 3, 9, 1), DAY, Clients(((3.0, 0.5), (1.0, 3.0)))])
def test_another_rate_scales_and_a_longer_run_begins_with_the_shorter(arrivals):
    short, long = make(arrivals, 200), make(arrivals, 5_000)
    assert short.digest() == long.head(200).digest()
    assert make(arrivals, 300, rate=9.0).mean_rate == pytest.approx(9.0, rel=0.35)


def test_clients_side_by_side_begin_in_their_steady_state():
    process = Clients(((3.0, 0.2), (1.0, 4.0), (0.05, 1.0)))
    assert process.rate == pytest.approx(4.05)
    # From the very start there are rate * t arrivals on average, however regular or bursty the clients are.
    early = np.array(
        [[np.count_nonzero(seconds(make(process, 60, seed)) < t) for t in (0.1, 1, 3)] for seed in range(800)]
    )
    error = early.std(axis=0) / math.sqrt(len(early))
    assert (np.abs(early.mean(axis=0) - 4.05 * np.array([0.1, 1, 3])) < 4 * error).all()
    lone = np.diff(seconds(make(Clients(((5.0, 2.5),)))))
    assert lone.mean() == pytest.approx(0.2, rel=5 * 2.5 / math.sqrt(N))
    assert lone.std() / lone.mean() == pytest.approx(2.5, rel=0.05)
    many = np.diff(seconds(make(Clients(((0.05, 1.0),) * 100))))
    assert ks_1samp(many, lambda x: 1 - np.exp(-5 * x)).pvalue > 1e-3  # Poisson processes add up to one


def test_a_histogram_gives_its_bins_back_and_is_flat_inside():
    bins = ((1, 2, 0.25), (2, 10, 0.0), (10, 14, 0.5), (100, 200, 0.25))
    lengths = Histogram(bins).lengths(np.random.default_rng(1).standard_normal(200_000))
    for low, below, p in bins:
        assert ((lengths >= low) & (lengths < below)).mean() == pytest.approx(p, abs=0.006)
    assert np.bincount(lengths)[10:14] / len(lengths) == pytest.approx([0.125] * 4, abs=0.005)
    assert lengths.max() == 199


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9), st.floats(0.01, 1)), min_size=1, max_size=6))
def test_a_histograms_lengths_stay_in_their_bins_and_rise_with_the_normal(raw):
    bins, at = [], 1
    total = sum(p for _, _, p in raw)
    for skip, width, p in raw:
        bins.append((at + skip, at + skip + width, p / total))
        at += skip + width
    normals = np.concatenate([[-40.0, 40.0], np.random.default_rng(0).standard_normal(500)])
    lengths = Histogram(tuple(bins)).lengths(normals)
    assert all(any(low <= length < below for low, below, _ in bins) for length in lengths.tolist())
    assert (np.diff(lengths[np.argsort(normals)]) >= 0).all()


def test_empirical_lengths_are_those_seen():
    values = (7, 3, 3, 900)
    lengths = Empirical(values).lengths(np.random.default_rng(1).standard_normal(100_000))
    found, counts = np.unique(lengths, return_counts=True)
    assert found.tolist() == [3, 7, 900]
    assert counts / len(lengths) == pytest.approx([0.5, 0.25, 0.25], abs=0.01)
    normals = np.sort(np.random.default_rng(2).standard_normal(1_000))
    ranks = np.floor(normal_cdf(normals) * 4).astype(int)
    assert Empirical(values).lengths(normals).tolist() == np.array([3, 3, 7, 900])[ranks].tolist()


@pytest.mark.parametrize(
    ("think", "mean"),
    [(FixedThink(3.0), 3.0), (ExponentialThink(4.0), 4.0), (LogNormalThink(2.0, 0.5), 2 * math.exp(0.125))],
)
def test_thinking(think, mean):
    closed = make(Closed(5, think)).closed
    assert closed is not None
    assert closed.users == 5
    assert closed.think_ns.mean() / 1e9 == pytest.approx(mean, rel=0.03)
    short = make(Closed(5, think), 100).closed
    assert closed.think_ns[:100].tolist() == short.think_ns.tolist()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Weibull(1, 0.1), "shape 0.1"),
        (lambda: OnOff(0, 1, 1), "rate 0"),
        (lambda: OnOff(1, 0, 1), "on_s 0"),
        (lambda: OnOff(1, 1, 1, -1), "rate_off -1"),
        (lambda: make(OnOff(1, 1e-9, 1e-9), 5), "w: 5 requests at 0.5 requests/s take 1e\\+10 switches"),
        (lambda: Curve(((0, 1),)), "1 points"),
        (lambda: Curve(((1, 1), (2, 1))), "first t_s 1"),
        (lambda: Curve(((0, 1), (0, 2))), "t_s 0 is out of range; times climb"),
        (lambda: Curve(((0, 0), (1, 0))), "highest rate 0"),
        (lambda: Curve(((0, 1), (1, float("nan")))), "rate nan"),
        (lambda: Curve(((0, 1), (5, 2)), period_s=4), "period_s 4"),
        (lambda: Curve(((0, 1), (5, 2)), shape="steps", period_s=5), "period_s 5"),
        (lambda: Curve(((0, 1), (5, 2)), cv=0), "cv 0"),
        (lambda: Clients(()), "clients 0"),
        (lambda: Clients(((1.0, 0.0),)), "cv 0"),
        (lambda: Clients(((0.0, 1.0),)), "rate 0"),
        (lambda: Closed(0), "users 0"),
        (lambda: FixedThink(-1), "seconds -1"),
        (lambda: ExponentialThink(0), "mean 0"),
        (lambda: make(Closed(5), 10, rate=3), "w: a closed loop has no rate"),
        (lambda: make(Closed(5), 10).at_rate(3), "w: a closed loop has no rate"),
        (lambda: make(Closed(5), 10).between(0, 3), "w: a closed loop has no time axis"),
        (lambda: Histogram(()), "no bins"),
        (lambda: Histogram(((1, 5, 0.5), (4, 9, 0.5))), "bin from 4"),
        (lambda: Histogram(((1, 1, 1.0),)), "bin below 1"),
        (lambda: Histogram(((1, 2, 0.9),)), "sum to 0.9"),
        (lambda: Histogram(((0, 2, 1.0),)), "bin from 0"),
        (lambda: Empirical(()), "no values"),
        (lambda: Empirical((5, 0)), "value 0"),
        (lambda: make(Poisson(1), 5, rate=1e-300), "higher rate"),
        (lambda: make(DAY, 5, rate=1e-300), "higher rate"),
        (lambda: make(Gamma(1, 1), 5, seed=-1), "seed -1"),
    ],
)
def test_numbers_out_of_range(build, says):
    with pytest.raises(InputError, match=says):
        build()
