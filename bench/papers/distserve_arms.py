"""DistServe's applications, the lengths that stand for its data, and the deployments that serve them. For `distserve.py`.

It runs nothing, and does not know what the paper reports.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import msgspec
import numpy as np

from phasewise.control.resolve import resolve
from phasewise.core.spec import DECODE, PREFILL, Deployment, LinkSpec, PolicySpec, ReplicaSpec, Resolved, Slo
from phasewise.core.steptimes import DecodeTimes, PrefillTimes, StepTimes
from phasewise.workload.arrivals import Poisson
from phasewise.workload.lengths import LogNormal, QuantileTable
from phasewise.workload.source import read_description
from phasewise.workload.synth import Synthetic, generate
from phasewise.workload.truth import Truth
from phasewise.workload.workload import Workload

DEVICE, MEMORY, BLOCK, CONTEXT = "a100", 0.95, 16, 2048
NVLINK, ETHERNET = LinkSpec("nvlink3"), LinkSpec("ethernet-25g")
VLLM = PolicySpec("vllm-v0", {"token_budget": 16384, "max_seqs": 1024})
SARATHI = {f"sarathi, budget {n:,}": PolicySpec("sarathi", {"token_budget": n, "max_seqs": 1024}) for n in (512, 2048)}


class Application(NamedTuple):
    """One row of the paper's evaluation. `sent` is how many requests the artifact sends at each rate, for each device."""

    name: str
    model: str
    data: str
    slo: Slo
    sent: int

    @property
    def tp(self) -> int:
        """Of vLLM in the artifact, and of the replicas of Sarathi-Serve here."""
        return 1 if self.model == OPT_13B else 4

    def scaled(self, scale: float) -> Application:
        """The same with both objectives so many times as long, as the paper varies them."""
        return self._replace(slo=Slo(scale * (self.slo.ttft_s or 0.0), scale * (self.slo.tpot_s or 0.0)))


OPT_13B, OPT_66B, OPT_175B = "facebook/opt-13b", "facebook/opt-66b", "facebook/opt-175b"
CHAT = ("chat", "chat, openchat")
APPLICATIONS = (
    *(Application("chat 13B", OPT_13B, data, Slo(0.25, 0.1), 100) for data in CHAT),
    *(Application("chat 66B", OPT_66B, data, Slo(0.4, 0.1), 25) for data in CHAT),
    Application("code 66B", OPT_66B, "code", Slo(0.125, 0.2), 50),
    Application("summaries 66B", OPT_66B, "summaries", Slo(15.0, 0.15), 25),
)

LENGTHS = {
    "chat": (LogNormal(1.0, median=905.4, min=4), LogNormal(1.0, median=140.6, min=4)),
    "code": (LogNormal(0.5, mean=171.3, min=4), LogNormal(0.7, mean=98.2, min=4)),
    "summaries": (
        QuantileTable((0.0, 0.239, 1.0), (100.0, 1900.0, 2040.0)),
        LogNormal(1.2, mean=90.7, min=2, max=1024),
    ),
}
"""Prompts and answers. The means are those of the paper's Figure 7 (from memory), the shapes are assumed: log-normal, and of
LongBench a share of documents that the authors cut to 1,900 to 2,048 tokens, the rest evenly below."""


@cache
def workload(data: str, requests: int, seed: int = 0) -> Workload:
    """Poisson arrivals at 1 request/s, as the authors cut their data to the 2,048 tokens that OPT knows.

    Whoever has 2,048 tokens or more is left out; of summaries the document is cut to 2,040 tokens less the answer.
    """
    if data == "chat, openchat":
        spec = read_description("openchat-sharegpt4")
        assert isinstance(spec, Synthetic)
    else:
        prompt, output = LENGTHS[data]
        spec = Synthetic(data, Poisson(1.0), prompt, output)
    drawn = generate(spec, 3 * requests, seed, 1.0)
    outputs, prompts = drawn.truth.column(), drawn.prompt_tokens
    if data == "summaries":
        prompts = np.minimum(prompts, 2040 - outputs)
    kept = np.flatnonzero(prompts + outputs < CONTEXT)[:requests]
    assert len(kept) == requests
    truth = Truth(outputs[kept])
    whole = replace(drawn, name=data, arrival_ns=drawn.arrival_ns[kept], prompt_tokens=prompts[kept], truth=truth)
    return whole.at_rate(1.0)


