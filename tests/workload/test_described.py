"""Descriptions that name files, classes and parts: what they load to, and what is said of what is wrong in them."""

import numpy as np
import pytest

from phasewise.core.errors import InputError
from phasewise.core.spec import RequestClass, Slo
from phasewise.workload import load

TRACE = "arrival_s,input_tokens,output_tokens\n" + "".join(f"{t},{10 + t},{t + 1}\n" for t in range(10))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text(TRACE)
    (tmp_path / "rates.csv").write_text("t_s,rate_rps,active_clients\n600,4,9\n1200,2,9\n1800,0,0\n")
    (tmp_path / "lengths.csv").write_text(
        "side,tokens_from,tokens_below,probability\ninput,5,6,0.5\ninput,6,9,0.4999\noutput,1,2,1\n"
    )
    monkeypatch.chdir("/")
    return tmp_path


def described(folder, text, **more):
    (folder / "d.yaml").write_text(text)
    return load(folder / "d.yaml", **more)


def test_a_description_may_cut_and_label_a_trace(folder):
    w = described(folder, "{source: t.csv, from_s: 2, to_s: 6, class: chat, slo: {ttft_s: 1}}")
    assert w.name == "d"
    assert w.arrival_ns.tolist() == [i * 10**9 for i in range(4)]
    assert w.where(0) == f"{folder}/t.csv:4"
    assert w.classes == (RequestClass("chat", Slo(1.0)),)
    fast = described(folder, "{source: t.csv, from_s: 2, to_s: 6, rate: 4}")
    assert fast.arrival_ns.tolist() == [i * 250_000_000 for i in range(4)]
    assert described(folder, "{source: t.csv, rate: 4}", rate=8).mean_rate == pytest.approx(8)


def test_a_description_may_merge_traces_and_descriptions(folder):
    text = """
merge:
  - {source: t.csv, class: trace}
  - {source: azure-conv, rate: 20, class: chat, max_tokens: 50}
"""
    w = described(folder, text)
    chat = w.kind == 2
    assert (~chat).sum() == 10
    assert chat.sum() == pytest.approx(180, abs=60)  # until the trace's last arrival, after 9 s
    assert w.arrival_ns[-1] == 9 * 10**9
    assert w.truth.column()[chat].max() == 50
    double = described(folder, text, rate=2 * (1 + 20))
    assert (double.kind == 1).sum() == 10
    assert double.arrival_ns[-1] == 4_500_000_000
    assert double.prompt_tokens[double.kind == 2][:50].tolist() == w.prompt_tokens[chat][:50].tolist()
    assert len(described(folder, text, requests=25)) == 25
    two = described(folder, "merge: [{source: azure-conv, class: a}, {source: azure-conv, class: b}]")
    assert len(two) == 2_000
    a, b = (two.prompt_tokens[two.kind == k][:50].tolist() for k in (1, 2))
    assert a != b


def test_tables_from_files(folder):
    text = """
arrivals: {kind: curve, file: rates.csv}
prompt: {kind: histogram, file: lengths.csv, side: input}
output: {kind: empirical, file: t.csv, column: output_tokens}
"""
    w = described(folder, text, requests=12_000)
    at = w.arrival_ns[w.arrival_ns < 5_400 * 10**9] / 1e9
    assert len(at) / 5_400 == pytest.approx(2, rel=0.04)  # 4, 2 and 0 over 600 s each, three times
    assert np.histogram(at % 1800, [0, 600, 1200, 1800])[0] / len(at) == pytest.approx([2 / 3, 1 / 3, 0], abs=0.02)
    assert (w.prompt_tokens == 5).mean() == pytest.approx(0.5, abs=0.02)
    assert sorted(set(w.truth.column().tolist())) == list(range(1, 11))
    (folder / "clients.csv").write_text("client,mean_rate_rps,interarrival_cv,mean_input\n7,3,2,\n9,1,1,50\n")
    clients = described(folder, text.replace("{kind: curve, file: rates.csv}", "{kind: clients, file: clients.csv}"))
    assert clients.mean_rate == pytest.approx(4, rel=0.2)
    assert clients.prompt_tokens.tolist() == w.prompt_tokens[:2_000].tolist()


