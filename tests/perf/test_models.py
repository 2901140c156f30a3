"""The model catalogue against published sizes, and the reader of config.json against good and bad files."""

import json
from pathlib import Path
from typing import Any

import pytest

from phasewise.core.errors import InputError
from phasewise.perf.models import from_config, model, model_names

# Parameters as the hub counts them in the published weights (tied embeddings once), and bytes of keys and values of one
# token: 2 (K and V) * layers * key-value heads * head size * 2 bytes, written out from the papers' tables.
PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": (6_738_415_616, 2 * 32 * 32 * 128 * 2),
    "meta-llama/Llama-2-13b-hf": (13_015_864_320, 2 * 40 * 40 * 128 * 2),
    "meta-llama/Llama-2-70b-hf": (68_976_648_192, 2 * 80 * 8 * 128 * 2),
    "meta-llama/Meta-Llama-3-8B": (8_030_261_248, 2 * 32 * 8 * 128 * 2),
    "meta-llama/Meta-Llama-3-70B": (70_553_706_496, 2 * 80 * 8 * 128 * 2),
    "meta-llama/Llama-3.1-8B": (8_030_261_248, 131_072),
    "meta-llama/Llama-3.1-70B": (70_553_706_496, 327_680),
    "mistralai/Mistral-7B-v0.1": (7_241_732_096, 2 * 32 * 8 * 128 * 2),
    "01-ai/Yi-34B": (34_388_917_248, 2 * 60 * 8 * 128 * 2),
    "Qwen/Qwen3-0.6B": (596_049_920, 2 * 28 * 8 * 128 * 2),
    "Qwen/Qwen3-1.7B": (1_720_574_976, 2 * 28 * 8 * 128 * 2),
    "Qwen/Qwen3-4B": (4_022_468_096, 2 * 36 * 8 * 128 * 2),
    "Qwen/Qwen3-8B": (8_190_735_360, 2 * 36 * 8 * 128 * 2),
    "Qwen/Qwen3-14B": (14_768_307_200, 2 * 40 * 8 * 128 * 2),
    "Qwen/Qwen3-32B": (32_762_123_264, 2 * 64 * 8 * 128 * 2),
    "HuggingFaceTB/SmolLM2-135M": (134_515_008, 2 * 30 * 3 * 64 * 2),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (134_515_008, 2 * 30 * 3 * 64 * 2),
    "HuggingFaceTB/SmolLM2-360M": (361_821_120, 2 * 32 * 5 * 64 * 2),
    "HuggingFaceTB/SmolLM2-1.7B": (1_711_376_384, 2 * 24 * 32 * 64 * 2),
}
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}


def test_the_table_covers_the_catalogue() -> None:
    assert set(PUBLISHED) == set(model_names())


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    spec = model(name)
    parameters, kv_bytes = PUBLISHED[name]
    assert spec.name == name
    assert spec.parameters == pytest.approx(parameters, rel=0.01)
    assert spec.kv_bytes_per_token == kv_bytes


def test_the_last_component_is_enough_in_any_case() -> None:
    assert model("llama-3.1-8b") == model("meta-llama/Llama-3.1-8B")
    assert model("smollm2-135m").name == "HuggingFaceTB/SmolLM2-135M"


def test_a_sliding_window_is_read_as_full_attention() -> None:
    assert model("Mistral-7B-v0.1").max_context == 32_768


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^--model: unknown model 'lama-3.1-8b'; did you mean 'Llama-3.1-8B'\?$"):
        model("lama-3.1-8b", "--model")
    with pytest.raises(InputError, match="did you mean 'Qwen/Qwen3-8B'"):
        model("Qwen/Qwen33-8B")


def test_defaults_of_a_config_file() -> None:
    spec = from_config(LLAMA, "toy", "here")
    assert (spec.kv_heads, spec.head_dim, spec.dtype, spec.tied_embeddings) == (4, 16, "bfloat16", False)
    assert not spec.attention_bias
    assert not spec.qk_norm
    attention, ffn, norms = 4 * 64 * 64, 3 * 64 * 160, 2 * 64
    assert spec.parameters == 2 * (attention + ffn + norms) + 2 * 100 * 64 + 64


def test_what_each_architecture_adds() -> None:
    plain = from_config(LLAMA, "toy", "here").parameters
    biased = from_config({**LLAMA, "attention_bias": True}, "toy", "here")
    assert biased.parameters - plain == 2 * (3 * 64 + 64)
    qwen2 = from_config({**LLAMA, "architectures": ["Qwen2ForCausalLM"]}, "toy", "here")
    assert qwen2.parameters - plain == 2 * 3 * 64
    told = from_config({**LLAMA, "architectures": ["Qwen2ForCausalLM"], "attention_bias": True}, "toy", "here")
    assert told == qwen2
    qwen3 = from_config({**LLAMA, "architectures": ["Qwen3ForCausalLM"], "head_dim": 32}, "toy", "here")
    assert qwen3.parameters - plain == 2 * (4 * 64 * 64 + 2 * 32)
    tied = from_config({**LLAMA, "tie_word_embeddings": True}, "toy", "here")
    assert plain - tied.parameters == 100 * 64


def test_dtype_under_either_name() -> None:
    assert from_config({**LLAMA, "dtype": "float32"}, "toy", "here").dtype == "float32"
    assert from_config({**LLAMA, "torch_dtype": "torch.float16"}, "toy", "here").dtype == "float16"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": None}, "no field hidden_size"),
        ({"num_hidden_layers": 0}, "field num_hidden_layers must be a whole number"),
        ({"intermediate_size": -1}, "field intermediate_size must be a whole number"),
        ({"vocab_size": 1.5}, "field vocab_size must be a whole number"),
        ({"vocab_size": True}, "field vocab_size must be a whole number"),
        ({"max_position_embeddings": 10**12}, "field max_position_embeddings must be a whole number"),
        ({"hidden_size": "64"}, "field hidden_size must be a whole number"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"hidden_size": 66}, "hidden_size 66 is not a multiple of num_attention_heads 4; give head_dim"),
        ({"torch_dtype": "float8"}, "field torch_dtype is 'float8'; known: float32"),
        ({"tie_word_embeddings": 1}, "field tie_word_embeddings must be true or false"),
        ({"num_local_experts": 8}, r"mixture of experts \(field num_local_experts\)"),
        ({"kv_lora_rank": 512}, r"latent attention \(field kv_lora_rank\)"),
        ({"quantization_config": {"bits": 4}}, r"quantised weights \(field quantization_config\)"),
        ({"architectures": ["MambaForCausalLM"]}, "architecture 'MambaForCausalLM' is not supported yet; known: Llama"),
        ({"architectures": None}, "no field architectures"),
    ],
)
def test_bad_configs_say_which_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"^here: .*{said}") as caught:
        from_config({**LLAMA, **change}, "toy", "here")
    assert "\n" not in str(caught.value)


def test_a_file_or_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "toy-1B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    assert model(str(folder)) == model(str(folder / "config.json")) == from_config(LLAMA, "toy-1B", "")
    (tmp_path / "other.json").write_text(json.dumps(LLAMA))
    assert model(str(tmp_path / "other.json")).name == "other"


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot read"), (b"{", "not valid JSON"), (b"\xff", "not valid JSON"), (b"[]", "object")],
)
def test_bad_files_say_which_file(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        model(str(path))
    assert str(caught.value).startswith(f"{path}: ")
