"""The package's front door, and the demo that uses nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import phasewise

ROOT = Path(__file__).parents[2]


def test_every_public_name_is_there() -> None:
    for name in phasewise.__all__:
        assert getattr(phasewise, name) is not None
    assert set(phasewise.__all__) == set(dir(phasewise))
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        _ = phasewise.simulat  # type: ignore[attr-defined]


def test_a_simulation_in_three_lines() -> None:
    deployment = phasewise.read_deployment(
        ROOT / "examples" / "llama-8b-h100-sarathi.yaml", ["batcher.token_budget=256"]
    )
    log = phasewise.simulate(deployment, phasewise.load_workload("azure-conv", rate=5.0, requests=50), seed=0)
    assert log.summary["completed"] == 50
    assert isinstance(log, phasewise.RunLog)


def test_nothing_fits_is_an_error_for_the_library_too() -> None:
    deployment = phasewise.Deployment("Llama-3.1-8B", (phasewise.ReplicaSpec("h100"),), max_context=2)
    with pytest.raises(phasewise.PhasewiseError, match="no request fits: the shortest prompt has"):
        phasewise.simulate(deployment, phasewise.load_workload("azure-conv", requests=5))


def test_the_demo(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py"), "800"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0
    assert all("phasewise: warning:" in line for line in done.stderr.splitlines())
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {"rates.png", "distributions.png", "phases.png"}
    for text in (
        "static",
        "vllm-v1",
        "sarathi",
        "TTFT p99",
        "TBT p99",
        "preemptions",
        "capacity",
        "bound by",
        "roofline, fitted",
        "demo/rates.png",
    ):
        assert text in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 120
