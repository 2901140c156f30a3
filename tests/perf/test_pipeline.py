"""Stages against the whole: layers, weights, times and memory add up; published fits by their stages."""

import msgspec
import pytest

from phasewise.control.resolve import resolve
from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, ReplicaSpec
from phasewise.core.step import ALL, Chunk
from phasewise.perf.efficiency import efficiency
from phasewise.perf.fitted import Fitted
from phasewise.perf.hardware import device
from phasewise.perf.latency import LatencyModel
from phasewise.perf.memory import GIB, kv_blocks, reserve_bytes
from phasewise.perf.models import model, model_names
from phasewise.perf.physics import latency_model
from phasewise.perf.pipeline import SEND_LATENCY_NS, EvenStages, StagedModel, StagedRoofline, staged
from phasewise.perf.published import published
from phasewise.perf.roofline import Roofline
from phasewise.perf.stages import stages
from worlds import ToyLatency

A100 = device("a100")
BATCHES = [
    ((Chunk(0, 0, 300, 300, ALL),), 0, 0),
    ((Chunk(0, 512, 512, 4096),), 20, 30_000),
    ((), 64, 100_000),
    ((Chunk(0, 9_000, 512, 20_000), Chunk(1, 0, 50, 50, ALL)), 3, 60_000),
]


@pytest.mark.parametrize("pp", [1, 2, 3, 7])
@pytest.mark.parametrize("name", model_names())
def test_stages_make_up_the_model(name: str, pp: int) -> None:
    spec = model(name)
    parts = stages(spec, pp)
    layers = [part.model.layers for part in parts]
    assert sum(layers) == spec.layers
    assert layers == sorted(layers, reverse=True)
    assert max(layers) - min(layers) <= 1
    assert [part.first for part in parts] == [True] + [False] * (pp - 1)
    assert [part.last for part in parts] == [False] * (pp - 1) + [True]
    if spec.moe:
        assert sum(part.model.moe.dense_layers for part in parts if part.model.moe) == spec.moe.dense_layers
    if spec.window:
        assert sum(part.model.window.layers for part in parts if part.model.window) == spec.window.layers
    weights = [sum(part.model.weights(1, part.first, part.last)) for part in parts]
    copies = spec.vocab * spec.hidden if spec.tied_embeddings and pp > 1 else 0
    assert sum(weights) == spec.parameters + copies


@pytest.mark.parametrize("pp", [0, -1, 33])
def test_a_pp_that_leaves_a_stage_empty(pp: int) -> None:
    with pytest.raises(InputError, match=rf"pp is {pp}; .*8B has 32 layers: give 1 to 32 stages"):
        stages(model("Llama-3.1-8B"), pp)
    with pytest.raises(InputError, match=rf"^file\.yaml: pp is {pp}; .*: give 1 to 32 stages"):
        resolve(Deployment("Llama-3.1-8B", (ReplicaSpec("h100", pp=pp),)), "file.yaml")


@pytest.mark.parametrize(
    "name", ["Llama-3.1-8B", "falcon-180B", "DeepSeek-V2-Lite", "gemma-3-1b-it", "Mixtral-8x7B-v0.1"]
)
@pytest.mark.parametrize("pp", [2, 3])
def test_stage_times_add_up_to_the_model_s(name: str, pp: int) -> None:
    """And a host time for every stage, and the way between them; a batch alone in the pipeline takes all of that."""
    spec, fit = model(name), efficiency(A100)
    whole, parts = Roofline(spec, A100, 1, fit, 0.001), StagedRoofline(spec, A100, 1, pp, fit, 0.001)
    for chunks, decodes, context in BATCHES:
        tokens = decodes + sum(chunk.tokens for chunk in chunks)
        alone = whole.pieces(chunks, decodes, context, 1)[0][0]
        times = parts.stages_ns(chunks, decodes, context)
        assert len(times) == pp
        assert sum(times) == pytest.approx(alone + (pp - 1) * 1e6, rel=1e-9)
        send = SEND_LATENCY_NS + tokens * spec.hidden * 2 / 25
        assert parts.send_ns(tokens) == pytest.approx(send)
        passed = parts.pieces(chunks, decodes, context, 1)[0][0]
        assert passed == pytest.approx(sum(times) + (pp - 1) * send, rel=1e-9)


def test_the_ends_of_a_pipeline_do_what_is_theirs() -> None:
    """Of four equal stages those in the middle take alike; the head makes the last one longest when many emit a token."""
    times = StagedRoofline(model("Llama-3.1-8B"), A100, 1, 4, efficiency(A100)).stages_ns((), 256, 256_000)
    assert times[1] == times[2] < times[0] < times[3]


def test_activations_take_the_link_where_no_network_is_known() -> None:
    llama, fit = model("Llama-3.1-8B"), efficiency(A100)
    linked = msgspec.structs.replace(A100, network_gb_s=None)
    assert StagedRoofline(llama, linked, 2, 2, fit).send_ns(100) == SEND_LATENCY_NS + 100 * 4096 * 2 / (2 * 300)
    lone = msgspec.structs.replace(linked, link_gb_s=0.0)
    with pytest.raises(InputError, match="pp 2 needs a network or a link between devices, and a100 has none"):
        StagedRoofline(llama, lone, 1, 2, fit)


