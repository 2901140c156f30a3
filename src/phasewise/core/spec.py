"""Specifications: a model's shape, a device's data sheet, a deployment. Frozen; resolving one makes a new value."""

from __future__ import annotations

from typing import Any

import msgspec

from phasewise.core.model import ModelSpec as ModelSpec
from phasewise.core.steptimes import StepTimes


class DeviceSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device's data sheet: dense peaks without sparsity, decimal bandwidths, None where it is not known or not there.

    `link_gb_s` is one direction of the link to its neighbours in the node (0: none), `link` its kind; `network_gb_s` one
    direction of its share of the link between nodes. Clocks are those of the compute cores. `price_per_hour` is a default
    for planning, US dollars for one device, and `price_source` says whose. `efficiency` is no part of the data sheet: it
    names the device whose fitted efficiency this one borrows when it has no fit of its own (None: a100).
    """

    name: str
    memory_gib: float
    memory_gb_s: float
    bf16_tflops: float
    link_gb_s: float
    source: str
    fp16_tflops: float | None = None
    fp8_tflops: float | None = None
    int8_tops: float | None = None
    fp4_tflops: float | None = None
    tdp_w: float | None = None
    idle_w: float | None = None
    min_clock_mhz: float | None = None
    max_clock_mhz: float | None = None
    link: str | None = None
    network_gb_s: float | None = None
    price_per_hour: float | None = None
    price_source: str | None = None
    efficiency: str | None = None

    @property
    def fp8_peak_tflops(self) -> float:
        """What products of fp8 weights run at: bf16's rate where there is no unit for fp8 (weights are widened first)."""
        return self.fp8_tflops or self.bf16_tflops


class Slo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Service-level objectives of one request, seconds; None: no objective."""

    ttft_s: float | None = None
    tpot_s: float | None = None


class RequestClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A class of requests: what clients call it (`Request.kind`), its own objectives where it has any, its own output cap.

    An objective that is None is the deployment's; `max_tokens` None is the workload's.
    """

    name: str
    slo: Slo = Slo()
    max_tokens: int | None = None


class PolicySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A policy by its catalogue name, with the parameters that differ from its defaults."""

    name: str
    params: dict[str, Any] = {}


PREFILL, DECODE, MIXED = ROLES = ("prefill", "decode", "mixed")
"""What a replica is for: prompts, answers, or both."""

SERIALISED, LAYER_WISE, BY_SIZE = TRANSFERS = ("serialised", "layer-wise", "by-size")
"""When keys and values leave a prefill replica: after the whole prompt, after each layer, or whichever suits the prompt."""


class LinkSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What carries keys and values from one replica to another: a preset by `name`, and what differs from it.

    `gb_s` is one direction at each replica (10^9 bytes a second), `latency_us` from the first byte sent to the first one
    there (None: the preset's). `transfer` says when they leave; by size, prompts of at least `layer_wise_from` tokens go
    layer by layer (Splitwise).
    """

    name: str = "infiniband-ndr"
    gb_s: float | None = None
    latency_us: float | None = None
    transfer: str = BY_SIZE
    layer_wise_from: int = 512


class ReplicaSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`count` equal replicas for one `role`, each of `pp` stages of `tp` devices.

    Of each device the share `memory_utilisation` may be used; `batcher` is their own (None: the deployment's).
    """

    device: str
    count: int = 1
    tp: int = 1
    memory_utilisation: float = 0.9
    role: str = MIXED
    pp: int = 1
    batcher: PolicySpec | None = None


class Deployment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to run, as a person writes it: the model, its replicas, the policies, the objectives.

    `model` is a catalogue name or the path of a `config.json`; `max_context` defaults to the model's; `host_s` is the time
    that a step spends outside the device (None: the default of the performance model); `tile` rounds the tokens of a step
    up to whole GEMM tiles (0: no rounding); `wire_s` is how long a message between the rooms takes. `prefix_cache` keeps the
    content of prompts in the KV memory (None: as the batcher's published system does by default). `latency` says what the
    step times rest on: the roofline (None), a published model's name, or the path of a latency file.

    `predictor` says how long answers will be, to policies that ask.

    Of a fleet: `link` hands over keys and values; a replica reports to the router at most every `report_s`; where messages
    can be late or lost, the cluster repeats an order that has had no word for `patience_s` (None: the wire is reliable); a
    replica that starts serves after `cold_start_s`.

    Slowdowns are against a request alone on `reference`, a device's name, with the first replica's tp (None: its own device).
    """

    model: str
    replicas: tuple[ReplicaSpec, ...]
    batcher: PolicySpec = PolicySpec("sarathi")
    router: PolicySpec = PolicySpec("round-robin")
    max_context: int | None = None
    block_tokens: int = 16
    host_s: float | None = None
    tile: int = 0
    wire_s: float = 0.0
    slo: Slo = Slo()
    prefix_cache: bool | None = None
    latency: str | None = None
    link: LinkSpec = LinkSpec()
    report_s: float = 0.1
    patience_s: float | None = None
    cold_start_s: float = 60.0
    reference: str | None = None
    predictor: PolicySpec = PolicySpec("none")

    @property
    def oracle(self) -> bool:
        """Whether its predictor reads the true lengths: such a one says so in its name."""
        return "oracle" in self.predictor.name


class ResolvedReplica(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One replica with everything looked up: its device, its KV blocks, the longest context that it serves, its step times
    if they are not the roofline's, and which group of the deployment's `replicas` it is of."""

    device: DeviceSpec
    tp: int
    blocks: int
    max_context: int
    latency: StepTimes | None = None
    pp: int = 1
    role: str = MIXED
    group: int = 0


class Resolved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A deployment with every name looked up and every default filled in: all that a replay needs, and all that is printed.

    `basis` says what the step times rest on; `reference` is what slowdowns are against, if that is no replica of its own.
    """

    deployment: Deployment
    model: ModelSpec
    replicas: tuple[ResolvedReplica, ...]
    basis: str
    reference: ResolvedReplica | None = None

    def batcher(self, replica: int) -> PolicySpec:
        """The batcher of a replica: its group's own, or the deployment's."""
        return self.deployment.replicas[self.replicas[replica].group].batcher or self.deployment.batcher
