"""What fits: bytes by hand for a toy, a published capacity, and the error of a model that does not fit."""

import msgspec
import pytest

from phasewise.core.errors import InputError
from phasewise.core.spec import DeviceSpec, ModelSpec
from phasewise.perf.hardware import device
from phasewise.perf.memory import GIB, kv_blocks, kv_bytes_per_token, reserve_bytes, weight_bytes
from phasewise.perf.models import model, model_names
from phasewise.perf.shard import shard

TOY = ModelSpec("toy", layers=2, hidden=64, ffn=160, q_heads=8, kv_heads=2, head_dim=8, vocab=100, max_context=128)


def test_shards_add_up_to_the_model() -> None:
    part = shard(TOY, 4)
    assert (part.q_heads, part.kv_heads, part.q, part.kv, part.ffn, part.vocab) == (2, 1, 16, 8, 40, 25)
    assert shard(TOY, 1).q == 64


def test_widths_that_do_not_divide_are_those_of_the_fullest_device() -> None:
    part = shard(msgspec.structs.replace(TOY, q_heads=12, kv_heads=4), 3)
    assert (part.q_heads, part.kv_heads, part.ffn, part.vocab) == (4, 2, 54, 34)


def test_a_tp_that_does_not_divide_the_heads() -> None:
    with pytest.raises(InputError, match="tp 3 does not divide the 8 attention heads of toy; possible: 1, 2, 4, 8"):
        shard(TOY, 3)
    with pytest.raises(InputError, match="tp 0 does not divide"):
        weight_bytes(TOY, 0)


@pytest.mark.parametrize("name", model_names())
def test_one_device_holds_every_weight(name: str) -> None:
    spec = model(name)
    assert weight_bytes(spec, 1) == spec.weight_bytes
    assert spec.weight_bytes <= spec.parameters * spec.dtype_bytes
    assert kv_bytes_per_token(spec, 1) == spec.kv_bytes_per_token


def test_weights_of_a_shard_by_hand() -> None:
    attention = 64 * (16 + 2 * 8) + 16 * 64
    layer = attention + 3 * 64 * 40 + 2 * 64
    assert weight_bytes(TOY, 4) == (2 * layer + 2 * 25 * 64 + 64) * 2


def test_key_value_heads_are_replicated_beyond_their_number() -> None:
    assert kv_bytes_per_token(TOY, 2) == TOY.kv_bytes_per_token // 2
    assert kv_bytes_per_token(TOY, 8) == kv_bytes_per_token(TOY, 2)


def test_blocks_of_a_toy_by_hand() -> None:
    small = DeviceSpec("small", 3.0, 100.0, 1.0, 0.0, "made up")
    reserve = 2 * GIB + 32 * (4 * 64 + 64 + 2 * 16 + 3 * 160) * 2 + 32 * 100 * 8
    assert reserve_bytes(TOY, 1, 32) == reserve
    expected = (int(3 * GIB * 0.8) - weight_bytes(TOY, 1) - reserve) // (2 * 2 * 16 * 2 * 4)
    assert kv_blocks(TOY, small, 1, 0.8, block_tokens=4, max_step_tokens=32) == expected


def test_capacity_of_llama_on_an_h100_is_what_engines_report() -> None:
    # vLLM reports 430 to 460 thousand tokens for this pair at a utilisation of 0.9.
    assert 430_000 <= 16 * kv_blocks(model("Llama-3.1-8B"), device("h100"), 1, 0.9) <= 460_000


def test_more_of_anything_that_is_not_cache_leaves_fewer_blocks() -> None:
    llama, h100 = model("Llama-3.1-8B"), device("h100")
    blocks = kv_blocks(llama, h100)
    assert kv_blocks(llama, h100, memory_utilisation=0.8) < blocks
    assert kv_blocks(llama, h100, max_step_tokens=16_384) < blocks
    assert kv_blocks(llama, h100, tp=2) > 2 * blocks


def test_a_model_that_does_not_fit_says_what_would() -> None:
    said = (
        r"does not fit on h100 with tp 1: it needs 13\d\.\d GiB a device \(131\.4 of them weights\), 72\.0 GiB may be"
    )
    with pytest.raises(InputError, match=said + r" used; tp 2 would fit$"):
        kv_blocks(model("Llama-3.1-70B"), device("h100"))
    kv_blocks(model("Llama-3.1-70B"), device("h100"), tp=2)
    with pytest.raises(InputError, match="no tp would fit"):
        kv_blocks(TOY, DeviceSpec("tiny", 1.0, 1.0, 1.0, 0.0, "made up"))


def test_absurd_shares_and_sizes() -> None:
    with pytest.raises(InputError, match="memory_utilisation must be above 0 and at most 1, not 90"):
        kv_blocks(TOY, device("h100"), memory_utilisation=90)
    with pytest.raises(InputError, match="block_tokens 0"):
        kv_blocks(TOY, device("h100"), block_tokens=0)
