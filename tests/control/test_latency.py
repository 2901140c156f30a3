"""Latency files, and the latency model that a deployment names: what is read, resolved, refused, and simulated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.control.deployment import as_written, deployment_from, read_deployment, read_mapping, with_settings
from phasewise.control.latency import read_latency, write_latency
from phasewise.control.resolve import resolve
from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.core.steptimes import DecodeTimes, FitError, PrefillTimes, StepTimes, Table
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load
from worlds import workload

LLAMA = "meta-llama/Llama-3.1-8B"
FILE = """
kind: linear
source: made up for a test
date: 2026-11-20
prefill: {step_us: 8000, token_us: 25.5, pair_us: 0.25}
decode: {step_us: 8000, sequence_us: 30, context_us: 0.07}
"""
SPLITWISE = Deployment("Llama-2-70b-hf", (ReplicaSpec("h100", tp=8),), latency="splitwise")


def write(folder: Path, text: str, name: str = "times.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_says_what_the_steps_take(tmp_path: Path) -> None:
    assert read_latency(write(tmp_path, FILE)) == StepTimes(
        "linear",
        "made up for a test",
        PrefillTimes(8000, token_us=25.5, pair_us=0.25),
        (DecodeTimes(8000, 30, 0.07),),
        date="2026-11-20",
    )


def test_json_reads_as_well(tmp_path: Path) -> None:
    data = {"kind": "table", "source": "x", "prefill": {"step_us": 5.5}}
    data["decode"] = [{"step_us": 1, "below_batch": 9}, {"by_batch": {"at": [9, 20], "times_us": [2, 3.5]}}]
    times = read_latency(write(tmp_path, json.dumps(data), "times.json"))
    assert times.decode == (DecodeTimes(1, below_batch=9), DecodeTimes(by_batch=Table((9, 20), (2, 3.5))))


number = st.floats(0, 1e9, allow_subnormal=False)
names = st.none() | st.text("abc-.: #'é", min_size=1)


@st.composite
def any_times(draw: st.DrawFn) -> StepTimes:
    at = tuple(sorted(draw(st.sets(st.integers(1, 10**6), min_size=1, max_size=5))))
    table = Table(at, tuple(draw(st.floats(0.001, 1e9)) for _ in at))
    prefill = PrefillTimes(1.0, *(draw(number) for _ in range(4)))
    last = DecodeTimes(draw(number), draw(number), draw(number), by_context=table)
    error = FitError(draw(st.integers(1, 999)), draw(number), draw(number), draw(number))
    return StepTimes(
        "table",
        draw(st.text("abc-.: #'é", min_size=1)),
        prefill,
        draw(st.sampled_from([(last,), (DecodeTimes(2.0, below_batch=7), last)])),
        draw(names),
        draw(names),
        draw(st.none() | st.integers(1, 8)),
        draw(st.none() | st.just("2026-11-20")),
        draw(st.none() | st.just(error)),
        *draw(st.tuples(st.just(0.0), st.just(0.0), st.none() | st.floats(1, 2)) | st.tuples(number, number)),
    )


@given(any_times())
def test_what_is_written_reads_the_same(tmp_path_factory: pytest.TempPathFactory, times: StepTimes) -> None:
    path = tmp_path_factory.mktemp("latency") / "times.yaml"
    write_latency(times, path)
    assert read_latency(path) == times


def test_times_that_would_not_be_read_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="decode is empty"):
        write_latency(StepTimes("linear", "x", PrefillTimes(1.0), ()), tmp_path / "times.yaml")
    with pytest.raises(InputError, match="cannot be written"):
        write_latency(StepTimes("linear", "x", PrefillTimes(1.0), (DecodeTimes(1.0),)), tmp_path / "no" / "times.yaml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (FILE, "", "has no keys and values; give kind, source, prefill"),
        ("kind: linear", "kind: [", "not YAML"),
        ("kind: linear", "", "no 'kind', which is needed"),
        ("kind: linear", "kind: lines", "kind is 'lines'; known: linear, table"),
        ("source: made up for a test", "source: 5", "source: expected text, got 5"),
        ("token_us: 25.5", "tokn_us: 25.5", "prefill: unknown key 'tokn_us'; did you mean 'token_us'?"),
        ("token_us: 25.5", "token_us: 1e-3", "prefill: token_us: expected a number, got text '1e-3'; write 0.001"),
        ("token_us: 25.5", "token_us: -1", "prefill.token_us: is -1; give microseconds, 0 or more"),
        ("token_us: 25.5", "token_us: .inf", "prefill: token_us: expected a finite number, got inf"),
        ("prefill: {step_us: 8000, token_us: 25.5, pair_us: 0.25}", "prefill: 5", "prefill: expected keys and values"),
        ("prefill: {step_us: 8000, token_us: 25.5, pair_us: 0.25}", "", "no 'prefill', which is needed"),
        ("decode: {step_us: 8000", "decode: {step: 8000", "decode: unknown key 'step'; did you mean 'step_us'?"),
        ("decode: {step_us: 8000,", "decode: {below_batch: 9, step_us: 8000,", "decode: below_batch must rise"),
        ("token_us: 25.5", "by_tokens: {at: [1], times: [2]}", "prefill.by_tokens: unknown key 'times'"),
        ("token_us: 25.5", "by_tokens: {at: [1.5], times_us: [2]}", "prefill.by_tokens: at: expected a whole number"),
        ("token_us: 25.5", "by_tokens: {at: [1], times_us: [2]}", "a linear model has no table"),
        ("date:", "error: {points: 5}\ndate:", "error: no 'mean', which is needed"),
        ("kind: linear", "kind: linear\ntp: two", "tp: expected a whole number or nothing, got text 'two'"),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = write(tmp_path, FILE.replace(old, new))
    with pytest.raises(InputError) as caught:
        read_latency(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert says in line
    assert "\n" not in line


def test_a_deployment_names_a_published_model() -> None:
    resolved = resolve(SPLITWISE)
    assert resolved.basis == "Splitwise's measurements of llama-2-70b, tp 8 on h100 (ISCA 2024)"
    assert resolved.replicas[0].latency is not None
    mixed = msgspec.structs.replace(SPLITWISE, replicas=(ReplicaSpec("h100", tp=8), ReplicaSpec("a100", 2, tp=4)))
    assert resolve(mixed).basis.count("; ") == 1
    named = msgspec.structs.replace(SPLITWISE, latency="roofline")
    assert resolve(named).replicas == resolve(msgspec.structs.replace(SPLITWISE, latency=None)).replicas


def test_a_latency_file_is_seen_from_the_deployment(tmp_path: Path) -> None:
    write(tmp_path, FILE)
    path = write(tmp_path, f"model: {LLAMA}\nreplicas: [{{device: h100}}]\nlatency: times.yaml\n", "d.yaml")
    deployment = read_deployment(path)
    assert deployment.latency == str(tmp_path / "times.yaml")
    assert resolve(deployment).basis == "times.yaml: made up for a test"
    assert deployment_from(as_written(deployment)) == deployment
    other = with_settings(read_mapping(path), ["latency=roofline"])
    assert resolve(deployment_from(other)).basis == "roofline, fitted on A100/H100 kernels"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"latency": "vidur"}, "d.yaml: unknown latency model 'vidur'; known: distserve, roofline, splitwise"),
        ({"model": LLAMA}, "d.yaml: 'splitwise' does not cover meta-llama/Llama-3.1-8B, tp 8 on h100; it covers"),
        ({"host_s": 0.001}, "d.yaml: host_s belongs to the roofline, and latency is 'splitwise'; leave one out"),
        ({"tile": 64}, "d.yaml: tile belongs to the roofline"),
        ({"latency": "no.yaml"}, "no.yaml: no such file; check the path"),
    ],
)
def test_what_a_deployment_cannot_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(msgspec.structs.replace(SPLITWISE, **change), "d.yaml")
    assert says in str(caught.value)


@pytest.mark.parametrize("key", ["model: Llama-3-8B", "device: a100", "tp: 2", "device: hundred"])
def test_times_of_something_else_are_refused(tmp_path: Path, key: str) -> None:
    def deployment(path: Path) -> Deployment:
        return Deployment(LLAMA, (ReplicaSpec("h100"),), latency=str(path))

    right = write(tmp_path, FILE + "model: Llama-3.1-8B\ndevice: H100-SXM\ntp: 1\n", "right.yaml")
    assert resolve(deployment(right)).replicas[0].latency is not None
    wrong = write(tmp_path, FILE + key + "\n")
    with pytest.raises(InputError, match=r"times\.yaml: (holds times of .*; this replica is|unknown device)"):
        resolve(deployment(wrong))


def test_a_run_takes_the_times_of_the_file(tmp_path: Path) -> None:
    """One request alone: the whole prompt in one step, then five decodes over 101 to 105 tokens."""
    path = write(tmp_path, FILE)
    deployment = Deployment(LLAMA, (ReplicaSpec("h100"),), PolicySpec("vllm-v1"), latency=str(path))
    log = simulate(deployment, workload([(0, 100, 6)]), log=tmp_path / "run.log")
    ttft_us, decodes_us = 8_000 + 25.5 * 100 + 0.25 * 5_050, sum(8_000 + 30 + 0.07 * n for n in range(101, 106))
    assert log.summary["ttft_s"]["mean"] == pytest.approx(ttft_us / 1e6, abs=2e-9)
    assert log.summary["e2e_s"]["mean"] == pytest.approx((ttft_us + decodes_us) / 1e6, abs=2e-9)
    # Alone on an idle replica: nothing is slowed down.
    for what in ("ttft", "tbt", "e2e"):
        assert log.summary["scores"]["slowdown"][what]["mean"] == pytest.approx(1.0, rel=2e-3)
    # A log holds the times themselves: it is read without the file.
    path.unlink()
    assert RunLog.read(tmp_path / "run.log").header.resolved == log.header.resolved


def test_a_run_on_distserves_fit(tmp_path: Path) -> None:
    """OPT-13B by name; one prompt of 512 tokens and nine decodes, on the line for small batches."""
    shape = {"hidden_size": 5120, "intermediate_size": 20480, "num_hidden_layers": 40, "num_attention_heads": 40}
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 50272, "max_position_embeddings": 2048, **shape}
    (tmp_path / "opt-13b").mkdir()
    (tmp_path / "opt-13b" / "config.json").write_text(json.dumps(config))
    deployment = Deployment(
        str(tmp_path / "opt-13b"), (ReplicaSpec("a100"),), PolicySpec("vllm-v1"), latency="distserve"
    )
    log = simulate(deployment, workload([(0, 512, 10)]))
    assert log.header.resolved.basis == "DistServe's fit of opt-13b, tp 1 on a100 (OSDI 2024)"
    ttft_ms = 18.10255 + 0.1019123 * 512 + 7.122264e-06 * 512**2 + 1 + 2 + 0.0001 * 512
    tpot_ms = 19.9347 + 0.03850698 + 2 + (0.0006269357 + 0.0001) * 517
    assert log.summary["ttft_s"]["mean"] == pytest.approx(ttft_ms / 1e3, abs=2e-9)
    assert log.summary["tpot_s"]["mean"] == pytest.approx(tpot_ms / 1e3, abs=2e-9)


def test_the_reference_of_a_bent_table_is_a_line_from_end_to_end(tmp_path: Path) -> None:
    table = "decode: {by_context: {at: [1, 500, 1000], times_us: [10, 30, 40]}}"
    text = f"kind: table\nsource: made up\nprefill: {{step_us: 9, token_us: 2}}\n{table}\n"
    deployment = Deployment(LLAMA, (ReplicaSpec("h100"),), max_context=1_000, latency=str(write(tmp_path, text)))
    header = simulate(deployment, workload([(0, 100, 2)])).header
    # The first of a thousand steps reads one token, the last a thousand.
    assert header.reference_decode == pytest.approx((10e3, 30e3 / 999))
    assert header.reference_ttft[0] == (1, 11e3)
    assert header.reference_ttft[-1] == (1_000, 2_009e3)


def test_a_published_table_under_load_is_slower_than_alone() -> None:
    log = simulate(SPLITWISE, load("azure-conv", rate=2, requests=200), 0)
    slow = log.summary["scores"]["slowdown"]
    # Four of the prompts do not fit the 4,096 tokens of Llama-2.
    assert (log.summary["completed"], log.summary["rejected"]) == (196, 4)
    assert 1.0 <= slow["ttft"]["p50"] < slow["ttft"]["p99"]
    assert slow["tbt"]["p50"] > 1.0
