"""`phasewise models` and `phasewise devices`: tables that fit, one entry in full, JSON, a user's own, bad names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phasewise.cli import main
from phasewise.perf.hardware import device_names
from phasewise.perf.models import model_names

MINE = 'memory_gib = 48.0\nmemory_gb_s = 900.0\nbf16_tflops = 200.0\nsource = "measured"\n'


@pytest.fixture(autouse=True)
def hundred_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize(("verb", "names"), [("models", model_names()), ("devices", device_names())])
def test_every_name_has_a_row_that_fits(capsys: pytest.CaptureFixture[str], verb: str, names: list[str]) -> None:
    lines = said(capsys, verb).splitlines()
    assert [line.split()[0] for line in lines[1:]] == names
    assert max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines)


def test_rows_say_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    models = {line.split()[0]: line.split()[1:] for line in said(capsys, "models").splitlines()}
    assert models["openai/gpt-oss-20b"] == ["20.91", "3.61", "12.8", "48.0", "128k", "window", "128"]
    assert models["deepseek-ai/DeepSeek-V3"][-1] == "latent"
    devices = {line.split()[0]: line.split()[1:] for line in said(capsys, "devices").splitlines()}
    assert devices["h100"] == ["989", "1978", "80", "3350", "700", "450", "nvlink4", "2.99"]
    assert devices["cpu"] == ["14.7", "-", "768", "460.8", "360", "-", "-", "5.56"]


def test_one_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    v3 = said(capsys, "models", "deepseek-r1")
    for text in ("671,026,419,200", "8 of 256 experts", "512 + 64 cached", "layers in fp8", "the shape of deepseek-ai"):
        assert text in v3
    assert "70,272 bytes a token" in v3
    assert "1,024 tokens in 52 layers, 10 see everything" in said(capsys, "models", "gemma-3-27b-it")
    h100 = said(capsys, "devices", "H100-SXM")
    for text in ("700 W at most", "210 to 1980 MHz", "an assumption", "data sheet", "h100-80gb, h100-sxm", "built in"):
        assert text in h100
    assert "none in the node" in said(capsys, "devices", "cpu")
    assert "data sheet only, with the efficiency of a100" in said(capsys, "devices", "l4")


def test_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = json.loads(said(capsys, "models", "--json", "-"))
    assert found["schema"] == "phasewise.models/1"
    assert [m["name"] for m in found["models"]] == model_names()
    (one,) = json.loads(said(capsys, "models", "Mixtral-8x7B-v0.1", "--json", "-"))["models"]
    assert one["moe"] == {
        "experts": 8,
        "per_token": 2,
        "ffn": 14_336,
        "shared_ffn": 0,
        "shared_gate": False,
        "dense_layers": 0,
        "router_bias": False,
        "dtype": None,
    }
    assert one["origin"] == "built in"
    said(capsys, "devices", "--json", str(tmp_path / "d.json"))
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["schema"] == "phasewise.devices/1"
    assert [d["name"] for d in found["devices"]] == device_names()
    assert found["devices"][0]["fp8_tflops"] is None


def test_files_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    (one,) = json.loads(said(capsys, "devices", str(path), "--json", "-"))["devices"]
    assert (one["name"], one["origin"], one["basis"]) == ("mine", str(path), "roofline, data sheet only")
    # A file that borrows a fitted device's name borrows neither its fit nor its other names.
    (tmp_path / "h100.toml").write_text(MINE)
    (one,) = json.loads(said(capsys, "devices", str(tmp_path / "h100.toml"), "--json", "-"))["devices"]
    assert (one["name"], one["basis"], one["aliases"]) == ("h100", "roofline, data sheet only", [])
    path.write_text("[devices.lab-gpu]\n" + MINE)
    monkeypatch.setenv("PHASEWISE_CATALOGUE", str(path))
    lines = said(capsys, "devices").splitlines()
    assert [line.split()[0] for line in lines if "*" in line] == ["lab-gpu*", "*"]
    assert str(path) in said(capsys, "devices", "lab-gpu").replace("\n", "").replace(" " * 17, "")
    (tmp_path / "d.yaml").write_text("model: SmolLM2-135M\nreplicas: [{device: lab-gpu}]\n")
    run = ["simulate", str(tmp_path / "d.yaml"), "--workload", "azure-conv", "--requests", "5", "--json", "-"]
    assert json.loads(said(capsys, *run))["replicas"][0]["device"]["memory_gb_s"] == 900.0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("models lama-3.1-8b", "unknown model 'lama-3.1-8b'; did you mean 'Llama-3.1-8B'?"),
        ("models gpt-oss-20", "did you mean 'gpt-oss-20b'?"),
        ("models no/such.json", "no/such.json: cannot read the file"),
        ("devices h1000", "unknown device 'h1000'; did you mean 'h100'?"),
        ("devices no/such.toml", "no/such.toml: cannot read the file"),
        ("devices --json no/such/folder.json", "there is no folder"),
        ("models a b", "Got unexpected extra argument"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], arguments: str, complaint: str) -> None:
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert complaint in err
    assert (out, err.count("\n")) == ("", 1)
