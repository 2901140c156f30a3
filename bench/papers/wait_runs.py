"""One run of a batcher on WAIT's workloads, what it is summed up to, and the paper's step model fitted to our step times.

For `wait.py`. It does not know what was published. The paper's step model is `d0 + d1 * M`, M the KV tokens of the batch
(arXiv 2504.11320): fitted here once to lone decode steps, as the paper states it, and once to whole cohort steps, prompts
included, which is what thresholds need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasewise.control.resolve import resolve
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, Resolved
from phasewise.core.step import ALL, Chunk, Piece
from phasewise.perf.latency import LatencyModel
from phasewise.perf.memory import GIB, kv_bytes_per_token
from phasewise.policy.batching.wait import Kind, StepModel, cohort_tokens
from phasewise.record.columns import MOVED, STILL
from phasewise.record.header import Tables
from phasewise.record.metrics import Scored
from phasewise.sim.simulate import Roofs, simulate
from phasewise.workload.synth import Mixture, Synthetic, generate

DEVICE = "a100"
CAP, BASELINE_CAP = 128, 512  # requests in service: the threshold policies', the baselines'
SLOWER = 1.386
"""The paper's linear form is 38.6 % off for batches beyond 128: what if such steps took so much longer?"""


@dataclass(frozen=True)
class Arm:
    """A batcher as it stands in a table; of several arms of one `label`, its parameter grid, the best is shown."""

    label: str
    batcher: str
    params: dict[str, Any]
    setting: str = ""


@dataclass(frozen=True)
class Job:
    """One arm on one workload. `kv_tokens`: the memory (None: what our model leaves); `physics`: see `PHYSICS`."""

    arm: Arm
    spec: Mixture | Synthetic
    rate: float
    requests: int
    model: str
    kv_tokens: int | None = None
    physics: str = "roofline"
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """Of the requests that finished: latencies in seconds. `inside`: those that had not when nothing more could happen."""

    mean_s: float
    p99_s: float
    ttft_s: float
    tokens_per_s: float
    restarts: float
    kv_peak: float
    kv_tokens: float
    finished: float
    inside: float
    forced: float
    arm: Arm = field(compare=False)

    @property
    def scored(self) -> bool:
        """Whether enough finished for a mean to be compared: nine in ten."""
        return self.finished >= 9 * self.inside


def run(job: Job) -> Result:
    """Simulate one job and sum it up."""
    resolved = deployed(job)
    log = simulate(
        resolved, generate(job.spec, job.requests, job.seed, job.rate), physics=PHYSICS[job.physics](resolved)
    )
    scored, found = Scored(log.tables), log.summary
    done = len(scored.requests)
    nan = float("nan")
    return Result(
        mean_s=float(scored.e2e_s.mean()) if done else nan,
        p99_s=found["e2e_s"]["p99"] if done else nan,
        ttft_s=float(scored.ttft_s.mean()) if done else nan,
        tokens_per_s=found["throughput_tokens_per_s"] or 0.0,
        restarts=found["preemptions"],
        kv_peak=kv_peak(log.tables, room := resolved.replicas[0].blocks * resolved.deployment.block_tokens),
        kv_tokens=room,
        finished=done,
        inside=job.requests - done,
        forced=found["forced"],
        arm=job.arm,
    )


def averaged(results: Sequence[Result]) -> Result:
    """Over seeds: the mean of everything, but the largest peak."""
    names = [f.name for f in fields(Result) if f.name not in ("arm", "kv_peak")]
    means = {name: float(np.mean([getattr(r, name) for r in results])) for name in names}
    return replace(results[0], **means, kv_peak=max(r.kv_peak for r in results))


def best(results: Iterable[Result]) -> Result:
    """The lowest mean latency among those that can be compared; the most finished if none can."""
    results = list(results)
    fit = [r for r in results if r.scored]
    return min(fit, key=lambda r: r.mean_s) if fit else max(results, key=lambda r: r.finished)


