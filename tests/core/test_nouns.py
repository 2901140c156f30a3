"""Small nouns: units, errors, pieces, specifications, and every member of the closed unions through bytes and back."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.control.rooms import open_cluster, open_instance
from phasewise.core import action as actions
from phasewise.core import event as events
from phasewise.core.action import Action, Ended, Forget, Interrupt, Outcome, Regroup, Run, WakeAt
from phasewise.core.errors import InputError, LogError, PhasewiseError, PlanError, unknown
from phasewise.core.event import Arrived, ClusterEvent, Event, Gone, InstanceEvent, StepDone, Woken
from phasewise.core.message import Cancel, Cancelled, Finished, Refused, Submit
from phasewise.core.request import Request
from phasewise.core.spec import Deployment, ModelSpec, PolicySpec, ReplicaSpec
from phasewise.core.step import Chunk, StepPlan, total_ns
from phasewise.core.units import to_ns, to_s
from worlds import toy_resolved

IDS = st.integers(0, 1 << 31)
TIMES = st.integers(0, 1 << 62)
COUNTS = st.integers(0, 1 << 31)
NAMES = st.sampled_from(["all", "even", "odd"])
PREFIXES = st.lists(IDS, max_size=2).map(tuple)
REQUESTS = st.builds(Request, IDS, TIMES, COUNTS, st.none() | COUNTS, NAMES, PREFIXES, COUNTS)
CHUNKS = st.builds(Chunk, IDS, COUNTS, COUNTS, COUNTS, st.none() | NAMES)
PLANS = st.builds(
    StepPlan,
    st.lists(CHUNKS, max_size=3).map(tuple),
    st.lists(NAMES, max_size=2).map(tuple),
    st.lists(IDS, max_size=3).map(tuple),
    st.none() | COUNTS,
    st.booleans(),
    st.integers(0, 7),
    st.booleans(),
)
NUMBERS = st.floats(0, 1e15, allow_nan=False)
PIECES = st.tuples(NUMBERS, NUMBERS, COUNTS)
MEMBERS: dict[type, st.SearchStrategy[Any]] = {
    Arrived: st.builds(Arrived, REQUESTS),
    Gone: st.builds(Gone, IDS),
    StepDone: st.builds(
        StepDone, IDS, IDS, st.lists(PIECES, max_size=3).map(tuple), st.lists(IDS, max_size=3).map(tuple)
    ),
    Woken: st.builds(Woken),
    Submit: st.builds(Submit, IDS, REQUESTS, IDS),
    Cancel: st.builds(Cancel, IDS, IDS, IDS),
    Refused: st.builds(Refused, IDS, IDS, st.text()),
    Finished: st.builds(Finished, IDS, IDS, COUNTS),
    Cancelled: st.builds(Cancelled, IDS, IDS, COUNTS),
    Run: st.builds(Run, IDS, PLANS, st.none() | COUNTS, COUNTS, COUNTS),
    Interrupt: st.builds(Interrupt, IDS),
    Forget: st.builds(Forget, IDS),
    Regroup: st.builds(Regroup, st.lists(st.tuples(IDS, NAMES), max_size=3).map(tuple)),
    WakeAt: st.builds(WakeAt, COUNTS),
    Ended: st.builds(Ended, IDS, st.sampled_from(Outcome), COUNTS, st.text()),
}


FLOATS = st.floats(allow_nan=False)
PAIRS = st.lists(st.tuples(IDS, COUNTS), max_size=3).map(tuple)
FIELDS: dict[Any, Any] = {
    int: COUNTS,
    float: FLOATS,
    str: st.text(),
    bool: st.booleans(),
    Request: REQUESTS,
    tuple[tuple[int, int], ...]: PAIRS,
    tuple[tuple[int, tuple[tuple[float, float, int], ...]], ...]: st.lists(
        st.tuples(IDS, st.lists(PIECES, max_size=2).map(tuple)), max_size=2
    ).map(tuple),
    tuple[tuple[int, int, tuple[tuple[float, float, int], ...]], ...]: st.lists(
        st.tuples(IDS, IDS, st.lists(PIECES, max_size=2).map(tuple)), max_size=2
    ).map(tuple),
}
for _kind in {*typing.get_args(Event), *typing.get_args(Action)} - set(MEMBERS):
    MEMBERS[_kind] = st.builds(_kind, **{f.name: FIELDS[f.type] for f in msgspec.structs.fields(_kind)})


@pytest.mark.parametrize("union", [Event, Action], ids=["event", "action"])
@given(data=st.data())
def test_every_member_of_a_union_survives_its_bytes(union: Any, data: st.DataObject) -> None:
    decoder = msgspec.msgpack.Decoder(union)
    for member in typing.get_args(union):
        sent = data.draw(MEMBERS[member])
        got = decoder.decode(msgspec.msgpack.encode(sent))
        assert type(got) is member
        assert got == sent


def test_tags_are_distinct_and_the_unions_are_what_the_rooms_take() -> None:
    members = {*typing.get_args(Event), *typing.get_args(Action)}
    assert members == set(MEMBERS)
    tags = [member.__struct_config__.tag for member in members]
    assert len(set(tags)) == len(tags)
    assert set(typing.get_args(ClusterEvent)) | set(typing.get_args(InstanceEvent)) == set(typing.get_args(Event))
    assert set(typing.get_args(ClusterEvent)) & set(typing.get_args(InstanceEvent)) == {Woken}
    resolved = toy_resolved()
    assert set(open_cluster(resolved).handlers) == set(typing.get_args(ClusterEvent))
    assert set(open_instance(resolved, 0).handlers) == set(typing.get_args(InstanceEvent))
    for module in (actions, events):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, msgspec.Struct):
                assert value.__struct_config__.frozen
                assert not value.__struct_config__.gc or value.__module__ != module.__name__


def test_a_noun_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Request(0, 0, 1).prompt_tokens = 2  # type: ignore[misc]


@given(st.floats(0, 1e15), st.floats(0, 1e6), st.integers(0, 300))
def test_total_of_a_piece_is_its_sum(first: float, slope: float, steps: int) -> None:
    assert total_ns((first, slope, steps), steps) == pytest.approx(sum(first + i * slope for i in range(steps)))


@given(st.integers(0, 1 << 50))
def test_whole_nanoseconds_survive_seconds(ns: int) -> None:
    assert abs(to_ns(to_s(ns)) - ns) <= max(1, ns >> 52)


def test_units() -> None:
    assert to_ns(1.5) == 1_500_000_000
    assert to_ns(1e-9) == 1
    assert to_ns(0.3) == 300_000_000
    assert isinstance(to_ns(0), int)
    assert to_s(2_500_000_000) == 2.5


def test_an_unknown_name_hints_at_the_nearest() -> None:
    known = ["sarathi", "static", "vllm-v1"]
    assert str(unknown("batcher", "Sarathi", known)) == "unknown batcher 'Sarathi'; did you mean 'sarathi'?"
    assert str(unknown("batcher", "vlm", known, "x.yaml")) == "x.yaml: unknown batcher 'vlm'; did you mean 'vllm-v1'?"
    assert str(unknown("batcher", "qqq", known)) == "unknown batcher 'qqq'; known: sarathi, static, vllm-v1"
    assert "did you mean 'H100'?" in str(unknown("device", "h100", ["A100", "H100"]))
    assert str(unknown("device", "x", [])).startswith("unknown device 'x'")


def test_errors_are_one_family_and_say_where() -> None:
    for kind in (InputError, PlanError, LogError):
        assert issubclass(kind, PhasewiseError)
    assert str(InputError("too long", "trace.csv:7")) == "trace.csv:7: too long"
    assert str(InputError("too long")) == "too long"


def test_a_deployment_takes_no_unknown_field() -> None:
    with pytest.raises(msgspec.ValidationError, match="replicaz"):
        msgspec.convert({"model": "m", "replicas": [], "replicaz": []}, Deployment)
    with pytest.raises(msgspec.ValidationError, match="colour"):
        msgspec.convert({"device": "h100", "colour": "red"}, ReplicaSpec)


def test_a_deployment_survives_its_bytes() -> None:
    made = Deployment("m", (ReplicaSpec("h100", 2, 4),), PolicySpec("sarathi", {"token_budget": 7}), wire_s=0.5)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Deployment) == made


def test_defaults_of_one_spec_are_not_those_of_another() -> None:
    PolicySpec("a").params["x"] = 1
    assert PolicySpec("b").params == {}


def test_model_counts_by_hand() -> None:
    """A one-layer model small enough to count its weights on paper."""
    spec = ModelSpec("toy", 1, hidden=8, ffn=16, q_heads=2, kv_heads=1, head_dim=4, vocab=10, max_context=32)
    attention = 8 * 8 + 2 * (8 * 4) + 8 * 8
    assert spec.parameters == attention + 3 * 8 * 16 + 2 * 8 + 2 * 10 * 8 + 8
    assert spec.kv_bytes_per_token == 2 * 1 * 1 * 4 * 2
    tied = msgspec.structs.replace(spec, tied_embeddings=True, gated_ffn=False, attention_bias=True, ffn_bias=True)
    assert tied.parameters == attention + 16 + 2 * 8 * 16 + 16 + 8 + 2 * 8 + 10 * 8 + 8
