"""The shape of a decoder that the engine can run, from a Hugging Face `config.json`. It sees no weight and needs no torch.

What a file leaves unsaid takes the default of its family in Hugging Face's transformers. What the decoder cannot do (another
activation, quantised weights, an unknown rotary scaling) is an InputError here, so that nothing is loaded in vain.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from phasewise.core.errors import InputError
from phasewise.perf.fields import Fields

Family = Literal["llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe"]
"""Hugging Face's `model_type`. SmolLM2 is a `llama`."""
RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn"]

ARCHITECTURES: dict[str, Family] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "MixtralForCausalLM": "mixtral",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}


class Rope(msgspec.Struct, frozen=True):
    """Rotary positions: base frequencies `theta ** (-2i / d)`, `d = int(head_dim * partial)`, and how they are stretched.

    `factor` is the stretch of every kind but `default`; `original` the tokens of the unstretched context (llama3 and yarn);
    `low_freq` and `high_freq` bound llama3's ramp; `beta_fast`, `beta_slow` and `truncate` yarn's; `attention_factor`
    multiplies cosines and sines (yarn; 1 for the others). `dynamic` equals `default` up to the model's `max_context`,
    which is as far as the engine goes.
    """

    theta: float = 10_000.0
    kind: RopeKind = "default"
    factor: float = 1.0
    original: int = 0
    low_freq: float = 1.0
    high_freq: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    partial: float = 1.0


class Experts(msgspec.Struct, frozen=True):
    """A mixture in place of the feed-forward network of `layers` (indices): a token takes the `active` of `count` experts
    that a softmax over all of them favours, each `ffn` wide; with `renormalise` the chosen weights are scaled to sum to 1."""

    count: int
    active: int
    ffn: int
    renormalise: bool
    layers: tuple[int, ...]


class Shape(msgspec.Struct, frozen=True):
    """Everything that the decoder needs to know beside its weights.

    `window`: in `window_layers` (indices) a token sees itself and the `window - 1` before it; None where no layer has one.
    `qkv_bias` is of the q, k and v projections, `out_bias` of the output projection; `qk_norm` an RMSNorm over `head_dim` of
    each head of q and k before the rotation. `ffn` is the width of the plain network (layers without experts). `end_ids` are
    all tokens that end an answer, `bos` the one that begins a text (None: none).
    """

    family: Family
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    max_context: int
    eps: float = 1e-6
    tied: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    window_layers: tuple[int, ...] = ()
    rope: Rope = Rope()
    experts: Experts | None = None
    end_ids: tuple[int, ...] = ()
    bos: int | None = None

    @property
    def kv_width(self) -> int:
        """Numbers that one token caches in one layer: keys and values."""
        return 2 * self.kv_heads * self.head_dim


def shape_in(folder: Path) -> Shape:
    """The shape of a Hugging Face folder's model. InputError as `shape_of`, and for files that cannot be read."""
    config, generation = folder / "config.json", folder / "generation_config.json"
    if not config.is_file():
        raise InputError("no config.json: not a Hugging Face model", str(folder))
    return shape_of(_table(config), _table(generation) if generation.is_file() else None, str(config))


