"""What fits on a device: bytes of weights, and how many blocks of keys and values remain. It knows nothing of time.

The reserve that is neither weights nor KV blocks is

    2 GiB + step_tokens * (4 * hidden + q + 2 * kv + 3 * ffn) * dtype_bytes + emitting * vocab * 8

per device, with the widths of one device's shard. The 2 GiB stand for what a data sheet's memory lacks when the
driver has taken its part, the CUDA context, the buffers of the collectives and captured graphs: the figure was
chosen once so that published capacities on 80 GiB devices come out (`bench/efficiency.md` compares). The second
term is the peak inside one layer: the residual stream with its normed copy and two outputs, the attention's inputs,
and gate, up and their product; with experts, those of each token's `per_token` experts, their outputs and the shared
ones, if that is more. The third is the logits in float32 and their copy for sampling, for at most 256 sequences that
emit in one step.

Blocks hold every layer's keys and values for every token, also in layers whose attention has a window: the books count
a sequence as if all attention were full. An engine that frees what has left the window holds more sequences than this;
`ModelSpec.kv_bytes` says how little a sequence needs at least. A latent cache is one vector for all heads, so each
device of a tensor-parallel replica holds the whole of it.
"""

from __future__ import annotations

from phasewise.core.errors import InputError
from phasewise.core.spec import DeviceSpec, ModelSpec
from phasewise.perf.shard import shard

GIB = 1 << 30
FIXED_RESERVE_BYTES = 2 * GIB
MAX_EMITTING = 256


def weight_bytes(model: ModelSpec, tp: int = 1) -> int:
    """Bytes of weights on each of `tp` devices (the fullest, where a width does not divide)."""
    shard(model, tp)  # refuses a degree that does not divide
    return model.bytes_of(model.weights(tp))


def kv_bytes_per_token(model: ModelSpec, tp: int = 1) -> int:
    """Bytes of keys and values of one token on each of `tp` devices; heads are replicated once `tp` exceeds them."""
    part = shard(model, tp)
    return model.layers * (model.kv_width if model.latent else 2 * part.kv) * model.kv_dtype_bytes


def reserve_bytes(model: ModelSpec, tp: int, max_step_tokens: int) -> int:
    """Bytes that each device keeps for a step of up to `max_step_tokens` tokens, and for what is not the model."""
    part = shard(model, tp)
    ways = 3 if model.gated_ffn else 2
    inner = ways * part.ffn
    if model.moe:
        chosen = model.moe.per_token * (ways * part.expert_ffn + model.hidden)
        inner = max(inner * (model.moe.dense_layers > 0), chosen + ways * part.shared_ffn)
    width = 4 * model.hidden + part.q + 2 * part.kv + inner
    logits = min(MAX_EMITTING, max_step_tokens) * part.vocab * 8
    return FIXED_RESERVE_BYTES + max_step_tokens * width * model.dtype_bytes + logits


def kv_blocks(
    model: ModelSpec,
    device: DeviceSpec,
    tp: int = 1,
    memory_utilisation: float = 0.9,
    block_tokens: int = 16,
    max_step_tokens: int = 2048,
) -> int:
    """Blocks of `block_tokens` tokens that a replica of `tp` devices can hold, at least 1.

    Raises InputError if the model does not fit: with what is needed, what is there, and which `tp` would fit.
    """
    if not 0 < memory_utilisation <= 1:
        raise InputError(f"memory_utilisation must be above 0 and at most 1, not {memory_utilisation}")
    if block_tokens < 1 or max_step_tokens < 1:
        raise InputError(f"block_tokens {block_tokens} and max_step_tokens {max_step_tokens} must be at least 1")
    there = int(device.memory_gib * GIB * memory_utilisation)
    blocks = _free(model, tp, there, max_step_tokens) // (kv_bytes_per_token(model, tp) * block_tokens)
    if blocks >= 1:
        return blocks
    needed = there - _free(model, tp, there, max_step_tokens) + kv_bytes_per_token(model, tp) * block_tokens
    raise InputError(
        f"{model.name} does not fit on {device.name} with tp {tp}: it needs {needed / GIB:.1f} GiB a device "
        f"({weight_bytes(model, tp) / GIB:.1f} of them weights), {there / GIB:.1f} GiB may be used; "
        + _remedy(model, there, max_step_tokens, block_tokens)
    )


def _free(model: ModelSpec, tp: int, there: int, max_step_tokens: int) -> int:
    return there - weight_bytes(model, tp) - reserve_bytes(model, tp, max_step_tokens)


def _remedy(model: ModelSpec, there: int, max_step_tokens: int, block_tokens: int) -> str:
    for tp in range(1, model.q_heads + 1):
        if model.q_heads % tp == 0:
            block = kv_bytes_per_token(model, tp) * block_tokens
            if _free(model, tp, there, max_step_tokens) >= block:
                return f"tp {tp} would fit"
    return "no tp would fit"
