"""What each family of decoders writes into its `config.json`, and what it leaves unsaid: from fields to a shape.

Defaults of missing fields are those of Hugging Face's transformers. Draft layers for speculation (DeepSeek-V3) are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phasewise.core.model import Latent, MoE, Window
from phasewise.perf.fields import Fields

Reader = Callable[[Fields], dict[str, Any]]
"""From the fields of a file to the fields of a `ModelSpec`, without its name and its quantisation."""


def _layers(fields: Fields) -> int:
    return fields.count("num_hidden_layers", "n_layer")


def _llama(fields: Fields) -> dict[str, Any]:
    """What Llama writes, and every family that follows it."""
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise fields.error(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if fields.config.get("head_dim") is None and hidden % heads:
        raise fields.error(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}; give head_dim")
    bias = fields.flag("attention_bias")
    return {
        "layers": _layers(fields),
        "hidden": hidden,
        "ffn": fields.count("intermediate_size"),
        "q_heads": heads,
        "kv_heads": kv_heads,
        "head_dim": fields.count("head_dim", default=hidden // heads),
        "vocab": fields.count("vocab_size"),
        "max_context": fields.count("max_position_embeddings"),
        "dtype": fields.dtype(),
        "tied_embeddings": fields.flag("tie_word_embeddings"),
        "attention_bias": bias,
        "attention_out_bias": bias,
        "ffn_bias": fields.flag("mlp_bias"),
    }


def _mistral(fields: Fields) -> dict[str, Any]:
    shape = _llama(fields)
    return {**shape, "window": _window(fields, shape, every=shape["layers"])}


def _mixtral(fields: Fields) -> dict[str, Any]:
    shape = _mistral(fields)
    moe = MoE(fields.count("num_local_experts"), _per_token(fields, "num_local_experts"), shape["ffn"])
    return {**shape, "moe": moe}


def _qwen2(fields: Fields) -> dict[str, Any]:
    # Biases on q, k and v without saying so in the file, and none on the output projection.
    return {**_qwen(fields), "attention_bias": True, "attention_out_bias": False}


def _qwen3(fields: Fields) -> dict[str, Any]:
    return {**_qwen(fields), "qk_norm": True}


def _qwen(fields: Fields) -> dict[str, Any]:
    shape = _llama(fields)
    first = fields.none_or_count("max_window_layers")
    windowed = max(0, shape["layers"] - first) if fields.flag("use_sliding_window") else 0
    return {**shape, "window": _window(fields, shape, every=windowed)}


def _qwen2_moe(fields: Fields) -> dict[str, Any]:
    shape = _qwen2(fields)
    return {**shape, **_qwen_experts(fields, shape, fields.count("shared_expert_intermediate_size"))}


def _qwen3_moe(fields: Fields) -> dict[str, Any]:
    shape = _qwen3(fields)
    return {**shape, **_qwen_experts(fields, shape, 0)}


def _qwen_experts(fields: Fields, shape: dict[str, Any], shared: int) -> dict[str, Any]:
    plain = fields.config.get("mlp_only_layers") or []
    every = fields.count("decoder_sparse_step", default=1)
    if not isinstance(plain, list):
        raise fields.error(f"field mlp_only_layers must be a list of layers, not {plain!r}")
    dense = sum(i in plain or (i + 1) % every != 0 for i in range(shape["layers"]))
    experts, chosen = fields.count("num_experts"), _per_token(fields, "num_experts")
    return {"moe": MoE(experts, chosen, fields.count("moe_intermediate_size"), shared, shared > 0, dense)}


def _deepseek(fields: Fields) -> dict[str, Any]:
    part = Latent(
        kv_rank=fields.count("kv_lora_rank"),
        q_rank=fields.none_or_count("q_lora_rank"),
        nope=fields.count("qk_nope_head_dim"),
        rope=fields.count("qk_rope_head_dim"),
        value=fields.count("v_head_dim"),
    )
    if fields.count("moe_layer_freq", default=1) != 1:
        raise fields.error("field moe_layer_freq must be 1: other spacings of experts are not supported yet")
    width = fields.count("moe_intermediate_size")
    moe = MoE(
        experts=fields.count("n_routed_experts"),
        per_token=_per_token(fields, "n_routed_experts"),
        ffn=width,
        shared_ffn=width * fields.none_or_count("n_shared_experts"),
        dense_layers=min(fields.none_or_count("first_k_dense_replace"), _layers(fields)),
        router_bias=fields.config.get("topk_method") == "noaux_tc",
    )
    # Neither heads nor their width say anything of the cache here; every head has its own key after expansion.
    shape = _llama(Fields({**fields.config, "head_dim": part.nope + part.rope}, fields.where))
    return {**shape, "kv_heads": shape["q_heads"], "latent": part, "moe": moe}


def _gemma3(fields: Fields) -> dict[str, Any]:
    # Files leave out what is the family's default.
    usual = {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    }
    fields = Fields({**usual, **{k: v for k, v in fields.config.items() if v is not None}}, fields.where)
    shape = _llama(fields)
    pattern = fields.count("sliding_window_pattern", default=6)
    window = _window(fields, shape, every=shape["layers"] - shape["layers"] // pattern)
    return {**shape, "qk_norm": True, "norms": 4, "window": window}


def _gpt_oss(fields: Fields) -> dict[str, Any]:
    shape = _llama(fields)
    packed = bool(fields.config.get("quantization_config"))
    chosen = _per_token(fields, "num_local_experts", "num_experts_per_tok", "experts_per_token")
    moe = MoE(
        fields.count("num_local_experts"), chosen, shape["ffn"], router_bias=True, dtype="mxfp4" if packed else None
    )
    # Every second layer has the window, beginning with the first.
    window = _window(fields, shape, every=(shape["layers"] + 1) // 2)
    biased = {"attention_bias": True, "attention_out_bias": True, "ffn_bias": True}
    return {**shape, **biased, "sinks": True, "moe": moe, "window": window}


def _opt(fields: Fields) -> dict[str, Any]:
    hidden, context = fields.count("hidden_size"), fields.count("max_position_embeddings")
    if fields.count("word_embed_proj_dim", default=hidden) != hidden or not fields.flag("do_layer_norm_before", True):
        raise fields.error("an OPT with projected embeddings or norms after the layers (350M) is not supported yet")
    shape = _gpt(fields, hidden, fields.count("ffn_dim", default=4 * hidden), fields.flag("enable_bias", True))
    # Two rows of the position table are never used.
    return {**shape, "max_context": context, "learned_positions": context + 2, "rotary": False}


def _bloom(fields: Fields) -> dict[str, Any]:
    hidden = fields.count("hidden_size", "n_embed")
    shape = _gpt(fields, hidden, 4 * hidden, True)
    # ALiBi knows no longest context: what it was trained with.
    context = fields.count("seq_length", default=2048)
    return {**shape, "max_context": context, "embedding_norm": True, "rotary": False}


def _falcon(fields: Fields) -> dict[str, Any]:
    hidden, new = fields.count("hidden_size"), fields.flag("new_decoder_architecture")
    shape = _gpt(fields, hidden, fields.count("ffn_hidden_size", default=4 * hidden), fields.flag("bias"))
    heads = shape["q_heads"]
    few = 1 if fields.flag("multi_query", True) else heads
    parallel = new or fields.flag("parallel_attn", True)
    norms = fields.count("num_ln_in_parallel_attn", default=2 if new or not parallel else 1)
    return {
        **shape,
        "kv_heads": fields.count("num_kv_heads", default=heads) if new else few,
        "max_context": fields.count("max_position_embeddings", default=2048),
        "norms": norms,
        "parallel": parallel,
        "rotary": not fields.flag("alibi"),
    }


def _gpt(fields: Fields, hidden: int, ffn: int, bias: bool) -> dict[str, Any]:
    """The shape of 2020: every head its own key, two matrices of feed-forward, norms with biases, tied embeddings."""
    heads = fields.count("num_attention_heads", "n_head")
    if hidden % heads:
        raise fields.error(f"a hidden size of {hidden} is not a multiple of {heads} heads")
    return {
        "layers": _layers(fields),
        "hidden": hidden,
        "ffn": ffn,
        "q_heads": heads,
        "kv_heads": heads,
        "head_dim": hidden // heads,
        "vocab": fields.count("vocab_size"),
        "dtype": fields.dtype(),
        "gated_ffn": False,
        "tied_embeddings": fields.flag("tie_word_embeddings", True),
        "attention_bias": bias,
        "attention_out_bias": bias,
        "ffn_bias": bias,
        "norm_bias": True,
    }


def _per_token(fields: Fields, experts: str, *names: str) -> int:
    chosen, there = fields.count(*(names or ("num_experts_per_tok",))), fields.count(experts)
    if chosen > there:
        raise fields.error(f"{chosen} experts a token of {there} (field {experts})")
    return chosen


def _window(fields: Fields, shape: dict[str, Any], every: int) -> Window | None:
    """The sliding window: in the layers that `layer_types` names, else in `every` of them; None if it never bites."""
    kinds = fields.config.get("layer_types")
    if isinstance(kinds, list):
        every = sum(kind == "sliding_attention" for kind in kinds)
        if len(kinds) != shape["layers"] or every + kinds.count("full_attention") != len(kinds):
            raise fields.error("field layer_types must name full_attention or sliding_attention for every layer")
    tokens = fields.none_or_count("sliding_window") if every else 0
    return Window(tokens, every) if 0 < tokens < shape["max_context"] else None


FAMILIES: dict[str, Reader] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "MixtralForCausalLM": _mixtral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen2MoeForCausalLM": _qwen2_moe,
    "Qwen3ForCausalLM": _qwen3,
    "Qwen3MoeForCausalLM": _qwen3_moe,
    "DeepseekV2ForCausalLM": _deepseek,
    "DeepseekV3ForCausalLM": _deepseek,
    "Gemma3ForCausalLM": _gemma3,
    "Gemma3ForConditionalGeneration": _gemma3,
    "GptOssForCausalLM": _gpt_oss,
    "OPTForCausalLM": _opt,
    "BloomForCausalLM": _bloom,
    "FalconForCausalLM": _falcon,
}
WITH_EXPERTS = (_mixtral, _qwen2_moe, _qwen3_moe, _deepseek, _gpt_oss)
KINDS = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "gemma3": "Gemma3ForConditionalGeneration",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "opt": "OPTForCausalLM",
    "bloom": "BloomForCausalLM",
    "falcon": "FalconForCausalLM",
}
"""What `model_type` stands for in a file that names no architecture."""
