"""Pulls on virtual time: how often the simulator looks at the links, and pulls that come while the prompt is computed."""

from __future__ import annotations

from heapq import heappop
from typing import Any

import msgspec
import pytest

from fleets import tight_fleet
from phasewise.core.action import Pull
from phasewise.core.event import Pulled, PullFailed
from phasewise.core.spec import DECODE, LAYER_WISE, PREFILL, LinkSpec
from phasewise.sim.clock import VirtualClock
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


class Fetching:
    """Two replicas between which a token takes a microsecond. `there` says whether the source has the request."""

    def __init__(self, there: bool) -> None:
        self.there = there
        self.clock = VirtualClock()
        self.told: list[tuple[int, Any]] = []
        resolved = tight_fleet(("mixed", "mixed"), link=LinkSpec("free", gb_s=0.256, transfer="serialised"))
        self.transfers = Transfers(resolved, self.clock, 2, lambda *of: self.there, self._tell)

    def _tell(self, target: int, event: Any) -> None:
        self.told.append((self.clock.now_ns, event))

    def until(self, at_ns: int) -> list[tuple[int, Any]]:
        """What has been told by an instant."""
        while self.clock.agenda and self.clock.agenda[0][0] <= at_ns:
            self.clock.now_ns, _ = heappop(self.clock.agenda)
            self.transfers.due()
        self.clock.now_ns = at_ns
        return self.told


@pytest.mark.parametrize("start", [0, 10])
def test_a_pull_that_does_not_wait_fails_where_nothing_is(start: int) -> None:
    world = Fetching(there=False)
    world.transfers.pull(1, Pull(7, 0, 0, 10, start, waits=False))
    [(at_ns, failed)] = world.until(0)
    assert at_ns == 0
    assert failed == PullFailed(7, 0, "replica 0, its source, does not have it")
    world.transfers.pull(1, Pull(7, 0, 0, 10))
    assert len(world.until(100_000)) == 1
    world.there = True
    world.transfers.computed(0)
    assert world.until(200_000)[1] == (110_000, Pulled(7, 0, 0, 100_000, 2560))


def test_a_copy_whose_source_gives_up_the_request_fails() -> None:
    """One of two is preempted after 5 us, with half of each sent; the other has the card to itself from then on."""
    world = Fetching(there=True)
    for request in (7, 8):
        world.transfers.pull(1, Pull(request, 0, 0, 5, waits=False))
    world.until(5_000)
    world.transfers.preempted(0, (7, 9))
    assert world.until(100_000) == [
        (5_000, PullFailed(7, 0, "replica 0, its source, has preempted it")),
        (7_500, Pulled(8, 0, 0, 0, 1280)),
    ]
