"""The way in: names and paths, rate before requests, and the errors of both."""

import gzip

import numpy as np
import pytest

from phasewise.core.errors import InputError
from phasewise.workload import DEFAULT_REQUESTS, builtin_names, load, read_description

TRACE = "arrival_s,input_tokens,output_tokens\n" + "".join(f"{t},{10 + t},{t + 1}\n" for t in (0, 1, 2, 3, 8))
DESCRIBED = "arrivals: {kind: poisson, rate: 3}\nprompt: {kind: fixed, tokens: 5}\noutput: {kind: fixed, tokens: 9}\n"


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(TRACE)
    return path


def test_builtin_names_are_those_that_load():
    assert builtin_names() == (
        "arxiv-sarathi",
        "azure-code",
        "azure-conv",
        "mooncake-conversation",
        "openchat-sharegpt4",
        "reasoning",
        "sharegpt",
    )
    for name in builtin_names():
        workload = load(name)
        assert workload.name == name
        assert len(workload) == DEFAULT_REQUESTS == 2000
        assert workload.where(16) == f"request 16 of {name}"


def test_rate_and_seed_of_a_builtin():
    one, other = load("azure-conv", rate=50, requests=5000, seed=1), load("azure-conv", requests=5000, seed=1)
    assert one.mean_rate == pytest.approx(50, rel=0.08)
    assert other.mean_rate == pytest.approx(read_description("azure-conv").arrivals.rate, rel=0.08)
    assert one.prompt_tokens.tolist() == other.prompt_tokens.tolist()
    assert one.digest() != load("azure-conv", rate=50, requests=5000, seed=2).digest()
    assert load("azure-conv", requests=np.int64(5), seed=np.int64(1)).digest() == other.head(5).digest()


def test_a_trace_by_path_text_or_gzip(trace):
    packed = trace.with_name("p.csv.gz")
    packed.write_bytes(gzip.compress(TRACE.encode()))
    assert load(trace).digest() == load(str(trace)).digest() == load(packed).digest()
    assert load(trace).mean_rate == 0.5
    assert load(trace, seed=5).digest() == load(trace).digest()


def test_a_traces_mean_is_the_whole_files(trace):
    workload = load(trace, rate=1.0, requests=3)  # 4 gaps in 8 s become 4 gaps in 4 s
    assert workload.arrival_ns.tolist() == [0, 500_000_000, 1_000_000_000]
    assert workload.where(2) == f"{trace}:4"
    assert load(trace, requests=5).digest() == load(trace).digest()


def test_a_described_workload(tmp_path):
    for name in ("mine.yaml", "mine.yml"):
        path = tmp_path / name
        path.write_text(DESCRIBED)
        workload = load(path, requests=7)
        assert (workload.name, len(workload)) == ("mine", 7)
        assert set(workload.prompt_tokens.tolist()) == {5}
    assert len(load(path)) == DEFAULT_REQUESTS
    assert load(path, requests=1, rate=1e-320).arrival_ns.tolist() == [0]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("azure-cnov", "unknown workload 'azure-cnov'; did you mean 'azure-conv'?"),
        ("zzz", "unknown workload 'zzz'; known: arxiv-sarathi, azure-code, azure-conv"),
        ("", "unknown workload ''; known: arxiv-sarathi, azure-code, azure-conv"),
        ("a\nb", "unknown workload 'a b'; known: arxiv-sarathi, azure-code, azure-conv"),
        ("x" * 300, "unknown workload"),
        ("a/b", "a/b: no such file; check the path"),
        ("none.csv", "none.csv: no such file; check the path"),
        ("none.csv.gz", "none.csv.gz: no such file; check the path"),
        ("none.yaml", "none.yaml: no such file; check the path"),
    ],
)
def test_unknown_names_and_missing_files(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        load(name)
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


def test_files_of_no_known_kind(tmp_path):
    other = tmp_path / "t.parquet"
    other.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"t\.parquet: not a kind .* must end in \.csv, .*\.gz, \.yaml, \.yml"):
        load(other)
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"b\.yaml: is binary"):
        load(binary)
    (tmp_path / "d.yaml").mkdir()
    with pytest.raises(InputError, match=r"d\.yaml: is a directory"):
        load(tmp_path / "d.yaml")


@pytest.mark.parametrize("source", ["azure-conv", "trace"])
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"rate": 0}, "rate 0 "),
        ({"rate": -1.5}, "rate -1.5 "),
        ({"rate": float("nan")}, "rate nan "),
        ({"rate": float("inf")}, "rate inf "),
        ({"requests": 0}, "0 requests"),
        ({"requests": -3}, "-3 requests"),
        ({"requests": 2.5}, "2.5 requests"),
        ({"rate": 1e-12}, "higher rate"),
    ],
)
def test_senseless_rates_and_counts(source, asked, says, trace):
    source = str(trace) if source == "trace" else source
    with pytest.raises(InputError, match=says) as error:
        load(source, **asked)
    assert str(error.value).startswith(f"{source}: ")


def test_more_requests_than_a_trace_holds(trace):
    with pytest.raises(InputError) as error:
        load(trace, requests=6)
    assert str(error.value) == f"{trace}: holds 5 requests, 6 were asked for; ask for at most 5"
