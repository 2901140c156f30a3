"""How pipeline parallelism cuts a model: which layers each stage holds. No times, no bytes.

Of L layers over K stages the first L mod K stages hold one more than the others. The first stage has the embedding, the last
one the last norm and the head; where these share one table (tied embeddings), both ends hold a copy. Plain layers in front of
experts stay in front; layers with a window are taken to be spread evenly.
"""

from __future__ import annotations

import msgspec

from phasewise.core.errors import InputError
from phasewise.core.model import ModelSpec
from phasewise.core.view import MOST_COHORTS


class Stage(msgspec.Struct, frozen=True):
    """One stage: `model` has only its layers, and it stands at the `first` or `last` place of the pipeline."""

    model: ModelSpec
    first: bool
    last: bool


def stages(model: ModelSpec, pp: int) -> tuple[Stage, ...]:
    """`model` cut into `pp` stages. InputError unless every stage has a layer, and a replica a name for each one's batch."""
    most = min(model.layers, MOST_COHORTS)
    if not 1 <= pp <= most:
        raise InputError(f"pp is {pp}; {model.name} has {model.layers} layers: give 1 to {most} stages")
    each, more = divmod(model.layers, pp)
    ends = [(s + 1) * each + min(s + 1, more) for s in range(pp)]
    return tuple(
        Stage(_part(model, begin, end), begin == 0, end == model.layers)
        for begin, end in zip([0, *ends[:-1]], ends, strict=True)
    )


def _part(model: ModelSpec, begin: int, end: int) -> ModelSpec:
    """The layers from `begin` to `end` (exclusive) as a model of their own."""
    moe, window = model.moe, model.window
    if moe:
        moe = msgspec.structs.replace(moe, dense_layers=min(max(moe.dense_layers - begin, 0), end - begin))
    if window:
        before, within = (place * window.layers // model.layers for place in (begin, end))
        window = msgspec.structs.replace(window, layers=within - before)
    return msgspec.structs.replace(model, layers=end - begin, moe=moe, window=window)
