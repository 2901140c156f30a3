"""The shape of a config.json agrees with what transformers reads there, in either spelling; what cannot be is one line."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from checkpoints import FAMILIES, SMALL
from phasewise.core.errors import InputError
from phasewise.engine.folder import config_of
from phasewise.engine.shape import ARCHITECTURES, Experts, Rope, Shape, shape_of

NAMES = {family: name for name, family in ARCHITECTURES.items()}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
}


def written(config: Any) -> dict[str, Any]:
    """A configuration as it lies in a file."""
    return {**json.loads(config.to_json_string(use_diff=False)), "architectures": [NAMES[config.model_type]]}


def agree(shape: Shape, config: Any) -> None:
    assert shape.family == config.model_type
    assert shape.layers == config.num_hidden_layers
    assert (shape.hidden, shape.ffn, shape.vocab) == (config.hidden_size, config.intermediate_size, config.vocab_size)
    assert (shape.heads, shape.kv_heads) == (config.num_attention_heads, config.num_key_value_heads)
    assert shape.head_dim == (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    assert shape.eps == config.rms_norm_eps
    assert shape.tied == config.tie_word_embeddings
    assert shape.bos == config.bos_token_id
    ends = config.eos_token_id
    assert list(shape.end_ids) == (ends if isinstance(ends, list) else [] if ends is None else [ends])
    assert shape.rope.theta == config.rope_parameters["rope_theta"]
    assert shape.rope.kind == config.rope_parameters["rope_type"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_with_nothing_said_and_with_much(family: str) -> None:
    config = AutoConfig.for_model(family)
    agree(shape_of(written(config)), config)
    config = AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family]}, rms_norm_eps=3e-5)
    agree(shape_of(written(config)), config)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_file_leaves_unsaid_is_the_default_of_transformers(family: str) -> None:
    sizes = {k: v for k, v in SMALL.items() if not k.endswith("token_id") and k != "num_key_value_heads"}
    # Defaults that do not divide the small model's heads are left to the families where they do.
    said = {**sizes, "num_attention_heads": 32, "hidden_size": 64}
    if family in ("llama", "qwen2", "qwen3"):
        said["num_key_value_heads"] = 32
    agree(shape_of({**said, "model_type": family}), AutoConfig.for_model(family, **said))


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("spelling", [4, 5])
def test_rotary_scaling_in_both_spellings(kind: str, spelling: int) -> None:
    scaling = {"rope_type": kind, **SCALINGS[kind]}
    config = AutoConfig.for_model("llama", **SMALL, rope_parameters={"rope_theta": 5e5, **scaling})
    file = written(config)
    if spelling == 4:
        del file["rope_parameters"]
        file |= {
            "rope_theta": 5e5,
            "rope_scaling": {"type": scaling.pop("rope_type"), **scaling} if SCALINGS[kind] else None,
        }
    rope = shape_of(file).rope
    assert (rope.theta, rope.kind, rope.partial) == (5e5, kind, 1.0)
    assert rope.factor == SCALINGS[kind].get("factor", 1.0)
    assert rope.original == SCALINGS[kind].get("original_max_position_embeddings", 0)
    if kind != "default":
        assert rope.attention_factor == ROPE_INIT_FUNCTIONS[kind](config, "cpu")[1]


def test_yarn_says_how_far_it_reaches_and_what_it_multiplies_with() -> None:
    for table in (
        {},
        {"mscale": 0.7, "mscale_all_dim": 0.9},
        {"attention_factor": 1.25},
        {"beta_fast": 16, "truncate": False},
    ):
        scaling = {"rope_type": "yarn", "rope_theta": 1e4, **SCALINGS["yarn"], **table}
        config = AutoConfig.for_model("qwen2", **SMALL, rope_parameters=scaling)
        shape = shape_of(written(config))
        assert shape.rope.attention_factor == ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")[1]
        assert shape.rope.truncate == table.get("truncate", True)
        assert (shape.rope.beta_fast, shape.rope.beta_slow) == (table.get("beta_fast", 32), 1)
    file = {**written(config), "max_position_embeddings": 64}
    assert shape_of(file).max_context == 256


def test_windows_are_in_the_layers_where_transformers_has_them() -> None:
    def windows(family: str, **said: Any) -> tuple[int | None, tuple[int, ...]]:
        config = AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family], "num_hidden_layers": 4, **said})
        shape = shape_of(written(config))
        if family in ("qwen2", "qwen3"):
            kinds = [kind == "sliding_attention" for kind in config.layer_types]
            assert [n in shape.window_layers for n in range(4)] == kinds or shape.window is None
        return shape.window, shape.window_layers

    assert windows("llama") == windows("mixtral") == windows("qwen3", sliding_window=8) == (None, ())
    assert windows("mistral", sliding_window=8) == windows("mixtral", sliding_window=8) == (8, (0, 1, 2, 3))
    assert windows("mistral", sliding_window=256) == (None, ())  # as long as the context: it never bites
    assert windows("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=3) == (8, (3,))
    assert windows("qwen3_moe", use_sliding_window=True, sliding_window=8) == (8, (0, 1, 2, 3))
    kinds = ["sliding_attention", "full_attention"] * 2
    assert windows("qwen3", use_sliding_window=True, sliding_window=8, layer_types=kinds) == (8, (0, 2))


def test_experts_and_biases() -> None:
    said = {**SMALL, **FAMILIES["qwen3_moe"], "num_hidden_layers": 6, "mlp_only_layers": [1], "decoder_sparse_step": 2}
    shape = shape_of(written(AutoConfig.for_model("qwen3_moe", **said)))
    assert shape.experts == Experts(count=4, active=2, ffn=16, renormalise=True, layers=(3, 5))
    assert shape.qk_norm
    mixtral = shape_of(written(AutoConfig.for_model("mixtral", **SMALL, **FAMILIES["mixtral"])))
    assert mixtral.experts == Experts(count=3, active=2, ffn=48, renormalise=True, layers=(0, 1))
    for family, said, biases in (
        ("llama", {"attention_bias": True}, (True, True)),
        ("qwen2", {}, (True, False)),
        ("qwen3", {}, (False, False)),
        ("mistral", {}, (False, False)),
    ):
        shape = shape_of(written(AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family], **said})))
        assert (shape.qkv_bias, shape.out_bias) == biases


def test_ends_are_those_of_both_files() -> None:
    config = {**SMALL, "model_type": "llama", "eos_token_id": [2, 5]}
    assert shape_of(config, {"eos_token_id": [7, 2]}).end_ids == (2, 5, 7)
    assert shape_of({**config, "eos_token_id": None}, {}).end_ids == ()


ROPES = st.one_of(
    st.builds(Rope, theta=st.floats(1, 1e7)),
    st.builds(Rope, kind=st.sampled_from(["linear", "dynamic"]), factor=st.floats(1, 64)),
    st.builds(
        Rope, kind=st.just("llama3"), factor=st.floats(1, 64), original=st.integers(1, 10**4), high_freq=st.floats(2, 9)
    ),
    st.builds(
        Rope,
        kind=st.just("yarn"),
        factor=st.sampled_from([1.0, 2.0, 4.0]),
        original=st.just(1024),
        beta_fast=st.floats(8, 64),
        truncate=st.booleans(),
        attention_factor=st.floats(0.1, 3),
    ),
)


@given(
    rope=ROPES,
    tied=st.booleans(),
    ends=st.lists(st.integers(0, 99), unique=True),
    bos=st.none() | st.integers(0, 9),
    data=st.data(),
)
def test_a_shape_written_and_read_is_the_same(
    rope: Rope, tied: bool, ends: list[int], bos: int | None, data: Any
) -> None:
    family = data.draw(st.sampled_from(sorted(FAMILIES)))
    layers = data.draw(st.integers(1, 6))
    some = st.lists(st.integers(0, layers - 1), unique=True, min_size=1).map(lambda found: tuple(sorted(found)))
    chosen = data.draw(some)
    if family in ("mistral", "mixtral", "qwen3_moe"):
        chosen = tuple(range(layers))
    windowed = family != "llama" and data.draw(st.booleans())
    bias = family == "qwen2" or (family in ("llama", "qwen3", "qwen3_moe") and data.draw(st.booleans()))
    experts = None
    if family in ("mixtral", "qwen3_moe"):
        own = (
            (48, True, tuple(range(layers))) if family == "mixtral" else (16, data.draw(st.booleans()), data.draw(some))
        )
        experts = Experts(4, 2, *own)
    shape = Shape(
        family=family,  # type: ignore[arg-type]
        layers=layers,
        hidden=32,
        heads=4,
        kv_heads=2,
        head_dim=16,
        ffn=48,
        vocab=100,
        max_context=4096,
        eps=data.draw(st.sampled_from([1e-6, 1e-5])),
        tied=tied,
        qkv_bias=bias,
        out_bias=bias and family != "qwen2",
        qk_norm=family.startswith("qwen3"),
        window=64 if windowed else None,
        window_layers=chosen if windowed else (),
        rope=rope,
        experts=experts,
        end_ids=tuple(ends),
        bos=bos,
    )
    assert shape_of(json.loads(json.dumps(config_of(shape)))) == shape


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "it runs: LlamaForCausalLM, MistralForCausalLM"),
        ({"architectures": None, "model_type": "phi3"}, "architecture 'phi3'"),
        ({"hidden_act": "gelu"}, "the engine knows silu"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"quant_method": "awq"}}, "GGUF"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "known: default, linear, dynamic, llama3, yarn"),
        ({"rope_scaling": {"type": "linear"}}, "no field factor"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "factor must be a number above 0"),
        (
            {"rope_scaling": {**SCALINGS["llama3"], "type": "llama3", "low_freq_factor": 5}},
            "must be below high_freq_factor",
        ),
        ({"rope_scaling": [1]}, "must be a table"),
        ({"rope_parameters": {"a": {"rope_theta": 1.0}, "b": {"rope_theta": 2.0}}}, "differ from layer to layer"),
        ({"head_dim": 7}, "even width, not 7"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        ({"num_hidden_layers": 10**7}, "10000000 layers cannot be"),
        ({"hidden_size": None}, "no field hidden_size"),
        ({"vocab_size": "many"}, "vocab_size must be a whole number"),
        ({"eos_token_id": ["</s>"]}, "eos_token_id must be"),
        ({"bos_token_id": -1}, "bos_token_id must be"),
        ({"num_experts": 8}, "mixture of experts (field num_experts) is not known of llama"),
        ({"text_config": {"a": 1}}, "multi-modal"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps must be"),
    ],
)
def test_what_cannot_be_is_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        shape_of({**SMALL, "architectures": ["LlamaForCausalLM"], **change}, where="m/config.json")
    assert said in str(error.value)
    assert str(error.value).startswith("m/config.json: ")
    assert "\n" not in str(error.value)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(family=st.sampled_from(sorted(FAMILIES)), data=st.data())
def test_junk_in_a_field_is_an_error_of_one_line_or_a_shape(family: str, data: Any) -> None:
    config = {
        **SMALL,
        **FAMILIES[family],
        "model_type": family,
        "rope_scaling": SCALINGS["llama3"],
        "use_sliding_window": True,
    }
    config |= {"layer_types": None, "mlp_only_layers": [], "rope_theta": 1e4, "rope_parameters": None}
    for name in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=2)):
        config[name] = data.draw(JUNK)
    try:
        said = repr(shape_of(config))
    except InputError as e:
        said = str(e)
    assert "\n" not in said
