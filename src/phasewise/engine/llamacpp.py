"""What llama.cpp's converter makes of a Hugging Face model, undone: its keys, its names, and the rows that it permutes.

Where the two worlds differ in what they compute, llama.cpp's reading of its own file holds: a Llama or Mixtral file has no
sliding window, and the experts chosen are always renormalised.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from phasewise.core.errors import InputError
from phasewise.engine.shape import Experts, Family, Rope, Shape, few, reach

_FAMILIES: dict[str, Family] = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3moe": "qwen3_moe"}
"""By `general.architecture`; a `llama` with experts is a `mixtral`, and a Mistral calls itself `llama`."""

_OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_INSIDE = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.router": "ffn_gate_inp",
}


class _Keys:
    """The keys of one architecture, each checked as it is read."""

    def __init__(self, metadata: dict[str, Any], architecture: str, where: str) -> None:
        self.metadata, self.architecture, self.where = metadata, architecture, where

    def count(self, key: str, default: int | None = None) -> int:
        name = f"{self.architecture}.{key}"
        value = self.metadata.get(name, default)
        if isinstance(value, list) and len({*value}) == 1:
            value = value[0]  # one number a layer, all the same
        if type(value) is not int or not 0 < value <= 1 << 31:
            what = (
                f"no key {name}, which is needed" if value is None else f"key {name} must be a count, not {value!r:.60}"
            )
            raise InputError(what, self.where)
        return value

    def number(self, key: str, default: float) -> float:
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise InputError(f"key {self.architecture}.{key} must be a number above 0, not {value!r:.60}", self.where)
        return float(f"{value:.7g}")  # a float32 in the file: 1e-5, not 9.999999747e-06


def gguf_shape(metadata: dict[str, Any], tensors: Collection[str] = (), where: str = "GGUF") -> Shape:
    """The shape that a GGUF file's keys describe; the names of its `tensors` say what the keys leave out (tied embeddings,
    biases). Raises InputError for an architecture that the engine cannot run, and for a missing or impossible key.

    A Llama 3 stretches its rotary positions by a table among the tensors, not by a key: see `stretched`.
    """
    architecture = metadata.get("general.architecture")
    family = _FAMILIES.get(architecture) if isinstance(architecture, str) else None
    if architecture is None or family is None:
        raise InputError(
            f"the engine cannot run a GGUF of architecture {architecture!r}; it runs: {', '.join(_FAMILIES)}", where
        )
    if metadata.get("split.count", 1) not in (0, 1):
        raise InputError(f"one of {metadata['split.count']} parts; join them with llama-gguf-split --merge", where)
    keys = _Keys(metadata, architecture, where)
    if family == "llama" and metadata.get("llama.expert_count"):
        family = "mixtral"
    layers, hidden = few(keys.count("block_count"), "layers", where), keys.count("embedding_length")
    heads = keys.count("attention.head_count")
    kv_heads = keys.count("attention.head_count_kv", heads)
    if heads % kv_heads or (hidden % heads and f"{architecture}.attention.key_length" not in metadata):
        raise InputError(f"{heads} heads of {hidden} numbers and {kv_heads} of keys do not fit together", where)
    head_dim = keys.count("attention.key_length", hidden // heads)
    tokens = metadata.get("tokenizer.ggml.tokens")
    trained = keys.count("context_length")
    rope = _rope(keys, head_dim, trained)
    bias = "blk.0.attn_q.bias" in tensors or family == "qwen2"
    return Shape(
        family=family,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=keys.count("feed_forward_length"),
        vocab=keys.count("vocab_size", len(tokens) if isinstance(tokens, list) else None),
        max_context=reach(rope, trained, where),
        eps=keys.number("attention.layer_norm_rms_epsilon", 1e-6),
        tied="output.weight" not in tensors,
        qkv_bias=bias,
        out_bias="blk.0.attn_output.bias" in tensors,
        qk_norm=family in ("qwen3", "qwen3_moe"),
        rope=rope,
        experts=_experts(keys, family, layers),
        end_ids=end_ids(metadata),
        bos=_token(metadata, "bos"),
    )


def end_ids(metadata: dict[str, Any]) -> tuple[int, ...]:
    """Tokens that end a text, a turn or a message, as the file names them."""
    named = (_token(metadata, name) for name in ("eos", "eot", "eom"))
    return tuple(dict.fromkeys(i for i in named if i is not None))


def _token(metadata: dict[str, Any], name: str) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    return value if type(value) is int and value >= 0 else None


def _rope(keys: _Keys, head_dim: int, trained: int) -> Rope:
    partial = keys.count("rope.dimension_count", head_dim) / head_dim
    if partial > 1 or int(head_dim * partial) % 2:
        what = f"key {keys.architecture}.rope.dimension_count must be even and at most {head_dim}, a head's width"
        raise InputError(what, keys.where)
    rope = Rope(theta=keys.number("rope.freq_base", 10_000.0), partial=partial)
    kind = keys.metadata.get(f"{keys.architecture}.rope.scaling.type", "none")
    if kind == "none":
        return rope
    factor = keys.number("rope.scaling.factor", 1.0)
    if kind == "linear":
        return msgspec.structs.replace(rope, kind="linear", factor=factor)
    if kind != "yarn":
        raise InputError(f"rotary scaling {kind!r} is not supported; known: none, linear, yarn", keys.where)
    return msgspec.structs.replace(
        rope,
        kind="yarn",
        factor=factor,
        original=keys.count("rope.scaling.original_context_length", trained),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
        attention_factor=0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0,
    )


def _experts(keys: _Keys, family: Family, layers: int) -> Experts | None:
    if family not in ("mixtral", "qwen3_moe"):
        return None
    count, active = few(keys.count("expert_count"), "experts", keys.where), keys.count("expert_used_count")
    if active > count:
        raise InputError(f"{active} experts a token of {count} (key {keys.architecture}.expert_count)", keys.where)
    ffn = keys.count("feed_forward_length")
    width = ffn if family == "mixtral" else keys.count("expert_feed_forward_length", ffn)
    return Experts(count, active, width, True, tuple(range(layers)))


def stretched(shape: Shape, divisors: Iterable[float], where: str) -> Shape:
    """The shape with the rotary stretch that the table `rope_freqs` writes out: what each base frequency is divided by.

    The converter makes it from Llama 3's four numbers. The greatest divisor is the factor; the others are those of every
    Llama 3 published (1, 4, and 8192 tokens). Raises InputError where that does not give the table back.
    """
    table = list(divisors)
    rope = msgspec.structs.replace(
        shape.rope, kind="llama3", factor=max(table), original=8192, low_freq=1.0, high_freq=4.0
    )
    width = int(shape.head_dim * rope.partial)
    for i, divisor in enumerate(table):
        turns = rope.original * rope.theta ** (-2 * i / width) / (2 * math.pi)
        smooth = min(1.0, max(0.0, (turns - rope.low_freq) / (rope.high_freq - rope.low_freq)))
        if len(table) != width // 2 or not math.isclose(
            divisor, 1 / ((1 - smooth) / rope.factor + smooth), rel_tol=1e-3
        ):
            raise InputError("the table rope_freqs is not that of a Llama 3, and no other is supported", where)
    return msgspec.structs.replace(shape, rope=rope)


def parts(shape: Shape, name: str) -> list[tuple[str, tuple[Any, ...]]]:
    """The file's tensors that make up our tensor `name`, each with the index at which it belongs."""
    if name in _OUTSIDE:
        return [(_OUTSIDE[name], ())]
    _, _, layer, rest = name.split(".", 3)
    if rest == "mlp.experts.gate_up":
        ffn = shape.experts.ffn if shape.experts else 0
        gate, up = (slice(None), slice(0, ffn)), (slice(None), slice(ffn, 2 * ffn))
        return [(f"blk.{layer}.ffn_gate_exps.weight", gate), (f"blk.{layer}.ffn_up_exps.weight", up)]
    if rest == "mlp.experts.down":
        return [(f"blk.{layer}.ffn_down_exps.weight", ())]
    inside, kind = rest.rsplit(".", 1)
    return [(f"blk.{layer}.{_INSIDE[inside]}.{kind}", ())]


def permuted_heads(shape: Shape, name: str) -> int:
    """The heads whose rows the converter interleaved in our tensor `name` (Llama's q and k); 0 for all other tensors."""
    if shape.family not in ("llama", "mistral", "mixtral"):
        return 0
    return shape.heads if ".q_proj." in name else shape.kv_heads if ".k_proj." in name else 0
