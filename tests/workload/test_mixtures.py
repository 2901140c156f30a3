"""Classes, cuts and merges: who is in which class, and what is kept of each part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.errors import InputError
from phasewise.core.request import Request
from phasewise.core.spec import RequestClass, Slo
from phasewise.workload import Truth, Workload, merge
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
