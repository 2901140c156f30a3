"""Whatever is wrong with the input: exit status 2, one line on standard error, nothing on standard output, no file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phasewise.cli import main

HEADER = "arrival_s,input_tokens,output_tokens\n"
FLAGS = "--model meta-llama/Llama-3.1-8B --device h100 "
CONV = "--workload azure-conv --requests 3 "
TRACES = {
    "good": "0,10,5\n1,20,5\n",
    "letters": "0,10,5\n1,ten,5\n",
    "short": "0,10,5\n1,10\n",
    "negative": "0,10,5\n1,-3,5\n",
    "absurd": "0,10,30000000000\n",
    "zero": "0,10,0\n",
    "unsorted": "5,10,5\n1,10,5\n",
    "empty": "",
    "long": "0,200000,5\n1,300000,5\n",
    "one": "0,10,5\n",
}
OTHERS = {
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,5,5\n2023-11-16,5,5\n",
    "moon.jsonl": '{"timestamp": 0, "input_length": 5, "output_length": "x"}\n',
    "rates.csv": "t_s,rate_rps\n0,1\n600,2\n",
    "loop.yaml": "arrivals: {kind: closed, users: 2, thinks: 3}\nprompt: {kind: fixed, tokens: 5}\noutput: 5\n",
    "parts.yaml": "merge: [{source: good.csv}, {source: gone.csv}]\n",
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
CASES = [
    # Traces: what, in which file and row, and what would be right.
    (FLAGS + "-w letters.csv", "letters.csv:3: input_tokens 'ten' is not a number; give a whole number of tokens"),
    (FLAGS + "-w short.csv", "short.csv:3: 2 fields in '1,10'; the header names 3"),
    (
        FLAGS + "-w negative.csv",
        "negative.csv:3: input_tokens '-3' is not a length; give a whole number of tokens, 1 to",
    ),
    (FLAGS + "-w absurd.csv", "absurd.csv:2: output_tokens '30000000000' is not a length"),
    (FLAGS + "-w zero.csv", "zero.csv:2: output_tokens '0' is not a length"),
    (FLAGS + "-w unsorted.csv", "unsorted.csv:3: arrival_s 1 comes before the row above"),
    (FLAGS + "-w empty.csv", "empty.csv: a header and no rows; give at least one request"),
    (FLAGS + "-w none.csv", "none.csv: no such file"),
    (
        FLAGS + "-w azure.csv",
        "azure.csv:3: TIMESTAMP '2023-11-16' is not a time stamp; give one such as 2023-11-16 18:15:46.68",
    ),
    (FLAGS + "-w moon.jsonl", "'output_length'; a row is {timestamp, input_length, output_length, hash_ids}"),
    (FLAGS + "-w rates.csv", "rates.csv:1: is a curve of rates, not a trace; name it in a description"),
    (FLAGS + "-w loop.yaml", "loop.yaml: arrivals: unknown field 'thinks'; did you mean 'think_s'?"),
    (FLAGS + "-w parts.yaml", "gone.csv: no such file; check the path"),
    (FLAGS + "-w azure-cnv", "unknown workload 'azure-cnv'; did you mean 'azure-conv'?"),
    (FLAGS + "-w good.csv --requests 3", "good.csv: holds 2 requests, 3 were asked for"),
    (FLAGS + "-w one.csv --rate 2", "one.csv: all arrivals at one instant have no rate to change"),
    (FLAGS + "-w azure-conv --requests 0", "0 requests; give a whole number of at least 1"),
    (FLAGS + CONV + "--rate -1", "rate -1.0 is not a rate; give requests per second, above 0"),
    (FLAGS + CONV + "--rate nan", "rate nan is not a rate"),
    # Nothing fits.
    (
        FLAGS + "-w long.csv",
        "long.csv:2: no request fits: the shortest prompt has 200,000 tokens, and the context is 131,072",
    ),
    (FLAGS + "-w good.csv --max-context 10", "good.csv:2: no request fits: the shortest prompt has 10 tokens"),
    (
        "--model Llama-3.1-8B --device l4 -w memory.csv",
        "memory.csv:2: no request fits: the shortest prompt has 130,000 tokens, and the KV",
    ),
    # Names.
    (
        "--model meta-llama/Llama-3.1-8C --device h100 " + CONV,
        "unknown model 'meta-llama/Llama-3.1-8C'; did you mean 'meta-llama/",
    ),
    ("--model Llama-3.1-8B --device h10 " + CONV, "unknown device 'h10'; did you mean 'h100'?"),
    (FLAGS + CONV + "--batcher sarati", "unknown batcher 'sarati'; did you mean 'sarathi'?"),
    (FLAGS + CONV + "--router roundrobin", "unknown router 'roundrobin'; did you mean 'round-robin'?"),
    (
        FLAGS + CONV + "--set batcher.token_bugdet=5",
        "--set batcher.token_bugdet=5: unknown parameter of batcher 'sarathi'",
    ),
    (
        FLAGS + CONV + "--set batcher.token_budget=0",
        "--set batcher.token_budget=0: batcher.token_budget: expected a whole number >= 1",
    ),
    (FLAGS + CONV + "--set batchr.x=0", "--set batchr.x=0: unknown key 'batchr'; did you mean 'batcher'?"),
    (
        FLAGS + CONV + "--batcher vllm-v1 --set batcher.token_budget=8",
        "token_budget (8) must be at least max_seqs (256)",
    ),
    (
        FLAGS + CONV + "--latency distserv",
        "unknown latency model 'distserv'; did you mean 'distserve'?",
    ),
    (
        FLAGS + CONV + "--latency splitwise",
        "'splitwise' does not cover meta-llama/Llama-3.1-8B, tp 1 on h100; it covers",
    ),
    (FLAGS + CONV + "--latency none.yaml", "none.yaml: no such file"),
    (FLAGS + CONV + "--latency broken.yaml", "broken.yaml:2: not YAML"),
    (FLAGS + CONV + "--latency good.yaml", "good.yaml: unknown key 'replicas'; known: "),
    (FLAGS + CONV + "--latency a100.yaml", "a100.yaml: holds times of any model on a100, tp any; this replica is"),
    (FLAGS + CONV + "--latency a100.yaml --json a100.yaml", "--json a100.yaml: would overwrite a100.yaml"),
    # Models.
    ("--model Llama-3.1-70B --device h100 " + CONV, "does not fit on h100 with tp 1: it needs 134.2 GiB a device"),
    ("--model short.json --device h100 " + CONV, "short.json: no field num_hidden_layers, which is needed"),
    ("--model none.json --device h100 " + CONV, "none.json: cannot read the file"),
    (FLAGS + CONV + "--tp 3", "tp 3 does not divide the 32 attention heads"),
    (FLAGS + CONV + "--tp 0", "tp 0 does not divide"),
    (FLAGS + CONV + "--replicas 0", "a group of 0 replicas; give 1 to"),
    (FLAGS + CONV + "--max-context 1", "max_context is 1; meta-llama/Llama-3.1-8B serves 2 to 131072 tokens"),
    # Deployments.
    (CONV, "no deployment; name a deployment file, or give --model and --device"),
    (CONV + "--device h100", "no deployment; name a deployment file, or give --model"),
    ("none.yaml " + CONV, "none.yaml: no such file"),
    (
        "good.yaml " + CONV + "--batcher static",
        "--batcher: good.yaml says it already; override it with --set batcher=static",
    ),
    (
        "good.yaml " + CONV + "--latency splitwise",
        "--latency: good.yaml says it already; override it with --set latency=splitwise",
    ),
    ("good.yaml " + CONV + "--tp 2", "--tp: good.yaml says it already; override it with --set replicas.0.tp=2"),
    ("typo.yaml " + CONV, "typo.yaml: replicas[0]: unknown key 'tpp'; did you mean 'tp'?"),
    ("device.yaml " + CONV, "device.yaml: unknown device 'h101'; did you mean 'h100'?"),
    ("large.yaml " + CONV, "large.yaml: meta-llama/Llama-3.1-70B does not fit on h100 with tp 1"),
    ("broken.yaml " + CONV, "broken.yaml:2: not YAML"),
    # Outputs, looked at before anything runs.
    (
        FLAGS + CONV + "--figure out.gif",
        "out.gif: not a kind of picture that can be drawn; end the name in .png, .svg, .pdf",
    ),
    (FLAGS + CONV + "--figure no/out.png", "no; make it first"),
    (FLAGS + CONV + "--json no/out.json", "--json no/out.json: there is no folder"),
    (FLAGS + CONV + "--log .", "--log .: is a folder; name a file in it"),
    (FLAGS + CONV + "--json /dev/null", "--json /dev/null: is not a plain file"),
    (FLAGS + CONV + "--log -", "--log: only --json can go to standard output"),
    (FLAGS + CONV + "--log out --json out", "--log out: would overwrite --json out; name another file"),
    (FLAGS + "-w good.csv --json good.csv", "--json good.csv: would overwrite good.csv"),
    ("good.yaml " + CONV + "--json good.yaml", "--json good.yaml: would overwrite good.yaml"),
    (FLAGS + CONV + "--waterfall no/out.png", "no; make it first"),
    (FLAGS + CONV + "--waterfall out.png --figure out.png", "out.png: would overwrite --"),
    (FLAGS + CONV + "--request 3", "--request: is about a waterfall; give --waterfall FILE as well, or leave it out"),
    (FLAGS + CONV + "--requests 9 --request 9 --waterfall w.png", "--request: there is no request 9; give 0 to 8"),
    # What goes wrong in a run.
    (FLAGS + CONV + "--faults none.yaml", "none.yaml: no such file"),
    (FLAGS + CONV + "--faults good.yaml", "good.yaml: unknown key 'model'"),
    (FLAGS + CONV + "--faults far.yaml", "far.yaml: faults[0]: "),
    (
        FLAGS + CONV + "--faults lossy.yaml",
        "lossy: messages are late or lost, and nothing is asked again; set patience_s",
    ),
    (FLAGS + CONV + "--faults far.yaml --json far.yaml", "--json far.yaml: would overwrite far.yaml"),
    # The command line itself.
    (FLAGS, "Missing option '--workload'"),
    (FLAGS + CONV + "--rate fast", "Invalid value for '--rate'"),
    (FLAGS + CONV + "--seed -1", "Invalid value for '--seed'"),
    (
        FLAGS + CONV + "--seed 9223372036854775808",
        "--seed: 9223372036854775808 is too large; give 0 to 9223372036854775807",
    ),
    (FLAGS + CONV + "--bogus", "No such option"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in OTHERS.items():
        (tmp_path / name).write_text(text)
    for name, rows in {**TRACES, "memory": "0,130000,5\n"}.items():
        (tmp_path / f"{name}.csv").write_text(HEADER + rows)
    (tmp_path / "short.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if k != "num_hidden_layers"}))
    group = "replicas: [{device: h100}]\n"
    (tmp_path / "good.yaml").write_text("model: Llama-3.1-8B\n" + group)
    (tmp_path / "typo.yaml").write_text("model: Llama-3.1-8B\nreplicas: [{device: h100, tpp: 2}]\n")
    (tmp_path / "device.yaml").write_text("model: Llama-3.1-8B\nreplicas: [{device: h101}]\n")
    (tmp_path / "large.yaml").write_text("model: Llama-3.1-70B\n" + group)
    (tmp_path / "far.yaml").write_text("faults: [{replica: 7, dies_at_s: 1}]\n")
    (tmp_path / "lossy.yaml").write_text("faults: [{message: any, lost: 0.5}]\n")
    (tmp_path / "broken.yaml").write_text("model: Llama-3.1-8B\nreplicas: [{device: h100}\n")
    times = "kind: linear\nsource: made up\nprefill: {step_us: 9}\ndecode: {step_us: 9}\ndevice: a100\n"
    (tmp_path / "a100.yaml").write_text(times)
    return tmp_path


@pytest.mark.parametrize(("arguments", "complaint"), CASES, ids=[c[0][-40:] for c in CASES])
def test_bad_input(arguments: str, complaint: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    given = arguments.split()
    for flag in ("--json", "--log", "--figure"):
        if flag not in given:
            given += [flag, f"output{'.png' if flag == '--figure' else flag}"]
    assert main(["simulate", *given]) == 2
    out, err = capsys.readouterr()
    assert complaint in err
    assert err.startswith("phasewise: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert out == ""
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulat"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("phasewise: error: No such command 'simulat'")
    assert err.endswith("see 'phasewise --help'\n")
    assert err.count("\n") == 1


def test_policies_writes_nowhere_bad(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies", "--json", "no/such/folder.json"]) == 2
    assert "there is no folder" in capsys.readouterr().err
