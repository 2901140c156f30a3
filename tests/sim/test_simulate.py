"""The simulator as a whole: ties, wires, progress, and a call that can be made anywhere."""

from __future__ import annotations

import gc
import pickle
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from decoded import requests, steps
from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load
from worlds import ConstantLatency, ToyLatency, toy_resolved, workload

DEPLOYMENT = Deployment("meta-llama/Llama-3.1-8B", (ReplicaSpec("h100"), ReplicaSpec("a100")), PolicySpec("sarathi"))


@pytest.mark.parametrize("wire_s", [0.0, 5e-6])
def test_requests_that_arrive_together_start_together(wire_s: float) -> None:
    resolved = toy_resolved("static", {"max_seqs": 8}, blocks=64, max_context=64, wire_s=wire_s)
    log = simulate(resolved, workload([(0, 5, 3)] * 8), physics=lambda i: ConstantLatency())
    assert [len(step.chunks) for step in steps(log) if step.chunks] == [8]


def test_an_arrival_at_a_boundary_finds_it_past() -> None:
    log = simulate(toy_resolved(), workload([(0, 5, 9), (3_000, 5, 2)]), physics=lambda i: ConstantLatency(1_000))
    assert requests(log)[1].first_chunk_ns == 4_000


def test_a_wire_delays_both_ways() -> None:
    near, far = (
        simulate(toy_resolved(wire_s=wire_s), workload([(0, 5, 3)]), physics=lambda i: ConstantLatency(1_000))
        for wire_s in (0.0, 7e-6)
    )
    assert far.summary["delay_s"]["mean"] == pytest.approx(near.summary["delay_s"]["mean"] + 7e-6)
    (near_end,), (far_end,) = (log.tables.requests["end_ns"] for log in (near, far))
    assert far_end - near_end == 14_000


def test_a_request_that_one_replica_refuses_is_served_by_another() -> None:
    resolved = toy_resolved(blocks=(4, 40), replicas=2)
    log = simulate(resolved, workload([(0, 200, 3), (1, 10, 3), (2, 200, 3)]), physics=lambda i: ToyLatency())
    assert log.summary["completed"] == 3
    assert set(log.tables.spans[1]["request"]) >= {0, 2}


def test_the_call_is_picklable_and_its_result_too() -> None:
    call = partial(simulate, DEPLOYMENT, load("azure-code", requests=200, rate=2), 3)
    here = call()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(call).result()
    assert list(there.segments()) == list(here.segments())
    assert pickle.loads(pickle.dumps(here)).summary == here.summary


def test_the_collector_is_left_as_it_was() -> None:
    assert gc.isenabled()
    simulate(toy_resolved(), workload([(0, 5, 3)]), physics=lambda i: ToyLatency())
    assert gc.isenabled()
    gc.disable()
    try:
        simulate(toy_resolved(), workload([(0, 5, 3)]), physics=lambda i: ToyLatency())
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_progress_and_its_interruption(tmp_path: Path) -> None:
    seen: list[int] = []
    simulate(DEPLOYMENT, load("azure-conv", requests=3_000, rate=50), progress=seen.append)
    assert seen == [0, 1024, 2048]

    def stop(arrived: int) -> None:
        if arrived > 1_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(DEPLOYMENT, load("azure-conv", requests=3_000, rate=50), progress=stop, log=tmp_path / "run.log")
    assert list(tmp_path.iterdir()) == []
    assert gc.isenabled()


def test_nothing_that_fits_is_an_error() -> None:
    with pytest.raises(InputError, match="no request fits"):
        simulate(toy_resolved(blocks=2), workload([(0, 40, 3), (1, 90, 2)]), physics=lambda i: ToyLatency())
