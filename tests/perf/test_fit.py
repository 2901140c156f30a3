"""Fitting step times: known coefficients come back, the reported error is that of unseen steps, and bad input is refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from phasewise.core.errors import InputError
from phasewise.core.step import Chunk
from phasewise.core.steptimes import DecodeTimes, PrefillTimes, StepTimes, Table
from phasewise.perf.fit import MeasuredStep, fit, relative_error
from phasewise.perf.fitted import Fitted

KNOWN = StepTimes(
    "linear",
    "made up",
    PrefillTimes(6_000.0, 25.0, 30.0, 0.002, 0.05),
    (DecodeTimes(6_000.0, 40.0, 0.07),),
    mixed_sequence_us=20.0,
    mixed_context_us=0.03,
)
TOKENS, BATCH = (1, 300, 5_000), (1, 8, 32, 64)
BENT = msgspec.structs.replace(
    KNOWN,
    kind="table",
    prefill=PrefillTimes(0.0, 25.0, 0.0, 0.002, 0.05, Table(TOKENS, (6_000.0, 6_500.0, 200_000.0))),
    decode=(DecodeTimes(by_batch=Table(BATCH, (6_000.0, 6_100.0, 8_000.0, 8_200.0)), context_us=0.07),),
)


def measured(times: StepTimes, noise: float, steps: int = 400, seed: int = 1) -> list[MeasuredStep]:
    """Steps of every kind, as a model has them, each off by chance."""
    rng, model = np.random.default_rng(seed), Fitted(times)
    out = []
    for i in range(steps):
        count = 0 if i % 3 == 0 else int(rng.integers(1, 4))
        chunks = tuple((int(rng.integers(0, 8_000)), int(rng.integers(1, 1_500))) for _ in range(count))
        decodes = int(rng.integers(1, 65)) if i % 3 != 1 else 0
        context = decodes * int(rng.integers(1, 4_000))
        spread = [Chunk(n, start, q, 1 << 20) for n, (start, q) in enumerate(chunks)]
        time_us = model.pieces(spread, decodes, context, 1)[0][0] / 1e3
        out.append(MeasuredStep(chunks, decodes, context, time_us * (1 + noise * rng.standard_normal())))
    return out


@pytest.mark.parametrize(("times", "knots"), [(KNOWN, ((), ())), (BENT, (TOKENS, BATCH))], ids=["linear", "table"])
def test_known_times_come_back(times: StepTimes, knots: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    found = fit(measured(times, 0.0), "made up", token_knots=knots[0], batch_knots=knots[1])
    assert found.kind == times.kind
    assert msgspec.structs.astuple(found.prefill)[:5] == pytest.approx(
        msgspec.structs.astuple(times.prefill)[:5], rel=1e-6
    )
    (ours,), (theirs,) = found.decode, times.decode
    assert ours.context_us == pytest.approx(theirs.context_us)
    assert ours.sequence_us == pytest.approx(theirs.sequence_us)
    assert found.mixed_sequence_us == pytest.approx(times.mixed_sequence_us)
    assert found.mixed_context_us == pytest.approx(times.mixed_context_us)
    for mine, known in ((ours.by_batch, theirs.by_batch), (found.prefill.by_tokens, times.prefill.by_tokens)):
        assert (mine is None) == (known is None)
        if mine is not None and known is not None:
            assert mine.at == known.at
            assert mine.times_us == pytest.approx(known.times_us)
    assert found.error is not None
    assert found.error.points == 400
    assert found.error.worst < 1e-6


def test_noise_is_reported_as_error_and_averaged_out() -> None:
    found = fit(measured(KNOWN, 0.05), "made up")
    assert found.error is not None
    # The mean of |N(0, 5 %)| is 4 %, and a tenth exceeds 8.2 %: the fit adds next to nothing to it. Dividing by measured
    # times favours those that came out short, and pulls the fit down by twice the variance: half a percent.
    assert found.error.mean == pytest.approx(0.04, rel=0.15)
    assert found.error.p90 == pytest.approx(0.082, rel=0.15)
    clean = measured(KNOWN, 0.0, seed=2)
    assert np.mean([relative_error(Fitted(found), step) for step in clean]) < 0.015


def test_the_error_is_that_of_unseen_steps() -> None:
    """With few and noisy steps a fit is nearer to those that it has seen."""
    steps = measured(KNOWN, 0.2, 60)
    found = fit(steps, "made up")
    assert found.error is not None
    assert found.error.mean > 1.05 * np.mean([relative_error(Fitted(found), step) for step in steps])


def test_a_kind_of_step_counts_the_same_however_often_it_was_measured() -> None:
    steps = measured(KNOWN, 0.1, 150)
    often = [*steps, *9 * [step for step in steps if step.chunks and step.sequences]]
    few, many = fit(steps, "made up"), fit(often, "made up")
    assert msgspec.structs.astuple(few.prefill)[:5] == pytest.approx(
        msgspec.structs.astuple(many.prefill)[:5], rel=1e-6
    )
    assert few.decode[0].context_us == pytest.approx(many.decode[0].context_us)


def test_no_part_is_negative() -> None:
    """Noise alone would make several coefficients negative in plain least squares."""
    rng = np.random.default_rng(3)
    steps = [msgspec.structs.replace(s, time_us=float(rng.uniform(5e3, 6e3))) for s in measured(KNOWN, 0.0, 80)]
    found = fit(steps, "made up")
    assert min(msgspec.structs.astuple(found.prefill)[:5]) >= 0
    assert min(msgspec.structs.astuple(found.decode[0])[:3]) >= 0


@pytest.mark.parametrize(
    ("steps", "knots", "says"),
    [
        (measured(KNOWN, 0, 20), (), "20 measured steps; give 45 or more"),
        ([s for s in measured(KNOWN, 0) if not s.chunks], (), "no measured step has prompts"),
        ([s for s in measured(KNOWN, 0) if not s.sequences], (), "no measured step has decodes"),
        ([*measured(KNOWN, 0), MeasuredStep(((0, 5),), 0, 0, 0.0)], (), "step 400 took 0.0 us"),
        ([*measured(KNOWN, 0), MeasuredStep((), 0, 0, 5.0)], (), "step 400 is empty"),
        (measured(KNOWN, 0), (1, 8), "batch_knots must rise from 1 or more to at least 6"),
        (measured(KNOWN, 0), (8, 1, 99), "batch_knots must rise"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_fitted(steps: list[MeasuredStep], knots: tuple[int, ...], says: str) -> None:
    with pytest.raises(InputError) as caught:
        fit(steps, "made up", batch_knots=knots)
    assert says in str(caught.value)
