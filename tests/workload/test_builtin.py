"""The built-in workloads against the traces they stand for.

The figures were computed from the first halves of the public files (9,739 conversation and 5,353 code requests), with
the mean rate as (n - 1) / span; the whole files' differ a little (conversation: mean prompt 1,155 and output 211).
"""

import numpy as np
import pytest
from scipy.stats import spearmanr

from phasewise.workload import load, read_description

N = 100_000
# mean, P50, P90, P99, P99.9, max
PROMPT = {"azure-conv": (1237.2, 1035, 4075, 4122, 5280, 14050), "azure-code": (2028.4, 1465, 4995, 7436, 7437, 7437)}
OUTPUT = {"azure-conv": (221.3, 140, 428, 612, 939, 1000), "azure-code": (27.5, 13, 54, 247, 846, 1899)}
RATE = {"azure-conv": 5.5619, "azure-code": 3.1375}
GAP_CV = {"azure-conv": 1.0727, "azure-code": 13.6376}
RANK = {"azure-conv": 0.0352, "azure-code": -0.0168}
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
    assert (arrivals.rate, arrivals.cv) == (RATE[workload.name], cv)
    # standard errors over n gaps: cv of the mean rate, and of the cv itself (gamma kurtosis 6 cv^2) about as written
    assert workload.mean_rate == pytest.approx(arrivals.rate, rel=4 * cv / N**0.5)
    gaps = np.diff(workload.arrival_ns)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=4 * (2 + 6 * cv**2) ** 0.5 / 2 / N**0.5)
