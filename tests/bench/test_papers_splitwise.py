"""The search behind Splitwise's comparison: what a budget buys, and the best rate of a fleet against trying every rate."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "papers"))

import splitwise_runs as runs

from phasewise.sim.simulate import Roofs

SMALL = runs.Setting("azure-code", arrive_s=5.0, least=60)


@pytest.mark.parametrize("design", [runs.AA, runs.HH, runs.HA, runs.HHCAP])
@pytest.mark.parametrize("what", ["power", "cost"])
def test_a_budget_is_spent_and_not_exceeded(design: runs.Design, what: str) -> None:
    prompt, token = design.costs(what)
    budget = 40 * (runs.POWER if what == "power" else runs.COST)["h100"]
    for prompts, tokens in (ways := runs.splits(design, what, budget)):
        spent = prompts * prompt + tokens * token
        assert spent <= budget + 1e-6
        assert spent + token > budget - 1e-6, "one more machine would not be paid for"
    assert [prompts for prompts, _ in ways] == list(range(1, len(ways) + 1))


def test_the_papers_counts_of_machines() -> None:
    """40 H100 draw what 70 A100 do, and cost what 86 do."""
    assert len(runs.splits(runs.HH, "machines", 40)) == 39
    assert sum(runs.splits(runs.AA, "power", 40 * 44.0)[0]) == 70
    assert sum(runs.splits(runs.AA, "cost", 40 * 4.76)[0]) == 86


@pytest.mark.parametrize("near", [1.5, 4.0, 30.0])
def test_the_best_rate_holds_and_the_next_does_not(near: float) -> None:
    """Where rates that hold lie between others that do not, as in so short a run, any such edge will do."""
    deployment = runs.fleet(runs.HH, 1, 1)
    found = runs.best_rate(runs.HH, 1, 1, SMALL, near)
    assert found.rate is not None
    k = round(runs.log(found.rate) / runs.LOG_STEP)
    assert found.rate == pytest.approx(runs.STEP**k)
    assert runs.held(deployment, SMALL, k)[0] == ()
    assert runs.held(deployment, SMALL, k + 1)[0] == found.missed != ()


def test_below_what_is_asked_nothing_is_found() -> None:
    assert runs.best_rate(runs.HH, 1, 1, SMALL, 30.0, 30.0).rate is None


def test_looked_up_by_sequences_a_long_context_costs_nothing() -> None:
    by_context, by_sequences = (Roofs(runs.fleet(runs.HH, 1, 1, way))(1) for way in (False, True))
    assert by_context.pieces((), 8, 32_000, 1)[0][0] == pytest.approx(50.0e6, rel=0.05)
    assert by_sequences.pieces((), 8, 32_000, 1)[0][0] == pytest.approx(29.9e6, rel=0.1)
