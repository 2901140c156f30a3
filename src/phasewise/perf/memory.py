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

Of a pipeline each device holds the weights, and the keys and values, of its stage's layers alone; all stages keep as many
blocks as the fullest has room for. The reserve is that of one stage, the logits with the last.
"""

from __future__ import annotations

from phasewise.core.errors import InputError
from phasewise.core.spec import DeviceSpec, ModelSpec
from phasewise.core.view import MOST_COHORTS
from phasewise.perf.shard import shard
from phasewise.perf.stages import Stage, stages

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


def reserve_bytes(model: ModelSpec, tp: int, max_step_tokens: int, last: bool = True) -> int:
    """Bytes that each device keeps for a step of up to `max_step_tokens` tokens, and for what is not the model.

    The logits are with the `last` stage.
    """
    part = shard(model, tp)
    ways = 3 if model.gated_ffn else 2
    inner = ways * part.ffn
    if model.moe:
        chosen = model.moe.per_token * (ways * part.expert_ffn + model.hidden)
        inner = max(inner * (model.moe.dense_layers > 0), chosen + ways * part.shared_ffn)
    width = 4 * model.hidden + part.q + 2 * part.kv + inner
    logits = min(MAX_EMITTING, max_step_tokens) * part.vocab * 8 * last
    return FIXED_RESERVE_BYTES + max_step_tokens * width * model.dtype_bytes + logits


def kv_blocks(
    model: ModelSpec,
    device: DeviceSpec,
    tp: int = 1,
    memory_utilisation: float = 0.9,
    block_tokens: int = 16,
    max_step_tokens: int = 2048,
    pp: int = 1,
) -> int:
    """Blocks of `block_tokens` tokens that a replica of `pp` stages of `tp` devices can hold, at least 1.

    Raises InputError if the model does not fit: with what is needed, what is there, and which `tp` or `pp` would fit.
    """
    if not 0 < memory_utilisation <= 1:
        raise InputError(f"memory_utilisation must be above 0 and at most 1, not {memory_utilisation}")
    if block_tokens < 1 or max_step_tokens < 1:
        raise InputError(f"block_tokens {block_tokens} and max_step_tokens {max_step_tokens} must be at least 1")
    there = int(device.memory_gib * GIB * memory_utilisation)
    shard(model, tp)  # refuses a degree that does not divide
    parts = stages(model, pp)
    blocks, fullest = min(
        ((_blocks(part, tp, there, max_step_tokens, block_tokens), i) for i, part in enumerate(parts))
    )
    if blocks >= 1:
        return blocks
    part = parts[fullest]
    block = kv_bytes_per_token(part.model, tp) * block_tokens
    needed = there - _free(part, tp, there, max_step_tokens) + block
    weights = part.model.bytes_of(part.model.weights(tp, part.first, part.last))
    degrees = f"tp {tp}, pp {pp}" if pp > 1 else f"tp {tp}"
    raise InputError(
        f"{model.name} does not fit on {device.name} with {degrees}: it needs {needed / GIB:.1f} GiB a device "
        f"({weights / GIB:.1f} of them weights), {there / GIB:.1f} GiB may be used; "
        + _remedy(model, tp, pp, there, max_step_tokens, block_tokens)
    )


def _free(part: Stage, tp: int, there: int, max_step_tokens: int) -> int:
    weights = part.model.bytes_of(part.model.weights(tp, part.first, part.last))
    return there - weights - reserve_bytes(part.model, tp, max_step_tokens, part.last)


def _blocks(part: Stage, tp: int, there: int, max_step_tokens: int, block_tokens: int) -> int:
    """Blocks for which a device of one stage has room; below 0 if not even its weights fit."""
    return _free(part, tp, there, max_step_tokens) // (kv_bytes_per_token(part.model, tp) * block_tokens)


def _remedy(model: ModelSpec, tp: int, pp: int, there: int, max_step_tokens: int, block_tokens: int) -> str:
    """The least `tp` with which it would fit, or else the least `pp`."""

    def fits(tp: int, pp: int) -> bool:
        return all(_blocks(part, tp, there, max_step_tokens, block_tokens) >= 1 for part in stages(model, pp))

    for degree in range(1, model.q_heads + 1):
        if model.q_heads % degree == 0 and fits(degree, pp):
            return f"tp {degree} would fit"
    for degree in range(pp + 1, min(model.layers, MOST_COHORTS) + 1):
        if fits(tp, degree):
            return f"pp {degree} would fit"
    return "no tp would fit"