def test_a_leap_of_a_lone_batch_is_longer_by_as_much_each_step() -> None:
    parts = StagedRoofline(model("Llama-3.1-8B"), A100, 1, 2, efficiency(A100))
    ((first, slope, steps),) = parts.pieces((), 8, 8_000, 50)
    last = parts.pieces((), 8, 8_000 + 49 * 8, 1)[0][0]
    assert steps == 50
    assert first + 49 * slope == pytest.approx(last)


def test_any_other_model_is_cut_evenly() -> None:
    toy: LatencyModel = ToyLatency()
    cut = staged(toy, 3)
    assert isinstance(cut, EvenStages)
    assert staged(cut, 3) is cut
    chunks, decodes, context = BATCHES[1]
    assert sum(cut.stages_ns(chunks, decodes, context)) == pytest.approx(toy.pieces(chunks, decodes, context, 1)[0][0])
    assert len(set(cut.stages_ns(chunks, decodes, context))) == 1
    assert cut.pieces(chunks, decodes, context, 2) == toy.pieces(chunks, decodes, context, 2)
    assert cut.send_ns(1_000) == 0


def test_distserve_s_fit_by_stages() -> None:
    """The fit over the stages; 1 ms of prefill on each; the engine's 2 ms and 0.0001 ms a token of context on the first."""
    opt, pp = model("opt-13b"), 2
    times = published("distserve", opt, A100, 1)
    cut = EvenStages(Fitted(times), pp, times)
    l_in = 800
    fit_ms = 18.10 + 0.1019 * l_in + 7.12e-6 * l_in**2
    first, second = cut.stages_ns((Chunk(0, 0, l_in, l_in, ALL),), 0, 0)
    assert second / 1e6 == pytest.approx(fit_ms / 2 + 1, rel=2e-3)
    assert (first - second) / 1e6 == pytest.approx(2 + 0.0001 * l_in)
    whole = Fitted(times).pieces((Chunk(0, 0, l_in, l_in, ALL),), 0, 0, 1)[0][0]
    assert cut.pieces((Chunk(0, 0, l_in, l_in, ALL),), 0, 0, 1)[0][0] == pytest.approx(whole + 1e6)
    first, second = cut.stages_ns((), 10, 5_000)
    assert second / 1e6 == pytest.approx((19.93 + 6.27e-4 * 5_010 + 0.0385 * 10) / 2, rel=2e-3)
    assert (first - second) / 1e6 == pytest.approx(2 + 0.0001 * 5_010)


def test_a_deployment_s_replicas_have_stages() -> None:
    for latency, tp in ((None, 1), ("distserve", 1)):
        resolved = resolve(Deployment("opt-13b", (ReplicaSpec("a100", tp=tp, pp=2),), latency=latency))
        found = latency_model(resolved.deployment, resolved.model, resolved.replicas[0])
        assert isinstance(found, StagedModel)
        assert len(found.stages_ns((), 4, 4_000)) == 2


def test_blocks_of_a_stage_by_hand() -> None:
    llama, h100 = model("Llama-3.1-8B"), device("h100")
    there = int(h100.memory_gib * GIB * 0.9)
    halves = stages(llama, 2)
    per_block = 16 * 16 * 2 * 8 * 128 * 2  # tokens, layers, keys and values, heads, width, bytes
    layer = 4096 * 128 * (32 + 16) + 4096 * 4096 + 3 * 4096 * 14336 + 2 * 4096
    table = 128256 * 4096
    weights = [2 * (16 * layer + table), 2 * (16 * layer + table + 4096)]
    assert [part.model.bytes_of(part.model.weights(1, part.first, part.last)) for part in halves] == weights
    room = min(
        (there - weight - reserve_bytes(llama, 1, 2048, last)) // per_block
        for weight, last in zip(weights, (False, True), strict=True)
    )
    assert kv_blocks(llama, h100, pp=2) == room


def test_more_stages_hold_more() -> None:
    llama, h100 = model("Llama-3.1-8B"), device("h100")
    held = [kv_blocks(llama, h100, pp=pp) for pp in (1, 2, 4)]
    assert held[1] > 2 * held[0]
    assert held[2] > 2 * held[1]


def test_what_would_fit_may_be_more_stages() -> None:
    llama, small = model("Llama-3.1-70B"), msgspec.structs.replace(device("a40"), link_gb_s=0.0)
    said = r"does not fit on a40 with tp 1, pp 2: it needs 6\d\.\d GiB a device \(\d+\.\d of them weights\).*; tp 2 would fit$"
    with pytest.raises(InputError, match=said):
        kv_blocks(llama, small, pp=2)
    odd = msgspec.structs.replace(llama, q_heads=1, kv_heads=1, head_dim=8192)
    with pytest.raises(InputError, match=r"; pp 5 would fit$"):
        kv_blocks(odd, small)
