"""Pulls on virtual time: how often the simulator looks at the links, and pulls that come while the prompt is computed."""

from __future__ import annotations

import msgspec
import pytest

from phasewise.core.spec import DECODE, LAYER_WISE, PREFILL, LinkSpec
from phasewise.sim.simulate import simulate
from phasewise.sim.transfers import Transfers
from pools import pooled
from worlds import ToyLatency, workload


def test_a_transfer_is_looked_at_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instant is on the agenda once, however many flows are under way: looks grow with the transfers, no faster."""
    looks = []
    due = Transfers.due
    monkeypatch.setattr(Transfers, "due", lambda self: looks.append(1) or due(self))
    fleet = pooled((PREFILL,) * 3 + (DECODE,), params={"token_budget": 400}, blocks=4000)
    change = msgspec.structs.replace
    link = LinkSpec("free", 0.5, 0.0, LAYER_WISE)
    fleet = change(fleet, deployment=change(fleet.deployment, link=link))
    log = simulate(fleet, workload([(i * 50_000, 100, 5) for i in range(300)]), physics=lambda i: ToyLatency())
    transfers = sum(len(table) for table in log.tables.transfers)
    assert transfers == 300
    assert len(looks) < 8 * transfers


@pytest.mark.parametrize(("late_ns", "begins_ns"), [(0, 55_000), (80_000, 80_000)])
def test_a_pull_that_comes_late_still_overlaps(late_ns: int, begins_ns: int) -> None:
    """A prompt of two layers takes 110 us. Its layers leave from the first one's end, or from when they are asked for."""
    fleet = pooled((PREFILL, DECODE), params={"token_budget": 400}, predictor="none", blocks=13)
    change = msgspec.structs.replace
    link = LinkSpec("free", 1.0, 0.0, LAYER_WISE)
    fleet = change(fleet, deployment=change(fleet.deployment, link=link))
    latency = ToyLatency(base=10_000, per_token=1_000, per_context=0, per_pair=0)
    # The first request fills the target's memory until it has ended: so the second one's pull comes late.
    log = simulate(fleet, workload([(0, 100, 12)]), physics=lambda i: latency)
    if late_ns:
        end_ns = int(log.tables.requests["end_ns"][0])
        log = simulate(fleet, workload([(0, 100, 12), (end_ns - late_ns, 100, 2)]), physics=lambda i: latency)
        begins_ns += end_ns - late_ns
    assert log.tables.transfers[1]["began_ns"][-1] == begins_ns
