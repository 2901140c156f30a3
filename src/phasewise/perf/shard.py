"""What one device of a tensor-parallel replica holds of each layer: heads and widths. No times, no bytes.

Query heads, the feed-forward width and the vocabulary are split evenly; key-value heads are split as long as there
are enough of them and replicated beyond that. Norms are replicated.
"""

from __future__ import annotations

import msgspec

from phasewise.core.errors import InputError
from phasewise.core.spec import ModelSpec


class Shard(msgspec.Struct, frozen=True):
    """The share of one device: `q` and `kv` are widths (heads times head_dim), `ffn` and `vocab` counts of columns.

    `expert_ffn` is its part of each expert's width (all experts are on every device: no expert parallelism), `shared_ffn`
    its part of the shared experts'.
    """

    q_heads: int
    kv_heads: int
    q: int
    kv: int
    ffn: int
    vocab: int
    expert_ffn: int = 0
    shared_ffn: int = 0


def shard(model: ModelSpec, tp: int) -> Shard:
    """Split `model` over `tp` devices, rounding widths that do not divide up to the fullest device.

    Raises InputError if `tp` is not at least 1 or does not divide the query heads.
    """
    if tp < 1 or model.q_heads % tp:
        fits = [n for n in range(1, model.q_heads + 1) if model.q_heads % n == 0]
        raise InputError(
            f"tp {tp} does not divide the {model.q_heads} attention heads of {model.name}; possible: "
            + ", ".join(map(str, fits))
        )
    q_heads, kv_heads = model.q_heads // tp, -(-model.kv_heads // tp)
    return Shard(
        q_heads=q_heads,
        kv_heads=kv_heads,
        q=q_heads * model.head_dim,
        kv=kv_heads * model.head_dim,
        ffn=-(-model.ffn // tp),
        vocab=-(-model.vocab // tp),
        expert_ffn=-(-model.moe.ffn // tp) if model.moe else 0,
        shared_ffn=-(-model.moe.shared_ffn // tp) if model.moe else 0,
    )
