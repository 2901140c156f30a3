"""The documents' own examples run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from typer.main import get_command

from phasewise.cli.app import app
from phasewise.control.deployment import deployment_from
from phasewise.control.latency import read_latency
from phasewise.core.spec import Deployment, LinkSpec, PolicySpec, ReplicaSpec
from phasewise.core.step import Chunk
from phasewise.core.steptimes import DecodeTimes, PrefillTimes, StepTimes
from phasewise.perf.fit import MeasuredStep
from phasewise.perf.fitted import Fitted
from phasewise.perf.hardware import device
from phasewise.perf.links import presets, resolve_link
from phasewise.policy import catalog
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load
from worlds import classed

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


def test_the_types_of_the_guide_serve() -> None:
    text = "model: Llama-3.1-8B\nreplicas: [{device: h100}]\n" + blocks("policies.md", "yaml")[0]
    deployment = deployment_from(yaml.safe_load(text))
    rows = [(i * 50_000_000, 512, 20 + 30 * (i % 3 == 0)) for i in range(300)]
    found = simulate(deployment, classed(rows, ["code" if i % 3 == 0 else "chat" for i in range(300)]))
    assert found.summary["completed"] > 150
    assert found.summary["forced"] == found.summary["preemptions"] == 0
    types = found.header.resolved.deployment.batcher.params["types"]
    assert (types["chat"]["threshold"], types["code"]["threshold"]) == (1, 8)


def test_the_latency_file_of_the_guide_is_read(tmp_path: Path) -> None:
    (tmp_path / "times.yaml").write_text(blocks("latency.md", "yaml")[0])
    times = read_latency(tmp_path / "times.yaml")
    assert (times.kind, times.device, len(times.decode)) == ("table", "rtx-pro-6000", 1)


def test_the_fit_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = Fitted(StepTimes("linear", "made up", PrefillTimes(900.0, token_us=2.0), (DecodeTimes(900.0, 5.0, 0.1),)))
    steps = []
    for i in range(1, 60):
        chunks = ((0, 40 * i),) if i % 2 else ()
        plan = [Chunk(0, start, tokens, 1 << 20) for start, tokens in chunks]
        time_us = model.pieces(plan, i, 100 * i, 1)[0][0] / 1e3
        steps.append(MeasuredStep(chunks, i, 100 * i, time_us))
    exec(compile(blocks("latency.md", "python")[0], "guide", "exec", dont_inherit=True), {"steps": steps})
    assert read_latency(tmp_path / "my-server.yaml").tp == 1


def test_the_catalogue_of_the_guide_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, both = re.findall(r"```toml\n(.*?)```", (DOCS / "catalogue.md").read_text(), re.DOTALL)
    (tmp_path / "mine.toml").write_text(own)
    assert device(str(tmp_path / "mine.toml")).efficiency == "h100"
    (tmp_path / "catalogue.toml").write_text(both)
    (tmp_path / "chat-9b").mkdir()
    config = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"architectures": ["LlamaForCausalLM"], "vocab_size": 100, "max_position_embeddings": 4096}
    (tmp_path / "chat-9b" / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("PHASEWISE_CATALOGUE", str(tmp_path / "catalogue.toml"))
    deployment = Deployment("lab/chat-9b", (ReplicaSpec("lab-gpu"),))
    assert simulate(deployment, load("azure-conv", requests=5)).summary["completed"] == 5


def test_the_capacity_of_the_guide_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(blocks("capacity.md", "python")[0], "guide", "exec", dont_inherit=True), {"__name__": "__main__"})
    assert "('tbt@p99',)" in capsys.readouterr().out


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


def test_every_key_of_a_deployment_is_in_the_guide() -> None:
    tables = [
        set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
        for table in (DOCS / "deployment.md").read_text().split("\n\n")
    ]
    assert set(Deployment.__struct_fields__) in tables
    assert set(ReplicaSpec.__struct_fields__) in tables
    (example,) = [text for text in blocks("links.md", "yaml") if "transfer" in text]
    assert set(yaml.safe_load(example)["link"]) == set(LinkSpec.__struct_fields__)


def test_the_links_of_the_guide_are_the_presets() -> None:
    cells = re.findall(r"^\| `(.+?)` \| (.+) \|$", (DOCS / "links.md").read_text(), re.MULTILINE)
    assert [(name, *rest.split(" | ")) for name, rest in cells] == [
        (
            link.name,
            f"{link.gb_s:g}",
            "device" if link.per_device else "replica",
            f"{link.latency_us:g}",
            f"{link.leftover_ms:g}",
            link.source,
        )
        for link in presets().values()
    ]


def test_the_links_of_the_guide_resolve() -> None:
    fleet = "model: Llama-3.1-8B\nreplicas: [{device: h100}]\n"
    found = [resolve_link(deployment_from(yaml.safe_load(fleet + text)).link) for text in blocks("links.md", "yaml")]
    assert [(link.name, link.gb_s, link.latency_us) for link in found] == [
        ("infiniband-ndr", 50.0, 3.0),
        ("ethernet-100g", 11.0, 30.0),
    ]


def test_every_flag_of_serve_is_in_the_guide() -> None:
    command = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    flags = {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
    assert flags - {"--help"} == set(re.findall(r"`(--[a-z-]+)", (DOCS / "serve.md").read_text()))
