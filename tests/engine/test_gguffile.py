"""A GGUF file is read as the package's own reader reads it, a piece at a time; whatever is done to its bytes, the worst is
one line."""

from __future__ import annotations

import random
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from checkpoints import small, write_gguf
from phasewise.core.errors import InputError
from phasewise.engine.gguffile import GgufFile
from phasewise.engine.llamacpp import gguf_shape, stretched
from phasewise.engine.vocabulary import tokenizer_of
from phasewise.engine.weights import load


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "m.gguf", small("llama"), **{"llama.vocab_size": 96, "general.name": "a small one"})


def one_line(path: Path) -> str:
    with pytest.raises(InputError) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


def test_the_tables_are_those_of_the_package(path: Path) -> None:
    ours, theirs = GgufFile(path), gguf.GGUFReader(path)
    assert ours.metadata == {key: f.contents() for key, f in theirs.fields.items() if not key.startswith("GGUF.")}
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        stored = ours.tensors[tensor.name]
        assert stored.shape == tuple(tensor.shape.tolist())[::-1]
        assert (stored.kind, stored.offset, stored.size) == (tensor.tensor_type, tensor.data_offset, tensor.n_bytes)


def test_every_kind_of_value(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    said = {
        "a": True,
        "b": [1, -2, 3],
        "c": [1.5, 2.5],
        "d": ["x", "", "é"],
        "e": -7,
        "f": 0.25,
        "g": "text",
        "h": [True, False],
    }
    for key, value in said.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_int64(key, value)
        else:
            writer.add_float64(key, value) if isinstance(value, float) else writer.add_string(key, value)
    writer.add_uint8("i", 200)
    writer.add_int16("j", -300)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert GgufFile(tmp_path / "m.gguf").metadata == {"general.architecture": "llama", **said, "i": 200, "j": -300}


def test_no_piece_is_large(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    whole = np.random.default_rng(0).standard_normal((3, 500, 96)).astype(np.float32)
    writer.add_tensor(
        "t", gguf.quantize(whole, gguf.GGMLQuantizationType.Q4_1), raw_dtype=gguf.GGMLQuantizationType.Q4_1
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found, count = torch.full(whole.shape, torch.nan), 0
    for index, piece in GgufFile(tmp_path / "m.gguf").pieces("t"):
        assert piece.numel() < 1 << 15
        found[index] = piece
        count += piece.numel()
    assert count == whole.size
    unpacked = gguf.dequantize(gguf.quantize(whole, gguf.GGMLQuantizationType.Q4_1), gguf.GGMLQuantizationType.Q4_1)
    assert np.array_equal(found.numpy(), unpacked)


def test_a_file_cut_short_anywhere(path: Path) -> None:
    whole = path.read_bytes()
    chance = random.Random(1)
    for kept in [0, 3, 4, 8, 20, 24, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(60))]:
        path.write_bytes(whole[:kept])
        one_line(path)


def test_a_last_string_cut_short(tmp_path: Path) -> None:
    table = b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + (1).to_bytes(8, "little")
    table += b"".join(len(s).to_bytes(8, "little") + s for s in (b"key",)) + (8).to_bytes(4, "little")
    table += (5).to_bytes(8, "little") + b"value"
    (tmp_path / "m.gguf").write_bytes(table)
    assert GgufFile(tmp_path / "m.gguf").metadata == {"key": "value"}
    (tmp_path / "m.gguf").write_bytes(table[:-1])
    with pytest.raises(InputError, match="cut short"):
        GgufFile(tmp_path / "m.gguf")


def test_lengths_that_lie(path: Path) -> None:
    whole = path.read_bytes()
    for name in (b"tokenizer.ggml.tokens", b"tokenizer.ggml.token_type", b"general.architecture"):
        at = whole.index(name) + len(name) + 4  # the value, after its type: of an array its own type, then its length
        at += 4 if b"tokens" in name or b"type" in name else 0
        path.write_bytes(whole[:at] + (1 << 60).to_bytes(8, "little") + whole[at + 8 :])
        assert "corrupt or cut short near byte" in one_line(path)
    for at in (8, 16):  # tensors, then keys
        path.write_bytes(whole[:at] + (1 << 60).to_bytes(8, "little") + whole[at + 8 :])
        assert "corrupt or cut short near byte" in one_line(path)


def test_bytes_that_are_not_what_they_were(path: Path) -> None:
    whole = path.read_bytes()
    head = GgufFile(path)
    end = min(stored.offset for stored in head.tensors.values())
    chance, lines = random.Random(2), 0
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(end)] = chance.choice([0, 1, 255, chance.randrange(256)])
        path.write_bytes(changed)
        said = ""
        try:
            load(path)
            file = GgufFile(path)
            tokenizer_of(file.metadata, file.where)
        except InputError as e:
            said = str(e)
        lines += bool(said)
        assert "\n" not in said
    assert lines > 100


def test_what_is_not_a_model_that_runs(path: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\3\4" + bytes(60))
    assert "does not begin with 'GGUF'" in one_line(tmp_path / "x.gguf")
    whole = path.read_bytes()
    for found, put, said in (
        (b"GGUF\x03\0\0\0", b"GGUF\x01\0\0\0", "GGUF version 1 is not known (2 and 3 are)"),
        (b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03", "big-endian"),
        (b"llama", b"gemma", "it runs: llama, qwen2, qwen3, qwen3moe"),
        (b"llama.block_count", b"llama.block_kount", "no key llama.block_count"),
        (b"blk.0.attn_q.weight", b"blk.0.attn_z.weight", "no tensor blk.0.attn_q.weight, of shape [32, 32]"),
        (b"general.name", b"split.count\0", "no GGUF"),
    ):
        path.write_bytes(whole.replace(found, put, 1))
        if said != "no GGUF":
            assert said in one_line(path)
    metadata = {**GgufFile(path).metadata, "split.count": 3}
    with pytest.raises(InputError, match="one of 3 parts"):
        gguf_shape(metadata)


def test_llama_3_stretches_by_a_table() -> None:
    config = AutoConfig.for_model(
        "llama",
        hidden_size=128,
        num_attention_heads=2,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    after, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    before = 1.0 / 500_000.0 ** (torch.arange(0, 64, 2) / 64)
    keys = {
        "block_count": 1,
        "context_length": 8192,
        "embedding_length": 128,
        "feed_forward_length": 64,
        "vocab_size": 9,
    }
    metadata = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in keys.items()}}
    shape = gguf_shape({**metadata, "llama.attention.head_count": 2, "llama.rope.freq_base": 500_000.0})
    rope = stretched(shape, (before / after).tolist(), "m.gguf").rope
    assert (rope.kind, rope.original, rope.low_freq, rope.high_freq) == ("llama3", 8192, 1.0, 4.0)
    assert rope.factor == pytest.approx(32.0)
    with pytest.raises(InputError, match="not that of a Llama 3"):
        stretched(shape, [1.0, 2.0] * 16, "m.gguf")
    with pytest.raises(InputError, match="not that of a Llama 3"):
        stretched(shape, (before / after).tolist()[:-1], "m.gguf")


def test_scaling_written_as_keys() -> None:
    keys = {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": 32,
        "feed_forward_length": 64,
        "attention.head_count": 2,
    }
    metadata = {
        "general.architecture": "qwen2",
        **{f"qwen2.{key}": value for key, value in keys.items()},
        "qwen2.vocab_size": 9,
    }

    def rope(**said: object) -> object:
        return gguf_shape({**metadata, **{f"qwen2.rope.scaling.{key}": value for key, value in said.items()}}).rope

    assert rope() == rope(type="none")
    assert (rope(type="linear", factor=2.0).kind, rope(type="linear", factor=2.0).factor) == ("linear", 2.0)  # type: ignore[attr-defined]
    yarn = gguf_shape({**metadata, "qwen2.rope.scaling.type": "yarn", "qwen2.rope.scaling.factor": 4.0})
    config = AutoConfig.for_model(
        "qwen2", max_position_embeddings=64, rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
    )
    assert yarn.rope.attention_factor == ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")[1]
    assert yarn.max_context == 256
    with pytest.raises(InputError, match="'longrope' is not supported; known: none, linear, yarn"):
        rope(type="longrope")
