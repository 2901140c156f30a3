"""Runs behind `sarathi_pipeline.py`: the paper's pipelines, tensor parallelism across nodes, bubbles. Numbers, no tables.

It does not know what the paper reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sarathi_runs import BUDGETS, DATA, Rate, rates_within, say

from phasewise.control.resolve import resolve
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, Resolved
from phasewise.core.step import ALL, Chunk
from phasewise.core.units import NS_PER_S
from phasewise.perf.pipeline import staged
from phasewise.planner.capacity import saturation
from phasewise.planner.source import Source, source
from phasewise.planner.workers import Workers
from phasewise.record.bubbles import busy_ns
from phasewise.sim.simulate import Roofs, simulate

ETHERNET_GB_S = 12.5  # 100 Gbit/s between nodes
PCIE_GB_S = 32.0  # between the pairs of a node, whose two are joined by NVLink: a ring is as fast as its slowest link
SEATS = 128
LIMITS_S = {"strict": 1.0, "relaxed": 5.0}
FACTORS = {"strict": 5, "relaxed": 25}  # times a decode iteration of 32 requests with 4,096 tokens each


class Setting(NamedTuple):
    """A model on devices of a kind: `tp` in each of `pp` stages, and `seats` in each pipe.

    Links are 10^9 bytes/s, one direction (None: the data sheet's); of the seats, None is an equal share of 128.
    """

    name: str
    model: str
    device: str
    tp: int
    pp: int
    link_gb_s: float | None = None
    network_gb_s: float | None = None
    seats: int | None = None

    @property
    def shape(self) -> str:
        return f"TP{self.tp}-PP{self.pp}" if self.pp > 1 else f"TP{self.tp}"


FALCON = Setting("Falcon-180B", "tiiuae/falcon-180B", "a100", 4, 2, PCIE_GB_S, ETHERNET_GB_S / 4)
FALCON_TP8 = FALCON._replace(tp=8, pp=1, link_gb_s=ETHERNET_GB_S)
FALCON_NODE = FALCON._replace(tp=8, pp=1, link_gb_s=300.0)
LLAMA = Setting("LLaMA2-70B", "meta-llama/Llama-2-70b-hf", "a40", 4, 2)
RELAXED_BUDGET = {LLAMA.name: 1536}


def arm(setting: Setting, batcher: str, data: str, host_s: float | None = None, **params: Any) -> Resolved:
    """One replica as the paper ran it. Contexts go beyond the model's, as there."""
    context = DATA[data][1]
    replica = ReplicaSpec(setting.device, tp=setting.tp, pp=setting.pp)
    spec = PolicySpec(batcher, {"max_seqs": setting.seats or SEATS // setting.pp, **params})
    found = resolve(Deployment(setting.model, (replica,), spec, host_s=host_s))
    change = msgspec.structs.replace
    links = {"link_gb_s": setting.link_gb_s, "network_gb_s": setting.network_gb_s}
    device = change(found.replicas[0].device, **{name: value for name, value in links.items() if value is not None})
    replicas = (change(found.replicas[0], device=device, max_context=context),)
    model = change(found.model, max_context=max(context, found.model.max_context))
    return change(found, model=model, replicas=replicas, deployment=change(found.deployment, max_context=context))


def sarathi(setting: Setting, slo: str) -> dict[str, Any]:
    """The budget that the paper names for an SLO."""
    relaxed = slo == "relaxed" and setting.name in RELAXED_BUDGET
    return {"token_budget": RELAXED_BUDGET[setting.name] if relaxed else BUDGETS[slo]}


class Bench(NamedTuple):
    """What every run shares."""

    workers: Workers
    requests: int
    seed: int = 0

    def requests_of(self, data: str) -> Source:
        return source(DATA[data][0], self.requests, self.seed)

    def capacities(self, arms: Sequence[Resolved], data: str, limits_s: Sequence[float]) -> list[list[Rate]]:
        """Requests/s with P99 TBT within a limit and a median delay within 2 s: a row an arm, a column a limit."""
        requests = self.requests_of(data)
        found = [self.workers.submit(rates_within, each, requests, limits_s) for each in arms]
        return [rates.result() for rates in found]


class Cell(NamedTuple):
    """Capacities of some arms, by name, requests/s, Sarathi-Serve's last: at the paper's limit of P99 TBT, and at the same
    multiple of our own decode iteration."""

    setting: Setting
    data: str
    slo: str
    limit_s: float
    rates: dict[str, Rate]
    own_limit_s: float
    own_rates: dict[str, Rate]


def cell(bench: Bench, setting: Setting, arms: dict[str, Resolved], data: str, slo: str) -> Cell:
    """The capacities of some arms."""
    say(f"capacity: {setting.name}, {data}, {slo}")
    own_s = FACTORS[slo] * step(setting, 32, 4096).whole_s
    found = bench.capacities([*arms.values()], data, (LIMITS_S[slo], own_s))
    paper, own = (dict(zip(arms, rates, strict=True)) for rates in zip(*found, strict=True))
    return Cell(setting, data, slo, LIMITS_S[slo], paper, own_s, own)


def falcon(bench: Bench, data: str, slo: str, host_s: float | None = None, **changes: Any) -> Cell:
    """Figure 13's arms: prefill first with tensor parallelism across the nodes, and with a pipeline; Sarathi-Serve."""
    pipes = FALCON._replace(**changes)
    arms = {
        "vllm-v0 TP8": arm(FALCON_TP8, "vllm-v0", data, host_s),
        "vllm-v0 TP4-PP2": arm(pipes, "vllm-v0", data, host_s),
        "sarathi TP4-PP2": arm(pipes, "sarathi", data, host_s, **sarathi(FALCON, slo)),
    }
    return cell(bench, FALCON, arms, data, slo)


def llama(bench: Bench, data: str, slo: str, host_s: float | None = None, **changes: Any) -> Cell:
    """Figures 10 and 11: Orca, vLLM and Sarathi-Serve, all with two stages."""
    pipes = LLAMA._replace(**changes)
    arms = {
        "orca": arm(pipes, "orca", data, host_s),
        "vllm-v0": arm(pipes, "vllm-v0", data, host_s),
        "sarathi": arm(pipes, "sarathi", data, host_s, **sarathi(LLAMA, slo)),
    }
    return cell(bench, LLAMA, arms, data, slo)


class Pass(NamedTuple):
    """One step alone, seconds: through the whole replica, and in its slowest stage."""

    whole_s: float
    stage_s: float


def step(setting: Setting, decodes: int = 0, context: int = 0, prompt: int = 0, host_s: float | None = None) -> Pass:
    """A step of so many decodes with `context` tokens each, and a whole prompt."""
    roof = Roofs(arm(setting, "vllm-v0", "chat", host_s))(0)
    chunks = (Chunk(0, 0, prompt, prompt, ALL),) if prompt else ()
    whole = roof.pieces(chunks, decodes, decodes * context, 1)[0][0]
    times = staged(roof, setting.pp).stages_ns(chunks, decodes, decodes * context)
    return Pass(whole / NS_PER_S, max(times) / NS_PER_S)


class Idle(NamedTuple):
    """Of one run at `rate`: shares of stages x busy time by class, and the time between tokens, seconds."""

    name: str
    rate: float
    shares: dict[str, float]
    tbt_p50_s: float
    tbt_p99_s: float


def idle(name: str, deployment: Resolved, requests: Source, rate: float) -> Idle:
    """The bubbles of one run."""
    log = simulate(deployment, requests.at(rate), requests.seed)
    found = log.summary["bubbles"]
    there_s = deployment.replicas[0].pp * busy_ns(log.tables.steps[0]) / NS_PER_S
    shares = {kind: found[f"{kind}_s"] / there_s for kind in ("pb1", "pb2", "pb3", "unfilled")}
    tbt = log.summary["tbt_s"]
    return Idle(name, rate, shares, tbt["p50"], tbt["p99"])


def bubbles(bench: Bench, setting: Setting, data: str) -> list[Idle]:
    """Orca, vLLM and Sarathi-Serve at one rate: 0.7 of the lowest of their offline throughputs."""
    say(f"bubbles: {setting.name}, {data}")
    arms = {
        "orca": arm(setting, "orca", data),
        "vllm-v0": arm(setting, "vllm-v0", data),
        "sarathi, 512": arm(setting, "sarathi", data, token_budget=512),
        "sarathi, 2,048": arm(setting, "sarathi", data, token_budget=2048),
    }
    requests = bench.requests_of(data)
    most = [bench.workers.submit(saturation, each, requests) for each in arms.values()]
    rate = float(f"{0.7 * min(found.result() for found in most):.3g}")
    runs = [bench.workers.submit(idle, name, each, requests, rate) for name, each in arms.items()]
    return [run.result() for run in runs]
