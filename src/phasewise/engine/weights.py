"""The weights of a model, from a folder of `*.safetensors` or a GGUF file, under one set of names and held against its shape.

Names are Hugging Face's (`model.layers.0.self_attn.q_proj.weight`), but for mixtures of experts, where every family goes by:

- `model.layers.N.mlp.router.weight` `[experts, hidden]`
- `model.layers.N.mlp.experts.gate_up` `[experts, 2 * ffn, hidden]`: the gate's rows, then the up projection's
- `model.layers.N.mlp.experts.down` `[experts, hidden, ffn]`

`lm_head.weight` is there only where it is not the embedding itself (`Shape.tied`). Tensors are read one at a time; from
safetensors in the file's own dtype they are views of the mapped file and cost no memory until they are touched (do not write
to them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from phasewise.core.errors import InputError
from phasewise.engine.gguffile import GgufFile
from phasewise.engine.llamacpp import gguf_shape, parts, permuted_heads, stretched
from phasewise.engine.shape import Shape, shape_in
from phasewise.engine.shards import Shards

Index = tuple[Any, ...]


def load(path: Path | str, dtype: torch.dtype = torch.bfloat16) -> tuple[Shape, dict[str, torch.Tensor]]:
    """The shape and all tensors, in `dtype`, of a Hugging Face folder or a GGUF file.

    Raises InputError, one line, where a file is missing, corrupt or cut short, or a tensor is missing, unknown or of
    another shape than the configuration says.
    """
    source = open_model(Path(path))
    return source.shape, dict(source.tensors(dtype))


def open_model(path: Path) -> Model:
    """A model's shape, and its tensors to be read; nothing but headers is read yet. Raises as `load` does."""
    if path.is_dir():
        return _from_folder(path)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return model_of(GgufFile(path))
    if path.exists():
        raise InputError("not a model: give a Hugging Face folder or a .gguf file", str(path))
    raise InputError("no such folder or .gguf file", str(path))


class _File(Protocol):
    def pieces(self, name: str) -> Iterator[tuple[Index, torch.Tensor]]: ...


class Model:
    """An opened model: its `shape`, and its tensors one at a time."""

    def __init__(
        self,
        shape: Shape,
        file: _File,
        stored: dict[str, tuple[int, ...]],
        find: Callable[[str], list[tuple[str, Index]]],
        where: str,
        permuted: Callable[[str], int] = lambda name: 0,
    ) -> None:
        """`stored` are the shapes of the file's tensors; `find` names those that make up one of ours, and at which index;
        `permuted` says of how many heads the rows of ours are interleaved there."""
        self.shape, self._file, self._where, self._permuted = shape, file, where, permuted
        self.sizes = expected(shape)
        self._parts = {name: find(name) for name in self.sizes}
        self._check(stored)

    def tensors(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor in turn, in `dtype`."""
        for name in self.sizes:
            tensor, heads = self._whole(name, dtype), self._permuted(name)
            yield name, _unpermuted(tensor, heads) if heads else tensor

    def _whole(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        whole: torch.Tensor | None = None
        for part, at in self._parts[name]:
            for index, piece in self._file.pieces(part):
                if not at and not index:
                    return piece.to(dtype)  # all of it at once: a view of the file where the dtype is the same
                if whole is None:
                    whole = torch.empty(self.sizes[name], dtype=dtype)
                whole[at][index].copy_(piece)
        assert whole is not None  # every tensor has a part, and every part a piece
        return whole

    def _check(self, stored: dict[str, tuple[int, ...]]) -> None:
        for name, size in self.sizes.items():
            for part, at in self._parts[name]:
                right = tuple(torch.empty(size, device="meta")[at].shape)
                if part not in stored:
                    raise InputError(
                        f"no tensor {part}, of shape {list(right)}, which this {self.shape.family} needs", self._where
                    )
                if stored[part] != right:
                    what = f"tensor {part} has the shape {list(stored[part])}, not {list(right)}, as the configuration says"
                    raise InputError(what, self._where)
        used = {part for found in self._parts.values() for part, _ in found}
        known = ("rope_freqs.weight", "output.weight", "lm_head.weight")
        for name in stored:
            if name not in used and name not in known and not name.endswith(".rotary_emb.inv_freq"):
                what = f"tensor {name!r} has no place in a {self.shape.family} of this configuration"
                raise InputError(
                    f"{what}: the configuration is another model's, or names a feature wrongly", self._where
                )


def expected(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all tensors that a model of this shape has."""
    hidden, q, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, hidden)}
    for n in range(shape.layers):
        layer = f"model.layers.{n}"
        sizes[f"{layer}.input_layernorm.weight"] = (hidden,)
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            sizes[f"{layer}.self_attn.{name}_proj.weight"] = (rows, hidden)
            if shape.qkv_bias:
                sizes[f"{layer}.self_attn.{name}_proj.bias"] = (rows,)
        sizes[f"{layer}.self_attn.o_proj.weight"] = (hidden, q)
        if shape.out_bias:
            sizes[f"{layer}.self_attn.o_proj.bias"] = (hidden,)
        if shape.qk_norm:
            sizes[f"{layer}.self_attn.q_norm.weight"] = (shape.head_dim,)
            sizes[f"{layer}.self_attn.k_norm.weight"] = (shape.head_dim,)
        sizes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        if shape.experts and n in shape.experts.layers:
            count, ffn = shape.experts.count, shape.experts.ffn
            sizes[f"{layer}.mlp.router.weight"] = (count, hidden)
            sizes[f"{layer}.mlp.experts.gate_up"] = (count, 2 * ffn, hidden)
            sizes[f"{layer}.mlp.experts.down"] = (count, hidden, ffn)
        else:
            sizes[f"{layer}.mlp.gate_proj.weight"] = (shape.ffn, hidden)
            sizes[f"{layer}.mlp.up_proj.weight"] = (shape.ffn, hidden)
            sizes[f"{layer}.mlp.down_proj.weight"] = (hidden, shape.ffn)
    sizes["model.norm.weight"] = (hidden,)
    if not shape.tied:
        sizes["lm_head.weight"] = (shape.vocab, hidden)
    return sizes


