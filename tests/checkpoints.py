"""Random small models of every family that the engine runs, made and saved by transformers; and their GGUF files, written as
llama.cpp's converter would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None, "head_dim": 16},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "norm_topk_prob": True,
        "head_dim": 8,
    },
}
"""By `model_type`: what differs from `SMALL`."""


def small(family: str, **changes: Any) -> PreTrainedModel:
    """A random model in float32, norms and biases included (transformers leaves them at one and nought)."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family], **changes}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(torch.randn_like(weight) * 0.1 + ("norm" in name))
    return model.eval()


def words() -> list[str]:
    """A vocabulary of 96: special tokens, single bytes as GPT-2 writes them, and what two merges make of them."""
    return ["<unk>", "<s>", "</s>", *[chr(c) for c in range(ord("!"), ord("!") + 90)], "Ġ", "th", "the"]


def write_gguf(path: Path, model: PreTrainedModel, kind: gguf.GGMLQuantizationType | None = None, **keys: Any) -> Path:
    """The model as a GGUF file, matrices quantised as `kind` (None: float32); `keys` are added to the table."""
    config, family = model.config, model.config.model_type
    name = {"mistral": "llama", "mixtral": "llama", "qwen3_moe": "qwen3moe"}.get(family, family)
    writer = gguf.GGUFWriter(path, name)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    table = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim,
        "rope.dimension_count": head_dim,
    }
    if "mixtral" in family or "moe" in family:
        table |= {"expert_count": config.num_local_experts, "expert_used_count": config.num_experts_per_tok}
    if "moe" in family:
        table["expert_feed_forward_length"] = config.moe_intermediate_size
    for key, value in table.items():
        writer.add_uint32(f"{name}.{key}", value)
    writer.add_float32(f"{name}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    writer.add_float32(f"{name}.rope.freq_base", config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words())
    writer.add_token_types([2, 3, 3] + [1] * 93)
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}")
    for key, value in keys.items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    for stored, tensor in _converted(model, name == "llama").items():
        if kind is None or tensor.ndim == 1 or "gate_inp" in stored:
            writer.add_tensor(stored, np.ascontiguousarray(tensor))
        else:
            writer.add_tensor(stored, gguf.quantize(np.ascontiguousarray(tensor), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _converted(model: PreTrainedModel, permutes: bool) -> dict[str, np.ndarray]:
    """Names by the package's own map, experts apart, and the rows of q and k interleaved for llama's architecture."""
    config = model.config
    kinds = {"qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3, "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE}
    names = gguf.get_tensor_name_map(kinds.get(config.model_type, gguf.MODEL_ARCH.LLAMA), config.num_hidden_layers)
    found = {}
    for name, tensor in model.state_dict().items():
        weight = tensor.float().numpy()
        if name.endswith("experts.gate_up_proj"):
            layer = name.split(".")[2]
            gate, up = np.split(weight, 2, axis=1)
            found |= {f"blk.{layer}.ffn_gate_exps.weight": gate, f"blk.{layer}.ffn_up_exps.weight": up}
            continue
        if name.endswith("experts.down_proj"):
            found[f"blk.{name.split('.')[2]}.ffn_down_exps.weight"] = weight
            continue
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if permutes and part in name:
                rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
                weight = rows.swapaxes(1, 2).reshape(weight.shape)
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored, name
        found[stored] = weight
    return found
