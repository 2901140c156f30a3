"""Computes the built-in workloads from traces and from published quantiles, and prints how well they fit.

    python bench/workload_tables.py TRACES_DIR

TRACES_DIR holds azure2023_{conv,code}_first_half.csv, mooncake_conversation_first40min.csv.gz and
sharegpt300_llama31_8b_10rps.csv. Writes src/phasewise/workload/data/*.yaml, all but reasoning.yaml, which is made up.
Knows nothing of what runs the workloads.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import spearmanr

from phasewise.workload import Workload, load, read_trace

DATA = Path(__file__).parents[1] / "src" / "phasewise" / "workload" / "data"
# Even steps of 2 %, finer towards both ends.
PROBABILITIES = [
    *(0, 0.001, 0.005, 0.01),
    *(i / 50 for i in range(1, 49)),
    *(0.965, 0.97, 0.975, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.9975, 0.999, 0.9995, 1),
]
AZURE = """\
# Azure LLM inference traces 2023, Azure/AzurePublicDataset, Microsoft, CC-BY-4.0 (changed: reduced to statistics).
# Cite: Patel et al., Splitwise: Efficient generative LLM inference using phase splitting, ISCA 2024."""


@dataclass(frozen=True)
class Source:
    """A built-in that comes from a trace: where that is, whose it is, which process its gaps follow, what is lost."""

    file: str
    origin: str
    licence: str
    arrivals: str
    note: str


SOURCES = {
    "azure-conv": Source(
        "azure2023_conv_first_half.csv",
        "AzureLLMInferenceTrace_conv.csv",
        AZURE,
        "{{kind: gamma, rate: {rate:.4f}, cv: {cv:.4f}}}",
        """\
# Gaps: close to Poisson from one to the next. Lost: slow swings of the rate. The trace's count of arrivals
# in a minute has {dispersion:.0f} times the variance of a Poisson process's; a renewal process with this cv,
# {renewal:.1f} times.""",
    ),
    "azure-code": Source(
        "azure2023_code_first_half.csv",
        "AzureLLMInferenceTrace_code.csv",
        AZURE,
        "{{kind: gamma, rate: {rate:.4f}, cv: {cv:.4f}}}",
        """\
# Gaps: cv {cv:.1f} is what the trace has, and it comes from a few pauses: the {long} gaps over 10 s, of {gaps},
# hold {share:.0%} of the time (the longest is {longest:.0f} s); the others by themselves have cv {short:.1f}. A renewal
# gamma process keeps the mean and the cv and loses the shape: with this cv most of its gaps are all but zero, so
# it hands over a burst in an instant where the trace spreads it at about {burst:.0f} requests/s (median gap
# {median:.3f} s). Queues come out worse than the trace's, and a run of n requests misses the mean rate by a standard
# error of {cv:.0f} / sqrt(n) of it: a third at 2,000. To study bursts, replay the trace; for the lengths alone, lower
# the cv in a copy of this file.""",
    ),
    "mooncake-conversation": Source(
        "mooncake_conversation_first40min.csv.gz",
        "conversation_trace.jsonl",
        """\
# Mooncake's FAST 2025 traces, kvcache-ai/Mooncake, Apache-2.0 (changed: reduced to statistics).
# Cite: Qin et al., Mooncake: Trading more storage for less computation, FAST 2025.""",
        "{{kind: poisson, rate: {rate:.4f}}}",
        """\
# Gaps: the trace's arrivals are quantised to steps of 3 s ({instants:,} instants for all of them), so what happens
# within a step is not known; a Poisson process at the trace's rate stands in. The count of arrivals in a minute
# has {dispersion:.1f} times the variance of a Poisson process's. Lost too: what prompts share ({shared:.0%} of the trace's
# blocks of 512 tokens had been seen in an earlier prompt). To study a prefix cache, replay the trace.""",
    ),
    "sharegpt": Source(
        "sharegpt300_llama31_8b_10rps.csv",
        "a benchmark input of 300 ShareGPT requests at 10 requests/s",
        """\
# LLMServingSim's workloads, casys-kaist/LLMServingSim, MIT (changed: reduced to statistics); Llama-3.1 tokens.
# Cite: Cho et al., LLMServingSim, IISWC 2024.""",
        "{{kind: poisson, rate: 10}}",
        """\
# A benchmark's choice of ShareGPT and not all of it: no answer is shorter than {shortest:,} tokens. The rate is the
# benchmark's too (its gaps have cv {cv:.2f}).""",
    ),
}