def deployed(job: Job) -> Resolved:
    """The deployment of a job, with the memory that it asks for."""
    batcher = PolicySpec(job.arm.batcher, job.arm.params)
    first = resolve(Deployment(job.model, (ReplicaSpec(DEVICE),), batcher))
    if job.kv_tokens is None:
        return first
    [replica], size = first.replicas, first.deployment.block_tokens
    less = (replica.blocks - job.kv_tokens // size - 0.5) * size * kv_bytes_per_token(first.model)
    group = ReplicaSpec(DEVICE, memory_utilisation=0.9 - less / (replica.device.memory_gib * GIB))
    return resolve(Deployment(job.model, (group,), batcher))


def kv_peak(tables: Tables, room: int) -> int:
    """The most KV tokens computed and held at the end of a step, of one replica; `room` where anybody was preempted: then
    there was no free block."""
    [steps], [spans] = tables.steps, tables.spans
    if len(steps) == 0 or not set(spans["left"].tolist()) <= {0, MOVED, STILL}:
        return room if len(steps) else 0
    held = np.cumsum((steps["prefill"].astype(np.int64) + steps["decodes"]) * steps["steps"])
    tokens = np.bincount(spans["request"], spans["tokens"]).astype(np.int64)
    over = spans[spans["left"] == 0]
    prompt = np.zeros(len(tokens), np.int64)
    known = tables.requests[tables.requests["request"] < len(tokens)]
    prompt[known["request"]] = known["prompt"]
    # The last token of an answer is never computed; what it held goes after the row in which it was emitted.
    freed = np.zeros(len(steps) + 1, np.int64)
    np.add.at(freed, over["last"] + 1, (prompt + tokens - 1)[over["request"]])
    return int((held - np.cumsum(freed)[:-1]).max())


class DecodeOnly:
    """A decode instance behind a prefill instance: prompts arrive computed, and take a nanosecond."""

    def __init__(self, inner: LatencyModel) -> None:
        self._inner = inner

    def pieces(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        return self._inner.pieces((), decodes, context, steps) if decodes else ((1.0, 0.0, steps),)


class SlowBeyond:
    """Steps of more than `CAP` requests take `SLOWER` times as long: a supposition, to test what a result hangs on."""

    def __init__(self, inner: LatencyModel) -> None:
        self._inner = inner

    def pieces(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        found = self._inner.pieces(chunks, decodes, context, steps)
        if decodes + len(chunks) <= CAP:
            return found
        return tuple((SLOWER * first, SLOWER * slope, n) for first, slope, n in found)


PHYSICS: dict[str, Callable[[Resolved], Any]] = {
    "roofline": lambda resolved: None,
    "decode-only": lambda resolved: lambda i: DecodeOnly(Roofs(resolved)(i)),
    "decode-only, slow beyond 128": lambda resolved: lambda i: SlowBeyond(DecodeOnly(Roofs(resolved)(i))),
    "slow beyond 128": lambda resolved: lambda i: SlowBeyond(Roofs(resolved)(i)),
}


@dataclass(frozen=True)
class Fit:
    """`base_s + per_token_s * M`, with R2 and mean relative error where it was fitted, and the error beyond."""

    base_s: float
    per_token_s: float
    r2: float
    error: float
    beyond: float

    @property
    def model(self) -> StepModel:
        return StepModel(self.base_s, self.per_token_s)


def fitted(kv: Sequence[float], times_s: Sequence[float], inside: Sequence[bool]) -> Fit:
    """Least squares of the relative error over the steps `inside`; the others only tell how far it carries."""
    x, y, mine = np.array(kv, float), np.array(times_s), np.array(inside)
    terms = np.stack([np.ones_like(x), x], axis=1)
    weight: NDArray[np.float64] = 1 / y[mine]
    base, per_token = np.linalg.lstsq(terms[mine] * weight[:, None], np.ones(int(mine.sum())), rcond=None)[0]
    found = terms @ np.array([base, per_token])
    off = np.abs(found - y) / y
    r2 = 1 - ((found - y)[mine] ** 2).sum() / ((y[mine] - y[mine].mean()) ** 2).sum()
    beyond = float(off[~mine].mean()) if (~mine).any() else float("nan")
    return Fit(float(base), float(per_token), float(r2), float(off[mine].mean()), beyond)


def decode_fit(model: str) -> Fit:
    """Lone decode steps of 1 to 128 sequences; beyond: 129 to 512. Contexts of 128 to 1,512 tokens that fit the memory."""
    resolved = resolve(Deployment(model, (ReplicaSpec(DEVICE),)))
    roof, room = Roofs(resolved)(0), resolved.replicas[0].blocks * resolved.deployment.block_tokens
    grid = [
        (b, b * c) for b in (*range(1, 129, 3), *range(144, 513, 16)) for c in range(128, 1513, 173) if b * c <= room
    ]
    times_s = [roof.pieces((), b, kv - b, 1)[0][0] / 1e9 for b, kv in grid]
    return fitted([kv for _, kv in grid], times_s, [b <= CAP for b, _ in grid])


def cohort_fit(model: str, kinds: Sequence[tuple[int, int]], largest: int = 8) -> Fit:
    """Whole cohort steps of n prompts of each type (prompt, output) and n decodes in each of its stages, n = 1 to `largest`."""
    roof = Roofs(resolve(Deployment(model, (ReplicaSpec(DEVICE),))))(0)
    kv, times_s = [], []
    for n in range(1, largest + 1):
        chunks = [Chunk(i, 0, p, p, ALL) for i, (p, _) in enumerate(n * list(kinds))]
        context = n * sum(p + s for p, o in kinds for s in range(o - 1))
        times_s.append(roof.pieces(chunks, n * sum(o - 1 for _, o in kinds), context, 1)[0][0] / 1e9)
        kv.append(cohort_tokens((Kind(p, o, 1.0), n) for p, o in kinds))
    return fitted(kv, times_s, [True] * len(kv))
