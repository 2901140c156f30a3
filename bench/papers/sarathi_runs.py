"""Runs behind `sarathi.py`: the paper's settings, capacities by its rule, chunked prompts, its Table 4. Numbers, no tables.

It does not know what the paper reports.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from phasewise.control.resolve import resolve
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, Resolved
from phasewise.core.step import ALL, Chunk
from phasewise.core.units import NS_PER_S
from phasewise.perf.efficiency import ideal
from phasewise.perf.roofline import Roofline
from phasewise.planner.capacity import TOLERANCE, Probe, probe, saturation
from phasewise.planner.objective import Percentiles, percentiles
from phasewise.planner.search import Bracket, path
from phasewise.planner.source import Source, source
from phasewise.planner.workers import Workers
from phasewise.sim.simulate import Roofs, simulate
from phasewise.workload.lengths import QuantileTable
from phasewise.workload.source import load, read_description
from phasewise.workload.synth import Synthetic, generate
from phasewise.workload.workload import Workload


class Setting(NamedTuple):
    """A model of the paper on `tp` A100; `step_s` is the decode iteration that its SLOs imply (a fifth of the strict one)."""

    name: str
    model: str
    tp: int
    step_s: float


MISTRAL = Setting("Mistral-7B", "mistralai/Mistral-7B-v0.1", 1, 0.02)
YI = Setting("Yi-34B", "01-ai/Yi-34B", 2, 0.04)
DATA = {"chat": ("openchat-sharegpt4", 8192), "arxiv": ("arxiv-sarathi", 16384)}
FACTORS = {"strict": 5, "relaxed": 25}
BUDGETS = {"strict": 512, "relaxed": 2048}
ORCA, VLLM = PolicySpec("orca", {"max_seqs": 128}), PolicySpec("vllm-v0", {"max_seqs": 128})
SLOS_S = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
CURVES = {f"vllm-v0, {n} seats": PolicySpec("vllm-v0", {"max_seqs": n}) for n in (32, 64, 128)}
CURVES |= {f"sarathi, budget {n:,}": PolicySpec("sarathi", {"token_budget": n}) for n in (512, 1024, 2048)}
CHUNKS, PROMPTS = (512, 1024, 2048), (2048, 4096, 8192, 16384)
ARMS = {"hybrid batching only": {"chunked": False}, "chunked prefill only": {"hybrid": False}, "both": {}}
TABLE4_REQUESTS = 128
Rate = float | None
"""A capacity in requests/s; None: not within the objective at any rate tried."""
Curves = dict[str, dict[str, list[Rate]]]
"""Capacities at each of SLOS_S, requests/s, by model and batcher."""


def sarathi(budget: int, **params: Any) -> PolicySpec:
    return PolicySpec("sarathi", {"token_budget": budget, "max_seqs": 128, **params})


def arm(setting: Setting, context: int, batcher: PolicySpec, host_s: float | None = None) -> Resolved:
    """One replica as the paper ran it. Yi-34B is served beyond the 4,096 tokens of its configuration, as there."""
    replica = ReplicaSpec("a100", tp=setting.tp)
    found = resolve(Deployment(setting.model, (replica,), batcher, host_s=host_s))
    change = msgspec.structs.replace
    replicas = tuple(change(r, max_context=context) for r in found.replicas)
    model = change(found.model, max_context=max(context, found.model.max_context))
    return change(found, model=model, replicas=replicas, deployment=change(found.deployment, max_context=context))


def decode_s(setting: Setting, host_s: float | None = None) -> float:
    """One decode iteration of 32 requests with 4,096 tokens each, seconds: what the paper's SLOs are multiples of."""
    pieces = Roofs(arm(setting, 8192, sarathi(512), host_s))(0).pieces((), 32, 32 * 4096, 1)
    return pieces[0][0] / NS_PER_S


def bent(name: str, bend: float, requests: int, seed: int) -> Workload:
    """A built-in with other prompts below the median: 1 + (P50 - 1) (2p)^bend, so the larger, the more short ones."""
    spec = read_description(name)
    assert isinstance(spec, Synthetic)
    assert isinstance(spec.prompt, QuantileTable)
    pairs = list(zip(spec.prompt.probabilities, spec.prompt.values, strict=True))
    p50 = dict(pairs)[0.5]
    values = tuple(1 + (p50 - 1) * (2 * p) ** bend if p < 0.5 else value for p, value in pairs)
    prompt = QuantileTable(spec.prompt.probabilities, values)
    return generate(msgspec.structs.replace(spec, prompt=prompt), requests, seed, 1.0)


def rates_within(deployment: Resolved, requests: Source, limits_s: Sequence[float]) -> list[Rate]:
    """The capacity at each limit of P99 TBT (of all gaps), with a median delay within 2 s: the searches of
    `planner.capacity`, but a run that one of them has asked for answers to all."""
    start = saturation(deployment, requests)
    probes: dict[float, Probe] = {}
    found: list[Rate] = []
    for limit_s in limits_s:
        objective = percentiles((f"tbt={limit_s:g}@p99", "delay=2@p50"))
        while True:
            known = {rate: _holds(run, objective) for rate, run in probes.items()}
            end = path(start, known, TOLERANCE)[1]
            if isinstance(end, Bracket):
                break
            probes[end] = probe(deployment, requests, end, objective)
        found.append(end.low)
    return found


def _holds(found: Probe, objective: Percentiles) -> bool:
    return found.backlog_growth <= 1 and all(found.scores[t.name] <= t.limit for t in objective.targets)


