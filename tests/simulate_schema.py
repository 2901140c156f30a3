"""The shape of `phasewise.simulate/1`, written out a second time: no key more, none less, every type as documented."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """Every key is needed unless it has a default, and no other is allowed."""


class Distribution(Strict):
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None


class PooledTbt(Strict):
    tbt_p99_s: float | None
    delay_p50_s: float | None


class Attainment(Strict):
    ttft: float | None
    tpot: float | None
    joint: float | None


class Slowdown(Strict):
    ttft: Distribution
    tbt: Distribution
    e2e: Distribution


class Deadlines(Strict):
    attained: float | None


class Scores(Strict):
    pooled_tbt: PooledTbt
    joint_attainment: Attainment
    slowdown: Slowdown
    token_deadlines: Deadlines


class RequestClass(Strict):
    requests: int
    completed: int
    ttft_s: Distribution
    tpot_s: Distribution
    e2e_s: Distribution
    attainment: Attainment


class Bubbles(Strict):
    share: float | None
    pb1_s: float
    pb2_s: float
    pb3_s: float
    unfilled_s: float


class Group(Strict):
    group: int
    role: Literal["prefill", "decode", "mixed"]
    device: str
    replicas: int
    busy_share: float | None
    prefill_share: float | None
    decode_share: float | None
    both_share: float | None
    mean_decodes: float | None
    kv_peak: float
    sent: int
    received: int
    transfer_s: Distribution
    requests_lost: int
    replicas_lost: int


class Fleet(Strict):
    groups: list[Group]
    handed_over: int
    transfer_s: Distribution
    retries: int
    replicas_lost: int


class Summary(Strict):
    requests: int
    completed: int
    rejected: int
    cancelled: int
    failed: int
    simulated_s: float
    wall_s: float
    requests_per_wall_s: float
    events: int
    oracle: bool
    iterations: int
    tokens_cached: int
    tokens_in: int
    tokens_out: int
    throughput_tokens_per_s: float | None
    preemptions: int
    forced: int
    ttft_s: Distribution
    tbt_s: Distribution
    tpot_s: Distribution
    e2e_s: Distribution
    delay_s: Distribution
    scores: Scores
    classes: dict[str, RequestClass] | msgspec.UnsetType = msgspec.UNSET
    bubbles: Bubbles | msgspec.UnsetType = msgspec.UNSET
    fleet: Fleet | msgspec.UnsetType = msgspec.UNSET


class Workload(Strict):
    name: str
    requests: int
    mean_rate_rps: float | None
    sha256: str
    users: int | msgspec.UnsetType = msgspec.UNSET
    think_s: float | msgspec.UnsetType = msgspec.UNSET
    prefix_block_tokens: int | msgspec.UnsetType = msgspec.UNSET


class Device(Strict):
    name: str
    memory_gib: float
    memory_gb_s: float
    bf16_tflops: float
    link_gb_s: float
    source: str
    fp16_tflops: float | None
    fp8_tflops: float | None
    int8_tops: float | None
    fp4_tflops: float | None
    tdp_w: float | None
    idle_w: float | None
    min_clock_mhz: float | None
    max_clock_mhz: float | None
    link: str | None
    network_gb_s: float | None
    price_per_hour: float | None
    price_source: str | None
    efficiency: str | None


class Replica(Strict):
    count: int
    device: Device
    tp: int
    blocks: int
    max_context: int
    latency: dict[str, Any] | None
    pp: int
    role: str
    group: int


class Document(Strict):
    schema: Literal["phasewise.simulate/1"]
    version: str
    basis: str
    deployment: dict[str, Any]
    model: dict[str, Any]
    replicas: list[Replica]
    workload: Workload
    seed: int
    warnings: list[str]
    summary: Summary


def read(text: str | bytes) -> Document:
    """The document, or msgspec's complaint of what is not as it should be."""
    return msgspec.json.decode(text, type=Document)


def keys(kind: type[msgspec.Struct]) -> set[str]:
    """Every key that the document has at any level, but for those inside `deployment` and `model`."""
    found = set()
    for field in msgspec.structs.fields(kind):
        found.add(field.name)
        inner = field.type if isinstance(field.type, type) else next(iter(getattr(field.type, "__args__", ())), None)
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            found |= keys(inner)
    return found
