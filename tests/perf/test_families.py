"""The roofline of experts, latent attention and windows: toys redrawn by hand, counts by brute force, leaps step by step."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.model import Latent, ModelSpec, MoE, Window
from phasewise.core.spec import DeviceSpec
from phasewise.core.step import ALL, Chunk, moved_on
from phasewise.perf.attention import BentAttention, Layers
from phasewise.perf.efficiency import efficiency, ideal
from phasewise.perf.hardware import device
from phasewise.perf.memory import kv_blocks, kv_bytes_per_token, reserve_bytes, weight_bytes
from phasewise.perf.models import model
from phasewise.perf.roofline import Roofline

TOY = ModelSpec("toy", layers=2, hidden=64, ffn=160, q_heads=4, kv_heads=2, head_dim=16, vocab=100, max_context=128)
EXPERTS = msgspec.structs.replace(TOY, moe=MoE(experts=8, per_token=2, ffn=48, shared_ffn=32, dense_layers=1))
LATENT = msgspec.structs.replace(
    TOY, kv_heads=4, head_dim=24, latent=Latent(kv_rank=32, q_rank=40, nope=16, rope=8, value=20)
)
# 1000 TFLOP/s are a million operations a nanosecond, 10 GB/s ten bytes: everything is bound by memory.
WIDE = DeviceSpec("wide", 1.0, 10.0, 1000.0, 2.0, "made up")
# A thousand operations and a million bytes a nanosecond: everything is bound by arithmetic.
DEEP = DeviceSpec("deep", 1.0, 1e6, 1.0, 2.0, "made up", fp8_tflops=2.0)


def moved(rows: int, columns: int, inner: int) -> int:
    return rows * inner + inner * columns + rows * columns


def step(roofline: Roofline, chunks: tuple[Chunk, ...] = (), decodes: int = 0, context: int = 0) -> float:
    ((first, slope, steps),) = roofline.pieces(chunks, decodes, context, 1)
    assert (slope, steps) == (0.0, 1) or not chunks
    return first


def test_touched_experts_are_the_mean_over_all_choices() -> None:
    for experts, chosen, tokens in ((4, 2, 2), (4, 1, 3), (5, 3, 2), (3, 3, 2)):
        choices = list(itertools.combinations(range(experts), chosen))
        found = [len(set().union(*map(set, picks))) for picks in itertools.product(choices, repeat=tokens)]
        assert MoE(experts, chosen, 1).touched(tokens) == pytest.approx(sum(found) / len(found))
    assert MoE(256, 8, 1).touched(1) == pytest.approx(8)


def test_a_step_with_experts_by_hand() -> None:
    """Bytes of everything but attention for three tokens, two bytes an element, one dense layer and one of experts."""
    n = 3
    around = moved(n, 128, 64) + moved(n, 64, 64) + 2 * 4 * 64 * n + 2 * (64 + 32) * n
    dense = moved(n, 320, 64) + moved(n, 64, 160) + 3 * 160 * n
    touched = 8 * (1 - (1 - 2 / 8) ** n)
    routed = touched * 3 * 64 * 48 + 2 * n * (2 * 64 + 3 * 48)
    shared = moved(n, 64, 64) + moved(n, 64, 32) + 3 * 32 * n
    layers = 2 * around + dense + moved(n, 8, 64) + routed + shared
    ends = 2 * 64 * n + 4 * 64 * n + moved(n, 100, 64)
    attention = 2 * 2 * 32 * (50 + n)
    expected = 2 * (layers + ends + attention) / 10
    assert step(Roofline(EXPERTS, WIDE, 1, ideal()), decodes=n, context=50) == pytest.approx(expected)


def test_the_operations_of_experts_by_hand() -> None:
    free = msgspec.structs.replace(ideal(), attention_compute=1e12)
    n = 10_000
    time = Roofline(EXPERTS, DEEP, 1, free).prefill_ns(n) - Roofline(TOY, DEEP, 1, free).prefill_ns(n)
    more = 8 * 64 + 3 * 64 * (2 * 48 + 32) - 3 * 64 * 160
    # What only moves differs too, at a million bytes a nanosecond.
    assert time == pytest.approx(2 * n * more / 1000, rel=0.01)


def test_packed_weights_shrink_the_traffic_and_fp8_the_operations() -> None:
    packed = msgspec.structs.replace(EXPERTS, moe=msgspec.structs.replace(EXPERTS.moe, dtype="mxfp4"))
    saved = 8 * (1 - (3 / 4) ** 5) * 3 * 64 * 48 * (2 - 17 / 32) / 10
    times = [step(Roofline(spec, WIDE, 1, ideal()), decodes=5) for spec in (EXPERTS, packed)]
    assert times[0] - times[1] == pytest.approx(saved)
    fp8 = msgspec.structs.replace(TOY, weight_dtype="fp8")
    n, free = 10_000, msgspec.structs.replace(ideal(), attention_compute=1e12, attention_token_bandwidth=1e12)
    free = msgspec.structs.replace(free, elementwise_bandwidth=1e12)
    bf16, half = (Roofline(spec, DEEP, 1, free).prefill_ns(n) for spec in (TOY, fp8))
    assert half / bf16 == pytest.approx(0.5, rel=1e-3)
    # Without a unit for fp8 the operations run in bf16, and only the weights' bytes are fewer.
    old = msgspec.structs.replace(DEEP, fp8_tflops=None)
    assert Roofline(fp8, old, 1, free).prefill_ns(n) == pytest.approx(bf16)
    weights = 2 * (64 * 128 + 64 * 64 + 3 * 64 * 160)
    times = [step(Roofline(spec, WIDE, 1, ideal()), decodes=1) for spec in (TOY, fp8)]
    assert times[0] - times[1] == pytest.approx(weights / 10)


def test_latent_decodes_read_one_vector_for_all_heads() -> None:
    one, more = (step(Roofline(LATENT, WIDE, 1, ideal()), decodes=3, context=c) for c in (60, 100))
    assert more - one == pytest.approx(2 * 40 * (32 + 8) * 2 / 10)
    # Split over devices, each still reads the whole vector.
    split = Roofline(LATENT, WIDE, 2, ideal()).decode_line()[1]
    assert split == pytest.approx(2 * (32 + 8) * 2 / 10)
    deep = Roofline(LATENT, DEEP, 1, ideal()).decode_line()[1]
    assert deep == pytest.approx(2 * 2 * 4 * (32 + 8 + 32) / 1000)


def test_latent_products_by_hand() -> None:
    n = 3
    products = moved(n, 40 + 40, 64) + moved(n, 4 * 24, 40) + moved(n, 4 * (16 + 20), 32) + moved(n, 64, 4 * 20)
    small = 2 * (40 + 32) * n + 2 * (4 + 1) * 8 * n
    layer = products + small + 2 * 4 * 64 * n + moved(n, 320, 64) + moved(n, 64, 160) + 3 * 160 * n
    ends = 2 * 64 * n + 4 * 64 * n + moved(n, 100, 64)
    expected = 2 * (2 * layer + ends + 2 * 40 * (50 + n)) / 10
    assert step(Roofline(LATENT, WIDE, 1, ideal()), decodes=n, context=50) == pytest.approx(expected)


def test_latent_prompts_expand_their_cached_tokens_anew() -> None:
    """On a device of arithmetic alone: pairs in the heads' own widths, and the expansion of what is cached."""
    roofline = Roofline(LATENT, DEEP, 1, ideal())
    fresh, later = (step(roofline, (Chunk(0, start, 40, 500),)) for start in (0, 300))
    pairs, expanded = 40 * 300, 300
    width = 4 * (24 + 20)
    flops = 2 * (pairs * 2 * width + expanded * 2 * 32 * 4 * (16 + 20))
    bytes_ = 2 * expanded * width * 2
    assert later - fresh == pytest.approx(flops / 1000 + bytes_ / 1e6)