class Bench(NamedTuple):
    """What every search shares. `bend`: of the prompts below the median (None: as the built-in workload has it)."""

    workers: Workers
    requests: int
    seed: int = 0
    bend: float | None = None

    def search(self, arms: Sequence[Resolved], data: str, limits_s: Sequence[float]) -> list[list[Rate]]:
        """Capacities by the paper's rule: one row an arm, one column a limit of P99 TBT."""
        origin = DATA[data][0] if self.bend is None else bent(DATA[data][0], self.bend, self.requests, self.seed)
        requests = source(origin, self.requests, self.seed)
        found = [self.workers.submit(rates_within, deployment, requests, limits_s) for deployment in arms]
        return [rates.result() for rates in found]

    def three(
        self,
        setting: Setting,
        data: str,
        slo: str,
        limits_s: Sequence[float],
        context: int | None = None,
        host_s: float | None = None,
    ) -> list[list[Rate]]:
        """For each limit, the capacities of Orca, vLLM and Sarathi-Serve, requests/s."""
        batchers = (ORCA, VLLM, sarathi(BUDGETS[slo]))
        arms = [arm(setting, context or DATA[data][1], batcher, host_s) for batcher in batchers]
        return [list(rates) for rates in zip(*self.search(arms, data, limits_s), strict=True)]


class Cell(NamedTuple):
    """Capacities of Orca, vLLM and Sarathi-Serve, requests/s, at the paper's SLO and at the same multiple of our own step."""

    setting: Setting
    data: str
    slo: str
    rates: list[Rate]
    own_slo_s: float
    own_rates: list[Rate]


def cells(bench: Bench) -> list[Cell]:
    """Both models, both data sets, both SLOs."""
    found = []
    for setting in (MISTRAL, YI):
        for data in DATA:
            for slo, factor in FACTORS.items():
                say(f"capacity: {setting.name}, {data}, {slo}")
                own_s = factor * decode_s(setting)
                rates, own = bench.three(setting, data, slo, (factor * setting.step_s, own_s))
                found.append(Cell(setting, data, slo, rates, own_s, own))
    return found


def ratio(rates: Sequence[Rate], over: int) -> float | None:
    """The last capacity over another; None if either was not found."""
    best, other = rates[-1], rates[over]
    return best / other if best and other else None


def budget_curves(bench: Bench, setting: Setting, limits_s: Sequence[float] = SLOS_S) -> dict[str, list[Rate]]:
    """Figure 12: the capacity of each arm at each limit of P99 TBT, on the chat data."""
    say(f"budget: {setting.name}")
    arms = [arm(setting, DATA["chat"][1], batcher) for batcher in CURVES.values()]
    return dict(zip(CURVES, bench.search(arms, "chat", limits_s), strict=True))


def prefill_ns(setting: Setting, prompt: int, chunk: int, host_s: float | None = None) -> float:
    """Nanoseconds of a prompt on an idle replica in chunks of so many tokens, one iteration each."""
    roof = Roofs(arm(setting, 16384, sarathi(512), host_s))(0)
    total = 0.0
    for start in range(0, prompt, chunk):
        tokens = min(chunk, prompt - start)
        joins = ALL if start + tokens == prompt else None
        total += roof.pieces((Chunk(0, start, tokens, prompt, joins),), 0, 0, 1)[0][0]
    return total


def full_step_s(start: int) -> tuple[float, float]:
    """An iteration of Table 4 that fills its budget: Yi-34B, 1,024 prompt tokens after `start` others, 20 decodes with 2,500
    tokens each. Seconds: ours, and the data sheet's peak reached in full."""
    found = arm(YI, 16384, sarathi(1024))
    peak = Roofline(found.model, found.replicas[0].device, YI.tp, ideal(), 0.0)
    chunk = Chunk(0, start, 1024, start + 1024, ALL)
    ours_ns, peak_ns = (roof.pieces((chunk,), 20, 20 * 2500, 1)[0][0] for roof in (Roofs(found)(0), peak))
    return ours_ns / NS_PER_S, peak_ns / NS_PER_S


def overheads(setting: Setting, host_s: float | None = None) -> dict[int, list[float]]:
    """Figure 14: by chunk size, for each of PROMPTS, how much longer a prompt takes than whole, as a share."""
    whole = [prefill_ns(setting, prompt, prompt, host_s) for prompt in PROMPTS]
    pairs = list(zip(PROMPTS, whole, strict=True))
    return {chunk: [prefill_ns(setting, prompt, chunk, host_s) / ns - 1 for prompt, ns in pairs] for chunk in CHUNKS}


def two_scores(deployment: Resolved, data: str, rate: float, seeds: int) -> tuple[float, float]:
    """P50 TTFT and P99 TBT, seconds, of 128 requests: the medians over so many draws of them."""
    scores = []
    for seed in range(seeds):
        summary = simulate(
            deployment, load(DATA[data][0], rate=rate, requests=TABLE4_REQUESTS, seed=seed), seed
        ).summary
        scores.append((summary["ttft_s"]["p50"], summary["tbt_s"]["p99"]))
    ttft_s, tbt_s = np.median(scores, axis=0).tolist()
    return ttft_s, tbt_s


def rate_of(deployment: Resolved, data: str, ttft_s: float, seeds: int) -> float:
    """The rate at which the median TTFT is this, to 1 %, by bisection."""
    low, high = 0.01, 20.0
    while high > 1.01 * low:
        middle = (low * high) ** 0.5
        slow = two_scores(deployment, data, middle, seeds)[0] > ttft_s
        low, high = (low, middle) if slow else (middle, high)
    return low


def say(what: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
