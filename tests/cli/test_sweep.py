"""`phasewise capacity --sweep`: what it prints and writes, and what it says of bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from capacity_schema import ProbeDocument, Same
from phasewise.cli import main
from phasewise.control.deployment import deployment_from
from phasewise.planner.objective import Objective
from phasewise.planner.sweep import sweep
from simulate_schema import Strict

DEPLOYED = ["--model", "meta-llama/Llama-3.1-8B", "--device", "h100"]
SLO = ["--slo", "tbt=0.05@p99", "--slo", "delay=2@p50"]
FLAGS = [*DEPLOYED, "--workload", "azure-conv", "--requests", "200", "--jobs", "1", "--tolerance", "0.2"]
TWO = ["--sweep", "replicas.0.count=1..3", "--sweep", "batcher.token_budget=256,2048"]


class AxisDocument(Strict):
    key: str
    values: list[Any]


class SizeDocument(Strict):
    least: int
    most: int


class BestDocument(Strict):
    point: int
    deployment: dict[str, Any]


class WorstDocument(Strict):
    score: str
    of_limit: float | None


class PointDocument(Strict):
    settings: dict[str, Any]
    devices: int
    price_usd_per_hour: float | None
    basis: str | None
    oracle: bool | None
    error: str | None
    rate_rps: float | None
    rate_rps_per_device: float | None
    rate_rps_per_usd_per_hour: float | None
    infeasible_rate_rps: float | None
    bound_by: list[str]
    worst: WorstDocument | None
    saturation_rps: float | None
    notes: list[str]
    probes: list[ProbeDocument]


class SweepDocument(Strict):
    schema: str
    version: str
    workload: Same
    seed: int
    objective: Objective
    tolerance: float | None
    at_rps: float | None
    sweeps: list[AxisDocument]
    devices: SizeDocument | None
    left_out: int
    best: BestDocument | None
    points: list[PointDocument]


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> SweepDocument:
    assert main(["capacity", *FLAGS, *arguments, "--json", "-"]) == 0
    return msgspec.json.decode(capsys.readouterr().out, type=SweepDocument)


def test_the_document_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *SLO, *TWO)
    assert (found.schema, found.at_rps, found.tolerance, found.left_out) == ("phasewise.sweep/1", None, 0.2, 0)
    assert [axis.values for axis in found.sweeps] == [[1, 2, 3], [256, 2048]]
    keys = ("replicas.0.count", "batcher.token_budget")
    assert [tuple(p.settings[key] for key in keys) for p in found.points] == [
        (n, budget) for n in (1, 2, 3) for budget in (256, 2048)
    ]
    for point in found.points:
        assert point.devices == point.settings["replicas.0.count"]
        assert point.rate_rps is not None
        assert point.rate_rps_per_device == point.rate_rps / point.devices
    assert found.best is not None
    best = max(range(6), key=lambda i: found.points[i].rate_rps_per_device or 0.0)
    assert found.best.point == best
    # The deployment of the best point is one that can be run as it stands.
    deployment = deployment_from(found.best.deployment)
    assert deployment.replicas[0].count == found.points[best].settings["replicas.0.count"]
    assert deployment.batcher.params["token_budget"] == found.points[best].settings["batcher.token_budget"]
    # The same again, by more processes and into a file: to the byte.
    path, alone = tmp_path / "two.json", tmp_path / "one.json"
    two = [flag if flag != "1" else "2" for flag in FLAGS]
    assert main(["capacity", *two, *SLO, *TWO, "--json", str(path)]) == 0
    assert main(["capacity", *FLAGS, *SLO, *TWO, "--json", str(alone)]) == 0
    assert path.read_bytes() == alone.read_bytes()
    out, err = capsys.readouterr()
    assert "best" in out
    assert "per device" in out
    assert "Traceback" not in err


def test_one_rate_with_a_number_of_devices(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *SLO, *TWO, "--at", "14", "--devices", "..2")
    assert (found.at_rps, found.tolerance, found.left_out) == (14.0, None, 2)
    assert found.devices == SizeDocument(1, 2)
    assert [len(point.probes) for point in found.points] == [1] * 4
    for point in found.points:
        (probe,) = point.probes
        assert probe.rate_rps == 14.0
        assert (point.rate_rps, point.infeasible_rate_rps) == ((14.0, None) if probe.feasible else (None, 14.0))
        assert point.worst is not None
        assert point.worst.of_limit == max(probe.scores["tbt@p99"] / 0.05, probe.scores["delay@p50"] / 2)


def test_a_point_that_only_its_backlog_fails_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--slo", "tpot=1@p90", "--sweep", "replicas.0.count=1", "--at", "60"]
    assert main(["capacity", *FLAGS, *given]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "tpot@p90, backlog" in last
    assert "best" not in last


def test_if_nothing_holds_at_a_rate_a_run_too_short_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--slo", "tpot=0.001@p90", "--sweep", "replicas.0.count=1,2", "--at"]
    assert main(["capacity", *FLAGS, *given, "100"]) == 0
    assert "2 of 2 points are to be doubted" in capsys.readouterr().err
    assert main(["capacity", *FLAGS, *given, "4"]) == 0
    assert capsys.readouterr().err == ""


def test_the_command_says_what_the_library_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "d.yaml"
    file.write_text("model: meta-llama/Llama-3.1-8B\nreplicas: [{device: h100}]\nreference: a100\n")
    given = ["--workload", "azure-conv", "--requests", "200", "--jobs", "1", "--seed", "4", "--json", "-"]
    assert main(["capacity", str(file), *given, "--slo", "splitwise", *TWO[:2], "--at", "5"]) == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=SweepDocument)
    from phasewise.control.deployment import read_deployment

    over = {"replicas.0.count": range(1, 4)}
    same = sweep(read_deployment(file), "azure-conv", ["splitwise"], over, at=5.0, requests=200, seed=4, jobs=1)
    assert [p.rate_rps for p in found.points] == [one.rate for one in same.found]
    assert [p.probes[0].scores for p in found.points] == [one.probes[0].scores for one in same.found]
    assert len(found.points[0].probes[0].scores) == 9


def test_a_sweep_has_a_picture_and_says_what_could_not_be_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    wanted = ["--sweep", "model=Llama-3.1-8B,Qwen2.5-32B", "--sweep", "replicas.0.device=h100,l4", "--at", "1"]
    given = ["capacity", *FLAGS, *SLO, *wanted, "--figure", str(tmp_path / "heat.svg")]
    assert main(given) == 0
    out, err = capsys.readouterr()
    assert (tmp_path / "heat.svg").read_text().startswith("<?xml")
    assert "cannot be run" in " ".join(out.split())
    warning = "phasewise: warning: 1 of 4 points cannot be run; the first, model=Qwen2.5-32B, replicas.0.device=l4: "
    assert f"{warning}Qwen/Qwen2.5-32B does not fit on l4" in err


def test_a_long_table_ends_after_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capacity", *FLAGS, *SLO, "--sweep", "batcher.max_seqs=1..30", "--at", "2"]) == 0
    assert "10 more points, all of them with --json" in capsys.readouterr().out


CASES = [
    ("--sweep replicas.0.count", "--sweep replicas.0.count: not a sweep; write KEY=VALUES"),
    ("--sweep replicas.0.count=4..1", "'4..1' is empty"),
    (
        "--sweep replicas.0.cout=1..2",
        "--sweep replicas.0.cout=1: replicas[0]: unknown key 'cout'; did you mean 'count'?",
    ),
    ("--sweep tile=1 --sweep tile=2", "--sweep: tile is swept twice"),
    ("--sweep replicas=1,2", "--sweep replicas=1: 'replicas' holds several values; set one of them"),
    ("--devices 4", "--devices: is about the points of a sweep; give --sweep KEY=VALUES, or leave it out"),
    ("--at 4", "--at: is about the points of a sweep"),
    ("--sweep replicas.0.count=1,2 --at 0", "--at: rate 0.0 is not a rate"),
    ("--sweep replicas.0.count=1,2 --devices 1-2", "--devices 1-2: not a number of devices; write 40, ..40"),
    ("--sweep replicas.0.count=1,2 --devices 7", "--devices: no point has 7 devices; they have 1 to 2"),
    ("--sweep replicas.0.count=0", "--sweep: no point of the sweep can be run: replicas[0] is a group of 0 replicas"),
    (
        "--sweep replicas.0.count=1,2 --batcher sarathi --batcher vllm-v1",
        "--batcher: a sweep is over one deployment; leave all but one out, or sweep over batcher=A,B",
    ),
    ("--sweep replicas.0.count=1,2 --batcher sarathi --set batcher.max_seqs=3", "write it with the batcher"),
    ("--sweep replicas.0.count=1,2 --figure a.gif", "a.gif: not a kind of picture"),
]


@pytest.mark.parametrize(("arguments", "complaint"), CASES, ids=[c[0][-40:] for c in CASES])
def test_bad_input(
    arguments: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["capacity", *FLAGS, *SLO, *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert err.startswith("phasewise: error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_without_an_objective(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capacity", *FLAGS, *TWO]) == 2
    assert "no objective; give --slo" in capsys.readouterr().err