def hub_parts(shape: Shape, name: str, stored: dict[str, Any] | None = None) -> list[tuple[str, Index]]:
    """The tensors, as the hub's files name them, that make up our tensor `name`, each with the index at which it belongs.

    A file that has its experts stacked already (`experts.gate_up_proj`, transformers' own layout) is taken as it is.
    """
    experts = shape.experts
    if experts is None or not (".mlp.router" in name or ".mlp.experts" in name):
        return [(name, ())]
    layer = name.split(".mlp.")[0]
    if name.endswith("router.weight"):
        return [(f"{layer}.{'block_sparse_moe' if shape.family == 'mixtral' else 'mlp'}.gate.weight", ())]
    if stored and f"{name}_proj" in stored:
        return [(f"{name}_proj", ())]
    mixtral = shape.family == "mixtral"
    each = f"{layer}.block_sparse_moe.experts" if mixtral else f"{layer}.mlp.experts"
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    if name.endswith(".down"):
        return [(f"{each}.{e}.{down}.weight", (e,)) for e in range(experts.count)]
    halves = ((gate, slice(0, experts.ffn)), (up, slice(experts.ffn, 2 * experts.ffn)))
    return [(f"{each}.{e}.{half}.weight", (e, rows)) for e in range(experts.count) for half, rows in halves]


def _from_folder(folder: Path) -> Model:
    shape = shape_in(folder)
    shards = Shards(folder)
    return Model(shape, shards, shards.shapes, lambda name: hub_parts(shape, name, shards.shapes), str(folder))


def model_of(file: GgufFile) -> Model:
    """The model in an open GGUF file."""
    shape = gguf_shape(file.metadata, file.tensors, file.where)
    if "rope_freqs.weight" in file.tensors:
        divisors = [x for _, piece in file.pieces("rope_freqs.weight") for x in piece.flatten().tolist()]
        shape = stretched(shape, divisors, file.where)
    stored = {name: tensor.shape for name, tensor in file.tensors.items()}
    return Model(
        shape, file, stored, lambda name: parts(shape, name), file.where, lambda name: permuted_heads(shape, name)
    )


def _unpermuted(whole: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows in Hugging Face's order again: of each head the converter took rows `i` and `i + d/2` as neighbours."""
    halves = whole.view(heads, -1, 2, *whole.shape[1:])
    return halves.transpose(1, 2).reshape(whole.shape)