def test_pairs_and_reads_of_a_window_by_brute_force() -> None:
    for window, start, tokens in itertools.product((1, 2, 5, 8), range(12), range(1, 12)):
        seen = [list(range(max(0, p + 1 - window), p + 1)) for p in range(start, start + tokens)]
        pairs, reads = sum(map(len, seen)), len(set().union(*map(set, seen)))
        groups = [Layers(3, window)]
        assert BentAttention(groups, 1.0, 0.0, 0.0, 0.0).chunk_ns(start, tokens) == 3 * pairs
        assert BentAttention(groups, 0.0, 1.0, 0.0, 0.0).chunk_ns(start, tokens) == 3 * reads


def test_decodes_within_and_beyond_the_window() -> None:
    spec = msgspec.structs.replace(TOY, window=Window(tokens=50, layers=1))
    bent, plain = Roofline(spec, WIDE, 1, ideal()), Roofline(TOY, WIDE, 1, ideal())
    assert step(bent, decodes=3, context=3 * 49) == pytest.approx(step(plain, decodes=3, context=3 * 49))
    read = 2 * 32 * 2 / 10
    assert step(plain, decodes=3, context=3 * 90) - step(bent, decodes=3, context=3 * 90) == pytest.approx(
        3 * (91 - 50) * read
    )
    fixed, slope = bent.decode_line()
    assert step(bent, decodes=1, context=90) == pytest.approx(fixed + 90 * slope)
    # Known by its mean alone, a batch on both sides of the window costs too much, never too little.
    each = sum(step(bent, decodes=1, context=c) for c in (10, 100)) - 2 * step(bent, decodes=1, context=0)
    both = step(bent, decodes=2, context=110) - step(bent, decodes=2, context=0)
    assert both >= each


