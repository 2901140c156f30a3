"""Fit step times to measured steps: non-negative least squares on the relative error. It measures nothing itself.

A step is priced as `core.steptimes` lays down, with one fixed time for steps of every kind:

    time = fixed + chunk * chunks + f(prompt tokens) + pair * pairs + context * tokens read by chunks
         + g(sequences) + context * tokens read by decodes (+ more for both of these in a step with chunks)

with f and g straight lines, or lines that bend at given counts. No part may be negative: a step with more in it never takes
less, so the fit can be trusted a little beyond what was measured. Weighting by the reciprocal of the time makes a short step
count as much as a long one, and pulls the fit down by twice the variance of the noise (5 % of noise: 0.5 %). Steps with
prompts, with decodes and with both count alike, however many of each were measured: a grid measures a hundred mixed steps
for each step of decodes, of which a run mostly consists. The error reported is that of steps which the fit had not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from phasewise.core.errors import InputError
from phasewise.core.step import Chunk
from phasewise.core.steptimes import DecodeTimes, FitError, PrefillTimes, StepTimes, Table
from phasewise.perf.fitted import LEAST_US, Fitted

Floats = NDArray[np.float64]
Knots = tuple[tuple[int, ...], tuple[int, ...]]
"""Where the time bends: counts of prompt tokens, and of decodes; empty: nowhere."""
TOKEN, SEQUENCE = 2, 5  # where these stand among the terms


class MeasuredStep(msgspec.Struct, frozen=True):
    """One step as it ran: chunks as (tokens computed before, tokens), decoding sequences, the tokens of context that these
    had before the step, all together, and how long it took."""

    chunks: tuple[tuple[int, int], ...]
    sequences: int
    context: int
    time_us: float


def fit(
    steps: Sequence[MeasuredStep],
    source: str,
    *,
    token_knots: Sequence[int] = (),
    batch_knots: Sequence[int] = (),
    folds: int = 5,
    seed: int = 0,
    model: str | None = None,
    device: str | None = None,
    tp: int | None = None,
    date: str | None = None,
) -> StepTimes:
    """Step times fitted to measured steps, with the error on `folds` parts that were left out in turn (drawn from `seed`).

    `token_knots` and `batch_knots`: where the time bends as a step has more prompt tokens, or more decodes, up to at least
    the most that were measured; without them it is straight. InputError for too few steps, for steps without prompts or without
    decodes, for a time that is none, and if scipy is not there.
    """
    knots = (tuple(token_knots), tuple(batch_knots))
    _check(steps, knots, folds)
    rng = np.random.default_rng(seed)
    part = rng.permutation(len(steps)) % folds
    errors = np.empty(len(steps))
    for fold in range(folds):
        found = Fitted(_solved([s for s, p in zip(steps, part, strict=True) if p != fold], knots, source))
        for i in map(int, np.flatnonzero(part == fold)):
            errors[i] = relative_error(found, steps[i])
    off = FitError(len(steps), float(errors.mean()), float(np.quantile(errors, 0.9)), float(errors.max()))
    times = _solved(steps, knots, source)
    return msgspec.structs.replace(times, model=model, device=device, tp=tp, date=date, error=off)


def relative_error(found: Fitted, step: MeasuredStep) -> float:
    """How far a model is off for a measured step, as a share of its time."""
    chunks = [Chunk(i, start, tokens, start + tokens) for i, (start, tokens) in enumerate(step.chunks)]
    time_ns = found.pieces(chunks, step.sequences, step.context, 1)[0][0]
    return abs(time_ns / 1e3 - step.time_us) / step.time_us


def _check(steps: Sequence[MeasuredStep], knots: Knots, folds: int) -> None:
    if folds < 2:
        raise InputError(f"{folds} folds; give 2 or more")
    least = folds * (9 + len(knots[0]) + len(knots[1]))
    if len(steps) < least:
        raise InputError(f"{len(steps)} measured steps; give {least} or more")
    for i, step in enumerate(steps):
        if not 0 < step.time_us < float("inf"):
            raise InputError(f"step {i} took {step.time_us} us; give a time above 0")
        if not step.chunks and not step.sequences:
            raise InputError(f"step {i} is empty; a step has chunks or decodes")
    for what, there in (("prompts", any(s.chunks for s in steps)), ("decodes", any(s.sequences for s in steps))):
        if not there:
            raise InputError(f"no measured step has {what}; measure some")
    most = max(_tokens(step) for step in steps), max(step.sequences for step in steps)
    for name, at, count in zip(("token_knots", "batch_knots"), knots, most, strict=True):
        if at and (at[0] < 1 or list(at) != sorted(set(at)) or len(at) < 2 or at[-1] < count):
            raise InputError(f"{name} must rise from 1 or more to at least {count}, the most that was measured")


def _solved(steps: Sequence[MeasuredStep], knots: Knots, source: str) -> StepTimes:
    """The times of least squared relative error."""
    try:
        from scipy.optimize import nnls  # type: ignore[import-untyped]
    except ImportError:
        raise InputError("a fit needs scipy; pip install 'phasewise[fit]'") from None
    counts = [_tokens(step) for step in steps], [step.sequences for step in steps]
    token_bends, batch_bends = (_bends(np.array(count), at) for count, at in zip(counts, knots, strict=True))
    columns = np.hstack([np.array([_terms(step) for step in steps]), token_bends, batch_bends])
    columns /= np.array([[step.time_us] for step in steps])
    # A line that bends stands in for the straight one.
    for column, at in zip((TOKEN, SEQUENCE), knots, strict=True):
        if at:
            columns[:, column] = 0.0
    # Columns differ by many orders of magnitude; one that is nowhere in use keeps its zero.
    scale = np.linalg.norm(columns, axis=0)
    scale[scale == 0] = 1.0
    weight = _weights(steps)
    found: Any = nnls(weight[:, None] * columns / scale, weight)[0] / scale
    fixed, chunk, token, pair, reads, sequence, context, beside, beside_context, *more = (float(x) for x in found)
    fixed = max(fixed, LEAST_US)
    by_tokens = _table(knots[0], fixed, more[: token_bends.shape[1]])
    by_batch = _table(knots[1], fixed, more[token_bends.shape[1] :])
    return StepTimes(
        kind="table" if any(knots) else "linear",
        source=source,
        prefill=PrefillTimes(0.0 if by_tokens else fixed, chunk, token, pair, reads, by_tokens),
        decode=(DecodeTimes(0.0 if by_batch else fixed, sequence, context, by_batch),),
        mixed_sequence_us=beside,
        mixed_context_us=beside_context,
    )


def _weights(steps: Sequence[MeasuredStep]) -> Floats:
    """Weights of the steps' errors: steps with prompts, with decodes and with both count alike, however many of each there
    are."""
    kind = np.array([bool(step.chunks) + 2 * bool(step.sequences) for step in steps])
    weights: Floats = 1.0 / np.sqrt(np.bincount(kind)[kind])
    return weights


def _terms(step: MeasuredStep) -> tuple[float, ...]:
    """What the nine coefficients multiply in a step."""
    pairs = sum(q * (start + (q + 1) / 2) for start, q in step.chunks)
    reads = sum(start + q for start, q in step.chunks)
    context = step.context + step.sequences
    beside = (step.sequences, context) if step.chunks else (0, 0)
    return 1.0, len(step.chunks), _tokens(step), pairs, reads, step.sequences, context, *beside


def _tokens(step: MeasuredStep) -> int:
    return sum(q for _, q in step.chunks)


def _bends(count: NDArray[np.int64], knots: tuple[int, ...]) -> Floats:
    """How much of each stretch between neighbouring points lies below a count, 0 to 1, steps x (points - 1)."""
    stretches = [np.interp(count, (low, high), (0.0, 1.0)) for low, high in pairwise(knots)]
    return np.stack(stretches, axis=1) if stretches else np.empty((len(count), 0))


def _table(knots: tuple[int, ...], fixed: float, more: list[float]) -> Table | None:
    return Table(knots, tuple(accumulate(more, initial=fixed))) if knots else None
