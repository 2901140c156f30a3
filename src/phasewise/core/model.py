"""The shape of a decoder: widths, counts, what its weights and its KV cache weigh. It knows no device and no time.

The fields name what changes a count, a byte or an operation, and nothing else: no training, no tokenizer, no scaling of
positions. What a family adds beyond the plain decoder sits in three optional parts: `MoE`, `Latent`, `Window`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
WEIGHT_BYTES: dict[str, float] = {**DTYPE_BYTES, "fp8": 1.0, "mxfp4": 17 / 32}
"""Bytes of one weight. mxfp4: four bits each, and one byte of scale for a block of 32 (OCP Microscaling 1.0, 2023). The
scales of fp8 blocks (4 bytes for 128 x 128 weights) are left out: 0.02 %."""


class MoE(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Experts in place of the feed-forward network: each token takes `per_token` of `experts`, each `ffn` wide.

    `shared_ffn` is the width of what every token takes besides (all shared experts together; 0: none), `shared_gate` a
    scalar gate on it; the first `dense_layers` layers have a plain network instead. `dtype` is how the experts' weights
    are stored if that differs from the other matrices (None: it does not).
    """

    experts: int
    per_token: int
    ffn: int
    shared_ffn: int = 0
    shared_gate: bool = False
    dense_layers: int = 0
    router_bias: bool = False
    dtype: str | None = None

    def touched(self, tokens: int) -> float:
        """Distinct experts that `tokens` tokens take together, expected, if the router chooses evenly and at random:
        E * (1 - (1 - k/E)^n)."""
        return self.experts * (1.0 - (1.0 - self.per_token / self.experts) ** tokens)


