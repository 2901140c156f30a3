"""Published latency models by name, for the models and devices that their authors measured. It fits nothing itself.

`distserve` (Zhong et al., OSDI 2024): linear fits, as the released simulator uses them. Milliseconds:

    prefill = a + b * t + c * t2 + 1 + overhead       t: prompt tokens of the step, t2: the squares of its prompts, summed
    decode  = a + b * t + c * n + overhead            t: context tokens with the new ones, n: sequences
    overhead = 2 + 0.0001 * context tokens            the engine's, each iteration on the first pipeline stage

Decode has one fit below 95 sequences and another from there on; in prefill the context tokens are those of the prompts. In a
pipeline the fit itself is divided by the stages; the 1 ms is taken to be a constant of each stage.

Ours: a chunk of q tokens after c computed ones counts (c + q)^2 - c^2 towards t2 and c + q towards the context, so that the
chunks of a prompt sum to its square; a step with chunks and decodes is the sum of both less the smaller of the two constants.
The authors' engine has neither; their simulator, asked to cut prompts, counts a chunk's own square and leaves out the decodes
beside it.

`splitwise` (Patel et al., ISCA 2024): two lines through medians of measured Llama-2-70B, one for the prompt phase and one for
the token phase, over batch tokens: prompt size times batch. Ours: batch tokens of a decode step are the tokens of context that
it reads, new ones included; the released simulator looks the time up at the number of sequences instead, which is below every
measured point, so that there a batch of 64 costs hardly more than one of 1. As there, a step with both phases takes 1.1 times
the prompt time at all of its tokens, decodes counted as one each. A table cannot say what a chunk's computed context costs:
here nothing, so long prompts cut small come out too fast. Before its first point (128 tokens) a line is flat here, and
goes on as between its first two there.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from phasewise.core.errors import InputError, unknown
from phasewise.core.spec import DeviceSpec, ModelSpec
from phasewise.core.steptimes import DecodeTimes, PrefillTimes, StepTimes, Table

ROOFLINE = "roofline"
NAMES = ("distserve", "splitwise")
# What DistServe's released simulator adds to its fits, milliseconds.
_PREFILL_MS = 1.0
_OVERHEAD_MS, _OVERHEAD_CONTEXT_MS = 2.0, 0.0001
_MIXED = 1.1  # Splitwise's released simulator, for a step with both phases
_US = 1e3


Key = tuple[str, str, int]
"""Model, device, and devices that share a replica."""


def published(name: str, model: ModelSpec, device: DeviceSpec, tp: int, where: str | None = None) -> StepTimes:
    """The published model `name` for `model` on `tp` devices of a kind.

    Models are told apart by the letters and digits in the last part of their name, without the endings `hf` and `chat`.
    InputError for an unknown name, and for what the authors did not measure: it lists what they did.
    """
    if name not in NAMES:
        raise unknown("latency model", name, [ROOFLINE, *NAMES], where)
    make = _distserve if name == "distserve" else _splitwise
    rows = _rows(name)
    for key, row in rows.items():
        if same_model(key[0], model.name) and key[1:] == (device.name, tp):
            return make(key, row)
    what = f"'{name}' does not cover {model.name}, tp {tp} on {device.name}; it covers {_covered(rows)}"
    raise InputError(what, where)


def same_model(one: str, other: str) -> bool:
    """Whether two names mean one model: case, signs, organisation and the endings `hf` and `chat` aside."""
    return _plain(one) == _plain(other)


def _plain(name: str) -> str:
    letters = re.sub("[^a-z0-9]", "", name.lower().rsplit("/", 1)[-1])
    return re.sub("(hf|chat)+$", "", letters)


@cache
def _rows(name: str) -> dict[Key, dict[str, Any]]:
    text = files("phasewise.perf").joinpath(f"data/{name}.toml").read_text(encoding="utf-8")
    found: dict[Key, dict[str, Any]] = {}
    for outer, rows in tomllib.loads(text).items():
        pair = (outer, "a100") if name == "distserve" else ("llama-2-70b", outer)
        found |= {(*pair, int(tp.removeprefix("tp"))): row for tp, row in rows.items()}
    return found


def _covered(keys: Iterable[Key]) -> str:
    degrees: dict[tuple[str, str], list[str]] = {}
    for model, device, tp in keys:
        degrees.setdefault((model, device), []).append(str(tp))
    return "; ".join(f"{model} on {device}, tp {', '.join(tps)}" for (model, device), tps in degrees.items())


def _distserve(key: Key, row: dict[str, Any]) -> StepTimes:
    # A chunk's share of t2 is q * (2c + q): twice its pairs, q * (2c + q + 1) / 2, less its q tokens.
    a, b, c = row["prefill"]
    prefill = PrefillTimes(
        step_us=(a + _PREFILL_MS + _OVERHEAD_MS) * _US,
        token_us=(b - c) * _US,
        pair_us=2 * c * _US,
        context_us=_OVERHEAD_CONTEXT_MS * _US,
    )
    return StepTimes(
        kind="linear",
        source=f"DistServe's fit of {key[0]}, tp {key[2]} on {key[1]} (OSDI 2024)",
        prefill=prefill,
        decode=(_decode(row["decode_small"], row["split_batch"]), _decode(row["decode_large"], None)),
        model=key[0],
        device=key[1],
        tp=key[2],
        stage_us=_PREFILL_MS * _US,
        first_us=_OVERHEAD_MS * _US,
        first_context_us=_OVERHEAD_CONTEXT_MS * _US,
    )


def _decode(fit: list[float], below: int | None) -> DecodeTimes:
    a, b, c = fit
    return DecodeTimes(
        step_us=(a + _OVERHEAD_MS) * _US,
        sequence_us=c * _US,
        context_us=(b + _OVERHEAD_CONTEXT_MS) * _US,
        below_batch=below,
    )


def _splitwise(key: Key, row: dict[str, Any]) -> StepTimes:
    at = tuple(row["tokens"])
    prompt, token = (Table(at, tuple(ms * _US for ms in row[column])) for column in ("prompt_ms", "token_ms"))
    return StepTimes(
        kind="table",
        source=f"Splitwise's measurements of {key[0]}, tp {key[2]} on {key[1]} (ISCA 2024)",
        prefill=PrefillTimes(by_tokens=prompt),
        decode=(DecodeTimes(by_context=token),),
        model=key[0],
        device=key[1],
        tp=key[2],
        mixed_factor=_MIXED,
    )
