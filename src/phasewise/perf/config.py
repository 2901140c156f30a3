"""The reader of a Hugging Face `config.json`: what each family of decoders writes there, and what it leaves unsaid.

It counts weights that the file implies but never sees one. What is not part of the text decoder is left out: a vision
tower (Gemma 3), draft layers for speculation (DeepSeek-V3). An unknown architecture is an error, not a guess.
"""

from __future__ import annotations

from typing import Any

from phasewise.core.model import ModelSpec
from phasewise.perf.families import FAMILIES, KINDS, WITH_EXPERTS
from phasewise.perf.fields import Fields

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def from_config(config: dict[str, Any], name: str, where: str) -> ModelSpec:
    """The shape that a decoded `config.json` describes, to be called `name`; errors lead with `where`.

    A file that names no dtype is taken as bfloat16; what else is missing takes the default of its family in Hugging
    Face's transformers, where that has one. Raises InputError for a missing or impossible field (named), for weights
    quantised in a way that is not known, and for an architecture that is not.
    """
    fields = Fields(config, where)
    architecture = _architecture(fields)
    if architecture == "Gemma3ForConditionalGeneration":
        fields = _text_part(fields)
    elif config.get("text_config"):
        raise fields.error(f"a multi-modal wrapper (field text_config) is not known of {architecture}")
    read = FAMILIES[architecture]
    for field in (*_EXPERTS, "kv_lora_rank"):
        if fields.config.get(field) and read not in WITH_EXPERTS:
            what = "latent attention" if field == "kv_lora_rank" else "mixture of experts"
            raise fields.error(f"{what} (field {field}) is not known of {architecture}")
    return ModelSpec(name=name, **{**read(fields), **_quantised(fields, architecture)})


def _architecture(fields: Fields) -> str:
    named = fields.config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else None
    kind = fields.config.get("model_type")
    if architecture is None and kind is None:
        raise fields.error(f"no field architectures; known: {', '.join(FAMILIES)}")
    if architecture is None:
        architecture = KINDS.get(kind) if isinstance(kind, str) else None
    if not isinstance(architecture, str) or architecture not in FAMILIES:
        found = named[0] if isinstance(named, list) and named else kind
        raise fields.error(f"architecture {found!r} is not supported yet; known: {', '.join(FAMILIES)}")
    return architecture


def _text_part(fields: Fields) -> Fields:
    """The text decoder inside a multi-modal file; what only the outer level says is kept."""
    inner = fields.config.get("text_config")
    if not isinstance(inner, dict):
        raise fields.error("no field text_config, which is needed")
    outer = {k: v for k, v in fields.config.items() if k in ("torch_dtype", "dtype", "tie_word_embeddings")}
    return Fields({**outer, **inner}, f"{fields.where}: text_config")


def _quantised(fields: Fields, architecture: str) -> dict[str, Any]:
    """What `quantization_config` says of the stored weights: fp8 of every matrix, mxfp4 of gpt-oss's experts."""
    found = fields.config.get("quantization_config")
    if not found:
        return {}
    method = found.get("quant_method") if isinstance(found, dict) else None
    if method == "fp8":
        return {"weight_dtype": "fp8"}
    if method == "mxfp4" and architecture == "GptOssForCausalLM":
        return {}  # the experts alone are packed: said where they are read
    raise fields.error(
        f"quantised weights (field quantization_config, quant_method {method!r}); known: fp8, mxfp4 experts"
    )
