"""Deployment files: what is read, what is refused and how the place is named, and settings over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phasewise.control.deployment import as_written, deployment_from, read_deployment, read_mapping, with_settings
from phasewise.control.resolve import resolve
from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, LinkSpec, PolicySpec, ReplicaSpec, Slo

BASE = "model: meta-llama/Llama-3.1-8B\nreplicas: [{device: h100}]\n"
CONFIG = '{"architectures": ["LlamaForCausalLM"], "hidden_size": 64}'


def read(folder: Path, text: str) -> Deployment:
    path = folder / "d.yaml"
    path.write_text(text)
    return read_deployment(path)


def test_everything_can_be_said(tmp_path: Path) -> None:
    text = """
        model: meta-llama/Llama-3.1-8B
        replicas:
          - {device: h100, count: 2, tp: 4, memory_utilisation: 0.8}
          - {device: a100}
        batcher: {name: sarathi, token_budget: 256}
        router: round-robin
        max_context: 4096
        block_tokens: 32
        host_s: 0.001
        tile: 128
        wire_s: 0
        slo: {ttft_s: 1, tpot_s: 0.05}
    """
    assert read(tmp_path, text) == Deployment(
        model="meta-llama/Llama-3.1-8B",
        replicas=(ReplicaSpec("h100", 2, 4, 0.8), ReplicaSpec("a100")),
        batcher=PolicySpec("sarathi", {"token_budget": 256}),
        router=PolicySpec("round-robin"),
        max_context=4096,
        block_tokens=32,
        host_s=0.001,
        tile=128,
        slo=Slo(1.0, 0.05),
    )


def test_little_need_be_said(tmp_path: Path) -> None:
    assert read(tmp_path, BASE) == Deployment("meta-llama/Llama-3.1-8B", (ReplicaSpec("h100"),))


def test_what_is_written_back_reads_the_same(tmp_path: Path) -> None:
    deployment = read(tmp_path, BASE + "batcher: {name: vllm-v1, max_seqs: 8}\nslo: {ttft_s: 2}\n")
    assert deployment_from(as_written(deployment)) == deployment


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds nothing; a deployment has keys and values"),
        ("- h100", "holds a list; a deployment has"),
        ("replicas: [{device: h100}]", "no 'model', which is needed"),
        ("model: x", "no 'replicas', which is needed"),
        ("model: x\nreplicas: []", "replicas: expected a list of groups such as {device: h100}, got an empty list"),
        ("model: x\nreplicas: {device: h100}", "replicas: expected a list of groups"),
        ("model: x\nreplicas: [h100]", "replicas[0]: expected keys and values (device, count"),
        ("model: x\nreplicas: [{count: 2}]", "replicas[0]: no 'device', which is needed"),
        (
            "model: x\nreplicas: [{device: a}, {device: b, tpp: 2}]",
            "replicas[1]: unknown key 'tpp'; did you mean 'tp'?",
        ),
        ("model: x\nreplicas: [{device: h100, tp: '2'}]", "tp: expected a whole number, got text '2'; write 2"),
        ("model: x\nreplicas: [{device: h100, tp: yes}]", "tp: expected a whole number, got true"),
        ("model: x\nreplicas: [{device: h100, tp: 1.0}]", "tp: expected a whole number, got 1.0"),
        ("model: 5\nreplicas: [{device: h100}]", "model: expected text, got 5"),
        (BASE + "batchr: sarathi", "unknown key 'batchr'; did you mean 'batcher'?"),
        (BASE + "batcher: sarati", "unknown batcher 'sarati'; did you mean 'sarathi'?"),
        (BASE + "batcher: [sarathi]", "batcher: expected a name, or keys and values with a name, got a list"),
        (BASE + "batcher: {token_budget: 5}", "batcher: no 'name', which is needed"),
        (
            BASE + "batcher: {name: sarathi, budget: 5}",
            "unknown parameter of batcher 'sarathi' 'budget'; did you mean 'token_budget'?",
        ),
        (
            BASE + "batcher: {name: sarathi, token_budget: 0}",
            "batcher.token_budget: expected a whole number >= 1, got 0",
        ),
        (
            BASE + "batcher: {name: sarathi, token_budget: many}",
            "batcher.token_budget: expected a whole number, got text 'many'",
        ),
        (
            BASE + "router: {name: round-robin, weight: 2}",
            "router 'round-robin' has no parameters, but 'weight' is set",
        ),
        (BASE + "slo: 5", "slo: expected keys and values (ttft_s, tpot_s), got 5"),
        (BASE + "slo: {ttft: 5}", "slo: unknown key 'ttft'; did you mean 'ttft_s'?"),
        (BASE + "slo: {ttft_s: fast}", "slo: ttft_s: expected a number or nothing, got text 'fast'"),
        (BASE + "wire_s: 1e-3", "wire_s: expected a number, got text '1e-3'; write 0.001"),
        (BASE + "wire_s: .inf", "wire_s: expected a finite number, got inf"),
        (BASE + "1: 2", "unknown key '1'"),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'd.yaml'}: ")
    assert complaint in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "row", "complaint"),
    [
        ("model: x\nreplicas: [{device: h100}\nrouter: y", 3, "not YAML"),
        ("model: x\n\tbad: y", 2, "not YAML"),
        ("model: x\nrouter: y\nmodel: z", 3, "key 'model' stands here twice; keep one"),
        ("model: x\nreplicas:\n  - {device: h100, tp: 1, tp: 2}", 3, "key 'tp' stands here twice"),
    ],
)
def test_broken_yaml_names_the_line(tmp_path: Path, text: str, row: int, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'd.yaml'}:{row}: ")


def test_files_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_deployment(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="is a directory"):
        read_deployment(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is binary"):
        read_deployment(tmp_path / "b.yaml")


def test_a_model_path_is_seen_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(CONFIG)
    monkeypatch.chdir("/")
    for name, found in (("tiny/config.json", "tiny/config.json"), ("tiny", "tiny"), ("./tiny", "tiny")):
        deployment = read(tmp_path, f"model: {name}\nreplicas: [{{device: h100}}]")
        assert Path(deployment.model) == tmp_path / found
    # A folder of the same name does not hide the catalogue.
    (tmp_path / "meta-llama" / "Llama-3.1-8B").mkdir(parents=True)
    assert read(tmp_path, BASE).model == "meta-llama/Llama-3.1-8B"


def test_a_device_path_is_seen_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = 'memory_gib = 48.0\nmemory_gb_s = 900.0\nbf16_tflops = 200.0\nsource = "measured"\n'
    (tmp_path / "mine.toml").write_text(sheet)
    monkeypatch.chdir("/")
    deployment = read(tmp_path, "model: SmolLM2-135M\nreplicas: [{device: mine.toml}, {device: h100}]")
    assert [group.device for group in deployment.replicas] == [str(tmp_path / "mine.toml"), "h100"]
    assert [replica.device.name for replica in resolve(deployment).replicas] == ["mine", "h100"]
    with pytest.raises(InputError, match=r"none\.toml: cannot read the file"):
        resolve(read(tmp_path, "model: SmolLM2-135M\nreplicas: [{device: none.toml}]"))


def written(**more: Any) -> dict[str, Any]:
    return {"model": "meta-llama/Llama-3.1-8B", "replicas": [{"device": "h100"}], **more}


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        (["max_context=4096"], {"max_context": 4096}),
        (["max_context=null"], {"max_context": None}),
        (["wire_s=1e-3"], {"wire_s": 0.001}),
        (["batcher=static"], {"batcher": PolicySpec("static")}),
        (["batcher.token_budget=64"], {"batcher": PolicySpec("sarathi", {"token_budget": 64})}),
        (["batcher.max_seqs=8", "batcher.max_seqs=9"], {"batcher": PolicySpec("sarathi", {"max_seqs": 9})}),
        (["batcher.max_seqs=8", "batcher=static"], {"batcher": PolicySpec("static")}),
        (["batcher.max_seqs=8", "batcher.name=static"], {"batcher": PolicySpec("static", {"max_seqs": 8})}),
        (["replicas.0.tp=2", "replicas[0].count=3"], {"replicas": (ReplicaSpec("h100", 3, 2),)}),
        (["slo.ttft_s=1"], {"slo": Slo(ttft_s=1)}),
        (["replicas.mixed=3", "replicas.mixed.tp=2"], {"replicas": (ReplicaSpec("h100", 3, 2),)}),
        (["replicas.0.role=prefill", "replicas.prefill=2"], {"replicas": (ReplicaSpec("h100", 2, role="prefill"),)}),
        (
            ["replicas.0.batcher=orca", "replicas.0.batcher.max_seqs=8"],
            {"replicas": (ReplicaSpec("h100", batcher=PolicySpec("orca", {"max_seqs": 8})),)},
        ),
        (["link=ethernet-25g"], {"link": LinkSpec("ethernet-25g")}),
        (["link.gb_s=3", "link.transfer=serialised"], {"link": LinkSpec(gb_s=3, transfer="serialised")}),
        (["model = Qwen3-8B"], {"model": "Qwen3-8B"}),
    ],
)
def test_settings(settings: list[str], changed: dict[str, Any]) -> None:
    before = written()
    found = deployment_from(with_settings(before, settings))
    expected = {"model": "meta-llama/Llama-3.1-8B", "replicas": (ReplicaSpec("h100"),), **changed}
    assert found == Deployment(**expected)
    assert before == written()


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("token_budget", "not a setting; write KEY=VALUE"),
        ("=5", "not a setting"),
        ("model=", "model: is empty; give a name"),
        ("modle=x", "unknown key 'modle'; did you mean 'model'?"),
        (
            "batcher.token_bugdet=5",
            "unknown parameter of batcher 'sarathi' 'token_bugdet'; did you mean 'token_budget'?",
        ),
        ("batcher.token_budget=much", "batcher.token_budget: expected a whole number, got text 'much'"),
        ("batcher.watermark=nan", "batcher.watermark: expected"),
        ("batcher.a.b=5", "'batcher.a' holds one value; write batcher.a=VALUE"),
        ("replicas.tp=2", "name a group of replicas (0) and one of its keys"),
        ("replicas.1.tp=2", "name a group of replicas (0) and one of its keys"),
        ("replicas.0=2", "name a group of replicas (0) and one of its keys"),
        ("replicas=2", "'replicas' holds several values; set one of them, such as replicas.0.tp=2"),
        ("replicas.0.tp=two", "tp: expected a whole number, got text 'two'"),
        ("slo=1", "'slo' holds several values"),
        ("replicas.decode=2", "name a group of replicas (0) and one of its keys"),
        ("replicas.0.batcher.seats=2", "unknown parameter of batcher"),
        ("link.gbs=2", "unknown key 'gbs'; did you mean 'gb_s'?"),
        ("slo.ttft=1", "unknown key 'ttft'; did you mean 'ttft_s'?"),
        ("tile.x=1", "'tile' holds one value; write tile=VALUE"),
    ],
)
def test_a_bad_setting_names_itself(setting: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        with_settings(written(), [setting])
    assert str(caught.value).startswith(f"--set {setting}: ")
    assert complaint in str(caught.value)


def test_settings_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    path.write_text(BASE + "batcher: {name: sarathi, token_budget: 512}")
    assert read_deployment(path, ["batcher.token_budget=64"]).batcher.params == {"token_budget": 64}
    assert read_mapping(path)["batcher"]["token_budget"] == 512
