"""Golden logs: tiny deployments, byte for byte. A difference is a change of behaviour, or of the format: look at it.

`PHASEWISE_GOLDEN=write pytest tests/golden` writes them anew; say in the change log why they changed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from phasewise.control.replay import replay
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, Resolved
from phasewise.record.runlog import HEADER, RunLog, frames
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load
from phasewise.workload.workload import Workload
from worlds import TYPES, ToyLatency, mixed, toy_resolved, workload

HERE = Path(__file__).parent
ROWS = [(i * i * 2_500, 7 + (11 * i) % 41, 1 + (17 * i) % 37) for i in range(16)]
GONE = {3: ROWS[3][0] + 12_000, 9: ROWS[9][0] + 90_000}

WORLDS: dict[str, tuple[Resolved, Workload]] = {
    "static": (
        toy_resolved("static", {"max_seqs": 3}, blocks=24, block_tokens=8, max_context=56),
        workload(ROWS, GONE),
    ),
    "vllm-v1": (
        toy_resolved("vllm-v1", {"max_seqs": 4, "token_budget": 24}, blocks=14, block_tokens=8),
        workload(ROWS, GONE),
    ),
    "sarathi": (
        toy_resolved("sarathi", {"max_seqs": 4, "token_budget": 24}, (12, 20), 8, replicas=2, wire_s=2e-6),
        workload(ROWS, GONE),
    ),
    "orca": (toy_resolved("orca", {"max_seqs": 3}, blocks=24, block_tokens=8, max_context=80), workload(ROWS, GONE)),
    "vllm-v0": (toy_resolved("vllm-v0", {"max_seqs": 5, "token_budget": 60}, 14, 8), workload(ROWS, GONE)),
    "wait": (
        toy_resolved("wait", {"types": TYPES, "max_seqs": 9, "max_wait_s": 60e-6}, 20, 8),
        mixed(ROWS, GONE),
    ),
    "nested-wait": (
        toy_resolved("nested-wait", {"boundaries": [4, 12], "thresholds": [2, 2, 1], "max_wait_s": 60e-6}, 20, 8),
        workload(ROWS, GONE),
    ),
    "distserve": (
        toy_resolved("distserve", {"saturation_tokens": 50, "max_seqs": 6, "decode_tokens": 80}, 14, 8),
        workload(ROWS, GONE),
    ),
    "splitwise": (toy_resolved("splitwise", {"token_budget": 40, "max_seqs": 5}, 14, 8), workload(ROWS, GONE)),
}


def content(path: Path) -> list[tuple[int, int, bytes]]:
    """Every frame but the header, which carries the version."""
    return [(kind, room, payload) for _, kind, room, payload in frames(path) if kind != HEADER]


@pytest.mark.parametrize("name", WORLDS)
def test_golden_log(name: str, tmp_path: Path) -> None:
    resolved, load = WORLDS[name]
    golden = HERE / f"{name}.log"
    physics = ToyLatency(whole=False, split=7)
    if os.environ.get("PHASEWISE_GOLDEN") == "write":
        simulate(resolved, load, physics=lambda i: physics, log=golden)
    simulate(resolved, load, physics=lambda i: physics, log=tmp_path / "now.log")
    assert content(tmp_path / "now.log") == content(golden)
    old = RunLog.read(golden)
    assert old.header.resolved == resolved
    assert replay(old) > 60


@pytest.mark.parametrize("batcher", ["static", "vllm-v1", "sarathi"])
def test_two_runs_with_one_seed_give_the_same_bytes(batcher: str, tmp_path: Path) -> None:
    deployment = Deployment("meta-llama/Llama-3.1-8B", (ReplicaSpec("h100", 2),), PolicySpec(batcher), max_context=8192)
    for name in ("one", "two"):
        simulate(deployment, load("azure-code", rate=4, requests=400, seed=5), 5, log=tmp_path / name)
    in_memory = simulate(deployment, load("azure-code", rate=4, requests=400, seed=5), 5)
    in_memory.write(tmp_path / "three")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == (tmp_path / "three").read_bytes()
    other = simulate(deployment, load("azure-code", rate=4, requests=400, seed=6), 6)
    assert list(other.segments()) != list(in_memory.segments())
