"""Classes, cuts and merges: who is in which class, what is kept of each part, and what descriptions say of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.errors import InputError
from phasewise.core.request import Request
from phasewise.core.spec import RequestClass, Slo
from phasewise.workload import Truth, Workload, load, merge
from phasewise.workload.arrivals import OnOff, Poisson
from phasewise.workload.closed import Closed
from phasewise.workload.lengths import FixedLength, LogNormal
from phasewise.workload.prefixes import Prefixes
from phasewise.workload.synth import ClassSpec, Mixture, Synthetic, generate

CHAT = ClassSpec("chat", LogNormal(median=400, sigma=0.5), FixedLength(50), 3, slo=Slo(1.0, 0.05), correlation=0.0)
CODE = ClassSpec("code", FixedLength(2000), FixedLength(900), 1, max_tokens=100)
MIX = Mixture("mix", (CHAT, CODE), Poisson(5), max_tokens=700)


def build(rows, name="w", **more):
    arrival, prompt, output = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return Workload(name, arrival, prompt, Truth(output), **more)


def test_shares_lengths_and_caps():
    w = generate(MIX, 20_000, seed=1)
    assert (w.kind == 1).mean() == pytest.approx(0.75, abs=0.01)
    assert set(w.prompt_tokens[w.kind == 2].tolist()) == {2000}
    assert np.median(w.prompt_tokens[w.kind == 1]) == pytest.approx(400, rel=0.03)
    assert set(w.truth.column()[w.kind == 2].tolist()) == {100}
    first = [next(r for r in w.requests() if r.kind == kind) for kind in ("chat", "code")]
    assert [(r.kind, r.max_tokens) for r in first] == [("chat", 700), ("code", 100)]
    assert w.classes == (RequestClass("chat", Slo(1.0, 0.05)), RequestClass("code", Slo(), 100))
    assert generate(MIX, 500, seed=1).digest() == w.head(500).digest()


def test_a_mixture_shares_its_random_numbers_with_a_plain_workload():
    plain = generate(Synthetic("mix", Poisson(5), CHAT.prompt, CHAT.output, 0.0, 700), 2_000, 4)
    mixed = generate(MIX, 2_000, 4)
    assert mixed.arrival_ns.tolist() == plain.arrival_ns.tolist()
    chat = mixed.kind == 1
    assert mixed.prompt_tokens[chat].tolist() == plain.prompt_tokens[chat].tolist()


def test_classes_with_arrivals_of_their_own():
    spec = Mixture(
        "two",
        (
            ClassSpec("a", FixedLength(10), FixedLength(5), arrivals=Poisson(3)),
            ClassSpec("b", FixedLength(20), FixedLength(5), arrivals=OnOff(20, 1, 9)),
        ),
    )
    assert spec.rate == 5
    w = generate(spec, 50_000)
    for rate in (None, 50.0):
        w = generate(spec, 50_000, rate=rate)
        a, b = ((w.kind == k).sum() / (w.arrival_ns[-1] / 1e9) for k in (1, 2))
        scale = 1 if rate is None else 10
        assert a == pytest.approx(3 * scale, rel=0.05)
        # 10,000 s at the first rate are 1,000 bursts of exponential length; at the second, 100.
        assert b == pytest.approx(2 * scale, rel=0.15 if rate is None else 0.5)
        assert (np.diff(w.arrival_ns) >= 0).all()
        assert set(w.prompt_tokens[w.kind == 2].tolist()) == {20}
    assert generate(spec, 300).digest() == generate(spec, 3_000).head(300).digest()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (lambda: Mixture("m", (CHAT,)), "class 'chat' needs arrivals, and no share"),
        (
            lambda: Mixture("m", (ClassSpec("a", FixedLength(1), FixedLength(1)),), Poisson(1)),
            "class 'a' needs a share",
        ),
        (lambda: Mixture("m", (), Poisson(1)), "classes missing"),
        (lambda: Mixture("m", (CHAT, CHAT), Poisson(1)), "classes 'chat', 'chat'; give each a name"),
        (lambda: ClassSpec("a", FixedLength(1), FixedLength(1), 0), "share 0"),
        (lambda: ClassSpec("a", FixedLength(1), FixedLength(1), 1, slo=Slo(ttft_s=0)), "ttft_s 0"),
        (lambda: generate(Mixture("m", (CHAT,), Closed(3)), 5, rate=2), "m: a closed loop has no rate"),
    ],
)
def test_mixtures_that_make_no_sense(spec, says):
    with pytest.raises(InputError, match=says):
        spec()


ROWS = st.lists(st.tuples(st.integers(0, 10**12), st.integers(1, 2000), st.integers(1, 99)), min_size=1, max_size=30)
IDS = st.lists(st.integers(0, 9), max_size=4)


@given(ROWS.map(sorted), st.data())
def test_requests_carry_their_class_and_prefix(rows, data):
    ids = [data.draw(IDS) for _ in rows]
    kinds = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    classes = (RequestClass("a"), RequestClass("b", max_tokens=7))
    w = build(rows, kind=np.array(kinds), classes=classes, prefixes=Prefixes.of(ids, 512), max_tokens=50)
    caps, names = [50, 50, 7], ["", "a", "b"]
    rows_of = enumerate(zip(rows, kinds, ids, strict=True))
    wanted = [Request(i, at, p, caps[k], names[k], tuple(x), 512) for i, ((at, p, _), k, x) in rows_of]
    assert list(w.requests()) == wanted
    low = data.draw(st.integers(0, len(rows) - 1))
    part = w.rows(low, len(rows))
    assert [(r.kind, r.prefix_ids) for r in part.requests()] == [(r.kind, r.prefix_ids) for r in wanted[low:]]
    outputs = [min(o, caps[k]) for (_, _, o), k in zip(rows, kinds, strict=True)]
    assert w.truth.column().tolist() == outputs


def test_a_cut_keeps_gaps_lines_and_patience():
    w = build([(5 + i * 10**9, 10 + i, 3) for i in range(10)], source="t.csv", gone_ns={4: 9 * 10**9})
    cut = w.between(2.5, 7)
    assert cut.arrival_ns.tolist() == [500_000_000 + i * 10**9 for i in range(4)]
    assert cut.prompt_tokens.tolist() == [13, 14, 15, 16]
    assert cut.gone_ns == {1: 9 * 10**9 - 5 - 2_500_000_000}
    assert cut.where(1) == w.where(4) == "t.csv:6"
    assert w.between().arrival_ns.tolist() == [i * 10**9 for i in range(10)]
    cuts = [(20, 30, "nothing arrives from 20 s to 30 s; the last comes 9 s"), (3, 3, "give 0 or more"), (-1, 3, "-1")]
    for low, high, says in cuts:
        with pytest.raises(InputError, match=says):
            w.between(low, high)


@given(st.lists(ROWS.map(sorted), min_size=1, max_size=4))
def test_a_merge_holds_every_request_once_in_order(many):
    parts = [build(rows).labelled(RequestClass(f"c{i}")) for i, rows in enumerate(many)]
    whole = merge("all", parts)
    found = list(zip(whole.arrival_ns.tolist(), whole.kind.tolist(), whole.prompt_tokens.tolist(), strict=True))
    assert [(at, k) for at, k, _ in found] == sorted((at, k) for at, k, _ in found)  # ties in the order of the parts
    wanted = [(at, k, p) for k, rows in enumerate(many, start=1) for at, p, _ in rows]
    assert sorted(found) == sorted(wanted)
    for k, rows in enumerate(many, start=1):  # each part keeps its own order
        assert whole.truth.column()[whole.kind == k].tolist() == [o for _, _, o in rows]


def test_a_merge_shares_prefixes_within_a_source_only():
    one = build([(0, 600, 1), (9, 600, 1)], source="a.csv", prefixes=Prefixes.of([[1, 2], [1, 7]], 512))
    other = build([(5, 600, 1)], source="b.csv", prefixes=Prefixes.of([[1, 2]], 512))
    bare = build([(4, 600, 1)], source="c.csv", gone_ns={0: 44})
    whole = merge("all", [one.rows(0, 1), other, bare, one.rows(1, 2)])
    ids = [r.prefix_ids for r in whole.requests()]
    assert ids[1] == ()
    assert ids[0][0] == ids[3][0]
    assert len({*ids[0], *ids[2], *ids[3]}) == 5
    assert whole.gone_ns == {1: 44}
    assert whole.where(0) == "request 0 of all"
    assert merge("again", [one, one.rows(1, 2)]).where(2) == "a.csv:3"


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([], "nothing to merge"),
        ([{"max_tokens": 5}, {}], "max_tokens differ \\(5, none\\)"),
        ([{"classes": (RequestClass("a"),)}, {"classes": (RequestClass("a", Slo(1)),)}], "class 'a' has two sets"),
        (
            [{"prefixes": Prefixes.of([[1]], 512)}, {"prefixes": Prefixes.of([[1]], 16)}],
            "prefix blocks of \\[16, 512\\] tokens",
        ),
    ],
)
def test_parts_that_do_not_go_together(parts, says):
    with pytest.raises(InputError, match=says):
        merge("all", [build([(0, 600, 1)], **part) for part in parts])


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
