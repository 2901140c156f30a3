"""Small worlds for tests: a toy deployment built by hand, a latency model in whole nanoseconds, random workloads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st

from phasewise.core.request import Request
from phasewise.core.spec import (
    Deployment,
    DeviceSpec,
    ModelSpec,
    PolicySpec,
    ReplicaSpec,
    Resolved,
    ResolvedReplica,
    Slo,
)
from phasewise.core.step import Chunk, Piece
from phasewise.policy import catalog
from phasewise.workload.truth import Truth
from phasewise.workload.workload import Workload

TOY_MODEL = ModelSpec(
    "toy", layers=2, hidden=64, ffn=128, q_heads=4, kv_heads=2, head_dim=16, vocab=100, max_context=1 << 20
)
TOY_DEVICE = DeviceSpec("toy", memory_gib=1.0, memory_gb_s=100.0, bf16_tflops=10.0, link_gb_s=0.0, source="made up")

Row = tuple[int, int, int]
"""`(arrival_ns, prompt tokens, output tokens)`."""


def toy_resolved(
    batcher: str = "sarathi",
    params: Mapping[str, Any] | None = None,
    blocks: int | Sequence[int] = 64,
    block_tokens: int = 16,
    max_context: int | Sequence[int] | None = None,
    replicas: int = 1,
    wire_s: float = 0.0,
    slo: Slo | None = None,
    prefix_cache: bool = False,
    pp: int = 1,
) -> Resolved:
    """A resolved deployment with as many blocks as one says; a sequence of `blocks` or `max_context` is one per replica.

    `max_context` defaults to what the blocks above the watermark hold, as resolving a real deployment would have it.
    """
    spec = catalog.resolved("batcher", PolicySpec(batcher, dict(params or {})))
    watermark = catalog.build("batcher", spec).watermark
    each = [blocks] * replicas if isinstance(blocks, int) else list(blocks)
    holds = [(n - int(watermark * n)) * block_tokens for n in each]
    if max_context is not None:
        wanted = [max_context] * replicas if isinstance(max_context, int) else list(max_context)
        holds = [min(h, w) for h, w in zip(holds, wanted, strict=True)]
    deployment = Deployment(
        model="toy",
        replicas=(ReplicaSpec("toy", replicas, pp=pp),),
        batcher=spec,
        router=catalog.resolved("router", PolicySpec("round-robin")),
        block_tokens=block_tokens,
        wire_s=wire_s,
        slo=slo or Slo(),
        prefix_cache=prefix_cache,
    )
    found = tuple(ResolvedReplica(TOY_DEVICE, 1, n, hold, pp=pp) for n, hold in zip(each, holds, strict=True))
    return Resolved(deployment, TOY_MODEL, found, "toy")


class ToyLatency:
    """A step takes `base + per_token * tokens + per_context * context read + per_pair * (chunk tokens * what they attend to)`.

    Whole: in whole nanoseconds, so that leaps and single steps agree exactly; otherwise each term has an odd fraction.
    `split` cuts longer leaps into pieces of so many steps, as a model with knees does.
    """

    basis = "toy"

    def __init__(
        self,
        whole: bool = True,
        base: int = 5_000,
        per_token: int = 40,
        per_context: int = 3,
        per_pair: int = 1,
        split: int | None = None,
    ) -> None:
        odd = 0.0 if whole else 0.37
        self._terms = (base + odd, per_token + odd / 3, per_context + odd / 7, per_pair + odd / 11)
        if whole:
            self._terms = (base, per_token, per_context, per_pair)
        self._split = split

    def pieces(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        base, per_token, per_context, per_pair = self._terms
        first = base + per_token * decodes + per_context * context
        for chunk in chunks:
            first += per_token * chunk.tokens + per_context * chunk.start
            first += per_pair * chunk.tokens * (chunk.start + (chunk.tokens + 1) // 2)
        slope = per_context * decodes if steps > 1 else 0
        for chunk in chunks if steps > 1 else ():
            slope += per_context * chunk.tokens + per_pair * chunk.tokens * chunk.tokens
        if self._split is None or steps <= self._split:
            return ((float(first), float(slope), steps),)
        out: list[Piece] = []
        for done in range(0, steps, self._split):
            out.append((float(first + slope * done), float(slope), min(self._split, steps - done)))
        return tuple(out)


class ConstantLatency:
    """Every step takes `step_ns`, whatever is in it."""

    basis = "constant"

    def __init__(self, step_ns: int = 1_000) -> None:
        self._step_ns = step_ns

    def pieces(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        return ((float(self._step_ns), 0.0, steps),)


def workload(rows: Sequence[Row], gone: Mapping[int, int] | None = None, max_tokens: int | None = None) -> Workload:
    """A workload from rows in order of arrival; `gone` maps a request to the instant at which its client hangs up."""
    arrival, prompt, output = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return Workload("toy", arrival, prompt, Truth(output), max_tokens=max_tokens, gone_ns=dict(gone or {}))


@st.composite
def random_rows(
    draw: st.DrawFn,
    *,
    most: int = 12,
    prompt: int = 60,
    output: int = 40,
    gap_ns: int = 60_000,
    ties: bool = True,
) -> list[Row]:
    """Up to `most` requests. With `ties`, many arrive together; without, all are at least a microsecond apart.

    The first prompt is short: a workload of which nothing fits is refused before it runs.
    """
    n = draw(st.integers(1, most))
    if ties:
        gaps = draw(st.lists(st.one_of(st.just(0), st.integers(0, gap_ns)), min_size=n, max_size=n))
    else:
        gaps = draw(st.lists(st.integers(1_001, gap_ns), min_size=n, max_size=n))
    prompts = draw(st.lists(st.integers(1, prompt), min_size=n, max_size=n))
    prompts[0] = min(prompts[0], 4)
    outputs = draw(st.lists(st.one_of(st.just(1), st.integers(1, output)), min_size=n, max_size=n))
    at, rows = 0, []
    for gap, tokens_in, tokens_out in zip(gaps, prompts, outputs, strict=True):
        at += gap
        rows.append((at, tokens_in, tokens_out))
    return rows


@st.composite
def random_gone(draw: st.DrawFn, rows: Sequence[Row], *, within_ns: int = 300_000) -> dict[int, int]:
    """Some of the clients hang up, at most `within_ns` after their arrival."""
    leavers = draw(st.lists(st.integers(0, len(rows) - 1), unique=True, max_size=max(1, len(rows) // 2)))
    return {i: rows[i][0] + draw(st.integers(0, within_ns)) for i in sorted(leavers)}


@dataclass(frozen=True, eq=False)
class Classed(Workload):
    """A workload whose clients name their classes: `kinds[i]` is that of request i."""

    kinds: tuple[str, ...] = ()

    def requests(self) -> Iterator[Request]:
        for request in super().requests():
            yield msgspec.structs.replace(request, kind=self.kinds[request.id])


def classed(rows: Sequence[Row], kinds: Sequence[str], gone: Mapping[int, int] | None = None) -> Classed:
    """A workload from rows in order of arrival, with a class for each."""
    plain = workload(rows, gone)
    return Classed(
        plain.name, plain.arrival_ns, plain.prompt_tokens, plain.truth, gone_ns=plain.gone_ns, kinds=tuple(kinds)
    )


def mixed(rows: Sequence[Row], gone: Mapping[int, int] | None = None) -> Classed:
    """A workload of two classes, `chat` and, every third, `code`."""
    return classed(rows, [("chat", "chat", "code")[i % 3] for i in range(len(rows))], gone)


TYPES = {
    "chat": {"prompt": 20, "output": 20, "rate": 2.0, "threshold": 2},
    "code": {"prompt": 30, "output": 10, "rate": 1.0, "threshold": 1},
}
BOOKED = {
    "chat": {"prompt": 20, "output": 8, "rate": 2.0, "threshold": 3},
    "code": {"prompt": 30, "output": 3, "rate": 1.0},
}

_STAGES = {"chunk_stages": 3, "chunk_span": 40}
_NESTED = {"boundaries": [3, 9], "survival": [1.0, 0.8, 0.5], "longest": 30, "total_limit": 9, "max_seqs": 6}

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "static": ("static", {"max_seqs": 3}),
    "orca": ("orca", {"max_seqs": 3}),
    "orca one prefill": ("orca", {"max_seqs": 4, "one_prefill": True}),
    "vllm-v0": ("vllm-v0", {"max_seqs": 4, "token_budget": 24}),
    "vllm-v0 as configured": ("vllm-v0", {}),
    "vllm-v1": ("vllm-v1", {"max_seqs": 4, "token_budget": 16}),
    "sarathi": ("sarathi", {"max_seqs": 4, "token_budget": 16}),
    "sarathi hybrid only": ("sarathi", {"max_seqs": 4, "token_budget": 16, "chunked": False, "watermark": 0.0}),
    "sarathi chunked only": ("sarathi", {"max_seqs": 4, "token_budget": 16, "hybrid": False, "watermark": 0.0}),
    "sarathi shrinking": ("sarathi", {"max_seqs": 4, "token_budget": 24, "chunk_low": 4, **_STAGES}),
    "sarathi shrinking, chunked only": (
        "sarathi",
        {"max_seqs": 4, "token_budget": 24, "chunk_low": 4, "hybrid": False, "watermark": 0.0, **_STAGES},
    ),
    "wait": ("wait", {"threshold": 2, "max_seqs": 6}),
    "wait, late": ("wait", {"threshold": 2, "max_seqs": 6, "max_wait_s": 30e-6}),
    "wait by types": ("wait", {"types": TYPES, "max_seqs": 6}),
    "wait by types, late": ("wait", {"types": TYPES, "max_seqs": 6, "max_wait_s": 30e-6}),
    "wait booking": ("wait", {"rule": "booking", "types": BOOKED, "total_limit": 5}),
    "wait booking, late": ("wait", {"rule": "booking", "types": BOOKED, "total_limit": 5, "max_wait_s": 30e-6}),
    "nested-wait": ("nested-wait", {"boundaries": [3, 9], "thresholds": [2, 2, 1], "max_seqs": 6}),
    "nested-wait, late": (
        "nested-wait",
        {"boundaries": [3, 9], "thresholds": [2, 2, 1], "max_seqs": 6, "max_wait_s": 30e-6},
    ),
    "nested-wait by limit": ("nested-wait", _NESTED),
    "nested-wait by limit, late": ("nested-wait", {**_NESTED, "max_wait_s": 30e-6}),
    "distserve": ("distserve", {"saturation_tokens": 24, "prefill_seqs": 2, "max_seqs": 5}),
    "distserve, context bounded": ("distserve", {"saturation_tokens": 40, "max_seqs": 6, "decode_tokens": 50}),
    "distserve as configured": ("distserve", {}),
    "splitwise": ("splitwise", {"token_budget": 24, "max_seqs": 6}),
    "splitwise, short of seats": ("splitwise", {"token_budget": 40, "max_seqs": 2, "max_preemptions": 2}),
    "splitwise, short of tokens": ("splitwise", {"token_budget": 3, "max_preemptions": 1, "watermark": 0.0}),
    "splitwise as configured": ("splitwise", {}),
}
"""Every batcher, with its variants, for the laws: name and parameters. They run on `mixed` workloads."""
