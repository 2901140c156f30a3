"""`phasewise simulate` as a new user calls it: what appears on the screen, in the JSON, in the log and in the picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

import simulate_schema
from phasewise.cli import main
from phasewise.control.deployment import deployment_from
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
FLAGS = ["--model", "meta-llama/Llama-3.1-8B", "--device", "h100"]
CONV = ["--workload", "azure-conv", "--requests", "60"]
HEADER = "arrival_s,input_tokens,output_tokens\n"


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> simulate_schema.Document:
    assert main(["simulate", *arguments, "--json", "-"]) == 0
    return simulate_schema.read(capsys.readouterr().out)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, str(path), *CONV, "--rate", "2")
    assert found.summary.completed == found.summary.requests == 60


def test_a_fleet_with_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "night.yaml").write_text("faults: [{replica: 2, dies_at_s: 2, back_after_s: 5}]\n")
    given = [
        str(ROOT / "examples" / "fleet-2p2d.yaml"),
        *CONV,
        "--rate",
        "10",
        "--faults",
        str(tmp_path / "night.yaml"),
    ]
    pictures = ["--figure", str(tmp_path / "f.png"), "--waterfall", str(tmp_path / "w.svg")]
    assert main(["simulate", *given, *pictures]) == 0
    out = capsys.readouterr().out
    assert re.search(r"replicas +2 × h100 for prefill", out)
    assert re.search(r"batcher +prefill: sarathi \(.*; +decode: vllm-v1", out, re.DOTALL)
    assert re.search(r"faults +night: 1 in all · 1 deaths of a replica · [1-9]", out)
    assert re.search(r"busy .* %.* %", out)
    assert re.search(r"died .* 0 +1", out)
    assert (tmp_path / "f.png").stat().st_size > 10_000
    assert "<svg" in (tmp_path / "w.svg").read_text()[:500]
    found = document(capsys, *given)
    assert isinstance(found.summary.fleet, simulate_schema.Fleet)
    prefill, decode = found.summary.fleet.groups
    assert (prefill.role, decode.role) == ("prefill", "decode")
    assert found.summary.fleet.handed_over == prefill.sent == decode.received >= 60
    assert found.summary.fleet.replicas_lost == decode.replicas_lost == 1
    assert found.summary.fleet.retries == decode.requests_lost > 0
    assert document(capsys, *FLAGS, *CONV).summary.fleet is msgspec.UNSET


WORKLOADS = sorted((ROOT / "examples" / "workloads").glob("*.yaml"))


@pytest.mark.parametrize("path", WORKLOADS, ids=lambda p: p.stem)
def test_every_example_of_a_workload_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *FLAGS, "--workload", str(path), "--requests", "300")
    assert found.summary.completed == found.summary.requests == 300
    assert isinstance(found.summary.classes, dict)
    assert sum(c.completed for c in found.summary.classes.values()) == 300


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
    assert len(WORKLOADS) >= 2


def test_a_closed_loop_and_its_classes_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *FLAGS, "--workload", str(WORKLOADS[-1]), "--requests", "200"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"interactive, 40 users who think \d", out)
    assert re.search(r"objectives +those of the classes: met by [\d.]+ % of", out)
    assert re.search(r"class +completed +TTFT p50 +TPOT p50 +E2E p50 +in time", out)
    assert re.search(r"chat +(\d+) of \1 ", out)
    assert err == ""
    assert main(["simulate", *FLAGS, "--workload", str(WORKLOADS[-1]), "--rate", "3"]) == 2
    assert "a closed loop has no rate: its users and their thinking make it" in capsys.readouterr().err


def test_a_pipeline_from_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *FLAGS, *CONV, "--pp", "2"]) == 0
    out = capsys.readouterr().out
    assert "1 × h100, pp 2 · context" in out
    assert re.search(r"bubbles +[\d.]+ % of the stages' time · PB1 ", out)
    found = document(capsys, *FLAGS, *CONV, "--pp", "2", "--tp", "2")
    assert (found.replicas[0].tp, found.replicas[0].pp) == (2, 2)
    assert found.summary.completed == 60
    assert not isinstance(found.summary.bubbles, msgspec.UnsetType)
    assert main(["simulate", *FLAGS, *CONV, "--pp", "40"]) == 2
    assert "pp is 40; meta-llama/Llama-3.1-8B has 32 layers: give 1 to 32 stages" in capsys.readouterr().err


def test_shared_prompts_without_a_cache_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl"
    row = '{"timestamp": %d, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}\n'
    path.write_text(row % 0 + row % 9)
    assert main(["simulate", *FLAGS, "--workload", str(path)]) == 0
    assert re.search(r"prefix cache +none", capsys.readouterr().out)
    assert document(capsys, *FLAGS, "--workload", str(path)).workload.prefix_block_tokens == 512
    assert main(["simulate", *FLAGS, *CONV]) == 0
    assert "prefix cache" not in capsys.readouterr().out


def test_what_a_reader_has_to_say_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "b.csv"
    rows = "1,GPT-4,5,5,10,API log\n2,GPT-4,5,0,5,API log\n"
    path.write_text("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + rows)
    assert main(["simulate", *FLAGS, "--workload", str(path), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    line = f"{path}: 1 of 2 rows have no prompt or no answer (failed): left out"
    assert err == f"phasewise: warning: {line}\n"
    found = simulate_schema.read(out)
    assert found.warnings == [line]
    assert isinstance(found.summary.classes, dict)
    assert found.summary.classes["GPT-4, API log"].completed == 1


def test_the_table_says_what_ran_and_on_what_footing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *FLAGS, *CONV, "--replicas", "2", "--set", "slo.ttft_s=1", "--seed", "7"]) == 0
    out, err = capsys.readouterr()
    for text in (
        "meta-llama/Llama-3.1-8B",
        "2 × h100",
        "sarathi (token_budget 512, max_seqs 128, watermark 0.01, chunked",
        "round-robin",
        "azure-conv at ",
        "60 requests · seed 7",
        "roofline, fitted on A100/H100 kernels",
        "60 arrived · 60 completed",
        "TTFT ≤ 1 s: met by 100.0 % of the requests",
    ):
        assert text in out
    assert re.search(r"TTFT +time to first token( +[\d.,]+){4} +ms", out)
    assert max(len(line) for line in out.splitlines()) <= 80
    assert len(out.splitlines()) <= 24
    assert err == ""


def test_the_json_is_as_documented(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *FLAGS, *CONV, "--set", "slo.ttft_s=1", "--set", "slo.tpot_s=0.05")
    assert found.basis == "roofline, fitted on A100/H100 kernels"
    assert found.summary.requests == 60
    assert found.summary.ttft_s.p50 <= found.summary.ttft_s.p90 <= found.summary.ttft_s.p99
    assert found.summary.scores.token_deadlines.attained is not None
    guide = (ROOT / "docs" / "guide" / "summary.md").read_text()
    undocumented = {key for key in simulate_schema.keys(simulate_schema.Document) if f"`{key}`" not in guide}
    # The data sheet's own fields are named in the device catalogue.
    assert undocumented <= simulate_schema.keys(simulate_schema.Device)


def test_what_does_not_exist_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.csv").write_text(HEADER + "0,10,1\n")
    assert main(["simulate", *FLAGS, "--workload", str(tmp_path / "one.csv"), "--json", "-"]) == 0
    out = capsys.readouterr().out
    assert "NaN" not in out
    assert "Infinity" not in out
    found = simulate_schema.read(out)
    assert found.summary.tbt_s.mean is None
    assert found.workload.mean_rate_rps is None
    # The table shows a dash for it.
    assert main(["simulate", *FLAGS, "--workload", str(tmp_path / "one.csv")]) == 0
    assert re.search(r"TBT +time between tokens( +–){4}", capsys.readouterr().out)


def test_the_deployment_in_the_json_runs_again(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(
        capsys, *FLAGS, *CONV, "--batcher", "vllm-v1", "--max-context", "9000", "--set", "batcher.max_seqs=32"
    )
    assert found.deployment["batcher"] == {"name": "vllm-v1", "token_budget": 2048, "max_seqs": 32}
    again = simulate(deployment_from(found.deployment), load("azure-conv", requests=60))
    assert again.summary["ttft_s"]["p99"] == found.summary.ttft_s.p99
    assert again.summary["events"] == found.summary.events


def test_one_seed_one_result_another_seed_another(capsys: pytest.CaptureFixture[str]) -> None:
    def summary(seed: str) -> dict[str, object]:
        assert main(["simulate", *FLAGS, *CONV, "--seed", seed, "--json", "-"]) == 0
        out = json.loads(capsys.readouterr().out)["summary"]
        return {key: value for key, value in out.items() if "wall" not in key}

    assert summary("1") == summary("1") != summary("2")


def test_a_file_and_flags_that_say_the_same_run_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "d.yaml"
    path.write_text(
        "model: meta-llama/Llama-3.1-8B\nreplicas: [{device: h100, count: 2}]\nbatcher: {name: sarathi, token_budget: 256}"
    )
    filed = document(capsys, str(path), *CONV)
    flagged = document(capsys, *FLAGS, *CONV, "--replicas", "2", "--set", "batcher.token_budget=256")
    assert filed.deployment == flagged.deployment
    assert filed.summary.ttft_s == flagged.summary.ttft_s
    overridden = document(capsys, str(path), *CONV, "--set", "batcher.token_budget=64")
    assert overridden.deployment["batcher"]["token_budget"] == 64


def test_files_appear_together_and_hold_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    outputs = {kind: tmp_path / f"out.{kind}" for kind in ("json", "log", "png")}
    flags = ["--json", str(outputs["json"]), "--log", str(outputs["log"]), "--figure", str(outputs["png"])]
    assert main(["simulate", *FLAGS, *CONV, *flags]) == 0
    assert sorted(tmp_path.iterdir()) == sorted(outputs.values())
    assert "TTFT" in capsys.readouterr().out
    found = simulate_schema.read(outputs["json"].read_bytes())
    log = RunLog.read(outputs["log"])
    assert len(log.tables.requests) == found.summary.requests
    assert log.header.seed == found.seed
    assert outputs["png"].read_bytes().startswith(b"\x89PNG")


def test_a_figure_that_fails_leaves_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")

    def broken(*_: object) -> None:
        raise RuntimeError("the pen is dry")

    monkeypatch.setattr("phasewise.report.figures.timeline", broken)
    flags = ["--log", str(tmp_path / "a.log"), "--json", str(tmp_path / "a.json"), "--figure", str(tmp_path / "a.png")]
    with pytest.raises(RuntimeError, match="the pen is dry"):
        main(["simulate", *FLAGS, *CONV, *flags])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "a.json")

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["simulate", *FLAGS, *CONV, "--json", str(tmp_path / "a.json")]) == 2
    assert capsys.readouterr().err == "phasewise: error: a.json: No space left on device\n"
    assert list(tmp_path.iterdir()) == []


def test_no_matplotlib_is_said_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert main(["simulate", *FLAGS, *CONV, "--figure", str(tmp_path / "a.png"), "--log", str(tmp_path / "a.log")]) == 2
    assert capsys.readouterr().err == "phasewise: error: a figure needs matplotlib; pip install 'phasewise[plot]'\n"
    assert list(tmp_path.iterdir()) == []


def test_failed_requests_are_counted_with_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, night = tmp_path / "t.csv", tmp_path / "night.yaml"
    path.write_text(HEADER + "0,10,5\n4,10,5\n5,10,5\n")
    night.write_text("faults: [{replica: 0, dies_at_s: 2}]")
    assert main(["simulate", *FLAGS, "--workload", str(path), "--faults", str(night), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    found = simulate_schema.read(out)
    assert (found.summary.completed, found.summary.failed) == (1, 2)
    why = "no replica was left, or to come, for their prompts or their answers"
    assert err == f"phasewise: warning: 2 of 3 requests failed, the first at 4 s: {why}\n"


def test_rejected_requests_are_counted_with_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "0,10,5\n1,9000,5\n2,9001,5\n3,10,5\n")
    assert main(["simulate", *FLAGS, "--max-context", "8192", "--workload", str(path), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    found = simulate_schema.read(out)
    assert (found.summary.completed, found.summary.rejected) == (2, 2)
    why = "its prompt of 9,000 tokens leaves no room for output in a context of 8,192"
    line = f"2 of 4 requests rejected; the first is {path}:3: {why}"
    assert err == f"phasewise: warning: {line}\n"
    assert found.warnings == [line]
    assert main(["simulate", *FLAGS, "--max-context", "8192", "--workload", str(path)]) == 0
    assert "4 arrived · 2 completed · 2 rejected" in capsys.readouterr().out


def test_an_output_ends_at_the_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text(HEADER + "0,10,500\n")
    found = document(capsys, *FLAGS, "--max-context", "64", "--workload", str(tmp_path / "t.csv"))
    assert found.summary.completed == 1
    assert found.summary.tokens_out == 64 - 10


def test_rate_is_the_whole_files_before_requests_cut_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text(HEADER + "0,10,5\n1,10,5\n10,10,5\n")
    found = document(capsys, *FLAGS, "--workload", str(tmp_path / "t.csv"), "--rate", "2", "--requests", "2")
    # Two gaps in 10 s become two gaps in 1 s; the first gap is a tenth of it.
    assert found.workload.mean_rate_rps == pytest.approx(10.0)


def test_policies(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["policies"]) == 0
    out = capsys.readouterr().out
    assert "token_budget=512, max_seqs=128, watermark=0.01" in out
    assert main(["policies", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "phasewise.policies/1"
    names = {(p["role"], p["name"]) for p in found["policies"]}
    assert {("batcher", "static"), ("batcher", "vllm-v1"), ("batcher", "sarathi"), ("router", "round-robin")} <= names
    assert all(set(p) == {"role", "name", "about", "paper", "parameters"} for p in found["policies"])
    assert main(["policies", "--json", str(tmp_path / "p.json")]) == 0
    assert json.loads((tmp_path / "p.json").read_text()) == found


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"phasewise \d+\.\d+\.\d+( \(compiled\))?\n", capsys.readouterr().out)
    assert main([]) == 0
    assert "simulate" in capsys.readouterr().out
    assert main(["simulate", "--help"]) == 0
    assert "--workload" in capsys.readouterr().out
