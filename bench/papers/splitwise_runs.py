"""Runs behind `splitwise.py`: the paper's fleets, the best split of a budget, what a transfer costs. Numbers, no tables.

It does not know what the paper reports.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, log
from typing import NamedTuple

import msgspec
import numpy as np

from phasewise.control.resolve import resolve
from phasewise.core.spec import (
    DECODE,
    LAYER_WISE,
    PREFILL,
    SERIALISED,
    Deployment,
    LinkSpec,
    PolicySpec,
    ReplicaSpec,
    Resolved,
    ResolvedReplica,
)
from phasewise.core.steptimes import DecodeTimes
from phasewise.core.units import NS_PER_S
from phasewise.planner.objective import judge, percentiles
from phasewise.planner.workers import Workers
from phasewise.record.metrics import Scored
from phasewise.record.pools import mean_mixed
from phasewise.record.window import middle, part
from phasewise.sim.simulate import simulate
from phasewise.workload.arrivals import Poisson
from phasewise.workload.source import read_description
from phasewise.workload.synth import Synthetic, generate
from phasewise.workload.workload import Workload

LLAMA, BLOOM = "meta-llama/Llama-2-70b-hf", "bigscience/bloom"
CONTEXT = 16384
"""Longer than Llama-2's, as its authors' simulator has no limit: the traces hold prompts of up to 14,050 tokens."""

COST = {"a100": 2.21, "h100": 4.76}
POWER = {"a100": 24.8, "h100": 44.0}
CAPPED = 0.7
"""Of a machine's power, with each GPU capped to half: the token machines of HHcap."""

H100S = 40
STEP = 1.05
LOG_STEP = log(STEP)
"""Rates are powers of STEP: a best rate is known to 5 %."""

NINE = percentiles(("splitwise",))


class Design(NamedTuple):
    """Devices of the prompt and the token machines; `capped`: the latter draw less power. One kind for both phases: `mixed`."""

    name: str
    prompt: str
    token: str
    capped: bool = False
    mixed: bool = False

    def costs(self, what: str) -> tuple[float, float]:
        """Of one prompt machine and one token machine: "power", "cost" or "machines"."""
        if what == "machines":
            return 1.0, 1.0
        table = POWER if what == "power" else COST
        return table[self.prompt], table[self.token] * (CAPPED if self.capped and what == "power" else 1.0)


AA, HH, HA = Design("AA", "a100", "a100"), Design("HH", "h100", "h100"), Design("HA", "h100", "a100")
HHCAP = Design("HHcap", "h100", "h100", capped=True)
BASE_A = Design("Baseline-A100", "a100", "a100", mixed=True)
BASE_H = Design("Baseline-H100", "h100", "h100", mixed=True)


class Setting(NamedTuple):
    """What every search shares: how long requests arrive, at most how many, and how decode steps are looked up."""

    workload: str
    arrive_s: float = 40.0
    least: int = 1500
    by_sequences: bool = False
    seed: int = 0


def fleet(design: Design, prompts: int, tokens: int, by_sequences: bool = False) -> Resolved:
    """So many machines of eight devices each. `by_sequences`: a decode step's time is looked up at its number of sequences, as
    the authors' simulator has it, and not at its tokens of context."""
    link = "infiniband-hdr" if "a100" in (design.prompt, design.token) else "infiniband-ndr"
    groups = (ReplicaSpec(design.prompt, prompts, 8, role=PREFILL), ReplicaSpec(design.token, tokens, 8, role=DECODE))
    if design.mixed:
        groups = (ReplicaSpec(design.prompt, prompts, 8),)
    batcher, router, oracle = PolicySpec("splitwise"), PolicySpec("splitwise"), PolicySpec("oracle")
    deployment = Deployment(
        LLAMA,
        groups,
        batcher,
        router,
        latency="splitwise",
        link=LinkSpec(link),
        reference="a100",
        predictor=oracle,
    )
    return stretched(resolve(deployment), by_sequences)


