"""WAIT and Nested WAIT where seats are fewer than what their limit shares out."""

from __future__ import annotations

import pytest

from phasewise.sim.simulate import simulate
from worlds import ToyLatency, classed, toy_resolved, workload


@pytest.mark.parametrize(("seats", "stands"), [(16, True), (200, False)])
def test_those_who_stand_at_entries_can_take_all_seats(seats: int, stands: bool) -> None:
    """The published rule without a longest wait: with few seats most are never served, with many nearly all."""
    rows = [(i * 1_000, 4, 1 + 7 * i % 60) for i in range(300)]
    params = {"boundaries": [15, 30, 45], "survival": [1.0, 0.75, 0.5, 0.25], "longest": 60, "total_limit": 60}
    resolved = toy_resolved("nested-wait", params={**params, "max_seqs": seats}, blocks=8000, block_tokens=1)
    run = simulate(resolved, workload(rows), physics=lambda i: ToyLatency())
    assert (run.summary["completed"] < 100) == stands
    assert stands or run.summary["completed"] > 200


def test_booking_is_full_when_the_seats_are() -> None:
    """Four seats taken, nobody waiting: all that there is room for is in service, so it decodes, until the first has ended.

    Then there is a seat that nobody comes to fill, and by the published rule the others stand still.
    """
    types = {"chat": {"prompt": 4, "output": 20, "rate": 1.0}}
    params = {"rule": "booking", "types": types, "total_limit": 40, "max_seqs": 4}
    resolved = toy_resolved("wait", params=params, blocks=400, block_tokens=1)
    run = simulate(resolved, classed([(0, 4, 20)] * 4, ["chat"] * 4), physics=lambda i: ToyLatency())
    assert run.summary["completed"] == 1
