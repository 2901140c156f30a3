"""Specifications: a model's shape, a device's data sheet, a deployment. Frozen; resolving one makes a new value."""

from __future__ import annotations

from typing import Any

import msgspec

DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shape of a dense decoder, as its Hugging Face `config.json` gives it. Counts, not bytes."""

    name: str
    layers: int
    hidden: int
    ffn: int
    q_heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_context: int
    dtype: str = "bfloat16"
    gated_ffn: bool = True
    tied_embeddings: bool = False
    attention_bias: bool = False
    attention_out_bias: bool = False
    ffn_bias: bool = False
    qk_norm: bool = False

    @property
    def dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def parameters(self) -> int:
        """Number of weights, embeddings, norms and biases included."""
        q, kv = self.q_heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (q + 2 * kv) + q * self.hidden
        attention += (q + 2 * kv) * self.attention_bias + self.hidden * self.attention_out_bias
        matrices = 3 if self.gated_ffn else 2
        ffn = matrices * self.hidden * self.ffn + ((matrices - 1) * self.ffn + self.hidden) * self.ffn_bias
        norms = 2 * self.hidden + 2 * self.head_dim * self.qk_norm
        embeddings = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        return self.layers * (attention + ffn + norms) + embeddings + self.hidden

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values for one token over all layers, before tensor parallelism."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype_bytes


class DeviceSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device's data sheet. `link_gb_s` is one direction of the link to its neighbours in the node (0: none)."""

    name: str
    memory_gib: float
    memory_gb_s: float
    bf16_tflops: float
    link_gb_s: float
    source: str


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


class ReplicaSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`count` equal replicas: `tp` devices each, of which the share `memory_utilisation` may be used."""

    device: str
    count: int = 1
    tp: int = 1
    memory_utilisation: float = 0.9


class Deployment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to run, as a person writes it: the model, its replicas, the policies, the objectives.

    `model` is a catalogue name or the path of a `config.json`; `max_context` defaults to the model's; `host_s` is the time
    that a step spends outside the device (None: the default of the performance model); `tile` rounds the tokens of a step
    up to whole GEMM tiles (0: no rounding); `wire_s` is how long a message between the rooms takes.
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


class ResolvedReplica(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One replica with everything looked up: its device, its KV blocks, the longest context that it serves."""

    device: DeviceSpec
    tp: int
    blocks: int
    max_context: int


class Resolved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A deployment with every name looked up and every default filled in: all that a replay needs, and all that is printed.

    `basis` says what the step times rest on.
    """

    deployment: Deployment
    model: ModelSpec
    replicas: tuple[ResolvedReplica, ...]
    basis: str