def stretched(found: Resolved, by_sequences: bool = False) -> Resolved:
    """Served up to CONTEXT tokens, whatever the model's own limit."""
    change = msgspec.structs.replace

    def longer(replica: ResolvedReplica) -> ResolvedReplica:
        times = replica.latency
        if by_sequences and times is not None:
            times = change(times, decode=(DecodeTimes(by_batch=times.decode[0].by_context),))
        return change(replica, max_context=CONTEXT, latency=times)

    return change(
        found,
        model=change(found.model, max_context=CONTEXT),
        replicas=tuple(longer(replica) for replica in found.replicas),
        deployment=change(found.deployment, max_context=CONTEXT),
        reference=found.reference and longer(found.reference),
    )


def poisson(name: str, requests: int, seed: int) -> Workload:
    """A built-in's lengths with Poisson arrivals, as the paper's simulations draw them."""
    spec = read_description(name)
    assert isinstance(spec, Synthetic)
    return generate(msgspec.structs.replace(spec, arrivals=Poisson(1.0)), requests, seed, 1.0)


def requests_at(setting: Setting, rate: float) -> Workload:
    """Those that arrive within `arrive_s` at this rate, and `least` at least."""
    count = max(setting.least, round(rate * setting.arrive_s))
    return poisson(setting.workload, count, setting.seed).at_rate(rate)


class Found(NamedTuple):
    """The best rate of a fleet, requests/s (None: below what was asked), how many machines of each kind, what the next rate
    misses, and how many machines are mixed at the best rate on average."""

    prompts: int
    tokens: int
    rate: float | None
    missed: tuple[str, ...]
    mixed: float


def held(deployment: Resolved, setting: Setting, k: int) -> tuple[tuple[str, ...], float]:
    """At the rate STEP^k: which of the nine slowdowns of the middle 80 % of the arrivals miss, and how many machines are mixed.

    As in the paper, whether the backlog grows is no question of its own.
    """
    rate = STEP**k
    run = simulate(deployment, requests_at(setting, rate), setting.seed)
    scored = Scored(part(run.tables, middle(run.tables)))
    return judge(NINE, scored, run.header)[1], mean_mixed(run.header, run.tables)


def best_rate(design: Design, prompts: int, tokens: int, setting: Setting, near: float, least: float = 1.0) -> Found:
    """The highest power of STEP within the nine slowdowns, by galloping from `near` and bisecting; nothing below `least`."""
    deployment = fleet(design, prompts, tokens, setting.by_sequences)
    known: dict[int, tuple[tuple[str, ...], float]] = {}

    def holds(k: int) -> bool:
        if k not in known:
            known[k] = held(deployment, setting, k)
        return not known[k][0]

    bottom = ceil(log(least) / LOG_STEP - 1e-9)
    low = high = max(bottom, round(log(near) / LOG_STEP))
    stride = 1
    if holds(low):
        while holds(high := low + stride):
            low, stride = high, 2 * stride
    else:
        while low == high or not holds(low):
            if low <= bottom and low != high:
                return Found(prompts, tokens, None, known[low][0], 0.0)
            high, low, stride = low, max(bottom, low - stride), 2 * stride
            if low == high:
                return Found(prompts, tokens, None, known[low][0], 0.0)
    while high - low > 1:
        middle_k = (low + high) // 2
        low, high = (middle_k, high) if holds(middle_k) else (low, middle_k)
    return Found(prompts, tokens, STEP**low, known[high][0], known[low][1])


def splits(design: Design, what: str, budget: float) -> list[tuple[int, int]]:
    """Every way to spend a budget: so many prompt machines, and as many token machines as are left."""
    prompt, token = design.costs(what)
    found = []
    for prompts in range(1, int(budget / prompt + 1e-9)):
        tokens = int((budget - prompts * prompt) / token + 1e-9)
        if tokens >= 1:
            found.append((prompts, tokens))
    return found


