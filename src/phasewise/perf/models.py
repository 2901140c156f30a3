"""The catalogue of models, and the reader of a Hugging Face `config.json` of a dense decoder. It never sees weights.

A sliding attention window (Mistral-7B-v0.1, some Qwen2) is read as full attention with the context that the file
states: a model whose window is shorter than its context is therefore shown with more attention and more KV memory
than it needs beyond the window, and exactly right within it.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from phasewise.core.errors import InputError, unknown
from phasewise.core.model import DTYPE_BYTES, ModelSpec

_FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_NOT_DENSE = {
    "num_local_experts": "mixture of experts",
    "num_experts": "mixture of experts",
    "n_routed_experts": "mixture of experts",
    "kv_lora_rank": "latent attention",
    "text_config": "a multi-modal wrapper",
    "quantization_config": "quantised weights",
}
_ABSURD = 100_000_000


@cache
def _catalogue() -> dict[str, dict[str, Any]]:
    data = files("phasewise.perf").joinpath("data/models.json").read_bytes()
    return msgspec.json.decode(data, type=dict[str, dict[str, Any]])


def model_names() -> list[str]:
    """Hub ids of the catalogue, sorted."""
    return sorted(_catalogue())


def model(name: str, where: str | None = None) -> ModelSpec:
    """The shape of the model `name`: a hub id, its last component, a `config.json`, or a folder that holds one.

    Case does not matter in names. Raises InputError for an unknown name, or a file that is missing or not a dense
    decoder; `where` says which file or flag asked.
    """
    catalogue = _catalogue()
    asked = name.lower()
    found = [n for n in catalogue if n.lower() == asked] or [n for n in catalogue if n.lower().split("/")[1] == asked]
    if len(found) == 1:
        return from_config(catalogue[found[0]], found[0], found[0])
    path = Path(name)
    if asked.endswith(".json"):
        return _read(path)
    if path.is_dir():
        return _read(path / "config.json")
    tails = [n.split("/")[1] for n in catalogue]
    raise unknown("model", name, catalogue if "/" in name else tails, where)


def _read(path: Path) -> ModelSpec:
    where = str(path)
    try:
        config = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read the file ({error.strerror})", where) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid JSON ({error})", where) from None
    if not isinstance(config, dict):
        raise InputError("not a model configuration: expected a JSON object", where)
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    return from_config(config, name or path.stem, where)


def from_config(config: dict[str, Any], name: str, where: str) -> ModelSpec:
    """The shape that a decoded `config.json` describes, to be called `name`; errors lead with `where`.

    A file that names no dtype is taken as bfloat16, one without tie_word_embeddings as untied. Raises InputError
    for a missing or impossible field (named), and for an architecture that is not a dense decoder.
    """
    family = _family(config, where)
    hidden, heads = _count(config, "hidden_size", where), _count(config, "num_attention_heads", where)
    kv_heads = _count(config, "num_key_value_heads", where, default=heads)
    if heads % kv_heads:
        raise InputError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}", where)
    if config.get("head_dim") is None and hidden % heads:
        raise InputError(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}; give head_dim", where)
    bias = _flag(config, "attention_bias", where)
    return ModelSpec(
        name=name,
        layers=_count(config, "num_hidden_layers", where),
        hidden=hidden,
        ffn=_count(config, "intermediate_size", where),
        q_heads=heads,
        kv_heads=kv_heads,
        head_dim=_count(config, "head_dim", where, default=hidden // heads),
        vocab=_count(config, "vocab_size", where),
        max_context=_count(config, "max_position_embeddings", where),
        dtype=_dtype(config, where),
        tied_embeddings=_flag(config, "tie_word_embeddings", where),
        # Qwen2 has biases on q, k and v without saying so in its file, and none on the output projection.
        attention_bias=bias or family == "qwen2",
        attention_out_bias=bias and family != "qwen2",
        ffn_bias=_flag(config, "mlp_bias", where),
        qk_norm=family == "qwen3",
    )


def _family(config: dict[str, Any], where: str) -> str:
    for field, what in _NOT_DENSE.items():
        if config.get(field):
            raise InputError(f"{what} (field {field}): only dense decoders in plain weights are supported yet", where)
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else None
    kind = config.get("model_type")
    if architecture is None and kind is None:
        raise InputError(f"no field architectures; known: {', '.join(_FAMILIES)}", where)
    if architecture is None and kind in _FAMILIES.values():
        return str(kind)
    if not isinstance(architecture, str) or architecture not in _FAMILIES:
        found = architecture or kind
        raise InputError(f"architecture {found!r} is not supported yet; known: {', '.join(_FAMILIES)}", where)
    return _FAMILIES[architecture]


def _count(config: dict[str, Any], field: str, where: str, default: int | None = None) -> int:
    value = config.get(field)
    if value is None:
        if default is None:
            raise InputError(f"no field {field}, which is needed", where)
        return default
    if type(value) is not int or not 0 < value <= _ABSURD:
        raise InputError(f"field {field} must be a whole number from 1 to {_ABSURD}, not {value!r}", where)
    return value


def _flag(config: dict[str, Any], field: str, where: str) -> bool:
    value = config.get(field)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"field {field} must be true or false, not {value!r}", where)
    return bool(value)


def _dtype(config: dict[str, Any], where: str) -> str:
    value = config.get("torch_dtype") or config.get("dtype") or "bfloat16"
    name = value.removeprefix("torch.") if isinstance(value, str) else value
    if not isinstance(name, str) or name not in DTYPE_BYTES:
        raise InputError(f"field torch_dtype is {value!r}; known: {', '.join(DTYPE_BYTES)}", where)
    return name
