"""The model catalogue against published sizes, and the reader of config.json against good and bad files."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest

from phasewise.core.errors import InputError
from phasewise.core.model import Latent, MoE, Window
from phasewise.perf.config import from_config
from phasewise.perf.families import FAMILIES, KINDS
from phasewise.perf.models import model, model_named_after, model_names, model_origin

# Parameters as published, and bytes of keys and values of one token written out by hand from the papers' and cards' tables:
# 2 (K and V) * layers * key-value heads * head size * 2 bytes, or (latent rank + rotated key) * layers * 2 bytes. Whole
# counts are those of the published weights on the hub (tied embeddings once); rounded ones are the papers' or model cards':
# OPT (arXiv 2205.01068), Falcon (2311.16867), Mixtral (2401.04088 and Mistral's release of 8x22B), Qwen1.5-MoE and Qwen2
# (2407.10671), DeepSeek-V2-Lite and V3 (2405.04434, 2412.19437: 671B without the draft layer), Qwen3 (2505.09388),
# Gemma 3 (2503.19786, table 1, without the vision tower), gpt-oss (2508.10925, table 1).
PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": (6_738_415_616, 2 * 32 * 32 * 128 * 2),
    "meta-llama/Llama-2-13b-hf": (13_015_864_320, 2 * 40 * 40 * 128 * 2),
    "meta-llama/Llama-2-70b-hf": (68_976_648_192, 2 * 80 * 8 * 128 * 2),
    "meta-llama/Meta-Llama-3-8B": (8_030_261_248, 2 * 32 * 8 * 128 * 2),
    "meta-llama/Meta-Llama-3-70B": (70_553_706_496, 2 * 80 * 8 * 128 * 2),
    "meta-llama/Llama-3.1-8B": (8_030_261_248, 131_072),
    "meta-llama/Llama-3.1-70B": (70_553_706_496, 327_680),
    "meta-llama/Llama-3.1-405B": (405_853_388_800, 2 * 126 * 8 * 128 * 2),
    "meta-llama/Llama-3.2-1B": (1_235_814_400, 2 * 16 * 8 * 64 * 2),
    "meta-llama/Llama-3.2-3B": (3_212_749_824, 2 * 28 * 8 * 128 * 2),
    "mistralai/Mistral-7B-v0.1": (7_241_732_096, 2 * 32 * 8 * 128 * 2),
    "mistralai/Mistral-7B-v0.3": (7_248_023_552, 2 * 32 * 8 * 128 * 2),
    "mistralai/Mixtral-8x7B-v0.1": (46_702_792_704, 2 * 32 * 8 * 128 * 2),
    "mistralai/Mixtral-8x22B-v0.1": (141e9, 2 * 56 * 8 * 128 * 2),
    "01-ai/Yi-34B": (34_388_917_248, 2 * 60 * 8 * 128 * 2),
    "Qwen/Qwen2.5-0.5B": (494_032_768, 2 * 24 * 2 * 64 * 2),
    "Qwen/Qwen2.5-1.5B": (1_543_714_304, 2 * 28 * 2 * 128 * 2),
    "Qwen/Qwen2.5-3B": (3_085_938_688, 2 * 36 * 2 * 128 * 2),
    "Qwen/Qwen2.5-7B": (7_615_616_512, 2 * 28 * 4 * 128 * 2),
    "Qwen/Qwen2.5-14B": (14_770_033_664, 2 * 48 * 8 * 128 * 2),
    "Qwen/Qwen2.5-32B": (32_763_876_352, 2 * 64 * 8 * 128 * 2),
    "Qwen/Qwen2.5-72B": (72_706_203_648, 2 * 80 * 8 * 128 * 2),
    "Qwen/Qwen1.5-MoE-A2.7B": (14_315_784_192, 2 * 24 * 16 * 128 * 2),
    "Qwen/Qwen2-57B-A14B": (57.4e9, 2 * 28 * 4 * 128 * 2),
    "Qwen/Qwen3-0.6B": (596_049_920, 2 * 28 * 8 * 128 * 2),
    "Qwen/Qwen3-1.7B": (1_720_574_976, 2 * 28 * 8 * 128 * 2),
    "Qwen/Qwen3-4B": (4_022_468_096, 2 * 36 * 8 * 128 * 2),
    "Qwen/Qwen3-8B": (8_190_735_360, 2 * 36 * 8 * 128 * 2),
    "Qwen/Qwen3-14B": (14_768_307_200, 2 * 40 * 8 * 128 * 2),
    "Qwen/Qwen3-32B": (32_762_123_264, 2 * 64 * 8 * 128 * 2),
    "Qwen/Qwen3-30B-A3B": (30_532_122_624, 2 * 48 * 4 * 128 * 2),
    "Qwen/Qwen3-235B-A22B": (235_093_634_560, 2 * 94 * 4 * 128 * 2),
    "openai/gpt-oss-20b": (20.91e9, 2 * 24 * 8 * 64 * 2),
    "openai/gpt-oss-120b": (116.83e9, 2 * 36 * 8 * 64 * 2),
    "google/gemma-3-1b-it": (999_885_952, 2 * 26 * 1 * 256 * 2),
    "google/gemma-3-4b-it": (675e6 + 3_209e6, 2 * 34 * 4 * 256 * 2),
    "google/gemma-3-12b-it": (1_012e6 + 10_759e6, 2 * 48 * 8 * 256 * 2),
    "google/gemma-3-27b-it": (1_416e6 + 25_600e6, 2 * 62 * 16 * 128 * 2),
    "deepseek-ai/DeepSeek-V3": (671e9, (512 + 64) * 61 * 2),
    "deepseek-ai/DeepSeek-V2-Lite": (15_706_484_224, (512 + 64) * 27 * 2),
    "facebook/opt-13b": (12_853_473_280, 2 * 40 * 40 * 128 * 2),
    "facebook/opt-66b": (66e9, 2 * 64 * 72 * 128 * 2),
    "facebook/opt-175b": (175e9, 2 * 96 * 96 * 128 * 2),
    "bigscience/bloom": (176_247_271_424, 2 * 70 * 112 * 128 * 2),
    "tiiuae/falcon-7b": (6_921_720_704, 2 * 32 * 1 * 64 * 2),
    "tiiuae/falcon-180B": (180e9, 2 * 80 * 8 * 64 * 2),
    "HuggingFaceTB/SmolLM2-135M": (134_515_008, 2 * 30 * 3 * 64 * 2),
    "HuggingFaceTB/SmolLM2-360M": (361_821_120, 2 * 32 * 5 * 64 * 2),
    "HuggingFaceTB/SmolLM2-1.7B": (1_711_376_384, 2 * 24 * 32 * 64 * 2),
}
# Parameters that one token uses, from the same sources; gpt-oss leaves out the embedding as we do, others may not.
ACTIVE = {
    "mistralai/Mixtral-8x7B-v0.1": 12.9e9,
    "mistralai/Mixtral-8x22B-v0.1": 39e9,
    "Qwen/Qwen2-57B-A14B": 14e9,
    "Qwen/Qwen3-235B-A22B": 22e9,
    "openai/gpt-oss-20b": 3.61e9,
    "openai/gpt-oss-120b": 5.13e9,
    "deepseek-ai/DeepSeek-V3": 37e9,
    "deepseek-ai/DeepSeek-V2-Lite": 2.4e9,
}
CATALOGUE = json.loads(files("phasewise.perf").joinpath("data/models.json").read_text())
ENTRIES: dict[str, Any] = {name: CATALOGUE[name] for name in PUBLISHED}
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
    """What is not in it shares the shape of one that is, or is longer by its context alone."""
    for name in set(model_names()) - set(PUBLISHED):
        spec = model(name)
        twin = model(model_named_after(name) or re.sub("-(Instruct|Thinking)(-2507)?$", "", name))
        assert twin.name in PUBLISHED
        assert msgspec.structs.replace(spec, name=twin.name, max_context=twin.max_context) == twin


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    spec = model(name)
    parameters, kv_bytes = PUBLISHED[name]
    assert spec.name == name
    assert spec.parameters == pytest.approx(parameters, rel=0.01)
    assert spec.parameters == parameters or isinstance(parameters, float)
    assert spec.kv_bytes_per_token == kv_bytes


def test_the_last_component_is_enough_in_any_case() -> None:
    assert model("llama-3.1-8b") == model("meta-llama/Llama-3.1-8B")
    assert model("smollm2-135m").name == "HuggingFaceTB/SmolLM2-135M"


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_are_the_published_ones(name: str) -> None:
    assert model(name).active_parameters == pytest.approx(ACTIVE[name], rel=0.025)


def test_stored_weights_are_as_large_as_the_published_ones() -> None:
    # The gpt-oss card: checkpoints of 12.8 and 60.8 GiB, experts in MXFP4 and the rest in bfloat16.
    assert model("gpt-oss-20b").weight_bytes / 2**30 == pytest.approx(12.8, abs=0.05)
    assert model("gpt-oss-120b").weight_bytes / 2**30 == pytest.approx(60.8, abs=0.05)
    # DeepSeek-V3: a byte a weight, two for the embedding and the head.
    v3 = model("DeepSeek-V3")
    assert v3.weight_bytes - v3.parameters == pytest.approx(2 * 129_280 * 7168, rel=0.1)


def test_windows() -> None:
    """Gemma 3 (arXiv 2503.19786, section 2): five local layers to a global one; gpt-oss: every second."""
    windows = {"gemma-3-1b-it": (512, 22), "gemma-3-27b-it": (1024, 52), "gpt-oss-120b": (128, 18)}
    windows["Mistral-7B-v0.1"] = (4096, 32)
    for name, (tokens, layers) in windows.items():
        assert model(name).window == Window(tokens, layers)
    assert model("Mistral-7B-v0.3").window is None
    gemma = model("gemma-3-27b-it")
    each = gemma.kv_bytes_per_token // 62
    assert gemma.kv_bytes(1000) == 1000 * gemma.kv_bytes_per_token
    assert gemma.kv_bytes(32_768) == (10 * 32_768 + 52 * 1024) * each
    assert model("Llama-3.1-8B").kv_bytes(9) == 9 * 131_072


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
        ({"num_local_experts": 8}, r"mixture of experts \(field num_local_experts\) is not known of LlamaForCausalLM"),
        ({"kv_lora_rank": 512}, r"latent attention \(field kv_lora_rank\) is not known of LlamaForCausalLM"),
        ({"text_config": {"a": 1}}, r"a multi-modal wrapper \(field text_config\) is not known of LlamaForCausalLM"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantization_config, quant_method 'awq'\); known: fp8"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "quant_method 'mxfp4'"),
        ({"architectures": ["MixtralForCausalLM"]}, "no field num_local_experts, which is needed"),
        (
            {"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 8},
            "8 experts a token",
        ),
        ({"architectures": ["DeepseekV3ForCausalLM"]}, "no field kv_lora_rank, which is needed"),
        ({"architectures": ["OPTForCausalLM"], "word_embed_proj_dim": 32}, "projected embeddings"),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, "no field text_config, which is needed"),
        ({"architectures": ["Gemma3ForCausalLM"], "layer_types": ["full_attention"]}, "layer_types must name"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": "4"}, "sliding_window must be a whole number"),
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


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_file_with_the_catalogues_fields_is_the_catalogues_model(tmp_path: Path, name: str) -> None:
    config = ENTRIES[name]
    folder = tmp_path / name.split("/")[1]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    assert msgspec.structs.replace(model(str(folder)), name=name) == model(name)
    (kind,) = (k for k, a in KINDS.items() if a == config["architectures"][0])
    unnamed = {k: v for k, v in config.items() if k != "architectures"}
    assert from_config({**unnamed, "model_type": kind}, name, "here") == model(name)


def test_every_family_has_a_kind_and_a_model() -> None:
    assert set(KINDS.values()) == set(FAMILIES)
    assert {model_named_after(n) for n in model_names()} >= {"meta-llama/Llama-3.1-8B", "deepseek-ai/DeepSeek-V3"}
    assert {entry["architectures"][0] for entry in ENTRIES.values()} == set(FAMILIES)


def test_what_families_with_experts_say() -> None:
    v3, qwen2 = model("DeepSeek-R1"), model("Qwen2-57B-A14B")
    assert v3.latent == Latent(kv_rank=512, q_rank=1536, nope=128, rope=64, value=128)
    assert v3.moe == MoE(256, 8, 2048, shared_ffn=2048, dense_layers=3, router_bias=True)
    assert (v3.weight_dtype, v3.expert_dtype, v3.dtype) == ("fp8", "fp8", "bfloat16")
    assert qwen2.moe == MoE(64, 8, 2560, shared_ffn=20_480, shared_gate=True)
    assert model("gpt-oss-20b").expert_dtype == "mxfp4"
    assert model("gpt-oss-20b").matrix_dtype == "bfloat16"
    config = {**ENTRIES["Qwen/Qwen3-30B-A3B"], "decoder_sparse_step": 2, "mlp_only_layers": [1]}
    assert from_config(config, "half", "here").moe == MoE(128, 8, 768, dense_layers=25)


def test_a_small_mixture_by_hand() -> None:
    config = {**LLAMA, "architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}
    spec = from_config(config, "toy", "here")
    plain = from_config(LLAMA, "toy", "here").parameters
    assert spec.parameters - plain == 2 * (3 * 3 * 64 * 160 + 4 * 64)
    assert spec.active_parameters == plain + 2 * (3 * 64 * 160 + 4 * 64) - 99 * 64


def test_small_terms_by_hand() -> None:
    """What is too small for a share of 1 % to notice: biases, norms, sinks, gates, positions."""
    plain = from_config(LLAMA, "toy", "here").parameters
    oss = {"num_local_experts": 4, "num_experts_per_tok": 2, "architectures": ["GptOssForCausalLM"]}
    attention, experts = 3 * 64 + 64 + 4, 3 * (3 * 64 * 160) + 4 * (2 * 160 + 64) + 4 * (64 + 1)
    assert from_config({**LLAMA, **oss}, "toy", "here").parameters - plain == 2 * (attention + experts)
    gemma = {**LLAMA, "architectures": ["Gemma3ForCausalLM"], "num_key_value_heads": 4, "head_dim": 16}
    assert from_config(gemma, "toy", "here").parameters - plain == 2 * (2 * 64 + 2 * 16) - 100 * 64
    qwen = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "architectures": ["Qwen2MoeForCausalLM"],
    }
    shared = {**LLAMA, **qwen, "shared_expert_intermediate_size": 24}
    more = 3 * 64 + 3 * 64 * (4 * 8 + 24 - 160) + 4 * 64 + 64
    assert from_config(shared, "toy", "here").parameters - plain == 2 * more
    falcon = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, "bias": True}
    old = from_config({**falcon, "architectures": ["FalconForCausalLM"]}, "toy", "here")
    layer = 64 * (64 + 2 * 16) + 64 * 64 + 2 * 64 * 256 + (96 + 64 + 256 + 64) + 2 * 64
    assert old.parameters == 2 * layer + 100 * 64 + 2 * 64
    assert (old.kv_heads, old.parallel, old.norms) == (1, True, 1)
    assert from_config({**falcon, "architectures": ["FalconForCausalLM"], "parallel_attn": False}, "", "").norms == 2


def test_layer_types_say_which_layers_have_the_window() -> None:
    kinds = ["full_attention", "sliding_attention"]
    config = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 64, "layer_types": kinds}
    assert from_config(config, "toy", "here").window == Window(64, 1)
    assert from_config({**config, "sliding_window": 128}, "toy", "here").window is None
    upper = {**config, "layer_types": None, "use_sliding_window": True, "max_window_layers": 1}
    assert from_config(upper, "toy", "here").window == Window(64, 1)
    assert from_config({**upper, "use_sliding_window": False}, "toy", "here").window is None


def test_the_users_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "catalogue.toml"
    monkeypatch.setenv("PHASEWISE_CATALOGUE", str(path))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").write_text(json.dumps(LLAMA))
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in LLAMA.items())
    path.write_text(f'[models."me/toy"]\nconfig = "sub/config.json"\n\n[models.tiny]\n{lines}\n')
    assert model("toy") == from_config(LLAMA, "me/toy", "")
    assert model("TINY") == from_config(LLAMA, "tiny", "")
    assert (model_origin("tiny"), model_origin("Qwen/Qwen3-8B")) == (str(path), "built in")
    path.write_text('[models.tiny]\nhidden_size = 64\narchitectures = ["LlamaForCausalLM"]\n')
    with pytest.raises(InputError, match=r"catalogue\.toml: models\.tiny: no field num_attention_heads"):
        model("tiny")
    path.write_text('[models.tiny]\nconfig = "gone.json"\n')
    with pytest.raises(InputError, match=r"gone\.json: cannot read the file"):
        model("tiny")
    path.write_text('[models.tiny]\nconfig = "gone.json"\nhidden_size = 3\n')
    with pytest.raises(InputError, match=r"models\.tiny: 'config' is the path of a config\.json and stands alone"):
        model("tiny")
