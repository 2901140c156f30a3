"""The built-in workloads against the traces they stand for.

The figures were computed from the first halves of the public files (9,739 conversation and 5,353 code requests), with
the mean rate as (n - 1) / span; the whole files' differ a little (conversation: mean prompt 1,155 and output 211). Those
of Mooncake are of the first 7,689 requests, of ShareGPT of a benchmark's 300.
"""

import numpy as np
import pytest
from scipy.stats import spearmanr

from phasewise.workload import load, read_description

N = 100_000
# mean, P50, P90, P99, P99.9, max
PROMPT = {
    "azure-conv": (1237.2, 1035, 4075, 4122, 5280, 14050),
    "azure-code": (2028.4, 1465, 4995, 7436, 7437, 7437),
    "mooncake-conversation": (12449.1, 7284, 28043, 89976, 121299, 124847),
    "sharegpt": (857.5, 731.5, 1460, 2765, 3835, 3998),
}
OUTPUT = {
    "azure-conv": (221.3, 140, 428, 612, 939, 1000),
    "azure-code": (27.5, 13, 54, 247, 846, 1899),
    "mooncake-conversation": (347.7, 356, 606, 1166, 2000, 2000),
    "sharegpt": (652.5, 632, 770, 784, 961, 1021),
}
RATE = {"azure-conv": 5.5619, "azure-code": 3.1375, "mooncake-conversation": 3.2604, "sharegpt": 10}
GAP_CV = {"azure-conv": 1.0727, "azure-code": 13.6376, "mooncake-conversation": 1.0, "sharegpt": 1.0}
RANK = {"azure-conv": 0.0352, "azure-code": -0.0168, "mooncake-conversation": 0.0692, "sharegpt": 0.1889}
NAMES = sorted(RATE)


@pytest.fixture(scope="module", params=NAMES)
def workload(request):
    return load(request.param, requests=N, seed=7)


def check(tokens, figures):
    mean, *quantiles, longest = figures
    assert tokens.mean() == pytest.approx(mean, rel=0.02)
    got = np.quantile(tokens, [0.5, 0.9, 0.99, 0.999])
    assert got[:3] == pytest.approx(quantiles[:3], rel=0.04)
    assert got[3] == pytest.approx(quantiles[3], rel=0.08)
    assert 0.8 * longest < tokens.max() <= longest


def test_lengths(workload):
    check(workload.prompt_tokens, PROMPT[workload.name])
    check(workload.truth.column(), OUTPUT[workload.name])


def test_rank_correlation(workload):
    got = spearmanr(workload.prompt_tokens, workload.truth.column()).statistic
    assert got == pytest.approx(RANK[workload.name], abs=0.012)


def test_arrivals(workload):
    arrivals = read_description(workload.name).arrivals
    cv = GAP_CV[workload.name]
    assert (arrivals.rate, getattr(arrivals, "cv", 1.0)) == (RATE[workload.name], cv)
    # standard errors over n gaps: cv of the mean rate, and of the cv itself (gamma kurtosis 6 cv^2) about as written
    assert workload.mean_rate == pytest.approx(arrivals.rate, rel=4 * cv / N**0.5)
    gaps = np.diff(workload.arrival_ns)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=4 * (2 + 6 * cv**2) ** 0.5 / 2 / N**0.5)


# P50, P90, standard deviation as the Sarathi-Serve paper prints them (outputs: from memory), and its cap on the total
PUBLISHED = {
    "openchat-sharegpt4": ((1730, 5696, 2088), (415, 834, None), 8192),
    "arxiv-sarathi": ((7059, 12985, 3638), (208, 371, 265), 16384),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_quantiles(name):
    *sides, total = PUBLISHED[name]
    workload = load(name, requests=N, seed=3)
    columns = workload.prompt_tokens, workload.truth.column()
    for tokens, (p50, p90, std) in zip(columns, sides, strict=True):
        assert np.median(tokens) == pytest.approx(p50, rel=0.02)
        assert np.quantile(tokens, 0.9) == pytest.approx(p90, rel=0.02)
        assert std is None or tokens.std() == pytest.approx(std, rel=0.03)
    assert (columns[0] + columns[1]).max() <= total


def test_no_output_of_openchat_can_scatter_as_little_as_remembered():
    """The least standard deviation with half the mass up to 415 and a tenth from 834, the rest wherever it costs least."""
    least = min(np.sqrt(0.5 * (415 - m) ** 2 + 0.1 * (834 - m) ** 2) for m in np.linspace(415, 834, 2_000))
    assert least > 1.15 * 101


def test_reasoning_answers_at_length():
    workload = load("reasoning", requests=N)
    outputs = workload.truth.column()
    assert outputs.mean() == pytest.approx(8192, rel=0.03)
    assert workload.prompt_tokens.mean() == pytest.approx(1024, rel=0.02)
    assert outputs.max() == 32768
    assert (outputs == 32768).mean() == pytest.approx(0.01, abs=0.003)