def numbers(values: list[float] | list[int]) -> str:
    """A YAML list, wrapped at 110 columns."""
    lines, line = [], "    "
    for value in values:
        word = f"{value:.9g}, "
        if len(line) + len(word) > 110:
            lines.append(line.rstrip())
            line = "    "
        line += word
    return "[\n" + "\n".join([*lines, line.rstrip(" ,")]) + "\n  ]"


def column(name: str, tokens: NDArray[np.int64], probabilities: list[float] = PROBABILITIES) -> str:
    values = [round(float(v), 1) for v in np.quantile(tokens, probabilities)]
    table = f"  probabilities: {numbers(probabilities)}\n  values: {numbers(values)}"
    return f"{name}:\n  kind: quantiles\n{table}\n"


def write(name: str, source: Source, trace: Workload) -> None:
    """The description of one trace: arrivals, rank correlation, two quantile tables."""
    gaps = np.diff(trace.arrival_ns) / 1e9
    cv = float(gaps.std() / gaps.mean())
    long = gaps[gaps > 10]
    minutes = trace.arrival_ns[-1] / 60e9
    counts = np.histogram(trace.arrival_ns / 60e9, np.arange(0, minutes))[0]
    ids = None if trace.prefixes is None else trace.prefixes.ids
    facts = {
        "rate": trace.mean_rate,
        "cv": cv,
        "renewal": cv**2,
        "dispersion": counts.var() / counts.mean() if len(counts) else 0,
        "long": len(long),
        "gaps": f"{len(gaps):,}",
        "share": long.sum() / gaps.sum(),
        "longest": gaps.max(),
        "short": gaps[gaps <= 10].std() / gaps[gaps <= 10].mean(),
        "burst": 1 / max(np.median(gaps), 1e-9),
        "median": np.median(gaps),
        "instants": len(np.unique(trace.arrival_ns)),
        "shared": 0.0 if ids is None else 1 - len(np.unique(ids)) / len(ids),
        "shortest": int(trace.truth.column().min()),
    }
    rank = float(spearmanr(trace.prompt_tokens, trace.truth.column()).statistic)
    text = f"""\
# Computed by bench/workload_tables.py from the first {len(trace):,} requests ({minutes:.1f} minutes) of
# {source.origin}:
{source.licence}
#
# rate: (n - 1) / (last - first arrival). cv: of the gaps between arrivals. correlation: Spearman's.
{source.note.format(**facts)}
name: {name}
arrivals: {source.arrivals.format(**facts)}
correlation: {rank:.4f}
"""
    text += column("prompt", trace.prompt_tokens) + column("output", trace.truth.column())
    (DATA / f"{name}.yaml").write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Published:
    """Medians, P90 and standard deviations in tokens, and the cap on prompt and output together."""

    prompt: tuple[float, float, float]
    output: tuple[float, float, float]
    total: int
    output_std_kept: bool
    remark: str


PUBLISHED = {
    "openchat-sharegpt4": Published(
        (1730, 5696, 2088),
        (415, 834, 101),
        8192,
        False,
        """\
# The output's standard deviation, 101 (from memory), cannot be right beside its P50 and P90: no distribution with half its
# mass up to 415 and a tenth from 834 has less than 120. It is left out; the line from P50 to P90 runs on to the largest.""",
    ),
    "arxiv-sarathi": Published(
        (7059, 12985, 3638),
        (208, 371, 265),
        16384,
        True,
        """\
# The largest output is such that the standard deviation is 265 (from memory). This is not the file of nearly the same name
# that comes with Vidur, which is cut to about 4,000 tokens.""",
    ),
}


