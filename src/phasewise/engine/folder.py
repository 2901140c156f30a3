"""A Hugging Face folder written from a GGUF file, in bfloat16: what transformers, vLLM and this engine all load.

The tensors are written one by one as they are unpacked, so that no more than one is in memory: the offsets in the header of a
safetensors file follow from the shape alone. (transformers, which can read a GGUF file, refuses to save what it has read.)
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import torch

from phasewise.engine.gguffile import GgufFile
from phasewise.engine.shape import ARCHITECTURES, Rope, Shape
from phasewise.engine.vocabulary import tokenizer_config, tokenizer_of
from phasewise.engine.weights import Model, hub_parts, model_of


def write_folder(gguf: Path, folder: Path) -> None:
    """Write a model, its tokenizer and their configurations into the folder, which must exist. Raises InputError for a file
    that is not a model that the engine runs, before anything large is written; OSError as the disk says."""
    file = GgufFile(gguf)
    model = model_of(file)
    tokenizer = tokenizer_of(file.metadata, file.where)
    padding = file.metadata.get("tokenizer.ggml.padding_token_id")
    _write(folder / "config.json", {**config_of(model.shape), "pad_token_id": padding})
    _write(folder / "generation_config.json", {**_special(model.shape), "pad_token_id": padding})
    _write(folder / "tokenizer_config.json", tokenizer_config(file.metadata))
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_tensors(model, folder / "model.safetensors")


def write_tensors(model: Model, path: Path) -> None:
    """A model's tensors in bfloat16 under the hub's names, as one safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in model.sizes.items():
        for part, at in hub_parts(model.shape, name):
            shape = tuple(torch.empty(size, device="meta")[at].shape)
            start, end = end, end + 2 * math.prod(shape)
            header[part] = {"dtype": "BF16", "shape": shape, "data_offsets": (start, end)}
    head = msgspec.json.encode(header)
    head += b" " * (-len(head) % 8)
    with path.open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        for name, tensor in model.tensors(torch.bfloat16):
            for _, at in hub_parts(model.shape, name):
                out.write(tensor[at].contiguous().flatten().view(torch.uint8).numpy().data)


def config_of(shape: Shape) -> dict[str, Any]:
    """The `config.json` of a shape: `shape_of` gives the shape back."""
    config: dict[str, Any] = {
        "architectures": [next(name for name, family in ARCHITECTURES.items() if family == shape.family)],
        "model_type": shape.family,
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.max_context,
        "rms_norm_eps": shape.eps,
        "tie_word_embeddings": shape.tied,
        "attention_bias": shape.out_bias,
        "hidden_act": "silu",
        "sliding_window": shape.window,
        "rope_theta": shape.rope.theta,
        "rope_scaling": _rope_scaling(shape.rope),
        "torch_dtype": "bfloat16",
        **_special(shape),
    }
    if shape.rope.partial != 1.0:
        config["partial_rotary_factor"] = shape.rope.partial
    if shape.family.startswith("qwen"):
        config |= {"use_sliding_window": shape.window is not None, "max_window_layers": shape.layers}
        if shape.window is not None and shape.experts is None:
            kinds = ("full_attention", "sliding_attention")
            config["layer_types"] = [kinds[n in shape.window_layers] for n in range(shape.layers)]
    if shape.experts and shape.family == "mixtral":
        config |= {"num_local_experts": shape.experts.count, "num_experts_per_tok": shape.experts.active}
    elif shape.experts:
        config |= {
            "num_experts": shape.experts.count,
            "num_experts_per_tok": shape.experts.active,
            "moe_intermediate_size": shape.experts.ffn,
            "norm_topk_prob": shape.experts.renormalise,
            "mlp_only_layers": [n for n in range(shape.layers) if n not in shape.experts.layers],
            "decoder_sparse_step": 1,
        }
    return config


def _special(shape: Shape) -> dict[str, Any]:
    ends = list(shape.end_ids)
    return {"bos_token_id": shape.bos, "eos_token_id": ends[0] if len(ends) == 1 else ends or None}


def _rope_scaling(rope: Rope) -> dict[str, Any] | None:
    if rope.kind == "default":
        return None
    scaling: dict[str, Any] = {"rope_type": rope.kind, "factor": rope.factor}
    if rope.kind in ("llama3", "yarn"):
        scaling["original_max_position_embeddings"] = rope.original
    if rope.kind == "llama3":
        scaling |= {"low_freq_factor": rope.low_freq, "high_freq_factor": rope.high_freq}
    if rope.kind == "yarn":
        scaling |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow, "attention_factor": rope.attention_factor}
        scaling |= {} if rope.truncate else {"truncate": False}
    return scaling


def _write(path: Path, table: dict[str, Any]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=2) + b"\n")
