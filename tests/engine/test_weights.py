"""Weights come out as transformers put them in, under our names, from one file or many; what is wrong is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from checkpoints import FAMILIES, small, write_gguf
from phasewise.core.errors import InputError
from phasewise.engine.weights import expected, load


def ours(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The model's tensors under the engine's names."""
    moe = (
        (".mlp.gate.weight", ".mlp.router.weight"),
        (".gate_up_proj", ".gate_up"),
        ("experts.down_proj", "experts.down"),
    )
    found = {}
    for name, tensor in model.state_dict().items():
        for theirs, our in moe:
            if name.endswith(theirs) and model.config.model_type in ("mixtral", "qwen3_moe"):
                name = name.removesuffix(theirs) + our
        found[name] = tensor
    if model.config.tie_word_embeddings:
        del found["lm_head.weight"]
    return found


def same(found: dict[str, torch.Tensor], right: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> None:
    assert sorted(found) == sorted(right)
    for name, tensor in right.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor.to(dtype)), name


def one_line(path: Path) -> str:
    with pytest.raises(InputError) as error:
        load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_each_family(family: str, tmp_path: Path) -> None:
    model = small(family)
    model.save_pretrained(tmp_path)
    shape, found = load(tmp_path, torch.float32)
    assert shape.family == family
    same(found, ours(model))
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == expected(shape)
    same(load(tmp_path, torch.bfloat16)[1], ours(model), torch.bfloat16)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_file_of_each_family(family: str, tmp_path: Path) -> None:
    model = small(family)
    shape, found = load(write_gguf(tmp_path / "m.gguf", model), torch.float32)
    assert shape.family == ("llama" if family == "mistral" else family)
    same(found, ours(model))


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "mixtral"])
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "Q5_0", "BF16", "F16"])
def test_a_quantised_file_is_what_its_quantisation_leaves(family: str, kind: str, tmp_path: Path) -> None:
    model = small(
        family, hidden_size=64, intermediate_size=64, **({"moe_intermediate_size": 32} if "moe" in family else {})
    )
    how = gguf.GGMLQuantizationType[kind]
    _, found = load(write_gguf(tmp_path / "m.gguf", model, how), torch.float32)
    for name, tensor in ours(model).items():
        if tensor.ndim > 1 and "router" not in name:
            # A row is quantised by itself, so that permuting rows and quantising them commute.
            tensor = torch.from_numpy(gguf.dequantize(gguf.quantize(tensor.numpy(), how), how))
        assert torch.equal(found[name], tensor), name


def test_biases_of_a_llama_are_permuted_with_their_rows(tmp_path: Path) -> None:
    model = small("llama", attention_bias=True)
    shape, found = load(write_gguf(tmp_path / "m.gguf", model), torch.float32)
    assert shape.qkv_bias
    assert shape.out_bias
    same(found, ours(model))


@pytest.mark.parametrize("family", ["qwen2", "mixtral"])
def test_shards_and_their_index(family: str, tmp_path: Path) -> None:
    model = small(family)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    same(load(tmp_path, torch.float32)[1], ours(model))
    shards[1].unlink()
    said = one_line(tmp_path)
    assert said.startswith(str(tmp_path))
    assert f"{shards[1].name!r} is missing: the index names {len(shards)} files" in said


def test_a_tensor_in_two_files_is_where_the_index_says(tmp_path: Path) -> None:
    model = small("llama")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    name = "model.norm.weight"
    other = next(file for file in index.values() if file != index[name])
    save_file({**load_file(tmp_path / other), name: torch.zeros(32)}, tmp_path / other)
    same(load(tmp_path, torch.float32)[1], ours(model))
    (tmp_path / "model.safetensors.index.json").unlink()
    assert f"tensor '{name}' is in another file of the folder too" in one_line(tmp_path)


def test_experts_that_are_stacked_already(tmp_path: Path) -> None:
    model = small("qwen3_moe")
    model.save_pretrained(tmp_path)
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    same(load(tmp_path, torch.float32)[1], ours(model))


def test_a_tied_model_that_holds_its_head_twice(tmp_path: Path) -> None:
    model = small("qwen2")
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    save_file({**stored, "lm_head.weight": stored["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors")
    same(load(tmp_path, torch.float32)[1], ours(model))


def saved(tmp_path: Path, **config: Any) -> Path:
    small("llama").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return tmp_path


def restored(folder: Path, change: dict[str, torch.Tensor | None]) -> Path:
    file = folder / "model.safetensors"
    tensors: dict[str, torch.Tensor | None] = {**load_file(file), **change}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)
    return folder


def test_a_tensor_that_is_missing_wrong_or_too_many(tmp_path: Path) -> None:
    folder = restored(saved(tmp_path), {"model.norm.weight": None})
    assert "no tensor model.norm.weight, of shape [32], which this llama needs" in one_line(folder)
    restored(folder, {"model.norm.weight": torch.ones(31)})
    assert "tensor model.norm.weight has the shape [31], not [32], as the configuration says" in one_line(folder)
    restored(folder, {"model.norm.weight": torch.ones(32), "model.layers.0.self_attn.q_proj.bias": torch.ones(32)})
    assert "tensor 'model.layers.0.self_attn.q_proj.bias' has no place in a llama" in one_line(folder)
    restored(
        folder, {"model.layers.0.self_attn.q_proj.bias": None, "model.norm.weight": torch.ones(32, dtype=torch.int8)}
    )
    assert "is stored as I8; known: F64, F32, F16, BF16" in one_line(folder)


def test_a_configuration_of_another_model(tmp_path: Path) -> None:
    assert "has the shape [96, 32], not [100, 32]" in one_line(saved(tmp_path, vocab_size=100))
    assert "no tensor model.layers.2.input_layernorm.weight" in one_line(saved(tmp_path, num_hidden_layers=3))
    assert "tensor lm_head.weight" not in repr(load(saved(tmp_path, tie_word_embeddings=True))[1].keys())


def test_files_that_are_missing_or_no_json(tmp_path: Path) -> None:
    assert "no such folder or .gguf file" in one_line(tmp_path / "none")
    (tmp_path / "some.txt").write_text("hello")
    assert "give a Hugging Face folder or a .gguf file" in one_line(tmp_path / "some.txt")
    folder = saved(tmp_path / "a")
    (folder / "config.json").write_text("{")
    assert "not a JSON table" in one_line(folder)
    (folder / "config.json").write_text("[1]")
    assert "not a JSON table" in one_line(folder)
    (folder / "config.json").unlink()
    assert "no config.json" in one_line(folder)
    folder = saved(tmp_path / "b")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "no *.safetensors in the folder; pytorch_model.bin is not read" in one_line(folder)
    folder = saved(tmp_path / "c")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')
    assert "must be a file of the same folder" in one_line(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    assert "not an index of shards" in one_line(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.safetensors"}}')
    assert "tensor 'a' is not in model.safetensors, where the index says it is" in one_line(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_a_shard_cut_short(kept: float, tmp_path: Path) -> None:
    file = saved(tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    said = one_line(tmp_path)
    assert said.startswith(f"{file}: corrupt or cut short")


def test_a_folder_in_its_own_dtype_is_mapped_and_not_read(tmp_path: Path) -> None:
    small("llama").save_pretrained(tmp_path)
    _, found = load(tmp_path, torch.float32)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    spans = [[int(x, 16) for x in line.split()[0].split("-")] for line in mapped]
    assert all(any(low <= t.data_ptr() < high for low, high in spans) for t in found.values())
