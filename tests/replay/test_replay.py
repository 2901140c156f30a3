"""The replay law: a log alone, in a fresh process with another hash seed, makes every room take the same actions again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasewise.control.replay import replay
from phasewise.core.action import Ended, Outcome
from phasewise.core.errors import LogError
from phasewise.core.fault import Cuts, Dies, Drains, Mangles, Scenario, Switches
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.policy import catalog
from phasewise.record.columns import ClusterColumns, InstanceColumns
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load
from worlds import ARMS, ToyLatency, mixed, random_gone, random_rows, toy_resolved, workload

ALONE = """
import sys
sys.modules["phasewise.workload"] = sys.modules["phasewise.sim"] = None  # neither may be needed
from phasewise.control.replay import replay
from phasewise.record.runlog import RunLog
print([replay(RunLog.read(path)) for path in sys.argv[1:]])
"""


@pytest.mark.parametrize("hash_seed", ["1", "424242"])
def test_a_fresh_process_takes_the_same_actions(tmp_path: Path, hash_seed: str) -> None:
    rows = [(i * 20_000, 8 + 5 * (i % 7), 1 + 9 * (i % 5)) for i in range(40)]
    gone = {i: rows[i][0] + 50_000 for i in range(0, 40, 6)}
    events, preempted = [], set()
    for arm, policy in ARMS.items():
        resolved = toy_resolved(*policy, blocks=(10, 24), block_tokens=8, max_context=60, replicas=2, wire_s=3e-6)
        physics = ToyLatency(whole=False)
        log = simulate(resolved, mixed(rows, gone), physics=lambda i, p=physics: p, log=tmp_path / arm)
        assert log.summary["cancelled"] > 0
        events.append(log.summary["events"])
        preempted |= {policy[0]} if log.summary["preemptions"] else set()
    assert preempted >= {"vllm-v0", "vllm-v1", "sarathi", "wait", "nested-wait"}
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    paths = [tmp_path / arm for arm in ARMS]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *paths], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == events


def test_fleets_replay_in_a_fresh_process(tmp_path: Path) -> None:
    """Two phases apart behind every router, replicas that die, drain and change their roles, a wire that loses and delays."""
    groups = tuple(ReplicaSpec("h100", 2, role=role) for role in ("prefill", "decode"))
    deployment = Deployment(
        "Llama-3.1-8B", groups, PolicySpec("splitwise"), wire_s=1e-4, patience_s=0.5, cold_start_s=1.0
    )
    s = 1_000_000_000
    faults = (
        Dies(2 * s, 2, 4 * s),
        Drains(6 * s, 3, True),
        Switches(7 * s, 1, "mixed"),
        Cuts(5 * s, 0, None, None, 6 * s),
        Mangles(None, 0.02, None, 0, 9 * s),
        Mangles(None, 0.05, s // 10, 0, 9 * s),
    )
    chat = load("azure-conv", rate=20, requests=200)
    routers = [name for role, name in catalog.PAPERS if role == "router"]
    assert len(routers) >= 6
    events = []
    for name in routers:
        routed = msgspec.structs.replace(deployment, router=PolicySpec(name))
        log = simulate(routed, chat, 1, scenario=Scenario(faults), log=tmp_path / name)
        assert log.summary["fleet"]["handed_over"] > 100
        assert log.summary["fleet"]["retries"] > 0
        events.append(log.summary["events"])
    environment = {**os.environ, "PYTHONHASHSEED": "424242"}
    given = [sys.executable, "-c", ALONE, *(tmp_path / name for name in routers)]
    done = subprocess.run(given, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == events


def test_a_real_deployment_replays(tmp_path: Path) -> None:
    deployment = Deployment(
        "meta-llama/Llama-3.1-8B", (ReplicaSpec("h100", 2), ReplicaSpec("a100")), PolicySpec("vllm-v1")
    )
    simulate(deployment, load("azure-conv", rate=15, requests=300), log=tmp_path / "run.log")
    log = RunLog.read(tmp_path / "run.log")
    assert replay(log) == sum(len(list(log.records(room))) for room in range(log.rooms)) > 300 * 4


def test_a_tampered_log_is_found_out() -> None:
    log = simulate(toy_resolved(), workload([(0, 30, 5), (1_000, 30, 5)]), physics=lambda i: ToyLatency())
    records = {room: list(log.records(room)) for room in range(log.rooms)}
    at_ns, event, _ = records[0][-1]
    records[0][-1] = (at_ns, event, [Ended(1, Outcome.CANCELLED, 5)])
    written = [(room, msgspec.msgpack.encode(records[room])) for room in records]
    log.segments = lambda: iter(written)  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(LogError, match="the cluster at"):
        replay(log)


@pytest.mark.parametrize("arm", ARMS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 3)
def test_every_run_replays_and_its_columns_are_rebuilt(arm: str, data: st.DataObject) -> None:
    rows = data.draw(random_rows(prompt=40, output=30))
    gone = data.draw(random_gone(rows))
    blocks = data.draw(st.tuples(st.integers(8, 30), st.integers(8, 30)))
    resolved = toy_resolved(*ARMS[arm], blocks, 8, max_context=60, replicas=2)
    split = data.draw(st.sampled_from([None, 2]))
    log = simulate(resolved, mixed(rows, gone), physics=lambda i: ToyLatency(whole=False, split=split))
    assert replay(log) == log.summary["events"]
    requests = ClusterColumns()
    requests.fold(log.records(0))
    assert requests.table().tobytes() == log.tables.requests.tobytes()
    for i, (steps, spans) in enumerate(zip(log.tables.steps, log.tables.spans, strict=True)):
        columns = InstanceColumns()
        for record in log.records(1 + i):
            columns.fold([record])
        rebuilt = columns.tables()
        assert rebuilt[0].tobytes() == steps.tobytes()
        assert rebuilt[1].tobytes() == spans.tobytes()
