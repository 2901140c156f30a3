"""The catalogue: names, parameters, defaults, entry points; every mistake is one line that says what would be right."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import msgspec
import pytest

from phasewise.core.errors import InputError
from phasewise.core.request import Request
from phasewise.core.spec import PolicySpec
from phasewise.policy import catalog
from phasewise.policy.fleet import ClusterView
from phasewise.policy.routing.round_robin import RoundRobin


def wrong(role: str, name: str, params: dict[str, Any] | None = None) -> str:
    with pytest.raises(InputError) as error:
        catalog.build(role, PolicySpec(name, params or {}), "deployment.yaml")
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("deployment.yaml: ")
    return text


def test_every_policy_builds_and_shows_its_knobs() -> None:
    listed = catalog.policies()
    assert [(p.role, p.name) for p in listed] == sorted(catalog.PAPERS)
    for info in listed:
        assert info.about
        assert info.paper
        spec = catalog.resolved(info.role, PolicySpec(info.name))
        assert spec.params == info.parameters


def test_defaults_are_the_published_ones() -> None:
    assert catalog.resolved("batcher", PolicySpec("vllm-v1")).params == {"token_budget": 2048, "max_seqs": 256}
    filled = catalog.resolved("batcher", PolicySpec("sarathi", {"token_budget": 2048}))
    published = {"token_budget": 2048, "max_seqs": 128, "watermark": 0.01, "chunked": True, "hybrid": True}
    assert filled.params.items() >= {**published, "chunk_stages": 0}.items()
    assert catalog.resolved("batcher", filled) == filled
    machine = {"token_budget": 2048, "max_seqs": 512, "max_preemptions": 4}
    assert catalog.resolved("batcher", PolicySpec("splitwise")).params.items() >= machine.items()
    engine = {
        "saturation_tokens": 512,
        "prefill_seqs": 128,
        "prefill_tokens": 8192,
        "max_seqs": 1024,
        "accept_share": 0.05,
    }
    assert catalog.resolved("batcher", PolicySpec("distserve")).params.items() >= engine.items()


def test_an_unknown_policy_names_the_nearest() -> None:
    assert "did you mean 'sarathi'?" in wrong("batcher", "sarathy")
    assert "did you mean 'vllm-v1'?" in wrong("batcher", "vLLM_v1")
    assert "did you mean 'round-robin'?" in wrong("router", "roundrobin")
    assert "known: distserve, nested-wait, orca, sarathi, splitwise, static, vllm-v0, vllm-v1, wait" in wrong(
        "batcher", "zzzz"
    )


def test_a_policy_of_another_role_is_unknown_here() -> None:
    assert "unknown router 'sarathi'" in wrong("router", "sarathi")


def test_an_unknown_parameter_names_the_nearest() -> None:
    assert "did you mean 'token_budget'?" in wrong("batcher", "sarathi", {"token_buget": 1})
    assert "did you mean 'max_seqs'?" in wrong("batcher", "vllm-v1", {"max_seq": 1})
    assert "known: max_seqs" in wrong("batcher", "static", {"watermark": 0.1})
    assert "has no parameters" in wrong("router", "round-robin", {"turn": 3})


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("sarathi", {"token_budget": 0}),
        ("sarathi", {"token_budget": -5}),
        ("sarathi", {"token_budget": 1.5}),
        ("sarathi", {"token_budget": "many"}),
        ("sarathi", {"token_budget": None}),
        ("sarathi", {"max_seqs": 0}),
        ("sarathi", {"watermark": 1}),
        ("sarathi", {"watermark": -0.1}),
        ("sarathi", {"watermark": float("nan")}),
        ("static", {"max_seqs": []}),
        ("wait", {"max_wait_s": 0}),
        ("wait", {"max_wait_s": float("inf")}),
        ("nested-wait", {"max_wait_s": float("nan")}),
        ("nested-wait", {"boundaries": [0, 3]}),
        ("nested-wait", {"boundaries": [3], "survival": [1.0, 0.0]}),
        ("wait", {"rule": "neither"}),
        ("splitwise", {"max_preemptions": 0}),
        ("splitwise", {"max_preemptions": 31}),
        ("distserve", {"accept_share": 0}),
        ("distserve", {"decode_tokens": 0}),
    ],
)
def test_a_wrong_value_names_its_parameter(name: str, params: dict[str, Any]) -> None:
    assert list(params)[-1] in wrong("batcher", name, params)


def test_vllm_v1_budgets_at_least_a_token_a_sequence() -> None:
    text = wrong("batcher", "vllm-v1", {"token_budget": 8, "max_seqs": 9})
    assert "token_budget (8) must be at least max_seqs (9)" in text
    assert catalog.build("batcher", PolicySpec("vllm-v1", {"token_budget": 9, "max_seqs": 9})).max_seqs == 9


def test_numbers_from_a_command_line_are_read() -> None:
    assert catalog.build("batcher", PolicySpec("sarathi", {"token_budget": "256"})).token_budget == 256


class Foreign(msgspec.Struct, frozen=True):
    """Somebody else's batcher."""

    knob: int = 3


def test_a_package_may_bring_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(group: str) -> list[EntryPoint]:
        assert group == "phasewise.policies"
        return [EntryPoint("batcher:foreign", "somewhere:Foreign", group)]

    monkeypatch.setattr(catalog, "entry_points", points)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Foreign)
    assert catalog.build("batcher", PolicySpec("foreign", {"knob": 4})).knob == 4
    assert "did you mean 'foreign'?" in wrong("batcher", "forein")
    info = next(p for p in catalog.policies() if p.name == "foreign")
    assert info.about == "Somebody else's batcher."
    assert info.parameters == {"knob": 3}


def test_round_robin_takes_turns_among_those_that_are_left() -> None:
    router = RoundRobin()
    request = Request(0, 0, 1)
    view = ClusterView(["mixed"] * 3, [10] * 3)
    assert [router.route(request, view, 0) for _ in range(5)] == [0, 1, 2, 0, 1]
    view.barred = (1,)
    assert {router.route(request, view, 0) for _ in range(2)} == {0, 2}
    view.set_open(0, False)
    assert router.route(request, view, 0) == 2
    view.set_role(2, "decode")
    assert router.route(request, view, 0) is None
    assert router.route(request, view, 0, source=1) == 2
