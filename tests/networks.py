"""Random small models of every family, as transformers builds them, and their weights under the names that we read."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from phasewise.engine.shape import Shape, shape_of

SIZE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 6}),
    "llama-biases": ("Llama", {"attention_bias": True, "head_dim": 16}),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.5}}),
    "llama-dynamic": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}}),
    "llama-yarn": ("Llama", {"rope_parameters": YARN}),
    "smollm2": (
        "Llama",
        {
            "hidden_size": 576,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "intermediate_size": 1536,
            "num_hidden_layers": 2,
            "vocab_size": 512,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
        },
    ),
    "mistral": ("Mistral", {"sliding_window": 21}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 12}),
    "qwen3-tied": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True, "attention_bias": True}),
    "mixtral": ("Mixtral", {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen3-moe": (
        "Qwen3Moe",
        {
            "head_dim": 16,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
    "qwen3-moe-raw": (
        "Qwen3Moe",
        {
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 40,
            "norm_topk_prob": False,
        },
    ),
}


def reference(name: str) -> transformers.PreTrainedModel:
    """The model in float32, its weights large enough for attention to be far from uniform; biases and norms random too."""
    kind, extra = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**{**SIZE, **extra}, attn_implementation="eager")
    torch.manual_seed(7)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for tensor_name, tensor in model.named_parameters():
            if tensor.dim() > 1:
                tensor.normal_(0.0, 1.3 * tensor.shape[-1] ** -0.5)
            else:
                tensor.normal_(1.0 if "norm" in tensor_name else 0.0, 0.3)
    return model


def shape(model: transformers.PreTrainedModel) -> Shape:
    """The shape that the engine reads from the model's configuration."""
    return shape_of(model.config.to_dict())


def tensors(model: transformers.PreTrainedModel) -> dict[str, torch.Tensor]:
    """A copy of the model's weights, experts under our names."""
    named = {}
    for name, tensor in model.state_dict().items():
        for theirs, ours in (
            (".mlp.experts.gate_up_proj", ".mlp.experts.gate_up"),
            (".mlp.experts.down_proj", ".mlp.experts.down"),
            (".mlp.gate.weight", ".mlp.router.weight"),
        ):
            name = name.replace(theirs, ours)
        named[name] = tensor.clone()
    return named
