"""The documents' own examples run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.policy import catalog
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load

DOCS = Path(__file__).parents[2] / "docs" / "guide"


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language on a page."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_the_batcher_of_the_guide_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(blocks("policies.md", "python")[0], "guide", "exec", dont_inherit=True), names)
    assert issubclass(names["Small"], msgspec.Struct)
    monkeypatch.setitem(catalog.PAPERS, ("batcher", "small"), (names["Small"], "the guide"))
    deployment = Deployment("Llama-3.1-8B", (ReplicaSpec("h100"),), PolicySpec("small", {"token_budget": 300}))
    assert simulate(deployment, load("azure-conv", requests=100)).summary["completed"] == 100


def test_the_workloads_of_the_guide_load(tmp_path: Path) -> None:
    rows = "".join(f"{t},{50 + t},{5 + t}\n" for t in range(40))
    (tmp_path / "trace.csv").write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    (tmp_path / "rates.csv").write_text("t_s,rate_rps,active_clients\n0,4,9\n600,2,9\n")
    (tmp_path / "lengths.csv").write_text("side,tokens_from,tokens_below,probability\ninput,5,9,1\noutput,1,2,1\n")
    found = []
    for i, text in enumerate(blocks("workloads.md", "yaml")):
        (tmp_path / f"w{i}.yaml").write_text(text)
        found.append(load(tmp_path / f"w{i}.yaml", requests=3))
    assert [w.name for w in found] == ["chat", "w1", "w2", "w3", "w4"]
    assert found[0].max_tokens == 1024
    assert [c.name for c in found[2].classes] == ["chat", "summary"]
    assert found[3].describe()["users"] == 32
    assert [c.name for c in found[4].classes] == ["chat", "code"]
