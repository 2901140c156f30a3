"""Step times as a fit or a table states them: what a latency file holds. It does not know how a step is priced from them.

All times are microseconds, because what one token or one pair costs is a small part of a millisecond, and YAML takes
`7e-6` for text.
"""

from __future__ import annotations

import msgspec


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line through measured points: `times_us[i]` at `at[i]`, a rising count of tokens or sequences.

    Between two points the line is straight. Before the first it is flat, and after the last it goes on as between the last
    two, unless that would fall.
    """

    at: tuple[int, ...]
    times_us: tuple[float, ...]


class PrefillTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the prompt chunks of a step take; everything given is added up.

    `step_us` once a step, `chunk_us` for each chunk, `token_us` for each prompt token computed. A chunk of q tokens after c
    computed ones costs `pair_us` for each of its q * (c + (q + 1) / 2) pairs (a token sees itself and what comes before), and
    `context_us` for each of the c + q tokens that it reads. `by_tokens` is a table over the prompt tokens of the step.
    """

    step_us: float = 0.0
    chunk_us: float = 0.0
    token_us: float = 0.0
    pair_us: float = 0.0
    context_us: float = 0.0
    by_tokens: Table | None = None


class DecodeTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the decodes of a step take; everything given is added up.

    `step_us` once a step, `sequence_us` for each sequence, `context_us` for each token of context that is read, the new ones
    included. `by_batch` is a table over the number of sequences, `by_context` one over the tokens of context. `below_batch`:
    this holds for steps of fewer sequences than that (None: for all).
    """

    step_us: float = 0.0
    sequence_us: float = 0.0
    context_us: float = 0.0
    by_batch: Table | None = None
    by_context: Table | None = None
    below_batch: int | None = None


class FitError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a fit is off, as a share of the measured time, on measurements that it had not seen: `points` of them."""

    points: int
    mean: float
    p90: float
    worst: float


class StepTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The times of a step on one replica, and what they were measured for (`model`, `device`, `tp`; None: not said).

    A step with chunks and decodes takes both parts, less the smaller of their two fixed times, so that the fixed time is paid
    once: `step_us`, and the first time of a table. On top come `mixed_sequence_us` for each of its decodes and
    `mixed_context_us` for each token of context that these read, because some attention kernels are slower at decodes beside
    a chunk. With `mixed_factor` such a step takes instead that many times what its tokens would take as prompt tokens, decodes
    counted as one each. `decode` holds one part, or several split by `below_batch`.

    The stages of a pipeline share these times evenly, but for what is said here: of a step with prompt chunks every stage pays
    `stage_us` anew; of any step the first alone pays `first_us`, and `first_context_us` for each token of context that is read.
    """

    kind: str
    source: str
    prefill: PrefillTimes
    decode: tuple[DecodeTimes, ...]
    model: str | None = None
    device: str | None = None
    tp: int | None = None
    date: str | None = None
    error: FitError | None = None
    mixed_sequence_us: float = 0.0
    mixed_context_us: float = 0.0
    mixed_factor: float | None = None
    stage_us: float = 0.0
    first_us: float = 0.0
    first_context_us: float = 0.0
