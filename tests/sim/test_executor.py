"""The modelled executor by hand: when a run ends, where an interrupt stops it, and who is said to have ended."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.action import Forget, Interrupt, Run
from phasewise.core.step import ALL, Chunk, Piece, StepPlan, total_ns
from phasewise.sim.clock import VirtualClock
from phasewise.sim.executor import ModelledExecutor
from phasewise.workload.truth import Truth


class Given:
    """Answers with the pieces that it is given."""

    basis = "given"

    def __init__(self, *pieces: Piece) -> None:
        self.answer = pieces
        self.asked: list[int] = []

    def pieces(self, chunks: object, decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        self.asked.append(steps)
        return self.answer


def replica(latency: Given, outputs: list[int], max_context: int = 1_000) -> tuple[VirtualClock, ModelledExecutor]:
    clock = VirtualClock()
    return clock, ModelledExecutor(clock, latency, Truth(np.array(outputs)), max_context)


def prompts(*tokens: int, preempt: tuple[int, ...] = ()) -> Run:
    chunks = tuple(Chunk(i, 0, n, n, ALL) for i, n in enumerate(tokens))
    return Run(0, StepPlan(chunks, preempt=preempt), 1, 0, 0)


def leap(repeat: int | None = None, preempt: tuple[int, ...] = ()) -> Run:
    return Run(1, StepPlan(cohorts=(ALL,), repeat=repeat, preempt=preempt), repeat, 1, 0)


def finish(clock: VirtualClock, executor: ModelledExecutor) -> tuple[int, tuple[int, ...]]:
    clock.now_ns = executor.lanes[0].end_ns
    return clock.now_ns, executor.done(0).ended


def test_a_leap_runs_to_the_first_end() -> None:
    latency = Given((10.0, 0.0, 1))
    clock, executor = replica(latency, [5, 3, 1])
    executor.run(prompts(4, 4, 4))
    assert finish(clock, executor) == (10, (2,))
    latency.answer = ((10.0, 0.0, 2),)
    executor.run(leap())
    assert latency.asked == [1, 2]
    assert finish(clock, executor) == (30, (1,))
    executor.run(leap(repeat=1))
    assert latency.asked[-1] == 1
    finish(clock, executor)
    executor.run(leap(repeat=50))
    assert latency.asked[-1] == 1


def test_an_answer_ends_at_the_context() -> None:
    latency = Given((10.0, 0.0, 1))
    clock, executor = replica(latency, [500], max_context=12)
    executor.run(prompts(8))
    finish(clock, executor)
    executor.run(leap())
    assert latency.asked[-1] == 3


def test_an_interrupt_at_a_boundary_stops_at_the_next() -> None:
    latency = Given((10.0, 0.0, 1))
    clock, executor = replica(latency, [100])
    executor.run(prompts(4))
    finish(clock, executor)
    latency.answer = ((10.0, 2.0, 99),)
    executor.run(leap())
    clock.now_ns = 10 + 22
    executor.interrupt(Interrupt(0))
    assert executor.lanes[0].end_ns == 10 + 36
    assert executor.done(0).pieces == ((10.0, 2.0, 3),)
    assert (10 + 36, 0) in clock.agenda


@given(
    st.lists(st.tuples(st.floats(1, 50), st.floats(0, 3), st.integers(1, 9)), min_size=1, max_size=4),
    st.floats(0, 1),
)
def test_an_interrupt_stops_at_the_first_boundary_after_it(pieces: list[Piece], share: float) -> None:
    total = sum(total_ns(piece, piece[2]) for piece in pieces)
    latency = Given((10.0, 0.0, 1))
    clock, executor = replica(latency, [10_000])
    executor.run(prompts(4))
    finish(clock, executor)
    latency.answer = tuple(pieces)
    executor.run(leap(repeat=sum(n for _, _, n in pieces)))
    began = clock.now_ns
    spent, boundaries = 0.0, []
    for piece in pieces:
        boundaries += [began + int(spent + total_ns(piece, i + 1) + 0.5) for i in range(piece[2])]
        spent += total_ns(piece, piece[2])
    clock.now_ns = began + int(share * total)
    executor.interrupt(Interrupt(0))
    later = [at for at in boundaries if at > clock.now_ns]
    assert executor.lanes[0].end_ns == (later[0] if later else boundaries[-1])
    kept = sum(n for _, _, n in executor.lanes[0].pieces)
    assert boundaries[kept - 1] == executor.lanes[0].end_ns


def test_fractions_are_carried_while_steps_follow_at_once_and_dropped_when_they_do_not() -> None:
    latency = Given((10.4, 0.0, 1))
    clock, executor = replica(latency, [100])
    executor.run(prompts(4))
    ends = [finish(clock, executor)[0]]
    for _ in range(4):
        executor.run(leap(repeat=1))
        ends.append(finish(clock, executor)[0])
    assert ends == [10, 21, 31, 42, 52]
    clock.now_ns = 100
    executor.run(leap(repeat=1))
    assert finish(clock, executor)[0] == 110


def test_the_preempted_go_on_from_where_they_were_and_the_forgotten_never_end() -> None:
    latency = Given((10.0, 0.0, 1))
    clock, executor = replica(latency, [6, 4])
    executor.run(prompts(4, 4))
    finish(clock, executor)
    executor.run(leap(repeat=1))
    finish(clock, executor)
    executor.run(Run(2, StepPlan((Chunk(0, 0, 6, 6, ALL),), (ALL,), (0,)), 1, 1, 0))
    assert finish(clock, executor) == (30, ())
    executor.forget(Forget(1))
    latency.answer = ((10.0, 0.0, 3),)
    executor.run(leap())
    # Two tokens before the preemption, one with the recomputed prompt, three more: six.
    assert latency.asked[-1] == 3
    assert finish(clock, executor) == (60, (0,))


def test_a_leap_in_which_nobody_ends_is_a_bug() -> None:
    _, executor = replica(Given((10.0, 0.0, 1)), [3])
    with pytest.raises(KeyError):
        executor.run(leap())
