"""Sweeps as written, and the points that they multiply out to."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from phasewise.core.errors import InputError
from phasewise.planner.grid import Axis, Size, parse_axes, parse_axis, parse_size, points

DATA: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B",
    "replicas": [{"device": "h100", "role": "prefill"}, {"device": "a100-80gb", "role": "decode", "tp": 2}],
}


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("replicas.0.count=1..4", "replicas.0.count", "1 2 3 4"),
        ("replicas.prefill=1..39..10", "replicas.prefill", "1 11 21 31"),
        ("batcher.token_budget = 128, 256,512", "batcher.token_budget", "128 256 512"),
        ("tile=0,64..256..64", "tile", "0 64 128 192 256"),
        ("batcher=sarathi,vllm-v1", "batcher", "sarathi vllm-v1"),
        ("replicas.0.memory_utilisation=0.8,0.9", "replicas.0.memory_utilisation", "0.8 0.9"),
        ("replicas.0.count=3..3", "replicas.0.count", "3"),
        ("tile=-1..1", "tile", "-1 0 1"),
    ],
)
def test_an_axis_is_read_as_written(text: str, key: str, values: str) -> None:
    assert parse_axis(text) == Axis(key, tuple(values.split()))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("replicas.0.count", "not a sweep; write KEY=VALUES, such as replicas.0.count=1..8"),
        ("=1..4", "not a sweep"),
        ("tile=", "not a sweep"),
        ("tile=1,,2", "not a sweep"),
        ("tile=4..1", "'4..1' is empty; write LOW..HIGH"),
        ("tile=1..4..0", "'1..4..0' is empty"),
        ("tile=1..4..-1", "'1..4..-1' is empty"),
        ("host_s=0.1..0.5", "'0.1..0.5' is not a range of whole numbers; write LOW..HIGH"),
        ("tile=1..", "'1..' is not a range"),
        ("tile=1,2,1..3", "1 stands twice; leave one of them out"),
        ("tile=1..1000000000000", "'1..1000000000000' holds more than 10,000 values"),
    ],
)
def test_what_is_no_axis(text: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_axis(text)
    assert str(caught.value).startswith(f"--sweep {text}: {complaint}")


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["tile=1..2", "tile=3..4"], "--sweep: tile is swept twice; give all its values at once"),
        (["a=1", "b=1", "c=1"], "--sweep: 3 sweeps; give one or two"),
        (["a=1..200", "b=1..200"], "--sweep: 40,000 points; 10,000 is the most"),
    ],
)
def test_axes_that_do_not_go_together(texts: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        parse_axes(texts)


@pytest.mark.parametrize(("text", "size"), [("40", (40, 40)), ("..40", (1, 40)), ("32..40", (32, 40))])
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == Size(*size)


@pytest.mark.parametrize("text", ["", "0", "..0", "many", "8..4", "4..", "-3", "1..2..3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match=r"not a number of devices; write 40, \.\.40 for at most so many, or 32\.\.40"):
        parse_size(text)


def test_points_are_the_product_and_the_last_axis_varies_fastest() -> None:
    axes = parse_axes(["replicas.prefill=1..3", "replicas.decode=1..4"])
    found, left_out = points(DATA, axes)
    assert left_out == 0
    assert [point.values for point in found] == list(product("123", "1234"))
    for point in found:
        assert point.resolved is not None
        prefill, decode = map(int, point.values)
        assert [group.count for group in point.resolved.deployment.replicas] == [prefill, decode]
        assert len(point.resolved.replicas) == prefill + decode
        assert point.devices == prefill + 2 * decode
        assert point.name == f"replicas.prefill={prefill}, replicas.decode={decode}"
    assert DATA["replicas"][0] == {"device": "h100", "role": "prefill"}


@pytest.mark.parametrize(("size", "least", "most"), [("7", 7, 7), ("..7", 1, 7), ("6..8", 6, 8)])
def test_only_points_with_as_many_devices_as_wanted(size: str, least: int, most: int) -> None:
    axes = parse_axes(["replicas.prefill=1..6", "replicas.decode=1..6"])
    found, left_out = points(DATA, axes, parse_size(size))
    wanted = [(p, d) for p in range(1, 7) for d in range(1, 7) if least <= p + 2 * d <= most]
    assert [tuple(map(int, point.values)) for point in found] == wanted
    assert left_out == 36 - len(wanted)


def test_no_point_of_that_size_is_an_error_that_says_which_there_are() -> None:
    with pytest.raises(InputError, match="--devices: no point has 20 devices; they have 3 to 8"):
        points(DATA, parse_axes(["replicas.prefill=1..6"]), Size(20, 20))


def test_a_model_that_does_not_fit_is_a_point_and_a_wrong_key_an_error() -> None:
    axes = parse_axes(["replicas.0.tp=1,2,4", "model=meta-llama/Llama-3.1-8B,meta-llama/Llama-3.1-70B"])
    found, _ = points(DATA, axes, None, "d.yaml")
    fits = [point.resolved is not None for point in found]
    # 70.6 billion parameters are 131 GiB: more than nine tenths of one device's 80, less than of two.
    assert fits == [True, False, True, True, True, True]
    assert (found[1].error or "").startswith("d.yaml: meta-llama/Llama-3.1-70B does not fit on h100 with tp 1")
    with pytest.raises(InputError, match=r"--sweep replicas.0.tpp=1: .*unknown key 'tpp'; did you mean 'tp'"):
        points(DATA, parse_axes(["replicas.0.tpp=1,2"]))
    with pytest.raises(InputError, match=r"--sweep replicas.0.tp=two: .*expected a whole number, got text 'two'"):
        points(DATA, parse_axes(["replicas.0.tp=1,two"]))


def test_a_batcher_is_set_before_its_parameters_in_either_order() -> None:
    for texts in (["batcher=sarathi,vllm-v1", "batcher.max_seqs=7"], ["batcher.max_seqs=7", "batcher=sarathi,vllm-v1"]):
        found, _ = points(DATA, parse_axes(texts))
        batchers = [point.resolved.deployment.batcher for point in found if point.resolved is not None]
        assert [(batcher.name, batcher.params["max_seqs"]) for batcher in batchers] == [("sarathi", 7), ("vllm-v1", 7)]
