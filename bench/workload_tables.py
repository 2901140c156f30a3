"""Computes the built-in workloads azure-conv and azure-code from the traces, and prints how well they fit.

    python bench/workload_tables.py TRACES_DIR

TRACES_DIR holds azure2023_conv_first_half.csv and azure2023_code_first_half.csv (arrival_s, input_tokens,
output_tokens). Writes src/phasewise/workload/data/*.yaml. Knows nothing of what runs the workloads.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from phasewise.workload.traces import read_trace
from scipy.stats import spearmanr

from phasewise.workload import Workload, load

DATA = Path(__file__).parents[1] / "src" / "phasewise" / "workload" / "data"
# Even steps of 2 %, finer towards both ends.
PROBABILITIES = [
    *(0, 0.001, 0.005, 0.01),
    *(i / 50 for i in range(1, 49)),
    *(0.965, 0.97, 0.975, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.9975, 0.999, 0.9995, 1),
]
NOTES = {
    "conv": """\
# Gaps: close to Poisson from one to the next. Lost: slow swings of the rate. The trace's count of arrivals
# in a minute has {dispersion:.0f} times the variance of a Poisson process's; a renewal process with this cv,
# {renewal:.1f} times.""",
    "code": """\
# Gaps: cv {cv:.1f} is what the trace has, and it comes from a few pauses: the {long} gaps over 10 s, of {gaps},
# hold {share:.0%} of the time (the longest is {longest:.0f} s); the others by themselves have cv {short:.1f}. A renewal
# gamma process keeps the mean and the cv and loses the shape: with this cv most of its gaps are all but zero, so
# it hands over a burst in an instant where the trace spreads it at about {burst:.0f} requests/s (median gap
# {median:.3f} s). Queues come out worse than the trace's, and a run of n requests misses the mean rate by a standard
# error of {cv:.0f} / sqrt(n) of it: a third at 2,000. To study bursts, replay the trace; for the lengths alone, lower
# the cv in a copy of this file.""",
}


def numbers(values: list[float] | list[int]) -> str:
    """A YAML list, wrapped at 110 columns."""
    lines, line = [], "    "
    for value in values:
        word = f"{value:g}, "
        if len(line) + len(word) > 110:
            lines.append(line.rstrip())
            line = "    "
        line += word
    return "[\n" + "\n".join([*lines, line.rstrip(" ,")]) + "\n  ]"


def column(name: str, tokens: NDArray[np.int64]) -> str:
    values = [round(float(v), 1) for v in np.quantile(tokens, PROBABILITIES)]
    table = f"  probabilities: {numbers(PROBABILITIES)}\n  values: {numbers(values)}"
    return f"{name}:\n  kind: quantiles\n{table}\n"


def write(name: str, trace: Workload) -> None:
    """The description of one trace: rate, cv of its gaps, rank correlation, two quantile tables."""
    gaps = np.diff(trace.arrival_ns) / 1e9
    cv = float(gaps.std() / gaps.mean())
    long = gaps[gaps > 10]
    minutes = trace.arrival_ns[-1] / 60e9
    counts = np.histogram(trace.arrival_ns / 60e9, np.arange(0, minutes))[0]
    note = NOTES[name].format(
        cv=cv,
        renewal=cv**2,
        dispersion=counts.var() / counts.mean(),
        long=len(long),
        gaps=f"{len(gaps):,}",
        share=long.sum() / gaps.sum(),
        longest=gaps.max(),
        short=gaps[gaps <= 10].std() / gaps[gaps <= 10].mean(),
        burst=1 / np.median(gaps),
        median=np.median(gaps),
    )
    rank = float(spearmanr(trace.prompt_tokens, trace.truth.column()).statistic)
    text = f"""\
# Computed by bench/workload_tables.py from the first {len(trace):,} requests ({minutes:.1f} minutes) of
# AzureLLMInferenceTrace_{name}.csv:
# Azure LLM inference traces 2023, Azure/AzurePublicDataset, Microsoft, CC-BY-4.0 (changed: reduced to statistics).
# Cite: Patel et al., Splitwise: Efficient generative LLM inference using phase splitting, ISCA 2024.
#
# rate: (n - 1) / (last - first arrival). cv: of the gaps between arrivals. correlation: Spearman's.
{note}
name: azure-{name}
arrivals: {{kind: gamma, rate: {trace.mean_rate:.4f}, cv: {cv:.4f}}}
correlation: {rank:.4f}
"""
    text += column("prompt", trace.prompt_tokens) + column("output", trace.truth.column())
    (DATA / f"azure-{name}.yaml").write_text(text, encoding="utf-8")


def row(label: str, w: Workload) -> str:
    gaps = np.diff(w.arrival_ns)
    cells = [f"{label:22s} {len(w):8,d} {w.mean_rate:7.3f} {gaps.std() / gaps.mean():7.2f}"]
    for tokens in (w.prompt_tokens, w.truth.column()):
        p50, p90, p99, p999 = np.quantile(tokens, [0.5, 0.9, 0.99, 0.999])
        cells.append(f"{tokens.mean():8.1f} {p50:6.0f} {p90:6.0f} {p99:6.0f} {p999:6.0f} {tokens.max():6d}")
    rank = spearmanr(w.prompt_tokens, w.truth.column()).statistic
    return " |".join([*cells, f"{rank:7.4f}"])


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: workload_tables.py TRACES_DIR")
    side = f"{'mean':>8s} {'p50':>6s} {'p90':>6s} {'p99':>6s} {'p99.9':>6s} {'max':>6s}"
    print(f"{'':22s} {'requests':>8s} {'req/s':>7s} {'gap cv':>7s} |{side} |{side} |{'rank r':>7s}")
    for name in NOTES:
        trace = read_trace(Path(sys.argv[1]) / f"azure2023_{name}_first_half.csv")
        write(name, trace)
        print(row(f"{name} trace", trace))
        print(row(f"{name} built-in, seed 0", load(f"azure-{name}", requests=200_000)))


if __name__ == "__main__":
    main()
