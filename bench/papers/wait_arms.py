"""The batchers that WAIT (arXiv 2504.11320) is held against itself with, and its workloads of fixed lengths. For `wait.py`.

Baselines as the paper sets them: 512 in service, Sarathi-Serve with chunks of 512. The controls are ours: a baseline with the
threshold policies' cap of 128, and one with a larger chunk. It runs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from wait_runs import BASELINE_CAP, CAP, Arm

from phasewise.core.errors import InputError
from phasewise.policy.batching.wait import Kind, StepModel, cohort_tokens, fluid_thresholds
from phasewise.workload.arrivals import Poisson
from phasewise.workload.lengths import FixedLength, LogNormal
from phasewise.workload.synth import ClassSpec, Mixture, Synthetic

LONGEST = 499  # LMSYS-Chat-1M filtered to below 500 tokens
NESTED_LIMITS = (24, 60, 120)
SEGMENTS = (1, 2, 3, 5, 10)
LIMITS = (8, 16, 24, 40, 60, 80, 100, 120)  # the first three are ours


def types(spec: Mixture, rate: float) -> dict[str, dict[str, Any]]:
    """The classes of fixed lengths as WAIT's types, at a total of `rate` requests/s."""
    total = sum(c.share or 0 for c in spec.classes)
    found = {}
    for c in spec.classes:
        assert isinstance(c.prompt, FixedLength)
        assert isinstance(c.output, FixedLength)
        share = (c.share or 0) / total
        found[c.name] = {"prompt": c.prompt.tokens, "output": c.output.tokens, "rate": rate * share}
    return found


def fixed(name: str, *lengths: tuple[int, int]) -> Mixture:
    """Types of (prompt, output) tokens in equal shares, Poisson."""
    classes = [ClassSpec(f"{p}/{o}", FixedLength(p), FixedLength(o), 1.0) for p, o in lengths]
    return Mixture(name, tuple(classes), Poisson(1.0))


def greedy(*, decode_only: bool = False) -> list[Arm]:
    """The published baselines, and a control of ours. A decode instance has no prompts to spend a token budget on."""
    sarathi, v1, control = (
        Arm("Sarathi-Serve", "sarathi", {"token_budget": 512, "max_seqs": BASELINE_CAP}),
        Arm("vLLM v1", "vllm-v1", {"token_budget": 2048, "max_seqs": BASELINE_CAP}),
        Arm("Sarathi-Serve, 128 in service", "sarathi", {"token_budget": 512, "max_seqs": CAP}),
    )
    v0 = Arm("vLLM v0", "vllm-v0", {"max_seqs": BASELINE_CAP})
    return (
        [v0, Arm("vLLM v0, 128 in service", "vllm-v0", {"max_seqs": CAP})]
        if decode_only
        else [sarathi, v0, v1, control]
    )


def larger_chunk() -> Arm:
    """A control of ours: decodes take their share of a chunk of 512, and less of one of 2,048."""
    return Arm("Sarathi-Serve, chunk 2048", "sarathi", {"token_budget": 2048, "max_seqs": BASELINE_CAP})


def booking(spec: Mixture, rate: float, limits: Sequence[int] = LIMITS) -> list[Arm]:
    """The authors' rule over the grid of limits."""
    given = {"rule": "booking", "types": types(spec, rate), "max_seqs": CAP}
    return [Arm("WAIT, booking", "wait", {**given, "total_limit": limit}, f"limit {limit}") for limit in limits]


def within(spec: Mixture, rate: float, kv_tokens: int) -> list[Arm]:
    """As many in service as the memory holds to their last tokens: nobody can be preempted. With waiting, and without."""
    [kind] = types(spec, rate).values()
    most = min(CAP, kv_tokens // (kind["prompt"] + kind["output"]))
    [waits] = booking(spec, rate, (most,))
    greedy_too = Arm(f"Sarathi-Serve, {most} in service", "sarathi", {"token_budget": 512, "max_seqs": most})
    return [greedy_too, Arm("WAIT, booking, all fit", waits.batcher, waits.params, waits.setting)]


def cohort(spec: Mixture, rate: float, model: StepModel) -> Arm:
    """The paper's rule with the fluid thresholds of `model`, or of 1 where it says that no thresholds are large enough."""
    kinds = types(spec, rate)
    try:
        n = fluid_thresholds({name: Kind(**kind) for name, kind in kinds.items()}, model)
        said = "n = " + ", ".join(map(str, n.values()))
    except InputError:
        n, said = dict.fromkeys(kinds, 1), "n = 1, beyond the fluid region"
    given = {name: {**kind, "threshold": n[name]} for name, kind in kinds.items()}
    return Arm("WAIT, cohort", "wait", {"types": given, "max_seqs": CAP}, said)


def tokens(arm: Arm) -> float | None:
    """The paper's M of a cohort arm: KV tokens with its threshold in every stage."""
    if arm.label != "WAIT, cohort":
        return None
    kinds = {name: Kind(**kind) for name, kind in arm.params["types"].items()}
    return cohort_tokens((kind, kind.threshold or 1) for kind in kinds.values())


def grouped(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    found: dict[str, list[Arm]] = {}
    for arm in arms:
        found.setdefault(arm.label, []).append(arm)
    return found


def lmsys_like() -> Synthetic:
    """Lognormal lengths with the published means (58.6, 147.3) and medians (21, 116), cut at 499: means of 53 and 144 then.

    The prompts and answers themselves are not at hand, nor is their correlation: there is none here.
    """
    lengths = (LogNormal(math.sqrt(2 * math.log(a / m)), median=m, max=LONGEST) for a, m in ((58.6, 21), (147.3, 116)))
    return Synthetic("LMSYS-like", Poisson(1.0), *lengths)


def nested(spec: Synthetic) -> list[Arm]:
    """Segments that equally many answers end in, over the grid of limits; and one limit of 300, beyond the cap.

    The limit is what caps a batch here. Seats are plenty: those who stand at entries would take them all, for good.
    """
    assert isinstance(spec.output, LogNormal)
    arms = []
    for segments in SEGMENTS:
        ends = NormalDist(math.log(spec.output.median or 0), spec.output.sigma)
        inner = [round(math.exp(ends.inv_cdf(k / segments))) for k in range(1, segments)]
        given = {"boundaries": inner, "survival": [1 - k / segments for k in range(segments)], "longest": LONGEST}
        for limit in (*NESTED_LIMITS, 300):
            label = f"Nested WAIT, {segments} segment{'s' * (segments > 1)}" + ", beyond the cap" * (limit > CAP)
            params = {**given, "total_limit": limit, "max_seqs": 8 * CAP}
            arms.append(Arm(label, "nested-wait", params, f"limit {limit}"))
    return arms