def best_split(
    design: Design,
    what: str,
    budget: float,
    setting: Setting,
    workers: Workers,
    near: float,
    also: tuple[int, int] | None = None,
) -> list[Found]:
    """Every split tried, the best first: some evenly spread ones (and `also`), then the best one's neighbours, ever nearer."""
    if design.mixed:
        count = int(budget / design.costs(what)[0] + 1e-9)
        return [workers.submit(best_rate, design, count, 0, setting, near).result()]
    ways = splits(design, what, budget)
    tried: dict[int, Found] = {}
    stride = max(1, len(ways) // 5)
    middle_way = len(ways) // 2
    first = workers.submit(best_rate, design, *ways[middle_way], setting, near)
    other = None if also is None else workers.submit(best_rate, design, *also, setting, near)
    tried[middle_way] = first.result()
    if other is not None:
        tried[ways.index(also)] = other.result()  # type: ignore[arg-type]
    # Not from the ends, whose overload takes long to simulate: the search goes there if it pays.
    wanted = [i for i in range(stride, len(ways) - stride, stride) if i not in tried]
    while wanted:
        pair, wanted = wanted[: workers.jobs], wanted[workers.jobs :]
        # A split that does not hold what the best one holds is not looked into.
        best = max(one.rate or 1.0 for one in tried.values())
        runs = [(i, workers.submit(best_rate, design, *ways[i], setting, best, best)) for i in pair]
        tried |= {i: run.result() for i, run in runs}
        while not wanted and stride > 1:
            stride = (stride + 1) // 2
            top = max(tried, key=lambda i: tried[i].rate or 0.0)
            wanted = [i for i in (top - stride, top + stride) if 0 <= i < len(ways) and i not in tried]
    return sorted(tried.values(), key=lambda one: -(one.rate or 0.0))


class Cost(NamedTuple):
    """What a transfer costs requests that are alone: the mean over one machine without any of E2E, of the gap before the
    second token and of TTFT; and the mean bytes sent."""

    e2e: float
    second: float
    ttft: float
    nbytes: float


def alone(
    model: str, device: str, workload: str, requests: int, gb_s: float | None, latency: str | None
) -> dict[str, Cost]:
    """The overhead of each transfer, requests one after the other. `gb_s`: of the whole machine (None: eight cards)."""
    drawn = poisson(workload, requests, 0)
    top = 2000 if model == BLOOM else CONTEXT
    lengths = drawn.prompt_tokens + drawn.truth.column()
    fits = np.flatnonzero((lengths < top) & (drawn.truth.column() > 1))
    one_by_one = replace(
        drawn,
        arrival_ns=np.arange(len(fits)) * 120 * NS_PER_S,
        prompt_tokens=drawn.prompt_tokens[fits],
        truth=type(drawn.truth)(drawn.truth.column()[fits]),
    )
    name = "infiniband-ndr" if device == "h100" else "infiniband-hdr"
    found = {}
    whole = _latencies(model, device, one_by_one, None, latency)
    for transfer in (SERIALISED, LAYER_WISE, "by-size"):
        link = LinkSpec(name, gb_s, transfer=transfer)
        e2e, second, ttft, nbytes = _latencies(model, device, one_by_one, link, latency)
        found[transfer] = Cost(*((a / b).mean() for a, b in zip((e2e, second, ttft), whole, strict=False)), nbytes)
    return found


def _latencies(
    model: str, device: str, load: Workload, link: LinkSpec | None, latency: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """E2E, second token and TTFT of each request, seconds, and the mean bytes sent; on one mixed machine without a link."""
    groups: Sequence[ReplicaSpec] = (ReplicaSpec(device, 1, 8),)
    if link is not None:
        groups = (ReplicaSpec(device, 1, 8, role=PREFILL), ReplicaSpec(device, 1, 8, role=DECODE))
    deployment = Deployment(
        model, tuple(groups), PolicySpec("splitwise"), PolicySpec("splitwise"), latency=latency, link=link or LinkSpec()
    )
    resolved = resolve(deployment)
    run = simulate(stretched(resolved) if model == LLAMA else resolved, load)
    scored = Scored(run.tables)
    sent = run.tables.transfers[-1]["nbytes"]
    # The first two tokens alone: the same requests with answers of two tokens.
    short = replace(load, truth=type(load.truth)(np.full(len(load), 2)))
    two = Scored(simulate(run.header.resolved, short).tables)
    return scored.e2e_s, two.e2e_s - two.ttft_s, scored.ttft_s, float(sent.mean()) if len(sent) else 0.0


def say(what: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
