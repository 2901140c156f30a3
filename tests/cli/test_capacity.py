"""`phasewise capacity` and `phasewise compare`: what they print and write, and what they say of bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from capacity_schema import ProbeDocument, Same
from phasewise.cli import main
from phasewise.perf.hardware import device as device_named
from phasewise.planner.capacity import capacity
from phasewise.planner.objective import Objective, percentiles
from simulate_schema import Strict, Summary

DEPLOYED = ["--model", "meta-llama/Llama-3.1-8B", "--device", "h100"]
FLAGS = [*DEPLOYED, "--workload", "azure-conv", "--requests", "400", "--jobs", "1"]
SLO = ["--slo", "tbt=0.05@p99", "--slo", "delay=2@p50"]
TWO = ["--batcher", "vllm-v1", "--batcher", "sarathi:token_budget=512,max_seqs=64"]
NAMES = ["vllm-v1", "sarathi (token_budget 512, max_seqs 64)"]


class Searched(Strict):
    name: str
    basis: str
    oracle: bool
    deployment: dict[str, Any]
    devices: int
    price_usd_per_hour: float | None
    rate_rps: float | None
    rate_rps_per_device: float | None
    rate_rps_per_usd_per_hour: float | None
    infeasible_rate_rps: float | None
    bound_by: list[str]
    saturation_rps: float
    notes: list[str]
    probes: list[ProbeDocument]


class CapacityDocument(Strict):
    schema: str
    version: str
    workload: Same
    seed: int
    objective: Objective
    tolerance: float
    arms: list[Searched]


class Compared(Strict):
    name: str
    basis: str
    deployment: dict[str, Any]
    summary: dict[str, Any]
    capacity: Searched | None
    probes: list[ProbeDocument]


class Ran(Strict):
    name: str
    requests: int
    mean_rate_rps: float | None
    sha256: str


class CompareDocument(Strict):
    schema: str
    version: str
    workload: Ran
    seed: int
    faults: str | None
    objective: Objective | None
    arms: list[Compared]


def test_the_document_of_a_capacity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capacity", *FLAGS, *SLO, *TWO, "--json", "-"]) == 0
    out = capsys.readouterr().out
    found = msgspec.json.decode(out, type=CapacityDocument)
    assert found.schema == "phasewise.capacity/1"
    assert [arm.name for arm in found.arms] == NAMES
    assert found.arms[1].deployment["batcher"]["max_seqs"] == 64
    assert found.objective == percentiles(SLO[1::2])
    assert (found.workload.requests, found.seed, found.tolerance) == (400, 0, 0.025)
    for arm in found.arms:
        rates = {p.rate_rps: p for p in arm.probes}
        assert arm.rate_rps is not None
        assert arm.infeasible_rate_rps is not None
        assert arm.devices == 1
        assert arm.rate_rps_per_device == arm.rate_rps
        assert arm.price_usd_per_hour == device_named("h100").price_per_hour
        assert arm.rate_rps_per_usd_per_hour == arm.rate_rps / arm.price_usd_per_hour  # type: ignore[operator]
        assert rates[arm.rate_rps].feasible
        assert rates[arm.infeasible_rate_rps].missed == arm.bound_by
    # The same again, by more processes and into a file: to the byte.
    path = tmp_path / "capacity.json"
    assert main(["capacity", *FLAGS[:-2], "--jobs", "2", *SLO, *TWO, "--json", str(path)]) == 0
    assert path.read_text() == out
    table = capsys.readouterr().out
    assert "tbt p99 ≤ 0.05 s, delay p50 ≤ 2 s" in table
    assert "bound by" in table


def test_the_command_says_what_the_library_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "d.yaml"
    text = "model: meta-llama/Llama-3.1-8B\nreplicas: [{device: h100}]\nbatcher: {name: sarathi, token_budget: 256}\n"
    file.write_text(text)
    given = [
        "--workload",
        "azure-conv",
        "--requests",
        "300",
        "--seed",
        "4",
        "--jobs",
        "1",
        "--tolerance",
        "0.1",
        "--json",
        "-",
    ]
    assert main(["capacity", str(file), *given, "--slo", "ttft=0.5@p90"]) == 0
    (arm,) = msgspec.json.decode(capsys.readouterr().out, type=CapacityDocument).arms
    from phasewise.control.deployment import read_deployment

    asked = {"requests": 300, "seed": 4, "tolerance": 0.1, "jobs": 1}
    found = capacity(read_deployment(file), "azure-conv", percentiles(["ttft=0.5@p90"]), **asked)  # type: ignore[arg-type]
    assert (arm.name, arm.rate_rps, arm.infeasible_rate_rps) == ("d", found.rate, found.high)


def test_attainment_and_deadlines(capsys: pytest.CaptureFixture[str]) -> None:
    slo = ["--set", "slo.ttft_s=0.5", "--set", "slo.tpot_s=0.03", "--json", "-"]
    for flag, name in (("--attainment", "attainment"), ("--token-deadlines", "token_deadlines")):
        assert main(["capacity", *FLAGS, flag, "0.9", *slo]) == 0
        found = msgspec.json.decode(capsys.readouterr().out, type=CapacityDocument)
        assert name in found.arms[0].probes[0].scores


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "pictures"
    path = tmp_path / "c.json"
    wanted = ["--rate", "6", "--rates", "9,3", "--figures", str(folder), "--json", str(path)]
    assert main(["compare", *FLAGS, *SLO, *TWO, *wanted]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert sorted(p.name for p in folder.iterdir()) == ["distributions.png", "phases.png", "rates.png"]
    assert "rates.png" in "".join(out.split())
    for text in ("TTFT p99", "capacity", "bound by", "requests/s"):
        assert text in out
    assert main(["compare", *FLAGS[:-2], "--jobs", "2", *SLO, *TWO, *wanted[:4], "--json", "-"]) == 0
    assert capsys.readouterr().out == path.read_text()
    found = msgspec.json.decode(path.read_bytes(), type=CompareDocument)
    assert found.schema == "phasewise.compare/1"
    assert [arm.name for arm in found.arms] == NAMES
    for arm in found.arms:
        assert arm.capacity is not None
        rates = [p.rate_rps for p in arm.probes]
        assert rates == sorted(rates)
        assert {3.0, 9.0} < set(rates)
        summary = msgspec.convert({**arm.summary, "wall_s": 0.0, "requests_per_wall_s": 0.0}, Summary)
        assert summary.requests == 400


def test_compare_of_files_by_name_without_an_objective(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, device in (("small", "l4"), ("large", "h100")):
        text = f"model: meta-llama/Llama-3.1-8B\nreplicas: [{{device: {device}}}]\nmax_context: 8192\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    files = [str(tmp_path / f"{name}.yaml") for name in ("small", "large")]
    given = ["--workload", "azure-conv", "--requests", "50", "--jobs", "1", "--json", "-"]
    assert main(["compare", *files, *given]) == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=CompareDocument)
    assert [arm.name for arm in found.arms] == ["small", "large"]
    assert found.objective is None
    assert all(arm.capacity is None and arm.probes == [] for arm in found.arms)
    assert main(["compare", *files, *given, "--batcher", "static"]) == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=CompareDocument)
    assert [arm.name for arm in found.arms] == ["small, static", "large, static"]


@pytest.mark.parametrize("verb", ["compare", "capacity"])
def test_a_batcher_that_no_replica_would_have_is_refused(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fleet.yaml"
    text = "model: Llama-3.1-8B\nmax_context: 8192\nreplicas:\n  - {device: h100, role: prefill, batcher: sarathi}\n"
    path.write_text(f"{text}  - {{device: h100, role: decode, batcher: vllm-v1}}\n")
    given = [verb, str(path), "--workload", "azure-conv", "--requests", "30", "--jobs", "1", "--slo", "tbt=1@p99"]
    assert main([*given, "--batcher", "orca"]) == 2
    why = "would change nothing, for each group of replicas has a batcher of its own"
    remedy = "take another for one with --set replicas.0.batcher=orca"
    assert capsys.readouterr().err == f"phasewise: error: --batcher orca: {why}; {remedy}\n"
    assert main([*given, "--set", "replicas.0.batcher=orca"]) == 0
    # A group without one of its own takes it.
    path.write_text(f"{text}  - {{device: h100, role: decode}}\n")
    assert main([*given, "--batcher", "orca"]) == 0


def test_compare_under_the_same_mishaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    night = tmp_path / "night.yaml"
    night.write_text("faults: [{replica: 1, dies_at_s: 2}, {replica: 0, dies_at_s: 9}]")
    given = ["compare", *FLAGS[:6], "--replicas", "2", "--requests", "120", "--rate", "9", "--jobs", "1", *TWO]
    assert main([*given, "--faults", str(night)]) == 0
    out = capsys.readouterr().out
    for text in ("failed", "retries", "what goes wrong"):
        assert text in out
    assert main([*given, "--faults", str(night), "--json", "-"]) == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=CompareDocument)
    assert found.faults == "night"
    for arm in found.arms:
        # From 9 s on there is nobody, and all 120 requests have not come by then; before that nothing fails.
        assert 0 < arm.summary["failed"] == 120 - arm.summary["completed"]
        assert arm.summary["completed"] > 0
        assert arm.summary["fleet"]["retries"] > 0
    assert main([*given, "--json", "-"]) == 0
    without = msgspec.json.decode(capsys.readouterr().out, type=CompareDocument)
    assert without.faults is None
    assert all(arm.summary["failed"] == 0 for arm in without.arms)
    night.write_text("faults: [{replica: 4, dies_at_s: 2}]")
    assert main([*given, "--faults", str(night)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("phasewise: error: vllm-v1: ")
    assert "night.yaml: faults[0]: replica is 4; give 0 to 1" in err
    night.write_text("faults: [{message: any, lost: 0.5}]")
    assert main([*given, "--faults", str(night)]) == 2
    assert "patience_s" in capsys.readouterr().err


def test_compare_draws_fleets_as_fleets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One replica of a fleet would pass for all of it: of prompts alone there is nothing to see of answers."""
    pytest.importorskip("matplotlib")
    head = "model: Llama-3.1-8B\nreplicas: "
    (tmp_path / "apart.yaml").write_text(head + "[{device: h100, role: prefill}, {device: h100, role: decode}]\n")
    (tmp_path / "one.yaml").write_text(head + "[{device: h100}]\n")
    names = {"apart": ["fleet-1.png"], "one": ["phases.png"], "apart one": ["phases.png", "fleet-1.png"]}
    for files, pictures in names.items():
        folder = tmp_path / "pictures" / files
        folder.mkdir(parents=True)
        given = [str(tmp_path / f"{name}.yaml") for name in files.split()]
        wanted = [
            "--workload",
            "azure-conv",
            "--requests",
            "60",
            "--rate",
            "6",
            "--jobs",
            "1",
            "--figures",
            str(folder),
        ]
        assert main(["compare", *given, *wanted]) == 0
        assert sorted(p.name for p in folder.iterdir()) == sorted(["distributions.png", *pictures])
        assert capsys.readouterr().err == ""


