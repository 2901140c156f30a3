"""Sweeps against closed forms, against single searches, and against themselves with other numbers of processes."""

from __future__ import annotations

import pytest

from phasewise.control.resolve import resolve
from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, Slo
from phasewise.perf.cost import devices, price_per_hour
from phasewise.perf.roofline import Roofline
from phasewise.planner.capacity import BACKLOG, capacity, probe
from phasewise.planner.grid import Point
from phasewise.planner.objective import Attainment, Percentiles, Target, percentiles
from phasewise.planner.pictures import sweep_picture
from phasewise.planner.source import source
from phasewise.planner.sweep import Sweep, Swept, sweep
from phasewise.report.rows import number
from phasewise.sim.simulate import Roofs
from phasewise.workload.arrivals import Poisson
from phasewise.workload.lengths import FixedLength
from phasewise.workload.synth import Synthetic, generate
from phasewise.workload.workload import Workload

BUDGET = 512
PREFILL = Deployment("meta-llama/Llama-3.1-8B", (ReplicaSpec("h100"),), PolicySpec("sarathi", {"token_budget": BUDGET}))
CHAT = Deployment("meta-llama/Llama-3.1-8B", (ReplicaSpec("h100"),), PolicySpec("sarathi"))
COUNTS = {"replicas.0.count": range(1, 5)}


def prompts(requests: int) -> Workload:
    """Prompts that fill the budget and one token of output: queues of one server with one service time."""
    return generate(Synthetic("prompts", Poisson(1.0), FixedLength(BUDGET), FixedLength(1)), requests, 5)


def service_s() -> float:
    physics = Roofs(resolve(PREFILL))(0)
    assert isinstance(physics, Roofline)
    return physics.prefill_ns(BUDGET) / 1e9


def test_capacity_grows_with_the_replicas_and_goodput_per_device_stays() -> None:
    """Where only the backlog binds, n equal replicas in turn serve n times the service rate of one."""
    found = sweep(PREFILL, prompts(4000), ["ttft=1000@p99"], COUNTS, jobs=1)
    assert [one.point.devices for one in found.found] == [1, 2, 3, 4]
    for one in found.found:
        assert one.rate is not None
        assert one.bound_by == (BACKLOG,)
        assert one.rate * service_s() == pytest.approx(one.point.devices, rel=0.06)
        assert one.per_device == one.rate / one.point.devices
    assert found.found[1].rate == pytest.approx(2 * (found.found[0].rate or 0.0), rel=0.05)


def test_under_a_limit_on_waiting_a_turn_each_does_better_than_chance() -> None:
    """Every second arrival is one's own: gaps of two exponentials queue less than of one (E2/D/1 against M/D/1)."""
    objective = Percentiles((Target("delay", 2 * service_s(), 90.0),))
    found = sweep(PREFILL, prompts(20_000), objective, {"replicas.0.count": [1, 2]}, jobs=1)
    alone, two = (one.per_device or 0.0 for one in found.found)
    assert 1.02 * alone < two < 1 / service_s()
    assert found.best == 1


def test_at_one_rate_as_many_are_needed_as_the_load_has_servers() -> None:
    rate = 2.5 / service_s()
    found = sweep(PREFILL, prompts(4000), ["ttft=1000@p99"], COUNTS, at=rate, jobs=1)
    assert [one.rate for one in found.found] == [None, None, rate, rate]
    assert [one.infeasible for one in found.found] == [rate, rate, None, None]
    assert [one.bound_by for one in found.found] == [(BACKLOG,), (BACKLOG,), (), ()]
    assert found.best == 2
    assert found.ranked[:2] == [2, 3]
    assert found.found[2].per_device == rate / 3
    # Nobody waits 1,000 s: the limit is far off even where the backlog grows.
    margins = [found.margin(one) for one in found.found]
    assert all(margin is not None and margin[0] == "ttft@p99" and margin[1] < 0.1 for margin in margins)