def test_a_parallel_block_reduces_once() -> None:
    slow = msgspec.structs.replace(WIDE, link_gb_s=1e-3)
    serial = step(Roofline(TOY, slow, 2, ideal()), decodes=1)
    parallel = step(Roofline(msgspec.structs.replace(TOY, parallel=True), slow, 2, ideal()), decodes=1)
    assert serial - parallel == pytest.approx(2 * 2 * 0.5 * 64 * 2 / 1e-3)


LEAPING = [
    "Mixtral-8x7B-v0.1",
    "DeepSeek-V3",
    "DeepSeek-V2-Lite",
    "gemma-3-1b-it",
    "gpt-oss-20b",
    "Mistral-7B-v0.1",
    "falcon-7b",
    "bloom",
]


@pytest.mark.parametrize("name", LEAPING)
@given(
    st.lists(st.tuples(st.integers(0, 6000), st.integers(1, 700)), max_size=2),
    st.integers(0, 40),
    st.integers(0, 2000),
    st.integers(1, 14),
    st.sampled_from([3350.0, 300.0]),
)
def test_a_leap_is_its_single_steps(
    name: str, spans: list[tuple[int, int]], decodes: int, mean: int, steps: int, bandwidth: float
) -> None:
    """Windows are entered and left on the way, and on a device with slow memory the other side comes to bind."""
    if not spans and not decodes:
        return
    chunks = [Chunk(i, start, tokens, 1 << 20) for i, (start, tokens) in enumerate(spans)]
    sheet = msgspec.structs.replace(device("h100"), memory_gb_s=bandwidth)
    roofline = Roofline(model(name), sheet, 1, efficiency(sheet))
    context = decodes * mean + decodes // 3
    pieces = roofline.pieces(chunks, decodes, context, steps)
    assert sum(n for _, _, n in pieces) == steps
    leapt = [first + i * slope for first, slope, n in pieces for i in range(n)]
    for i, step_ns in enumerate(leapt):
        alone = roofline.pieces([moved_on(c, i) for c in chunks], decodes, context + i * decodes, 1)
        assert step_ns == pytest.approx(alone[0][0], rel=1e-9)


def test_leaps_do_cross_windows() -> None:
    roofline = Roofline(model("gemma-3-1b-it"), device("h100"), 1, efficiency(device("h100")))
    assert len(roofline.pieces((), 4, 4 * 500, 100)) == 2
    assert len(roofline.pieces([Chunk(0, 0, 100, 1 << 20)], 0, 0, 12)) >= 3


@pytest.mark.parametrize("name", LEAPING)
def test_more_work_never_takes_less_time(name: str) -> None:
    for on in ("h100", "l4", "cpu"):
        roofline = Roofline(model(name), device(on), 1, efficiency(device(on)))
        prompts = [roofline.prefill_ns(n) for n in range(1, 3000, 97)]
        assert prompts == sorted(prompts)
        after = [step(roofline, (Chunk(0, start, 200, 1 << 20),)) for start in range(0, 6000, 211)]
        assert after == sorted(after)
        decodes = [step(roofline, (), n, 300 * n) for n in range(1, 200)]
        assert decodes == sorted(decodes)
        contexts = [step(roofline, (), 7, c) for c in range(0, 60_000, 1_001)]
        assert contexts == sorted(contexts)


def test_memory_of_families() -> None:
    split = weight_bytes(EXPERTS, 2)
    attention, heads = 64 * (32 + 2 * 16) + 32 * 64, 2 * 64
    routed, shared = 8 * 3 * 64 * 24, 3 * 64 * 16
    rest = 2 * heads + 8 * 64 + 2 * 50 * 64 + 64
    assert split == 2 * (2 * attention + 3 * 64 * 80 + routed + shared + rest)
    assert kv_bytes_per_token(LATENT, 1) == kv_bytes_per_token(LATENT, 4) == 2 * (32 + 8) * 2
    chosen = 2 * (3 * 48 + 64) + 3 * 32
    assert reserve_bytes(EXPERTS, 1, 7) - reserve_bytes(TOY, 1, 7) == 7 * 2 * max(0, chosen - 3 * 160)
    # gpt-oss-120b in MXFP4 fits on one 80 GiB device, DeepSeek-V3 in fp8 on eight of 141 GiB.
    assert kv_blocks(model("gpt-oss-120b"), device("h100")) > 1000
    assert kv_blocks(model("DeepSeek-V3"), device("h200"), 8) > 10_000


def test_prompts_of_all_families_end_with_their_head() -> None:
    for name in LEAPING:
        roofline = Roofline(model(name), device("h100"), 1, efficiency(device("h100")))
        last = roofline.pieces((Chunk(0, 0, 300, 300, ALL),), 0, 0, 1)[0][0]
        assert roofline.prefill_ns(300) == last > roofline.pieces((Chunk(0, 0, 300, 300),), 0, 0, 1)[0][0]