class Latent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): a token's cache is one latent vector of
    `kv_rank` and one rotated key of `rope`, shared by all heads. `q_rank` 0: queries are not compressed. A head's key has
    `nope + rope` dimensions (the model's `head_dim`), its value `value`."""

    kv_rank: int
    q_rank: int
    nope: int
    rope: int
    value: int

    @property
    def width(self) -> int:
        """Cached numbers of a token in one layer."""
        return self.kv_rank + self.rope


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sliding attention: in `layers` of the layers a token sees itself and the `tokens - 1` before it."""

    tokens: int
    layers: int


class Weights(NamedTuple):
    """Counts of weights by how they are stored: experts, other matrices of the layers, and the rest (embeddings, head,
    router, norms, biases), which stays in the model's own dtype."""

    experts: int
    matrices: int
    rest: int


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shape of a decoder, as its Hugging Face `config.json` gives it. Counts, not bytes.

    `weight_dtype` is how the matrices of the layers are stored and `kv_dtype` how keys and values are (None: as `dtype`);
    `norms` are those of a layer; `learned_positions` rows of a position table (0: none); `parallel` runs attention and
    feed-forward from one input (Falcon); `sinks` adds a learned logit to each query head (gpt-oss).
    """

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
    weight_dtype: str | None = None
    kv_dtype: str | None = None
    norms: int = 2
    norm_bias: bool = False
    embedding_norm: bool = False
    learned_positions: int = 0
    rotary: bool = True
    parallel: bool = False
    sinks: bool = False
    moe: MoE | None = None
    latent: Latent | None = None
    window: Window | None = None

    @property
    def dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def kv_dtype_bytes(self) -> int:
        """Bytes of one cached number."""
        return int(WEIGHT_BYTES[self.kv_dtype or self.dtype])

    @property
    def matrix_dtype(self) -> str:
        """How the matrices of the layers are stored, experts aside."""
        return self.weight_dtype or self.dtype

    @property
    def expert_dtype(self) -> str:
        """How the experts' matrices are stored."""
        return (self.moe.dtype if self.moe else None) or self.matrix_dtype

    @property
    def parameters(self) -> int:
        """Number of weights, embeddings, norms and biases included; an unused draft layer (DeepSeek's) is not."""
        return sum(self.weights())

    @property
    def active_parameters(self) -> int:
        """Weights that one token's step reads: the experts that it takes, and one row of the embedding."""
        experts, matrices, rest = self.weights()
        if self.moe:
            experts = experts * self.moe.per_token // self.moe.experts
        return experts + matrices + rest - (0 if self.tied_embeddings else (self.vocab - 1) * self.hidden)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights as they are stored."""
        return self.bytes_of(self.weights())

    @property
    def kv_width(self) -> int:
        """Cached numbers of one token in one layer: keys and values, or the latent vector and its key."""
        return self.latent.width if self.latent else 2 * self.kv_heads * self.head_dim

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values for one token over all layers, before tensor parallelism; windows count as full."""
        return self.layers * self.kv_width * self.kv_dtype_bytes

    def kv_bytes(self, tokens: int) -> int:
        """Least bytes that a sequence of `tokens` needs: a layer with a window keeps no more than the window."""
        full, kept = self.layers, 0
        if self.window:
            full, kept = self.layers - self.window.layers, self.window.layers * min(tokens, self.window.tokens)
        return (full * tokens + kept) * self.kv_width * self.kv_dtype_bytes

    def bytes_of(self, weights: Weights) -> int:
        """Bytes that so many weights take as this model stores them."""
        experts, matrices, rest = weights
        stored = math.ceil(experts * WEIGHT_BYTES[self.expert_dtype]) + matrices * WEIGHT_BYTES[self.matrix_dtype]
        return math.ceil(stored) + rest * self.dtype_bytes

    def weights(self, tp: int = 1, first: bool = True, last: bool = True) -> Weights:
        """Weights on the fullest of `tp` devices: heads, widths and vocabulary split, norms and routers on each.

        Of a part of the model, the embedding is with the `first` layers, the last norm and the head with the `last` ones.
        """
        moe, up = self.moe, 2 if self.gated_ffn else 1
        expert_layers = self.layers - moe.dense_layers if moe else 0
        dense_layers = self.layers - expert_layers
        attention, plain = self._attention(tp)
        ffn = -(-self.ffn // tp)
        matrices = self.layers * attention + dense_layers * (up + 1) * self.hidden * ffn
        rest = (
            self.layers * plain
            + dense_layers * (up * ffn + self.hidden) * self.ffn_bias
            + self._outside(tp, first, last)
        )
        experts = 0
        if moe:
            wide, shared = -(-moe.ffn // tp), -(-moe.shared_ffn // tp)
            experts = expert_layers * moe.experts * (up + 1) * self.hidden * wide
            matrices += expert_layers * (up + 1) * self.hidden * shared
            rest += expert_layers * moe.experts * (up * wide + self.hidden) * self.ffn_bias
            rest += expert_layers * (moe.experts * (self.hidden + moe.router_bias) + self.hidden * moe.shared_gate)
        return Weights(experts, matrices, rest)

    def _attention(self, tp: int) -> tuple[int, int]:
        """Weights in the matrices of one layer's attention, and in its norms (the feed-forward's too), biases, sinks."""
        heads, h = self.q_heads // tp, self.hidden
        plain = self.norms * h * (1 + self.norm_bias) + self.sinks * heads
        if self.latent:
            part = self.latent
            queries = (
                h * part.q_rank + part.q_rank * heads * self.head_dim if part.q_rank else h * heads * self.head_dim
            )
            cached = h * part.width + part.kv_rank * heads * (part.nope + part.value)
            return queries + cached + heads * part.value * h, plain + part.q_rank + part.kv_rank
        q, kv = heads * self.head_dim, -(-self.kv_heads // tp) * self.head_dim
        plain += (q + 2 * kv) * self.attention_bias + h * self.attention_out_bias + 2 * self.head_dim * self.qk_norm
        return h * (q + 2 * kv) + q * h, plain

    def _outside(self, tp: int, first: bool, last: bool) -> int:
        """Weights outside the layers: embeddings, head, positions, the last norm and the embedding's."""
        tables = first + last - (first and last and self.tied_embeddings)
        rows = -(-self.vocab // tp) * tables + first * self.learned_positions
        return (rows + (last + first * self.embedding_norm) * (1 + self.norm_bias)) * self.hidden
