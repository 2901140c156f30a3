"""`phasewise models` and `phasewise devices`: the catalogues as tables, one entry in full, or JSON.

It knows the catalogues only: whether a model fits a device is for `simulate` to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from phasewise.cli.outputs import STDOUT, Drafts, check_outputs, json_text, write_out
from phasewise.core.model import ModelSpec
from phasewise.core.spec import DeviceSpec
from phasewise.perf import hardware, models
from phasewise.perf.catalogue import BUILT_IN
from phasewise.perf.efficiency import efficiency

MODELS_SCHEMA = "phasewise.models/1"
DEVICES_SCHEMA = "phasewise.devices/1"
DASH = "-"


def run_models(name: str | None, json: str | None) -> None:
    """List the models, or say all of one; `json` names a file, or is - for standard output."""
    check_outputs({"--json": json}, [])
    found = {n: models.model(n) for n in (models.model_names() if name is None else [name])}
    origins = [_model_origin(n) for n in found]
    specs = list(found.values())
    if json is not None:
        _write(json, {"schema": MODELS_SCHEMA, "models": list(map(_model_values, specs, origins))})
    elif name is not None:
        _show_one(specs[0].name, _model_rows(specs[0], origins[0]))
    else:
        _show_models(specs, origins)


def run_devices(name: str | None, json: str | None) -> None:
    """List the devices, or say all of one; `json` as above."""
    check_outputs({"--json": json}, [])
    found = {n: hardware.device(n) for n in (hardware.device_names() if name is None else [name])}
    origins = [_device_origin(n) for n in found]
    specs = list(found.values())
    if json is not None:
        _write(json, {"schema": DEVICES_SCHEMA, "devices": list(map(_device_values, specs, origins))})
    elif name is not None:
        _show_one(specs[0].name, _device_rows(specs[0], origins[0]))
    else:
        _show_devices(specs, origins)


def _write(json: str, document: dict[str, Any]) -> None:
    if json == STDOUT:
        write_out(json_text(document))
        return
    with Drafts() as drafts:
        drafts.path(json).write_text(json_text(document), encoding="utf-8")


def _model_values(spec: ModelSpec, origin: str) -> dict[str, Any]:
    return {
        **msgspec.to_builtins(spec),
        "parameters": spec.parameters,
        "active_parameters": spec.active_parameters,
        "weight_bytes": spec.weight_bytes,
        "kv_bytes_per_token": spec.kv_bytes_per_token,
        "origin": origin,
    }


def _device_values(spec: DeviceSpec, origin: str) -> dict[str, Any]:
    return {
        **msgspec.to_builtins(spec),
        "aliases": hardware.device_aliases(spec.name) if origin == BUILT_IN else [],
        "basis": efficiency(spec).basis,
        "origin": origin,
    }


def _model_origin(asked: str) -> str:
    """`built in`, the path of the user's catalogue, or that of the file that was asked for."""
    found = models.find_model(asked)
    return models.model_origin(found) if found else asked


def _device_origin(asked: str) -> str:
    found = hardware.find_device(asked)
    return hardware.device_origin(found) if found else asked


def _model_rows(spec: ModelSpec, origin: str) -> list[tuple[str, str]]:
    """Everything that the shape says, in words."""
    rows = [
        ("parameters", f"{spec.parameters:,}" + (f", {spec.active_parameters:,} a token" if spec.moe else "")),
        ("weights", f"{spec.weight_bytes / 2**30:.2f} GiB; {_stored(spec)}"),
        ("KV cache", f"{spec.kv_bytes_per_token:,} bytes a token, in {spec.kv_dtype or spec.dtype}"),
        ("context", f"{spec.max_context:,} tokens"),
        ("layers", f"{spec.layers} of width {spec.hidden:,}; vocabulary {spec.vocab:,}" + _tied(spec)),
        ("attention", _attention(spec)),
        ("feed-forward", _feed_forward(spec)),
    ]
    if spec.window:
        full = spec.layers - spec.window.layers
        text = f"{spec.window.tokens:,} tokens in {spec.window.layers} layers, {full} see everything"
        rows.append(("windows", f"{text}; memory is booked as if all did"))
    shared = models.model_named_after(spec.name) if origin == BUILT_IN else None
    return [*rows, ("origin", origin + (f", the shape of {shared}" if shared else ""))]


def _stored(spec: ModelSpec) -> str:
    parts = [spec.dtype]
    if spec.matrix_dtype != spec.dtype:
        parts.append(f"layers in {spec.matrix_dtype}")
    if spec.expert_dtype != spec.matrix_dtype:
        parts.append(f"experts in {spec.expert_dtype}")
    return ", ".join(parts)


def _tied(spec: ModelSpec) -> str:
    return ", embedding and head one table" if spec.tied_embeddings else ""


def _attention(spec: ModelSpec) -> str:
    heads = f"{spec.q_heads} heads"
    if spec.latent:
        part = spec.latent
        return f"{heads} of {part.nope} + {part.rope}; latent, {part.kv_rank} + {part.rope} cached for all of them"
    few = "each its own key" if spec.kv_heads == spec.q_heads else f"{spec.kv_heads} key-value heads"
    return f"{heads} of {spec.head_dim}, {few}" + (", beside the feed-forward" if spec.parallel else "")


