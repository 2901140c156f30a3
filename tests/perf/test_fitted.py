"""Latency models from fits and tables: leaps against single steps for any of them, closed forms by hand, bad numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from phasewise.core.errors import InputError
from phasewise.core.step import Chunk, moved_on
from phasewise.core.steptimes import DecodeTimes, PrefillTimes, StepTimes, Table
from phasewise.perf.fitted import Fitted, Line
from phasewise.perf.published import _rows, published
from worlds import TOY_DEVICE, TOY_MODEL


def linear(d0_us: float = 100.0, d1_us: float = 0.5) -> StepTimes:
    """WAIT's step: d0 + d1 * (KV tokens of the batch)."""
    prefill, decode = PrefillTimes(d0_us, context_us=d1_us), DecodeTimes(d0_us, context_us=d1_us)
    return StepTimes("linear", "made up", prefill, (decode,))


def every_published() -> list[StepTimes]:
    found = []
    for name in ("distserve", "splitwise"):
        for model, device, tp in _rows(name):
            spec = msgspec.structs.replace(TOY_MODEL, name=model)
            found.append(published(name, spec, msgspec.structs.replace(TOY_DEVICE, name=device), tp))
    return found


PUBLISHED = every_published()
amount = st.floats(0, 50, allow_subnormal=False)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    at = sorted(draw(st.sets(st.integers(1, 3_000), min_size=1, max_size=6)))
    times = draw(st.lists(st.floats(0.001, 1e5), min_size=len(at), max_size=len(at)))
    return Table(tuple(at), tuple(times))


@st.composite
def made_up(draw: st.DrawFn) -> StepTimes:
    some = st.none() | tables()
    prefill = PrefillTimes(0.001, *(draw(amount) for _ in range(4)), by_tokens=draw(some))
    parts = []
    for below in [*sorted(draw(st.sets(st.integers(2, 40), max_size=2))), None]:
        kind = draw(st.sampled_from(["by_batch", "by_context"]))
        terms = DecodeTimes(0.001, draw(amount), draw(amount), below_batch=below)
        parts.append(msgspec.structs.replace(terms, **{kind: draw(some)}))
    there = [p.by_tokens if isinstance(p, PrefillTimes) else p.by_batch or p.by_context for p in (prefill, *parts)]
    kind = "table" if any(there) else "linear"
    factor = draw(st.none() | st.floats(1, 2))
    beside = (draw(amount), draw(amount)) if factor is None else (0.0, 0.0)
    return StepTimes(kind, "made up", prefill, tuple(parts), None, None, None, None, None, *beside, factor)


spans = st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 600)), max_size=3)


