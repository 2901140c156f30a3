"""Links: presets against data sheets, weights of keys and values against published ones, closed forms by hand."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.errors import InputError
from phasewise.core.spec import LinkSpec
from phasewise.perf.hardware import device
from phasewise.perf.links import handed_bytes, layer_wise, presets, resolve_link, sends, visible_ns
from phasewise.perf.memory import GIB, kv_bytes_per_token
from phasewise.perf.models import model, model_names
from worlds import toy_resolved

MS = 1_000_000


def hidden_width_bytes(name: str, tokens: int) -> int:
    """What a token would weigh if every layer kept a key and a value as wide as the model (two bytes a number)."""
    spec = model(name)
    return 2 * tokens * spec.hidden * spec.layers * 2


def test_a_prompt_of_opt_66b_weighs_what_distserve_says() -> None:
    assert handed_bytes(model("opt-66b"), 512) == 2 * 64 * 9216 * 2 * 512
    # The paper's 1.13 GB are in units of 2^30.
    assert handed_bytes(model("opt-66b"), 512) / GIB == pytest.approx(1.13, abs=0.005)


def test_grouped_queries_and_latent_vectors_weigh_less() -> None:
    assert handed_bytes(model("bloom"), 1000) == hidden_width_bytes("bloom", 1000)
    assert 8 * handed_bytes(model("Llama-2-70b-hf"), 1000) == hidden_width_bytes("Llama-2-70b-hf", 1000)
    assert handed_bytes(model("DeepSeek-V3"), 10) == 10 * 61 * (512 + 64) * 2


def test_a_window_hands_over_what_it_still_sees() -> None:
    gemma = model("gemma-3-1b-it")
    assert gemma.window is not None
    assert handed_bytes(gemma, 512) == 512 * gemma.kv_bytes_per_token
    more = (26 - gemma.window.layers) * 2 * 256 * 2
    assert handed_bytes(gemma, 513) - handed_bytes(gemma, 512) == more < gemma.kv_bytes_per_token


@pytest.mark.parametrize("name", [n for n in model_names() if not model(n).window])
def test_a_replicated_head_is_sent_once(name: str) -> None:
    spec = model(name)
    assert handed_bytes(spec, 7) == 7 * kv_bytes_per_token(spec, 1)
    assert handed_bytes(spec, 7) <= 7 * spec.q_heads * kv_bytes_per_token(spec, spec.q_heads)


def test_presets_agree_with_the_devices_that_have_them() -> None:
    links = presets()
    for name in ("a100", "h100", "b200"):
        sheet = device(name)
        assert sheet.link is not None
        assert links[sheet.link].gb_s == sheet.link_gb_s
    assert links["infiniband-hdr"].gb_s == device("a100").network_gb_s
    assert links["infiniband-ndr"].gb_s == device("h100").network_gb_s
    for name, lanes in (("pcie4", 16 * 16), ("pcie5", 16 * 32)):
        assert links[name].gb_s == pytest.approx(lanes * 128 / 130 / 8, rel=1e-3)
    for gbits in (25, 100, 400):
        assert links[f"ethernet-{gbits}g"].gb_s == gbits / 8


def test_a_port_for_each_device_or_one_for_the_replica() -> None:
    assert resolve_link(LinkSpec("infiniband-hdr")).bytes_per_ns(8) == 200.0
    assert resolve_link(LinkSpec("ethernet-100g")).bytes_per_ns(8) == 12.5
    assert resolve_link(LinkSpec("infiniband-hdr", gb_s=40.0)).bytes_per_ns(8) == 40.0
    assert resolve_link(LinkSpec("free")).bytes_per_ns(1) == math.inf


def test_what_differs_from_a_preset() -> None:
    link = resolve_link(LinkSpec("infiniband-ndr", latency_us=7.0))
    assert (link.gb_s, link.latency_us, link.leftover_ms) == (50.0, 7.0, 5.0)
    assert (link.after_ns(False), link.after_ns(True)) == (7_000, 5 * MS + 7_000)
    assert "as given" in resolve_link(LinkSpec("pcie5", gb_s=50.0)).source
    assert resolve_link(LinkSpec("nvlink4", latency_us=0.0)).after_ns(True) == 0


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (LinkSpec("infiniband-ndx"), "^x.yaml: link: unknown link 'infiniband-ndx'; did you mean 'infiniband-ndr'[?]$"),
        (LinkSpec(transfer="layerwise"), "unknown transfer 'layerwise'; did you mean 'layer-wise'"),
        (LinkSpec(gb_s=0.0), "gb_s is 0.0; give a number above 0, or name the link free"),
        (LinkSpec(gb_s=-1.0), "gb_s is -1"),
        (LinkSpec(gb_s=math.inf), "gb_s is inf"),
        (LinkSpec(gb_s=math.nan), "gb_s is nan"),
        (LinkSpec(latency_us=-0.5), "latency_us is -0.5; give a number of at least 0"),
        (LinkSpec(layer_wise_from=-1), "layer_wise_from is -1"),
    ],
)
def test_a_link_that_makes_no_sense(spec: LinkSpec, said: str) -> None:
    with pytest.raises(InputError, match=said):
        resolve_link(spec, "x.yaml: link")


def test_when_keys_and_values_leave() -> None:
    assert [layer_wise(LinkSpec(), tokens) for tokens in (0, 511, 512, 2048)] == [False, False, True, True]
    assert [layer_wise(LinkSpec(transfer="serialised"), tokens) for tokens in (1, 9999)] == [False, False]
    assert [layer_wise(LinkSpec(transfer="layer-wise"), tokens) for tokens in (1, 9999)] == [True, True]
    assert layer_wise(LinkSpec(layer_wise_from=0), 0)


def test_visible_times_by_hand() -> None:
    # 100 ms of bytes beside a prompt of 60 ms in 10 layers: the first 6 ms are lost, 46 ms remain.
    assert visible_ns(1_000 * MS, 60 * MS, 10, 10.0, False) == 100 * MS
    assert visible_ns(1_000 * MS, 60 * MS, 10, 10.0, True) == 46 * MS
    # A long prompt hides all but the last layer's tenth, and the leftover.
    assert visible_ns(1_000 * MS, 900 * MS, 10, 10.0, True) == 10 * MS
    assert visible_ns(1_000 * MS, 900 * MS, 10, 10.0, True, 8 * MS) == 18 * MS
    assert visible_ns(1_000 * MS, 900 * MS, 10, math.inf, True, 5) == visible_ns(1, 1, 1, math.inf, False, 5) == 5
    assert visible_ns(10, 0, 1, 3.0, False) == 4


def by_layers(nbytes: int, prompt_ns: int, layers: int, rate: float) -> float:
    """Layer by layer: each leaves when it is computed and the one before it is away."""
    away = 0.0
    for layer in range(layers):
        away = max(away, prompt_ns * (layer + 1) / layers) + nbytes / layers / rate
    return away - prompt_ns


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 100), st.floats(0.1, 1e4))
def test_the_closed_form_is_what_sending_layer_by_layer_gives(
    nbytes: int, prompt_ns: int, layers: int, rate: float
) -> None:
    found = visible_ns(nbytes, prompt_ns, layers, rate, True)
    assert found - 1.01 <= by_layers(nbytes, prompt_ns, layers, rate) <= found + 0.01
    assert found <= visible_ns(nbytes, prompt_ns, layers, rate, False) + 1


def test_what_replicas_send() -> None:
    resolved = toy_resolved(replicas=2)
    wide = msgspec.structs.replace(resolved.replicas[1], tp=2, pp=2)
    for link, rates in (("infiniband-ndr", [50e9, 200e9]), ("ethernet-25g", [3.125e9, 3.125e9])):
        deployment = msgspec.structs.replace(resolved.deployment, link=LinkSpec(link))
        found = msgspec.structs.replace(resolved, deployment=deployment, replicas=(resolved.replicas[0], wide))
        assert sends(found) == pytest.approx(rates)