def chat(jobs: int, at: float | None = None) -> Sweep:
    over = {"replicas.0.count": [2, 1], "batcher.token_budget": [128, 512, 2048]}
    goal = ["tbt=0.05@p99", "delay=2@p50"]
    return sweep(CHAT, "azure-conv", goal, over, at=at, requests=400, seed=3, tolerance=0.1, jobs=jobs)


@pytest.fixture(scope="module")
def searched() -> Sweep:
    return chat(1)


def test_the_result_does_not_depend_on_the_number_of_jobs(searched: Sweep) -> None:
    assert searched == chat(2)
    assert chat(1, at=12.0) == chat(2, at=12.0)


def test_every_point_is_a_search_of_its_own(searched: Sweep) -> None:
    """Whatever its neighbours are: the capacity of the same deployment, searched alone."""
    for one in (searched.found[1], searched.found[5]):
        count, budget = map(int, one.point.values)
        batcher = PolicySpec("sarathi", {"token_budget": budget})
        alone = Deployment(CHAT.model, (ReplicaSpec("h100", count),), batcher)
        found = capacity(alone, "azure-conv", searched.objective, requests=400, seed=3, tolerance=0.1, jobs=1)
        assert (one.rate, one.infeasible, one.probes) == (found.rate, found.high, found.probes)
        assert (one.bound_by, one.saturation) == (found.bound_by, found.saturation)


def test_points_are_ranked_by_goodput_per_device(searched: Sweep) -> None:
    ranked = [searched.found[i].per_device for i in searched.ranked]
    assert ranked == sorted(ranked, key=lambda value: -(value or 0.0))
    assert searched.best == searched.ranked[0]
    assert searched.best == max(range(6), key=lambda i: searched.found[i].per_device or 0.0)


def test_a_point_at_one_rate_is_a_probe(searched: Sweep) -> None:
    found = chat(1, at=12.0)
    requests = source("azure-conv", 400, 3)
    for one in found.found:
        assert one.point.resolved is not None
        assert one.probes == (probe(one.point.resolved, requests, 12.0, found.objective),)
        margin = found.margin(one)
        scores = one.probes[0].scores
        assert margin is not None
        assert margin[1] == max(scores["tbt@p99"] / 0.05, scores["delay@p50"] / 2)
        assert (one.rate is None) == bool(one.bound_by)
        assert one.saturation is None


def test_what_does_not_fit_is_said_and_the_rest_goes_on() -> None:
    over = {"replicas.0.device": ["l4", "h100"], "model": ["Llama-3.1-8B", "Qwen2.5-32B"]}
    found = sweep(CHAT, "azure-conv", ["tbt=1@p99"], over, requests=50, tolerance=0.5, jobs=1)
    assert [one.error is None for one in found.found] == [True, False, True, True]
    assert "does not fit on l4" in (found.found[1].error or "")
    assert found.ranked[-1] == 1
    with pytest.raises(
        InputError, match=r"^--sweep: no point of the sweep can be run, the first, replicas.0.tp=1: .*fit"
    ):
        sweep(
            Deployment("Llama-3.1-405B", (ReplicaSpec("l4"),)),
            "azure-conv",
            ["tbt=1@p99"],
            {"replicas.0.tp": [1, 2]},
            requests=50,
            jobs=1,
        )


def test_a_point_that_fails_on_the_way_does_not_stop_the_others() -> None:
    """With two tokens of context nothing fits; all the others are searched."""
    over = {"max_context": [2, 4096]}
    found = sweep(CHAT, "azure-conv", ["tbt=1@p99"], over, requests=50, tolerance=0.5, jobs=1)
    assert "no request fits" in (found.found[0].error or "")
    assert found.found[1].rate is not None
    # One token of answer has no time between tokens to limit, whatever the rate: an error of the probes, here of all.
    one_token = generate(Synthetic("one", Poisson(1.0), FixedLength(64), FixedLength(1)), 50, 1)
    for at in (None, 1.0):
        with pytest.raises(InputError, match=r"no point of the sweep can be run.*there is no tbt to limit"):
            sweep(CHAT, one_token, ["tbt=1@p99"], COUNTS, at=at, jobs=1)