def colocated(app: Application, batcher: PolicySpec, tp: int | None = None) -> Resolved:
    """One replica that serves both phases, on as many devices as in the artifact or on `tp`."""
    group = ReplicaSpec(DEVICE, tp=tp or app.tp, memory_utilisation=MEMORY)
    return resolve(Deployment(app.model, (group,), batcher, block_tokens=BLOCK, slo=app.slo, latency="distserve"))


def placed(app: Application, link: LinkSpec = NVLINK, answers: tuple[int, int] | None = None) -> Resolved:
    """The artifact's placement: 13B a prefill replica of TP 2 and a decode replica of TP 1; 66B of TP 4 and of TP 2 in two
    stages. `answers`: another TP and number of stages of the decode replica."""
    small = app.model == OPT_13B
    tp, pp = answers or ((1, 1) if small else (2, 2))
    return apart(app.model, (2 if small else 4, 1), (tp, pp), app.slo, link)


def apart(
    name: str,
    prompts: tuple[int, int],
    answers: tuple[int, int],
    slo: Slo,
    link: LinkSpec = NVLINK,
    decode_tokens: int | None = None,
    latency: str | None = "distserve",
) -> Resolved:
    """A prefill and a decode replica, each with its TP and its stages."""
    groups = tuple(
        ReplicaSpec(DEVICE, 1, tp, MEMORY, role, pp) for (tp, pp), role in ((prompts, PREFILL), (answers, DECODE))
    )
    batcher = PolicySpec("distserve", {"decode_tokens": decode_tokens})
    return resolve(Deployment(name, groups, batcher, block_tokens=BLOCK, slo=slo, link=link, latency=latency))


def placed_175b() -> Resolved:
    """OPT-175B on the artifact's 21 devices, by the roofline: no fits are published, and only transfers are looked at."""
    return apart(OPT_175B, (3, 3), (4, 3), Slo(4.0, 0.2), latency=None)


def slower(deployment: Resolved, host_ms: float) -> Resolved:
    """The same with every step so much longer: what an engine spends around it."""
    change = msgspec.structs.replace

    def times(found: StepTimes) -> StepTimes:
        prefill = change(found.prefill, step_us=found.prefill.step_us + 1e3 * host_ms)
        decode = tuple(change(part, step_us=part.step_us + 1e3 * host_ms) for part in found.decode)
        return change(found, prefill=prefill, decode=decode)

    replicas = tuple(change(r, latency=r.latency and times(r.latency)) for r in deployment.replicas)
    return change(deployment, replicas=replicas)


def roomy(deployment: Resolved) -> Resolved:
    """The same with ten times the KV memory: the published simulator knows no limit."""
    change = msgspec.structs.replace
    return change(deployment, replicas=tuple(change(r, blocks=10 * r.blocks) for r in deployment.replicas))


def devices(deployment: Resolved) -> int:
    return sum(replica.tp * replica.pp for replica in deployment.replicas)


EARLIER = {
    1: ((18.891404, 0.094823546, 4.0308865e-06), (19.878099, 0.068184725, 0.00061093197)),
    2: ((17.732599, 0.063734142, 2.0426078e-06), (17.350086, 0.018816958, 0.00036709472)),
}
"""OPT-13B by TP, milliseconds, in the version of the published simulator whose results are compared (`simdisagg`, April 2024):
a prefill a + b * tokens + c * squares, a decode a + b * sequences + c * context tokens, and no overhead of an engine."""
PAIR_SLO = Slo(0.2, 0.1)
SIMULATED = Application("chat 13B", OPT_13B, "chat", PAIR_SLO, 100)
"""What the published simulator's example and its stored results are of."""


def earlier(deployment: Resolved) -> Resolved:
    """The same on the step times of that version."""
    change = msgspec.structs.replace

    def times(tp: int) -> StepTimes:
        (step, token, square), (base, sequence, context) = EARLIER[tp]
        prefill = PrefillTimes(step_us=1e3 * step, token_us=1e3 * (token - square), pair_us=2e3 * square)
        decode = DecodeTimes(step_us=1e3 * base, sequence_us=1e3 * sequence, context_us=1e3 * context)
        return StepTimes("linear", "simdisagg, April 2024", prefill, (decode,))

    return change(deployment, replicas=tuple(change(r, latency=times(r.tp)) for r in deployment.replicas))


def pair(prefill_tp: int, decode_tp: int, slo: Slo = PAIR_SLO, decode_tokens: int | None = None) -> Resolved:
    """OPT-13B, one stage each, under the simulator's objectives or others."""
    return apart(OPT_13B, (prefill_tp, 1), (decode_tp, 1), slo, decode_tokens=decode_tokens)
