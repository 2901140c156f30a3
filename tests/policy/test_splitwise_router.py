"""Splitwise's router: which machine, which pool, and what its fleets do from an idle one to an overloaded one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from phasewise.core.request import Request
from phasewise.core.spec import DECODE, LAYER_WISE, MIXED, PREFILL, SERIALISED, LinkSpec
from phasewise.policy.fleet import ClusterView
from phasewise.policy.roles import Homes
from phasewise.policy.routing.splitwise import Splitwise
from phasewise.record.metrics import Scored
from phasewise.record.pools import mean_mixed, mixed_over_time, pool_sizes
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from pools import pooled
from worlds import ToyLatency, workload

ASKED = Request(0, 0, 100)


class Scene:
    """A view whose books the test fills in, and the router before it; what the router says is done at once."""

    def __init__(self, *roles: str, holds: int = 1000, long_queue: int = 500, predicted: int | None = 50) -> None:
        self.view = ClusterView(roles, [holds] * len(roles))
        self.view.predicted = predicted
        self.router = Splitwise(long_queue)

    def book(self, **columns: Sequence[int]) -> Scene:
        for name, values in columns.items():
            getattr(self.view.booked, name)[:] = values
        return self

    def route(self, source: int | None = None) -> tuple[int, int, dict[int, str]]:
        homes = self.router.route(ASKED, self.view, 0, source)
        assert isinstance(homes, Homes)
        for replica, role in homes.roles:
            self.view.set_role(replica, role)
        return homes.prefill, homes.decode, dict(homes.roles)


def test_the_prompt_by_pending_tokens_and_the_answer_by_memory() -> None:
    scene = Scene(PREFILL, PREFILL, DECODE, DECODE)
    scene.book(pending=[80, 70, 1, 9], memory=[0, 0, 400, 300], prompts=[1, 1, 0, 0])
    assert scene.route() == (1, 3, {})


@pytest.mark.parametrize(("pending", "prompts", "home"), [(400, 1, 0), (401, 1, 1), (5000, 0, 0)])
def test_a_queue_is_long_if_there_is_one_and_it_would_exceed_the_limit(pending: int, prompts: int, home: int) -> None:
    """400 + 100 is the limit; a mixed machine is next."""
    scene = Scene(PREFILL, MIXED, DECODE).book(pending=[pending, 50, 0], prompts=[prompts, 1, 0])
    assert scene.route() == (home, 2, {})


@pytest.mark.parametrize(("memory", "home"), [(848, 2), (849, 1)])
def test_an_answer_needs_room_for_its_prompt_and_what_is_predicted(memory: int, home: int) -> None:
    """848 + 100 + 1 + 50 is below 1,000: one token more is not."""
    scene = Scene(PREFILL, MIXED, DECODE).book(memory=[0, 0, memory])
    assert scene.route() == (0, home, {})


def test_without_a_prediction_an_answer_counts_nothing() -> None:
    scene = Scene(PREFILL, MIXED, DECODE, predicted=None).book(memory=[0, 0, 898])
    assert scene.route() == (0, 2, {})


def test_a_token_machine_is_lent_for_a_prompt_and_returns_when_it_has_none() -> None:
    scene = Scene(PREFILL, DECODE, DECODE).book(pending=[450, 7, 5], prompts=[1, 0, 0], memory=[0, 5, 6])
    assert scene.route() == (2, 1, {2: MIXED})
    scene.book(pending=[450, 7, 105], prompts=[1, 0, 1])
    assert scene.route() == (2, 1, {}), "it is mixed as long as it has a prompt"
    scene.book(pending=[300, 7, 5], prompts=[1, 0, 0])
    assert scene.route() == (0, 1, {2: DECODE})


def test_a_prompt_machine_is_lent_for_an_answer_and_returns_when_it_has_none() -> None:
    scene = Scene(PREFILL, PREFILL, DECODE).book(memory=[60, 50, 900], answers=[0, 0, 3])
    assert scene.route() == (0, 1, {1: MIXED})
    scene.book(memory=[60, 201, 900], answers=[0, 1, 3], pending=[0, 101, 3])
    assert scene.route() == (0, 1, {})
    scene.book(memory=[60, 50, 100], answers=[0, 0, 0])
    assert scene.route() == (0, 2, {1: PREFILL})


def test_a_return_undone_at_once_is_no_change() -> None:
    scene = Scene(PREFILL, DECODE).book(pending=[450, 0], prompts=[1, 0])
    assert scene.route() == (1, 1, {1: MIXED})
    assert scene.route() == (1, 1, {}), "nothing is on it, so it returned, and was lent again"


def test_failing_all_both_phases_go_to_the_least_pending_machine() -> None:
    scene = Scene(PREFILL, MIXED).book(pending=[450, 470], prompts=[1, 1])
    assert scene.route() == (0, 0, {0: MIXED})


def test_a_fleet_of_mixed_machines_keeps_both_phases_together() -> None:
    scene = Scene(MIXED, MIXED, MIXED).book(pending=[600, 550, 580], prompts=[1, 1, 1], memory=[0, 999, 0])
    assert scene.route() == (1, 1, {})


def test_an_answer_alone_finds_another_home() -> None:
    scene = Scene(PREFILL, DECODE, DECODE).book(memory=[100, 300, 200])
    assert scene.route(source=0) == (0, 2, {})
    scene.view.set_open(1, False)
    scene.view.barred = (2,)
    assert scene.route(source=0) == (0, 0, {0: MIXED}), "the source itself is lent"
    scene.view.set_open(0, False)
    assert scene.router.route(ASKED, scene.view, 0, 0) is None


def test_an_operators_word_makes_another_pool() -> None:
    scene = Scene(PREFILL, PREFILL, DECODE)
    scene.route()
    scene.view.set_role(1, MIXED)
    assert scene.route()[2] == {}, "it is mixed for good"
    scene.view.set_role(1, DECODE)
    scene.book(pending=[450, 1, 2], prompts=[1, 0, 0])
    assert scene.route() == (1, 1, {1: MIXED})
    scene.book(pending=[0, 1, 2], prompts=[0, 0, 0])
    assert scene.route()[2] == {1: DECODE}


# Fleets ---------------------------------------------------------------------------------------------------------------------

LATENCY = ToyLatency(base=20_000, per_token=1_000, per_context=1, per_pair=0)
POOLS = (PREFILL,) * 3 + (DECODE,) * 3


def run(gap_ns: int, roles: Sequence[str] = POOLS, requests: int = 400, long_queue: int = 400) -> RunLog:
    """Requests of 100 and 20 tokens at even pace: a prompt takes 120 us, a decode step 20 us and a little for each in it."""
    fleet = pooled(roles, params={"token_budget": 200}, blocks=4000, long_queue=long_queue)
    rows = [(i * gap_ns, 60 + 80 * (i % 2), 10 + 20 * (i % 2)) for i in range(requests)]
    return simulate(fleet, workload(rows), physics=lambda i: LATENCY)


def test_no_machine_is_mixed_at_low_load() -> None:
    log = run(200_000)
    assert not len(log.tables.changes)
    assert mean_mixed(log.header, log.tables) == 0


def test_the_mixed_pool_grows_with_the_load() -> None:
    means = [mean_mixed(log.header, log.tables) for log in (run(gap) for gap in (200_000, 35_000, 25_000, 10_000))]
    assert means[0] == 0
    assert means[1] < means[2] < means[3]
    assert means[3] > 3


def test_at_very_high_load_it_is_the_baseline() -> None:
    """All at once: every machine ends up mixed, and the throughput is that of a fleet without pools."""
    split, together = (run(10, roles, 1200, long_queue=2000) for roles in (POOLS, (MIXED,) * 6))
    ratio = split.summary["throughput_tokens_per_s"] / together.summary["throughput_tokens_per_s"]
    assert 0.95 < ratio < 1.05
    assert mixed_over_time(split.header, split.tables)[1].max() == 6


def test_a_lent_machine_is_back_when_the_burst_is_over() -> None:
    rows = [(i * 100, 100, 5) for i in range(40)] + [(50_000_000, 100, 5)]
    log = simulate(pooled(POOLS, blocks=4000, long_queue=400), workload(rows), physics=lambda i: LATENCY)
    at_ns, sizes = pool_sizes(log.header, log.tables)
    assert sizes[0].tolist() == [3, 3, 0]
    assert sizes[:, 2].max() > 0
    assert (at_ns[-1], sizes[-1].tolist()) == (50_000_000, [3, 3, 0])
    assert (sizes.sum(axis=1) == 6).all()


def test_layers_leave_while_the_next_are_computed() -> None:
    """The second token waits for the keys and values: less if they leave layer by layer. The first token is as soon."""
    ttft, second = {}, {}
    for transfer in (SERIALISED, LAYER_WISE):
        fleet = pooled((PREFILL, DECODE), params={"token_budget": 2000}, blocks=4000)
        # Toy's cache has 256 bytes a token: 500 of them take 128 us of the 520 us of a prompt.
        link = LinkSpec("free", 1.0, 0.0, transfer)
        fleet = msgspec.structs.replace(fleet, deployment=msgspec.structs.replace(fleet.deployment, link=link))
        log = simulate(fleet, workload([(i * 5_000_000, 500, 2) for i in range(5)]), physics=lambda i: LATENCY)
        scored = Scored(log.tables)
        ttft[transfer], second[transfer] = scored.ttft_s, scored.e2e_s - scored.ttft_s
    assert np.array_equal(ttft[SERIALISED], ttft[LAYER_WISE])
    nbytes = log.tables.transfers[1]["nbytes"][0]
    step_s = 1e-9 * 21_501
    assert second[SERIALISED] == pytest.approx(step_s + nbytes * 1e-9, abs=2e-9)
    assert second[LAYER_WISE] == pytest.approx(step_s + nbytes * 1e-9 / 2, abs=2e-9)