def test_the_picture_of_two_settings_is_a_map_of_the_points(searched: Sweep) -> None:
    pytest.importorskip("matplotlib")
    figure = sweep_picture(searched, "azure-conv")
    axes = figure.axes[0]
    shown = axes.images[0].get_array()
    assert shown is not None
    for i, one in enumerate(searched.found):
        assert shown[i // 3, i % 3] == one.per_device
    texts = [text.get_text() for text in axes.texts]
    assert texts == [
        number(value) for one in searched.found for value in (one.per_device, one.rate) if value is not None
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("batcher.token_budget", "replicas.0.count")
    assert [t.get_text() for t in axes.get_yticklabels()] == ["2", "1"]


def test_the_picture_of_one_rate_shows_the_worst_score_over_its_limit() -> None:
    pytest.importorskip("matplotlib")
    found = chat(1, at=12.0)
    axes = sweep_picture(found, "azure-conv").axes[0]
    ratios = [(found.margin(one) or ("", 0.0))[1] for one in found.found]
    shown = axes.images[0].get_array()
    assert shown is not None
    for i, one in enumerate(found.found):
        assert bool(shown.mask[i // 3, i % 3]) == (one.rate is None)
        assert one.rate is None or shown[i // 3, i % 3] == ratios[i]
    assert [text.get_text() for text in axes.texts][::2] == [number(ratio) for ratio in ratios]


def test_the_picture_of_one_setting_is_a_line() -> None:
    pytest.importorskip("matplotlib")
    over = {"replicas.0.count": [4, 1, 2]}
    found = sweep(PREFILL, prompts(500), ["ttft=1000@p99"], over, tolerance=0.1, jobs=1)
    each, total = sweep_picture(found, "prompts").axes
    by_count = sorted(found.found, key=lambda one: one.point.devices)
    for axes, values in ((each, [o.per_device for o in by_count]), (total, [o.rate for o in by_count])):
        assert list(axes.lines[0].get_xdata()) == [1.0, 2.0, 4.0]
        assert list(axes.lines[0].get_ydata()) == values
    assert (each.get_ylabel(), total.get_ylabel()) == ("goodput per device, requests/s", "capacity, requests/s")


def test_a_share_is_held_the_other_way_round() -> None:
    held = Deployment(CHAT.model, CHAT.replicas, CHAT.batcher, slo=Slo(0.1, 0.02))
    found = sweep(held, "azure-conv", Attainment(0.9), {"replicas.0.count": [1, 2]}, at=14.0, requests=400, jobs=1)
    for one in found.found:
        margin = found.margin(one)
        assert margin is not None
        assert margin == ("attainment", 0.9 / one.probes[0].scores["attainment"])
        assert (one.rate is not None) == (margin[1] <= 1 and BACKLOG not in one.bound_by)


def test_dollars_are_those_of_every_device() -> None:
    resolved = resolve(Deployment(CHAT.model, (ReplicaSpec("h100", 2, 2), ReplicaSpec("a100-80gb"))))
    h100, a100 = (resolved.replicas[i].device.price_per_hour or 0.0 for i in (0, 2))
    assert devices(resolved.deployment) == 5
    assert price_per_hour(resolved) == pytest.approx(4 * h100 + a100)
    one = Swept(Point(("1",), "x", 5, resolved), rate=10.0)
    assert one.per_device == 2.0
    assert one.per_dollar == pytest.approx(10 / (4 * h100 + a100))


def test_nothing_to_sweep_over() -> None:
    with pytest.raises(InputError, match="nothing to sweep over"):
        sweep(CHAT, "azure-conv", percentiles(["tbt=1@p99"]), {}, jobs=1)