@given(st.sampled_from(PUBLISHED) | made_up(), spans, st.integers(0, 120), st.integers(0, 4_000), st.integers(1, 60))
@example(PUBLISHED[-1], [], 1, 0, 40_000)
def test_pieces_are_single_steps(
    times: StepTimes, chunked: list[tuple[int, int]], decodes: int, context: int, steps: int
) -> None:
    chunks = [Chunk(i, start, q, 1 << 20) for i, (start, q) in enumerate(chunked)]
    if not chunks and not decodes:
        return
    model = Fitted(times)
    pieces = model.pieces(chunks, decodes, context, steps)
    assert [n for _, _, n in pieces] == [n for _, _, n in pieces if n > 0]
    assert sum(n for _, _, n in pieces) == steps
    leapt = [first + i * slope for first, slope, n in pieces for i in range(n)]
    for i in range(0, steps, max(1, steps // 200)):
        ((alone, _, one),) = model.pieces([moved_on(c, i) for c in chunks], decodes, context + i * decodes, 1)
        assert one == 1
        assert leapt[i] == pytest.approx(alone, rel=1e-9, abs=1e-6)
        assert alone >= 1 - 1e-9


@given(spans, st.integers(1, 94), st.integers(0, 40_000), st.sampled_from(PUBLISHED[:7]))
def test_more_work_never_takes_less_time(
    chunked: list[tuple[int, int]], decodes: int, context: int, times: StepTimes
) -> None:
    """Within one of DistServe's two decode fits: where they meet, at 95 sequences, the authors' lines do not."""
    model = Fitted(times)

    def time(chunks: list[tuple[int, int]], decodes: int, context: int) -> float:
        return model.pieces([Chunk(i, c, q, 1 << 20) for i, (c, q) in enumerate(chunks)], decodes, context, 1)[0][0]

    here = time(chunked, decodes, context)
    assert time([*chunked, (7, 50)], decodes, context) > here
    assert time(chunked, decodes, context + 1_000) > here
    if decodes < 94:
        assert time(chunked, decodes + 1, context) > here
    if chunked:
        assert here > time(chunked, 0, 0)


def test_a_line_through_points() -> None:
    line = Line(Table((10, 20, 40), (1.0, 3.0, 2.0)))
    assert [line.find(n)[0] for n in (1, 10, 15, 20, 30, 40)] == [1e3, 1e3, 2e3, 3e3, 2.5e3, 2e3]
    assert [line.find(n)[2] for n in (9, 10, 39, 40)] == [10, 20, 40, None]
    assert line.find(1_000)[:2] == (2e3, 0.0), "a line that fell does not fall for ever"
    assert Line(Table((10, 20), (1.0, 3.0))).find(30)[0] == 5e3
    assert Line(Table((10,), (1.0,))).find(10**6) == (1e3, 0.0, None)


def test_a_leap_is_cut_where_its_table_bends() -> None:
    times = StepTimes(
        "table", "made up", PrefillTimes(1.0), (DecodeTimes(by_context=Table((100, 130, 160), (10.0, 40.0, 55.0))),)
    )
    # Three sequences that read 91 + 3, 97, 100, ... tokens: two steps before the first point, ten on each line.
    assert Fitted(times).pieces((), 3, 91, 30) == (
        (10e3, 0.0, 2),
        (10e3, 3e3, 10),
        (40e3, 1.5e3, 10),
        (55e3, 1.5e3, 8),
    )


def test_a_leap_of_both_is_cut_there_too() -> None:
    table = DecodeTimes(by_context=Table((100, 130), (10.0, 40.0)))
    model = Fitted(StepTimes("table", "made up", PrefillTimes(7.0, token_us=1.0, context_us=0.5), (table,)))
    # A chunk of 10 tokens that reads 30, 40, ...; the fixed time of 7 us once; three sequences as above.
    assert model.pieces((Chunk(0, 20, 10, 999),), 3, 91, 14) == (
        (10e3 + 10e3 + 15e3, 5e3, 2),
        (10e3 + 10e3 + 25e3, 5e3 + 3e3, 10),
        (40e3 + 10e3 + 75e3, 5e3 + 3e3, 2),
    )


def test_a_linear_step_counts_the_tokens_of_the_batch() -> None:
    model = Fitted(linear())
    assert model.pieces((), 4, 1_000, 9) == ((100e3 + 500 * 1_004, 500 * 4, 9),)
    both = model.pieces((Chunk(0, 200, 300, 500),), 4, 1_000, 1)
    assert both[0][0] == pytest.approx(100e3 + 500 * (500 + 1_004)), "d0 once"


def test_the_fixed_time_of_a_mixed_step_is_paid_once() -> None:
    prefill = PrefillTimes(100.0, chunk_us=5.0, token_us=2.0)
    table = DecodeTimes(by_batch=Table((1, 5), (30.0, 70.0)))
    model = Fitted(StepTimes("table", "made up", prefill, (table,)))
    chunks = (Chunk(0, 0, 10, 10), Chunk(1, 0, 20, 20))
    assert model.pieces(chunks, 0, 0, 1)[0][0] == 170e3
    assert model.pieces((), 3, 50, 1)[0][0] == 50e3
    assert model.pieces(chunks, 3, 50, 1)[0][0] == 190e3
    slower = Fitted(StepTimes("table", "made up", prefill, (table,), mixed_sequence_us=2.0, mixed_context_us=0.5))
    assert slower.pieces(chunks, 3, 51, 1)[0][0] == 190e3 + 2_000 * 3 + 500 * 54
    assert slower.pieces((), 3, 51, 1)[0][0] == 50e3
    half_more = Fitted(StepTimes("table", "made up", prefill, (table,), mixed_factor=1.5))
    assert half_more.pieces(chunks, 3, 50, 1)[0][0] == 1.5 * 176e3


class Bad(msgspec.Struct):
    says: str
    prefill: PrefillTimes = PrefillTimes(5.0)
    decode: tuple[DecodeTimes, ...] = (DecodeTimes(5.0),)
    kind: str = "linear"
    rest: dict[str, Any] = {}


TABLE = Table((1, 2), (1.0, 2.0))


@pytest.mark.parametrize(
    "bad",
    [
        Bad("kind is 'lines'; known: linear, table", kind="lines"),
        Bad("source is empty", rest={"source": ""}),
        Bad("prefill.token_us: is -1.0; give microseconds, 0 or more", PrefillTimes(5.0, token_us=-1.0)),
        Bad("decode.context_us: is nan", decode=(DecodeTimes(5.0, context_us=float("nan")),)),
        Bad("prefill: step_us is 0.0; a step takes at least 0.001 us", PrefillTimes()),
        Bad("decode: step_us is 0.0", decode=(DecodeTimes(),)),
        Bad("decode is empty", decode=()),
        Bad("a linear model has no table", PrefillTimes(by_tokens=TABLE)),
        Bad("a table model needs a table", kind="table"),
        Bad("has 2 counts and 1 times", PrefillTimes(by_tokens=Table((1, 2), (1.0,))), kind="table"),
        Bad("has 0 counts and 0 times", PrefillTimes(by_tokens=Table((), ())), kind="table"),
        Bad("prefill.by_tokens: at must rise", PrefillTimes(by_tokens=Table((2, 2), (1.0, 2.0))), kind="table"),
        Bad("times_us holds 0.0", PrefillTimes(by_tokens=Table((1, 2), (1.0, 0.0))), kind="table"),
        Bad("has two tables", decode=(DecodeTimes(5.0, by_batch=TABLE, by_context=TABLE),), kind="table"),
        Bad("below_batch must rise", decode=(DecodeTimes(5.0, below_batch=5),)),
        Bad("below_batch must rise", decode=(DecodeTimes(5.0), DecodeTimes(5.0))),
        Bad("below_batch", decode=(*(DecodeTimes(5.0, below_batch=n) for n in (9, 5)), DecodeTimes(5.0))),
        Bad("mixed_factor is 0.5", rest={"mixed_factor": 0.5}),
        Bad("mixed_context_us is -1.0", rest={"mixed_context_us": -1.0}),
        Bad("and none beside a mixed_factor", rest={"mixed_context_us": 1.0, "mixed_factor": 1.1}),
        Bad("tp is 0", rest={"tp": 0}),
    ],
    ids=lambda bad: bad.says,
)
def test_times_that_are_none(bad: Bad) -> None:
    times = StepTimes(bad.kind, "made up", bad.prefill, bad.decode)
    with pytest.raises(InputError) as caught:
        Fitted(msgspec.structs.replace(times, **bad.rest))
    assert bad.says in str(caught.value)
