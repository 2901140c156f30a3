"""The documents' own examples run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from phasewise.control.deployment import deployment_from
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.policy import catalog
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load
from worlds import classed

DOCS = Path(__file__).parents[2] / "docs" / "guide"


def block(page: str, language: str) -> str:
    """The first fenced block of a language on a page."""
    found = re.search(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_batcher_of_the_guide_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(block("policies.md", "python"), "guide", "exec", dont_inherit=True), names)
    assert issubclass(names["Small"], msgspec.Struct)
    monkeypatch.setitem(catalog.PAPERS, ("batcher", "small"), (names["Small"], "the guide"))
    deployment = Deployment("Llama-3.1-8B", (ReplicaSpec("h100"),), PolicySpec("small", {"token_budget": 300}))
    assert simulate(deployment, load("azure-conv", requests=100)).summary["completed"] == 100


def test_the_types_of_the_guide_serve() -> None:
    text = "model: Llama-3.1-8B\nreplicas: [{device: h100}]\n" + block("policies.md", "yaml")
    deployment = deployment_from(yaml.safe_load(text))
    rows = [(i * 50_000_000, 512, 20 + 30 * (i % 3 == 0)) for i in range(300)]
    found = simulate(deployment, classed(rows, ["code" if i % 3 == 0 else "chat" for i in range(300)]))
    assert found.summary["completed"] > 150
    assert found.summary["forced"] == found.summary["preemptions"] == 0
    types = found.header.resolved.deployment.batcher.params["types"]
    assert (types["chat"]["threshold"], types["code"]["threshold"]) == (1, 8)


def test_the_workload_of_the_guide_loads(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(block("workloads.md", "yaml"))
    found = load(tmp_path / "w.yaml", requests=50)
    assert (found.name, len(found), found.max_tokens) == ("chat", 50, 1024)