def _feed_forward(spec: ModelSpec) -> str:
    kind = "gated" if spec.gated_ffn else "plain"
    if spec.moe is None:
        return f"{spec.ffn:,} wide, {kind}"
    moe = spec.moe
    text = f"{moe.per_token} of {moe.experts} experts, {moe.ffn:,} wide, {kind}"
    text += f"; {moe.shared_ffn:,} shared" if moe.shared_ffn else ""
    return text + (
        f"; the first {moe.dense_layers} layers {spec.ffn:,} wide without experts" if moe.dense_layers else ""
    )


def _device_rows(spec: DeviceSpec, origin: str) -> list[tuple[str, str]]:
    """Everything that the data sheet says, in words; a dash for what is not known or not there."""
    rates = [("bf16", spec.bf16_tflops), ("fp16", spec.fp16_tflops), ("fp8", spec.fp8_tflops), ("fp4", spec.fp4_tflops)]
    peaks = (
        ", ".join(f"{name} {_number(rate)}" for name, rate in rates) + f" TFLOP/s; int8 {_number(spec.int8_tops)} TOP/s"
    )
    price = f"{_number(spec.price_per_hour)} US$ an hour"
    return [
        ("peaks", peaks + " (dense)"),
        ("memory", f"{_number(spec.memory_gib)} GiB, {_number(spec.memory_gb_s)} GB/s"),
        ("power", f"{_number(spec.tdp_w)} W at most, {_number(spec.idle_w)} W idle"),
        ("clocks", f"{_number(spec.min_clock_mhz)} to {_number(spec.max_clock_mhz)} MHz"),
        (
            "link",
            f"{spec.link or 'unnamed'}, {spec.link_gb_s:g} GB/s one way" if spec.link_gb_s else "none in the node",
        ),
        ("network", f"{_number(spec.network_gb_s)} GB/s one way between nodes"),
        ("price", f"{price}: an assumption, {spec.price_source}" if spec.price_source else price),
        ("step times", f"{efficiency(spec).basis}" + _borrows(spec)),
        ("other names", ", ".join(_device_values(spec, origin)["aliases"]) or DASH),
        ("source", spec.source),
        ("origin", origin),
    ]


def _borrows(spec: DeviceSpec) -> str:
    own = "data sheet" not in efficiency(spec).basis
    return "" if own else f", with the efficiency of {spec.efficiency or 'a100'}"


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:g}" if value < 1e5 else f"{value:,.0f}"


def _show_one(name: str, rows: Sequence[tuple[str, str]]) -> None:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from phasewise.cli.screen import pairs, show

    show(Group(Text(name, "bold cyan"), Padding(pairs(rows), (0, 0, 0, 2))))


def _show_models(specs: Sequence[ModelSpec], origins: Sequence[str]) -> None:
    rows = []
    for spec in specs:
        active = f"{spec.active_parameters / 1e9:.2f}" if spec.moe else ""
        kind = "latent" if spec.latent else f"window {spec.window.tokens}" if spec.window else ""
        cells = (spec.name, f"{spec.parameters / 1e9:.2f}", active, f"{spec.weight_bytes / 2**30:.1f}")
        rows.append((*cells, f"{spec.kv_bytes_per_token / 1024:.1f}", f"{spec.max_context // 1024}k", kind))
    heads = ("model", "params B", "active B", "GiB", "KV KiB/token", "context", "attention")
    _show_table(heads, rows, left={0, 6}, users=[origin != BUILT_IN for origin in origins])


def _show_devices(specs: Sequence[DeviceSpec], origins: Sequence[str]) -> None:
    rows = []
    for spec in specs:
        rates = (spec.bf16_tflops, spec.fp8_tflops, spec.memory_gib, spec.memory_gb_s)
        power = (spec.tdp_w, spec.link_gb_s or None)
        rows.append((spec.name, *map(_number, (*rates, *power)), spec.link or DASH, _number(spec.price_per_hour)))
    heads = ("device", "bf16 TFLOP/s", "fp8", "GiB", "GB/s", "TDP W", "link GB/s", "kind", "US$/h")
    _show_table(heads, rows, left={0, 7}, users=[origin != BUILT_IN for origin in origins])


def _show_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: set[int], users: Sequence[bool]) -> None:
    """A table without lines; what is from the user's own file is marked with a star, and the file named below."""
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    from phasewise.cli.screen import show
    from phasewise.perf.catalogue import user_path

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i in left else "right", no_wrap=True, style="cyan" if i == 0 else None)
    for row, own in zip(rows, users, strict=True):
        table.add_row(Text(row[0] + ("*" if own else "")), *row[1:])
    blocks: list[RenderableType] = [table]
    if any(users):
        blocks.append(Text(f"* from {user_path()}", "dim"))
    show(Group(*blocks))