def test_a_capacity_has_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["capacity", *FLAGS, *SLO, "--figure", str(tmp_path / "c.svg")]) == 0
    text = (tmp_path / "c.svg").read_text()
    assert text.startswith("<?xml")
    assert "sarathi" in capsys.readouterr().out


def test_notes_are_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    short = [*FLAGS[:6], "--requests", "20", "--jobs", "1"]
    assert main(["capacity", *short, *TWO, "--slo", "tbt=0.0001@p99"]) == 0
    out, err = capsys.readouterr()
    assert "not within the objective even at" in err
    assert all(line.startswith("phasewise: warning: ") for line in err.splitlines())
    assert "–" in out


def test_a_folder_made_for_nothing_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from phasewise.planner import pictures

    def interrupted(*_: object, **__: object) -> None:
        assert (tmp_path / "new").is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "compare_timelines", interrupted)
    given = ["compare", *FLAGS, "--json", str(tmp_path / "a.json")]
    assert main([*given, "--figures", str(tmp_path / "new")]) == 130
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    monkeypatch.setattr(pictures, "compare_timelines", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([*given, "--figures", str(tmp_path / "old")])
    assert [p.name for p in tmp_path.rglob("*")] == ["old"]


CASES = [
    ("capacity", "", "no objective; give --slo (write METRIC=SECONDS@pNN, such as tbt=0.1@p99), --attainment or"),
    ("capacity", "--slo tbt=0.1", "--slo tbt=0.1: not an objective; write METRIC=SECONDS@pNN"),
    ("capacity", "--slo tpt=1@p99", "unknown metric 'tpt'; did you mean 'tpot'?"),
    ("capacity", "--slo tbt=1@p99 --attainment 0.9", "--attainment: these are different questions; leave out --slo"),
    ("capacity", "--attainment 0.9", "--attainment: the deployment has no slo.ttft_s and no slo.tpot_s; give them"),
    ("capacity", "--attainment 90 --set slo.ttft_s=1", "--attainment: 90 is not a share"),
    ("capacity", "--token-deadlines 0.9 --set slo.ttft_s=1", "--token-deadlines: the deployment has no slo.tpot_s"),
    ("capacity", "--slo tbt=1@p99 --tolerance 0", "--tolerance: tolerance 0; give a share of the rate"),
    ("capacity", "--slo tbt=1@p99 --jobs 0", "Invalid value for '--jobs'"),
    (
        "capacity",
        "--slo tbt=1@p99 --batcher sarati",
        "--batcher sarati: unknown batcher 'sarati'; did you mean 'sarathi'?",
    ),
    (
        "capacity",
        "--slo tbt=1@p99 --batcher sarathi:budget=5",
        "--batcher sarathi:budget=5: unknown parameter of batcher 'sarathi'",
    ),
    (
        "capacity",
        "--slo tbt=1@p99 --batcher sarathi:",
        "--batcher sarathi:: not a batcher; write NAME, or NAME:KEY=VALUE",
    ),
    (
        "capacity",
        "--slo tbt=1@p99 --batcher static --batcher static",
        "--batcher static: static stands twice; leave one of them out",
    ),
    (
        "capacity",
        "--slo tbt=1@p99 --batcher static --set batcher.max_seqs=3",
        "--set batcher.max_seqs=3: write it with the batcher that it is for: --batcher NAME:KEY=VALUE",
    ),
    ("capacity", "--slo tbt=1@p99 --figure a.gif", "a.gif: not a kind of picture that can be drawn"),
    ("capacity", "--slo tbt=1@p99 --json no/such.json", "there is no folder"),
    ("capacity", "--slo tbt=1@p99 --seed 9223372036854775808", "--seed: 9223372036854775808 is too large"),
    (
        "capacity",
        "none.yaml --slo tbt=1@p99",
        "--model: none.yaml says it already; override it with --set model=",
    ),
    ("compare", "--rates 1,two", "--rates: 'two' is not a rate; write them as 1,2.5,4"),
    ("compare", "--rates 1,-2", "--rates: '-2' is not a rate"),
    ("compare", "--rate 0", "rate 0.0 is not a rate; give requests per second"),
    ("compare", "--figures no/such/folder", "there is no folder"),
    ("compare", "--figures file", "--figures file: is not a folder; name one"),
    ("compare", "--slo tbt=1", "not an objective"),
]


@pytest.mark.parametrize(("verb", "arguments", "complaint"), CASES, ids=[c[1][-40:] for c in CASES])
def test_bad_input(
    verb: str,
    arguments: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main([verb, *FLAGS, *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert err.startswith("phasewise: error: ")
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
