"""The search as a pure function of answers: it ends where the answer turns, to its tolerance, in whatever order it is told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from phasewise.planner.search import LEAST, MOST, Bracket, ahead, path


def searched(start: float, turn: float, tolerance: float) -> tuple[list[float], Bracket]:
    """Ask until the end; a rate is feasible up to `turn`."""
    known: dict[float, bool] = {}
    while True:
        asked, end = path(start, known, tolerance)
        if isinstance(end, Bracket):
            return asked, end
        known[end] = end <= turn


@given(st.floats(0.01, 1e4), st.floats(0.01, 12), st.sampled_from([0.1, 0.025, 0.001]))
def test_the_bracket_holds_the_turn(start: float, times: float, tolerance: float) -> None:
    turn = start * times
    asked, found = searched(start, turn, tolerance)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= turn < found.high
    # Rates have six digits, so an end may be off by a millionth.
    assert found.high - found.low <= tolerance * found.high * (1 + 1e-5) + 2e-6 * found.high
    assert len(asked) == len(set(asked)) < 30


@given(st.floats(0.01, 1e4))
def test_a_turn_that_is_not_there_is_not_made_up(start: float) -> None:
    asked, found = searched(start, float("inf"), 0.025)
    assert found == Bracket(asked[-1], None)
    assert start * MOST / 1.25 < asked[-1] <= start * MOST
    asked, found = searched(start, 0.0, 0.025)
    assert found == Bracket(None, asked[-1])
    assert start * LEAST <= asked[-1] < start * LEAST * 2.001


@given(st.floats(0.1, 100), st.floats(0.01, 12))
def test_running_ahead_asks_first_what_the_search_asks_next(start: float, times: float) -> None:
    known: dict[float, bool] = {}
    while True:
        step = path(start, known, 0.025)[1]
        guesses = ahead(start, known, 0.025)
        if isinstance(step, Bracket):
            assert guesses == []
            return
        assert guesses[0] == step
        assert len(set(guesses)) == len(guesses) <= 7
        for _ in range(3):
            # Whatever the answers turn out to be, the next three steps are among the guesses.
            if isinstance(step, Bracket):
                break
            assert step in guesses
            known[step] = step <= start * times
            step = path(start, known, 0.025)[1]
