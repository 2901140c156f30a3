"""How far a run is by a belief: against its steps one by one. When a replica reports, against the rule."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.control.reporter import progress
from phasewise.core.action import Run
from phasewise.core.step import ALL, Chunk, StepPlan, moved_on
from phasewise.perf.latency import LatencyModel
from worlds import ConstantLatency, ToyLatency

BELIEFS: list[LatencyModel] = [
    ConstantLatency(700),
    ToyLatency(base=900, per_context=2),
    ToyLatency(base=900, per_context=2, split=3),
    ToyLatency(whole=False, base=900, per_context=2),
    ToyLatency(whole=False, base=900, per_context=2, split=5),
]


def stepped(belief: LatencyModel, run: Run, steps: int) -> list[float]:
    """How long each step takes, asked one by one."""
    found = []
    for i in range(steps):
        chunks = tuple(moved_on(chunk, i) for chunk in run.plan.chunks)
        found.append(belief.pieces(chunks, run.decodes, run.context + i * run.decodes, 1)[0][0])
    return found


@given(
    st.sampled_from(BELIEFS),
    st.sampled_from([None, 1, 2, 7, 40, 200]),
    st.integers(1, 9),
    st.integers(1, 200),
    st.integers(0, 200_000),
    st.booleans(),
)
def test_a_run_is_where_its_steps_one_by_one_have_brought_it(
    belief: LatencyModel, repeat: int | None, decodes: int, context: int, spent_ns: int, prompt: bool
) -> None:
    chunks = (Chunk(0, 8, 4, 12),) if prompt else ()
    run = Run(0, StepPlan(chunks, (ALL,), (), repeat), repeat, decodes, context)
    done, end_ns, step_ns, slope_ns = progress(belief, run, spent_ns)
    times = stepped(belief, run, (repeat or 300) + 2)
    ends = [int(t + 0.5) for t in accumulate(times)]
    most = len(ends) if repeat is None else repeat
    wanted = min(sum(end <= spent_ns for end in ends[:most]), most - 1)
    # Sums of fractions in another order may round to the next nanosecond.
    if any(abs(end - spent_ns) <= 1 for end in ends) and not all(t == int(t) for t in times):
        return
    assert done == wanted
    assert end_ns == pytest.approx(ends[done], abs=1)
    if prompt:
        assert (step_ns, slope_ns) == (pytest.approx(times[done]), 0.0)
    else:
        assert step_ns == pytest.approx(times[done + 1])
        assert slope_ns == pytest.approx(
            times[done + 2] - times[done + 1] if done + 2 < len(times) else slope_ns, abs=1e-6
        )


def test_a_run_that_takes_longer_than_believed_is_in_its_last_step() -> None:
    run = Run(0, StepPlan((), (ALL,), (), 5), 5, 2, 100)
    assert progress(ConstantLatency(1_000), run, 9_000) == (4, 5_000, 1_000.0, 0.0)
