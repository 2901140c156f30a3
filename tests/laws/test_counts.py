"""What a simulation costs, counted and not timed: events do not grow with tokens, and the log stays small."""

from __future__ import annotations

import numpy as np
import pytest

from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load
from phasewise.workload.truth import Truth
from phasewise.workload.workload import Workload

REQUESTS = 3_000


def run(replicas: int, lengthen: int = 1, batcher: str = "sarathi") -> RunLog:
    """5 requests/s a replica of chat traffic, with every output `lengthen` times as long."""
    params = {"token_budget": 512} if batcher == "sarathi" else {}
    deployment = Deployment("meta-llama/Llama-3.1-8B", (ReplicaSpec("h100", replicas),), PolicySpec(batcher, params))
    base = load("azure-conv", rate=5.0 * replicas, requests=REQUESTS)
    truth = Truth(base.truth.column() * lengthen)
    return simulate(deployment, Workload(base.name, base.arrival_ns, base.prompt_tokens, truth))


def events(log: RunLog) -> tuple[float, float]:
    """Events a request in the instances' rooms together, and in the cluster's."""
    cluster = sum(1 for _ in log.records(0))
    return (log.summary["events"] - cluster) / REQUESTS, cluster / REQUESTS


@pytest.mark.parametrize("batcher", ["sarathi", "vllm-v1"])
@pytest.mark.parametrize("replicas", [1, 8])
def test_events_a_request(replicas: int, batcher: str) -> None:
    instance, cluster = events(run(replicas, batcher=batcher))
    assert instance <= 7
    assert cluster <= 6


def test_doubling_every_output_adds_at_most_five_percent() -> None:
    once, twice = run(1), run(1, lengthen=2)
    assert twice.summary["tokens_out"] > 1.9 * once.summary["tokens_out"]
    assert sum(events(twice)) <= 1.05 * sum(events(once))


def test_a_request_takes_at_most_a_thousand_bytes_of_log() -> None:
    log = run(1)
    assert log.nbytes <= 1_000 * REQUESTS
    encoded = sum(len(segment) for _, segment in log.segments())
    assert log.nbytes == encoded + log.tables.nbytes


def test_no_python_object_is_kept_for_an_event(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Streamed to a file, what stays in memory are the columns."""
    base = load("azure-conv", rate=5.0, requests=REQUESTS)
    deployment = Deployment("meta-llama/Llama-3.1-8B", (ReplicaSpec("h100"),))
    log = simulate(deployment, base, log=tmp_path / "run.log")
    assert log.nbytes == log.tables.nbytes
    assert isinstance(log.tables.steps[0], np.ndarray)
    assert sum(1 for room in range(log.rooms) for _ in log.records(room)) == log.summary["events"]
