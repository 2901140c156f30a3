"""Rotary tables against transformers' own, at positions far beyond what a small model's test reaches."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from phasewise.engine.rope import frequencies, tables
from phasewise.engine.shape import shape_of

KINDS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn, all said": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 3277,
        "beta_fast": 16,
        "beta_slow": 2,
        "mscale": 1.0,
        "mscale_all_dim": 0.8,
        "truncate": False,
    },
    "partial": {"rope_type": "linear", "factor": 1.0, "partial_rotary_factor": 0.5},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_frequencies_are_those_of_transformers(kind: str, theta: float) -> None:
    table = {"rope_theta": theta, **KINDS[kind]}
    config = transformers.LlamaConfig(
        hidden_size=512, num_attention_heads=8, max_position_embeddings=131072, rope_parameters=table
    )
    wanted, scaling = ROPE_INIT_FUNCTIONS[table["rope_type"]](config, "cpu", seq_len=None)
    rope = shape_of({**config.to_dict(), "architectures": ["LlamaForCausalLM"]}).rope
    assert torch.equal(frequencies(rope, 64), wanted)
    assert rope.attention_factor == pytest.approx(scaling, rel=1e-12)


def test_tables_are_those_of_transformers() -> None:
    """Equal to the last bit at every position, however far."""
    config = transformers.LlamaConfig(
        hidden_size=512,
        num_attention_heads=8,
        max_position_embeddings=40_000,
        rope_parameters={**KINDS["llama3"], "rope_theta": 5e5},
    )
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    cos, sin = rotary(torch.zeros(1), torch.arange(40_000)[None])
    ours = tables(shape_of({**config.to_dict(), "architectures": ["LlamaForCausalLM"]}).rope, 64, 40_000)
    assert torch.equal(ours[0], cos[0, :, :32])
    assert torch.equal(ours[1], sin[0, :, :32])