def shape_of(config: dict[str, Any], generation: dict[str, Any] | None = None, where: str = "config.json") -> Shape:
    """The shape that a decoded `config.json` describes; `generation` is the decoded `generation_config.json` beside it.

    Raises InputError (leading with `where`) for a missing or impossible field and for what the decoder cannot do.
    """
    fields = Fields(config, where)
    family = _family(fields)
    _refuse(fields)
    mistral = family in ("mistral", "mixtral")
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads", default=8 if mistral else 4 if family == "qwen3_moe" else heads)
    if heads % kv_heads:
        raise fields.error(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if config.get("head_dim") is None and family != "qwen3" and hidden % heads:
        raise fields.error(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}; give head_dim")
    head_dim = fields.count("head_dim", default=128 if family == "qwen3" else hidden // heads)
    layers, trained = few(fields.count("num_hidden_layers"), "layers", where), fields.count("max_position_embeddings")
    rope = _rope(fields, trained, 1_000_000.0 if family == "mixtral" else 10_000.0)
    if int(head_dim * rope.partial) % 2:
        raise fields.error(f"rotary positions need an even width, not {int(head_dim * rope.partial)} (field head_dim)")
    max_context = reach(rope, trained, where)
    window, window_layers = _window(fields, family, layers, max_context)
    bias = family == "qwen2" or (not mistral and fields.flag("attention_bias"))
    ends = (2,) if family in ("llama", "mistral", "mixtral") and "eos_token_id" not in config else ()
    return Shape(
        family=family,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=fields.count("intermediate_size"),
        vocab=fields.count("vocab_size"),
        max_context=max_context,
        eps=_number(fields, config, "rms_norm_eps", 1e-5 if family == "mixtral" else 1e-6),
        tied=fields.flag("tie_word_embeddings"),
        qkv_bias=bias,
        out_bias=bias and family != "qwen2",
        qk_norm=family in ("qwen3", "qwen3_moe"),
        window=window,
        window_layers=window_layers,
        rope=rope,
        experts=_experts(fields, family, layers),
        end_ids=tuple(dict.fromkeys((*ends, *_ids(fields, config), *_ids(fields, generation or {})))),
        bos=_bos(fields, 1 if ends or family in ("llama", "mistral", "mixtral") else None),
    )


def _table(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as e:
        raise InputError(f"cannot be read: {e.strerror}", str(path)) from e
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InputError(f"not a JSON table: {e}", str(path)) from e


def few(count: int, what: str, where: str) -> int:
    """The count of layers or experts, if it can be true: InputError before anybody counts to a million."""
    if count > 4096:
        raise InputError(f"{count} {what} cannot be: 4096 is the most that is read", where)
    return count


def reach(rope: Rope, trained: int, where: str) -> int:
    """Tokens of the longest context: those that the model was trained on, or what yarn stretches its first context to."""
    longest = max(trained, int(rope.original * rope.factor)) if rope.kind == "yarn" else trained
    if longest > 100_000_000:
        raise InputError(f"a context of {longest} tokens cannot be: see the factor of the rotary positions", where)
    return longest


def _family(fields: Fields) -> Family:
    named, kind = fields.config.get("architectures"), fields.config.get("model_type")
    architecture = named[0] if isinstance(named, list) and named else None
    if architecture is None and isinstance(kind, str):
        architecture = {family: name for name, family in ARCHITECTURES.items()}.get(kind, kind)  # type: ignore[call-overload]
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        found = architecture if architecture is not None else kind
        raise fields.error(f"the engine cannot run architecture {found!r}; it runs: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[architecture]


def _refuse(fields: Fields) -> None:
    """What the decoder cannot do, whatever the family."""
    config = fields.config
    if config.get("text_config"):
        raise fields.error("a multi-modal wrapper (field text_config) is not supported; the engine runs text decoders")
    if config.get("quantization_config"):
        raise fields.error(
            "quantised weights (field quantization_config) are not supported; take the bfloat16 model, or a GGUF file"
        )
    if (act := config.get("hidden_act") or "silu") not in ("silu", "swish"):
        raise fields.error(f"field hidden_act is {act!r}; the engine knows silu")
    if fields.flag("mlp_bias"):
        raise fields.error("biases in the feed-forward network (field mlp_bias) are not supported")


def _number(fields: Fields, table: dict[str, Any], name: str, default: float | None = None) -> float:
    """A finite number above 0 of a table of the file; without it the default; without one, an error."""
    value = table.get(name)
    if value is None:
        if default is None:
            raise fields.error(f"no field {name}, which is needed")
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise fields.error(f"field {name} must be a number above 0, not {value!r:.60}")
    return float(value)


def _rope(fields: Fields, trained: int, theta: float) -> Rope:
    """The rotary part, as transformers 4 writes it (`rope_theta`, `rope_scaling`) or transformers 5 (`rope_parameters`)."""
    config = fields.config
    table = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if isinstance(table, dict) and table and all(isinstance(part, dict) for part in table.values()):
        # One table for each kind of layer: known only where they agree.
        first, *others = table.values()
        if any(other != first for other in others):
            raise fields.error(
                "rotary positions that differ from layer to layer (field rope_parameters) are not supported"
            )
        table = first
    if not isinstance(table, dict):
        raise fields.error(f"field rope_scaling must be a table, not {table!r}")
    kind = table.get("rope_type", table.get("type")) or "default"
    if kind not in get_args(RopeKind):
        raise fields.error(f"rotary scaling {kind!r} is not supported; known: {', '.join(get_args(RopeKind))}")
    rope = Rope(
        theta=_number(fields, table, "rope_theta", _number(fields, config, "rope_theta", theta)),
        partial=_number(fields, table, "partial_rotary_factor", _number(fields, config, "partial_rotary_factor", 1.0)),
    )
    if not 0 < rope.partial <= 1:
        raise fields.error(f"field partial_rotary_factor must be above 0 and at most 1, not {rope.partial}")
    if kind == "default":
        return rope
    original = 0
    if kind in ("llama3", "yarn"):
        outside = Fields(table, fields.where).count("original_max_position_embeddings", default=trained)
        original = fields.count("original_max_position_embeddings", default=outside)
    factor = _number(fields, table, "factor", trained / original if kind == "yarn" else None)
    rope = msgspec.structs.replace(rope, kind=kind, factor=factor, original=original)
    if kind == "llama3":
        low, high = _number(fields, table, "low_freq_factor"), _number(fields, table, "high_freq_factor")
        if low >= high:
            raise fields.error(f"field low_freq_factor {low:g} must be below high_freq_factor {high:g}")
        return msgspec.structs.replace(rope, low_freq=low, high_freq=high)
    if kind == "yarn":
        return msgspec.structs.replace(
            rope,
            beta_fast=_number(fields, {"beta_fast": table.get("beta_fast") or None}, "beta_fast", 32.0),
            beta_slow=_number(fields, {"beta_slow": table.get("beta_slow") or None}, "beta_slow", 1.0),
            truncate=Fields(table, fields.where).flag("truncate", True),
            attention_factor=_number(fields, table, "attention_factor", _yarn_attention(fields, table, factor)),
        )
    return rope


def _yarn_attention(fields: Fields, table: dict[str, Any], factor: float) -> float:
    """What yarn multiplies cosines and sines with where the file does not say it (YaRN, arXiv 2309.00071, equation 22; the
    ratio of two such factors for `mscale` and `mscale_all_dim`, as DeepSeek writes it)."""

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if table.get("mscale") and table.get("mscale_all_dim"):
        return scale(_number(fields, table, "mscale")) / scale(_number(fields, table, "mscale_all_dim"))
    return scale(1.0)


def _window(fields: Fields, family: Family, layers: int, context: int) -> tuple[int | None, tuple[int, ...]]:
    """The sliding window and the layers that have it; (None, ()) where there is none or where it never bites."""
    config, none = fields.config, (None, ())
    if family == "llama":
        return none
    if family in ("mistral", "mixtral"):
        usual, asked, first = (4096 if family == "mistral" else None), True, 0
    else:
        usual, asked, first = 4096, fields.flag("use_sliding_window"), 0
        if family != "qwen3_moe":
            first = 28 if config.get("max_window_layers") is None else fields.none_or_count("max_window_layers")
    tokens = fields.none_or_count("sliding_window") if "sliding_window" in config else usual
    if not asked or not tokens:
        return none
    chosen = tuple(range(first, layers))
    kinds = config.get("layer_types")
    if kinds is not None and family not in ("mixtral", "qwen3_moe"):
        known = ("full_attention", "sliding_attention")
        if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in known for kind in kinds):
            raise fields.error("field layer_types must name full_attention or sliding_attention for every layer")
        chosen = tuple(i for i, kind in enumerate(kinds) if kind == "sliding_attention")
    return (tokens, chosen) if chosen and tokens < context else none


def _experts(fields: Fields, family: Family, layers: int) -> Experts | None:
    if family not in ("mixtral", "qwen3_moe"):
        for name in ("num_local_experts", "num_experts", "n_routed_experts"):
            if fields.config.get(name):
                raise fields.error(f"a mixture of experts (field {name}) is not known of {family}")
        return None
    count = fields.count("num_local_experts", "num_experts", default=8 if family == "mixtral" else 128)
    few(count, "experts", fields.where)
    active = fields.count("num_experts_per_tok", default=2 if family == "mixtral" else 8)
    if active > count:
        raise fields.error(f"num_experts_per_tok {active} is more than the {count} experts there are")
    if family == "mixtral":
        return Experts(count, active, fields.count("intermediate_size"), True, tuple(range(layers)))
    plain, every = fields.config.get("mlp_only_layers") or [], fields.count("decoder_sparse_step", default=1)
    if not isinstance(plain, list):
        raise fields.error(f"field mlp_only_layers must be a list of layers, not {plain!r}")
    sparse = tuple(i for i in range(layers) if i not in plain and (i + 1) % every == 0)
    width = fields.count("moe_intermediate_size", default=768)
    return Experts(count, active, width, fields.flag("norm_topk_prob"), sparse) if sparse else None


def _ids(fields: Fields, table: dict[str, Any]) -> list[int]:
    """The end tokens that a table names: one, a list, or none."""
    found = table.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if any(type(i) is not int or i < 0 for i in ids):
        raise InputError(f"field eos_token_id must be a token's number or a list of them, not {found!r}", fields.where)
    return ids


def _bos(fields: Fields, default: int | None) -> int | None:
    found = fields.config.get("bos_token_id", default)
    if found is not None and (type(found) is not int or found < 0):
        raise fields.error(f"field bos_token_id must be a token's number, not {found!r}")
    return found