def test_a_closed_mixture(folder):
    text = """
arrivals: {kind: closed, users: 7, think_s: {kind: exponential, mean: 2}}
classes:
  - {name: a, share: 1, prompt: {kind: fixed, tokens: 5}, output: {kind: fixed, tokens: 5}}
"""
    w = described(folder, text, requests=3_000)
    assert w.closed.users == 7
    assert w.closed.think_ns.mean() == pytest.approx(2e9, rel=0.1)
    assert not w.arrival_ns.any()
    found = w.describe()
    assert (found["users"], found["mean_rate_rps"]) == (7, None)
    assert found["think_s"] == pytest.approx(2, rel=0.1)
    plain = described(folder, text.replace("{kind: exponential, mean: 2}", "1.5"), requests=3)
    assert plain.closed.think_ns.tolist() == [1_500_000_000] * 3


FIXED = "prompt: {kind: fixed, tokens: 5}, output: {kind: fixed, tokens: 5}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("merge: []", "merge: [] where a list belongs"),
        ("merge: [{source: 5}]", "merge[0]: no 'source'"),
        ("merge: [{source: t.csv, form_s: 5}]", "merge[0]: unknown field 'form_s'; did you mean 'from_s'?"),
        ("{source: t.csv, slo: {ttft_s: 1}}", ": 'slo' without a class"),
        ("{source: t.csv, class: a, slo: {ttft: 1}}", ": slo: unknown field 'ttft'; did you mean 'ttft_s'?"),
        ("{source: t.csv, class: a, slo: {ttft_s: -1}}", ": slo: ttft_s -1.0 is out of range"),
        ("{source: t.csv, class: a, max_tokens: 0}", ": max_tokens 0; give 1 or more"),
        ("{source: azure-conv, from_s: 3}", ": azure-conv is drawn, not read: from_s and to_s cut traces"),
        ("{source: nowhere}", "unknown workload 'nowhere'"),
        ("{source: none.csv}", "none.csv: no such file"),
        ("{source: d.yaml}", "d.yaml is made of parts itself; name those here"),
        ("{source: t.csv, arrivals: 3}", ": unknown field 'arrivals'"),
        ("classes: 5", ": classes: 5 where a list belongs"),
        ("classes: [{name: a}]", ": classes[0]: no 'prompt'"),
        (f"classes: [{{name: a, {FIXED}}}]", ": class 'a' needs arrivals, and no share"),
        (f"classes: [{{name: a, shar: 1, {FIXED}}}]", ": classes[0]: unknown field 'shar'; did you mean 'share'?"),
        (
            f"classes: [{{name: a, {FIXED}, arrivals: {{kind: closed, users: 1}}}}]",
            ": classes[0]: arrivals: unknown kind 'closed'",
        ),
        (f"{{arrivals: {{kind: closed, users: 1, think_s: {{mean: 3}}}}, {FIXED}}}", ": arrivals: think_s: no 'kind'"),
        (f"{{arrivals: {{kind: closed, users: 1, think_s: -3}}, {FIXED}}}", ": arrivals: think_s: seconds -3"),
        (f"{{arrivals: {{kind: curve, file: t.csv}}, {FIXED}}}", "t.csv:1: unknown column 't_s'"),
        (f"{{arrivals: {{kind: curve, file: rates.csv, points: [[0, 1]]}}, {FIXED}}}", "both 'file' and 'points'"),
        (
            "{arrivals: {kind: poisson, rate: 1}, prompt: {kind: histogram, file: lengths.csv}, output: 5}",
            ": prompt: no 'side'; data from a file needs file, side",
        ),
        (
            "{arrivals: {kind: poisson, rate: 1}, prompt: {kind: histogram, file: lengths.csv, side: in}, output: 5}",
            "lengths.csv: unknown side 'in'; did you mean 'input'?",
        ),
    ],
)
def test_what_is_wrong_in_a_description(folder, text, says):
    with pytest.raises(InputError) as error:
        described(folder, text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("rates.csv", "t_s,rate_rps\n0,1\n600,-2\n", "rates.csv:3: rate_rps '-2' is out of range; give 0 or more"),
        ("rates.csv", "t_s,rate_rps\n0,1\n600\n", "rates.csv:3: 1 fields in '600'; the header names 2"),
        ("rates.csv", "t_s,rate_rps\n", "rates.csv: a header and no rows"),
        ("rates.csv", "t_s,rate_rps\n0,1\n0,1\n", "d.yaml: arrivals: t_s 0.0 is out of range; times climb"),
    ],
)
def test_what_is_wrong_in_a_table(folder, name, data, says):
    (folder / name).write_text(data)
    with pytest.raises(InputError) as error:
        described(folder, f"{{arrivals: {{kind: curve, file: rates.csv}}, {FIXED}}}")
    assert says in str(error.value)