def curve(p50: float, p90: float, top: float, bend: float = 1.0, n: int = 200_000) -> NDArray[np.float64]:
    """Quantiles at the middles of n equal shares: 1 + (P50 - 1) (2p)^bend up to the median, then straight to P90 and top."""
    p = (np.arange(n) + 0.5) / n
    upper = np.interp(p, [0.5, 0.9, 1], [p50, p90, top])
    return np.where(p < 0.5, 1 + (p50 - 1) * np.minimum(2 * p, 1) ** bend, upper)


def fit(name: str, given: Published) -> None:
    """The description of a published pair of distributions."""
    p50, p90, std = given.output
    top = p90 + (p90 - p50) / 4
    if given.output_std_kept:
        top = brentq(lambda t: curve(p50, p90, t).std() - std, p90, 20 * p90)
    output = curve(p50, p90, round(top))
    p50, p90, std = given.prompt
    longest = given.total - round(top)
    bend = brentq(lambda b: curve(p50, p90, longest, b).std() - std, 0.1, 20)
    text = f"""\
# Computed by bench/workload_tables.py from the quantiles that the Sarathi-Serve paper prints of its {name.split("-")[0]} data:
# prompts {given.prompt[0]:,} (P50), {given.prompt[1]:,} (P90), {given.prompt[2]:,} (standard deviation);
# outputs {given.output[0]:,} (P50), {given.output[1]:,} (P90), {given.output[2]:,} (standard deviation), all three from memory.
# Cite: Agrawal et al., Taming throughput-latency tradeoff in LLM inference with Sarathi-Serve, OSDI 2024, section 5.
#
# Fit: the quantile function is straight from P50 to P90 and on to the largest prompt, which is the paper's cap on prompt
# and output together, {given.total:,}, less the largest output. Below the median it is 1 + (P50 - 1) (2p)^b, and
# b = {bend:.3f} gives the standard deviation. Outputs are straight below the median.
{given.remark}
# Arrivals are Poisson, as there; the rate is nobody's: choose one.
name: {name}
arrivals: {{kind: poisson, rate: 1}}
"""
    text += column("prompt", curve(p50, p90, longest, bend)) + column("output", output)
    (DATA / f"{name}.yaml").write_text(text, encoding="utf-8")


def row(label: str, w: Workload) -> str:
    gaps = np.diff(w.arrival_ns)
    cells = [f"{label:34s} {len(w):8,d} {w.mean_rate:7.3f} {gaps.std() / gaps.mean():7.2f}"]
    for tokens in (w.prompt_tokens, w.truth.column()):
        p50, p90, p99, p999 = np.quantile(tokens, [0.5, 0.9, 0.99, 0.999])
        cells.append(
            f"{tokens.mean():8.1f} {tokens.std():7.1f} {p50:6.0f} {p90:6.0f} {p99:6.0f} {p999:6.0f} {tokens.max():6d}"
        )
    rank = spearmanr(w.prompt_tokens, w.truth.column()).statistic
    return " |".join([*cells, f"{rank:7.4f}"])


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: workload_tables.py TRACES_DIR")
    side = f"{'mean':>8s} {'std':>7s} {'p50':>6s} {'p90':>6s} {'p99':>6s} {'p99.9':>6s} {'max':>6s}"
    print(f"{'':34s} {'requests':>8s} {'req/s':>7s} {'gap cv':>7s} |{side} |{side} |{'rank r':>7s}")
    for name, source in SOURCES.items():
        trace = read_trace(Path(sys.argv[1]) / source.file)
        write(name, source, trace)
        print(row(f"{name} trace", trace))
        print(row(f"{name}, seed 0", load(name, requests=200_000)))
    for name, given in PUBLISHED.items():
        fit(name, given)
        print(row(f"{name}, seed 0", load(name, requests=200_000)))
    print(row("reasoning, seed 0", load("reasoning", requests=200_000)))


if __name__ == "__main__":
    main()
