"""Fit step times to measured steps: non-negative least squares on the relative error. It measures nothing itself.

A step is priced as `core.steptimes` lays down, with one fixed time for steps of every kind:

    time = fixed + chunk * chunks + token * prompt tokens + pair * pairs + context * tokens read by chunks
         + f(sequences) + context * tokens read by decodes

with f a straight line, or a line through given batch sizes. No part may be negative: a step with more in it never takes less,
so the fit can be trusted a little beyond what was measured. Weighting by the reciprocal of the time makes a short step
count as much as a long one, and pulls the fit down by twice the variance of the noise (5 % of noise: 0.5 %). The error
reported is that of steps which the fit had not seen.
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
    batch_knots: Sequence[int] = (),
    folds: int = 5,
    seed: int = 0,
    model: str | None = None,
    device: str | None = None,
    tp: int | None = None,
    date: str | None = None,
) -> StepTimes:
    """Step times fitted to measured steps, with the error on `folds` parts that were left out in turn (drawn from `seed`).

    `batch_knots`: batch sizes through which the time of a decode step bends, from the smallest to at least the largest that
    was measured; without them it is straight in the batch. InputError for too few steps, for steps without prompts or without
    decodes, for a time that is none, and if scipy is not there.
    """
    knots = tuple(batch_knots)
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


def _check(steps: Sequence[MeasuredStep], knots: tuple[int, ...], folds: int) -> None:
    if folds < 2:
        raise InputError(f"{folds} folds; give 2 or more")
    least = folds * (7 + len(knots))
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
    largest = max(step.sequences for step in steps)
    if knots and (min(knots) < 1 or list(knots) != sorted(set(knots)) or len(knots) < 2 or knots[-1] < largest):
        raise InputError(f"batch_knots must rise from 1 or more to at least {largest}, the largest batch measured")


def _solved(steps: Sequence[MeasuredStep], knots: tuple[int, ...], source: str) -> StepTimes:
    """The times of least squared relative error."""
    try:
        from scipy.optimize import nnls  # type: ignore[import-untyped]
    except ImportError:
        raise InputError("a fit needs scipy; pip install 'phasewise[fit]'") from None
    columns = np.array([_terms(step) for step in steps]) / np.array([[step.time_us] for step in steps])
    if knots:
        bends = _bends(np.array([step.sequences for step in steps]), knots)
        columns = np.hstack([columns, bends / np.array([[step.time_us] for step in steps])])
        columns[:, 5] = 0.0
    # Columns differ by many orders of magnitude; one that is nowhere in use keeps its zero.
    scale = np.linalg.norm(columns, axis=0)
    scale[scale == 0] = 1.0
    found: Any = nnls(columns / scale, np.ones(len(steps)))[0] / scale
    fixed, chunk, token, pair, reads, sequence, context, *more = (float(x) for x in found)
    fixed = max(fixed, LEAST_US)
    prefill = PrefillTimes(fixed, chunk, token, pair, reads)
    if not knots:
        return StepTimes("linear", source, prefill, (DecodeTimes(fixed, sequence, context),))
    table = Table(knots, tuple(accumulate(more, initial=fixed)))
    return StepTimes("table", source, prefill, (DecodeTimes(context_us=context, by_batch=table),))


def _terms(step: MeasuredStep) -> tuple[float, ...]:
    """What the seven coefficients multiply in a step."""
    tokens = sum(q for _, q in step.chunks)
    pairs = sum(q * (start + (q + 1) / 2) for start, q in step.chunks)
    reads = sum(start + q for start, q in step.chunks)
    context = step.context + step.sequences
    return 1.0, len(step.chunks), tokens, pairs, reads, step.sequences, context


def _bends(batch: NDArray[np.int64], knots: tuple[int, ...]) -> Floats:
    """How much of each stretch between neighbouring points lies below a batch, 0 to 1, steps x (points - 1)."""
    return np.stack([np.interp(batch, (low, high), (0.0, 1.0)) for low, high in pairwise(knots)], axis=1)
