"""The roofline: a toy step redrawn by hand, and the properties that schedulers lean on."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.errors import InputError
from phasewise.core.spec import DeviceSpec, ModelSpec
from phasewise.core.step import ALL, Chunk, moved_on, total_ns
from phasewise.perf.efficiency import efficiency, ideal
from phasewise.perf.hardware import device, device_names
from phasewise.perf.latency import LatencyModel
from phasewise.perf.memory import kv_bytes_per_token
from phasewise.perf.models import model, model_names
from phasewise.perf.operators import all_gather_ns, all_reduce_ns, gemm_ns
from phasewise.perf.roofline import Roofline

TOY = ModelSpec("toy", layers=2, hidden=64, ffn=160, q_heads=4, kv_heads=2, head_dim=16, vocab=100, max_context=128)
# 1 TFLOP/s is 1000 operations a nanosecond, 10 GB/s ten bytes a nanosecond: products of this toy are bound by memory.
ROUND = DeviceSpec("round", 1.0, 10.0, 1.0, 2.0, "made up")


def of(name: str, on: str = "h100", tp: int = 1, **rest: float) -> Roofline:
    spec = device(on)
    return Roofline(model(name), spec, tp, efficiency(spec), **rest)  # type: ignore[arg-type]


def chunk(start: int, tokens: int, last: bool = False) -> Chunk:
    return Chunk(0, start, tokens, start + tokens, ALL if last else None)


def time(roofline: LatencyModel, chunks: tuple[Chunk, ...] = (), decodes: int = 0, context: int = 0) -> float:
    ((first, _, steps),) = roofline.pieces(chunks, decodes, context, 1)
    assert steps == 1
    return first


def moved(rows: int, columns: int, inner: int) -> int:
    return rows * inner + inner * columns + rows * columns


def linear_bytes(n: int) -> int:
    """Bytes of everything but attention and the head for n tokens of the toy, two bytes an element."""
    gemms = moved(n, 128, 64) + moved(n, 64, 64) + moved(n, 320, 64) + moved(n, 64, 160)
    layer = gemms + 2 * 4 * 64 * n + 2 * (64 + 32) * n + 3 * 160 * n
    return 2 * (2 * layer + 2 * 64 * n + 4 * 64 * n)


def test_a_decode_step_by_hand() -> None:
    roofline = Roofline(TOY, ROUND, 1, ideal())
    expected = linear_bytes(3) + 2 * moved(3, 100, 64) + 2 * 2 * 32 * 2 * (50 + 3)
    assert time(roofline, decodes=3, context=50) == pytest.approx(expected / 10)


def test_a_chunk_step_by_hand() -> None:
    roofline = Roofline(TOY, ROUND, 1, ideal())
    token = 2 * 5 * 2 * (64 + 32) * 2
    read = 2 * 2 * 32 * 2 * (7 + 5)
    assert time(roofline, (chunk(7, 5),)) == pytest.approx((linear_bytes(5) + token + read) / 10)
    last = time(roofline, (chunk(7, 5, last=True),))
    assert last == pytest.approx((linear_bytes(5) + token + read + 2 * moved(1, 100, 64)) / 10)


def test_attention_is_a_sum_of_maxima_not_a_maximum_of_sums() -> None:
    # On this device a chunk of 40 tokens without cache is bound by arithmetic, one of 1 after 5000 by memory.
    fast = DeviceSpec("fast", 1.0, 10.0, 0.05, 0.0, "made up")
    roofline = Roofline(TOY, fast, 1, msgspec.structs.replace(ideal(), gemm_compute=1e9))
    dense, sparse = 2 * 4 * 64 * 40 * 41 / 2 / 50, 2 * 2 * 32 * 2 * 5001 / 10
    assert dense > 2 * 2 * 32 * 2 * 40 / 10
    assert sparse > 2 * 4 * 64 * 5001 / 50
    both = time(roofline, (chunk(0, 40), chunk(5000, 1)))
    rest = linear_bytes(41) / 10 + 2 * 41 * 2 * (64 + 32) * 2 / 10
    assert both - rest == pytest.approx(dense + sparse)


def test_chunking_keeps_the_operations_and_rereads_the_cache() -> None:
    chunks = [chunk(start, 8) for start in range(0, 64, 8)]
    # Bandwidth without bound leaves only the operations, throughput without bound only the bytes.
    for free, grows in (("attention_bandwidth", 1.0), ("attention_compute", sum(range(8, 65, 8)) / 64)):
        fit = msgspec.structs.replace(ideal(), **{free: 1e12, "attention_token_bandwidth": 1e12})
        slow = DeviceSpec("slow", 1.0, 10.0, 0.001, 0.0, "made up")
        roofline = Roofline(TOY, slow, 1, fit)
        none = Roofline(TOY, slow, 1, msgspec.structs.replace(fit, attention_bandwidth=1e12, attention_compute=1e12))
        bare = [time(none, (chunk(0, n),)) for n in (8, 64)]
        parts = sum(time(roofline, (c,)) - bare[0] for c in chunks)
        whole = time(roofline, (chunk(0, 64),)) - bare[1]
        assert parts == pytest.approx(whole * grows)


def test_equal_tokens_with_different_contexts_differ() -> None:
    roofline = of("Llama-3.1-8B")
    assert time(roofline, (chunk(30_000, 512),)) > 1.2 * time(roofline, (chunk(0, 512),))


def test_a_leap_is_the_sum_of_its_steps() -> None:
    for roofline in (of("Llama-3.1-8B"), of("Qwen3-32B", "a100", 4)):
        decodes, context, steps = 17, 12_345, 300
        (piece,) = roofline.pieces((), decodes, context, steps)
        assert piece[2] == steps
        singles = [time(roofline, (), decodes, context + i * decodes) for i in range(steps)]
        assert total_ns(piece, steps) == pytest.approx(sum(singles), abs=1.0)
        assert singles[-1] - singles[0] == pytest.approx((steps - 1) * piece[1], abs=1e-3)
        assert piece[1] > 0


def test_memory_binds_decode_attention_unless_many_heads_share_a_key() -> None:
    by_operations = set()
    for name, on in itertools.product(model_names(), device_names()):
        spec, sheet, fit = model(name), device(on), efficiency(device(on))
        if spec.latent or spec.window:
            continue
        memory = kv_bytes_per_token(spec) / (sheet.memory_gb_s * fit.attention_bandwidth)
        found = of(name, on).decode_line()[1]
        # q_heads / kv_heads operations to a byte, against what the device does while it reads one.
        ridge = sheet.bf16_tflops * 1e3 * fit.attention_compute / (sheet.memory_gb_s * fit.attention_bandwidth)
        assert found == pytest.approx(memory * max(1, spec.q_heads / spec.kv_heads / ridge))
        if found > memory * 1.001:
            by_operations.add((name.split("/")[1], on))
    assert by_operations == {(name, on) for name in ("falcon-180B", "falcon-7b") for on in ("cpu", "h20")}


def test_more_work_never_takes_less_time() -> None:
    roofline = of("Llama-3.1-8B")
    tokens = [roofline.prefill_ns(n) for n in range(1, 3000, 37)]
    assert tokens == sorted(tokens)
    decodes = [time(roofline, (), n, 1000 * n) for n in range(1, 300)]
    assert decodes == sorted(decodes)
    assert time(roofline, (chunk(0, 100),), 8, 8000) > time(roofline, (), 8, 8000)
    assert time(roofline, (chunk(0, 100),), 8, 8000) > time(roofline, (chunk(0, 100),))
    assert time(roofline, (chunk(0, 100, last=True),)) > time(roofline, (chunk(0, 100),))


def test_the_unloaded_references() -> None:
    roofline = of("Llama-3.1-8B")
    fixed, each = roofline.decode_line()
    assert time(roofline, (), 1, 4000) == pytest.approx(fixed + 4000 * each)
    assert roofline.prefill_ns(700) == time(roofline, (chunk(0, 700, last=True),))
    # Eight billion parameters at two bytes over 3.35 TB/s are 4.8 ms: no decode step can beat it.
    assert 4.5e6 < fixed < 8e6


def test_tensor_parallelism_adds_its_collectives() -> None:
    fit = msgspec.structs.replace(ideal(), all_reduce_launch_us=4.0, all_reduce_link=0.5)
    free = msgspec.structs.replace(fit, all_reduce_launch_us=0.0, all_reduce_link=1e12)
    one, split, unlinked = (Roofline(TOY, ROUND, tp, f) for tp, f in ((1, fit), (2, fit), (2, free)))
    collectives = (2 * 2 + 1) * all_reduce_ns(ROUND, fit, 2, 6 * 64 * 2) + all_gather_ns(ROUND, fit, 2, 6 * 100 * 2)
    assert time(split, decodes=6) - time(unlinked, decodes=6) == pytest.approx(collectives, rel=1e-6)
    assert time(unlinked, decodes=6) < time(one, decodes=6) < 2 * time(unlinked, decodes=6)


def test_tiles_round_rows_of_products_up() -> None:
    fit = msgspec.structs.replace(ideal(), gemm_compute=0.001)
    tiled, plain = Roofline(TOY, ROUND, 1, fit, tile=32), Roofline(TOY, ROUND, 1, fit)
    assert time(tiled, (chunk(0, 64),)) == time(plain, (chunk(0, 64),))
    shapes = ((128, 64), (64, 64), (320, 64), (64, 160))
    extra = sum(gemm_ns(ROUND, fit, 96, n, k, 2) - gemm_ns(ROUND, fit, 65, n, k, 2) for n, k in shapes)
    assert time(tiled, (chunk(0, 65),)) - time(plain, (chunk(0, 65),)) == pytest.approx(2 * extra)


def test_fixed_times_of_attention() -> None:
    fit = msgspec.structs.replace(
        ideal(), attention_chunk_launch_us=2.0, attention_decode_launch_us=5.0, attention_head_us=0.25
    )
    slow, fast = Roofline(TOY, ROUND, 2, fit), Roofline(TOY, ROUND, 2, ideal())
    # Two layers; two of the four query heads on each device, for each of three decodes.
    heads, prompt = 2 * 2 * 3 * 250, (chunk(0, 9),)
    for chunks, decodes, extra in ((prompt, 0, 2 * 2000), ((), 3, 2 * 5000 + heads), (prompt, 3, 2 * 5000 + heads)):
        assert time(slow, chunks, decodes, 30) - time(fast, chunks, decodes, 30) == pytest.approx(extra)


def test_decode_attention_bound_by_arithmetic_is_still_a_line() -> None:
    slow = DeviceSpec("slow", 1.0, 10.0, 0.001, 0.0, "made up")
    roofline = Roofline(TOY, slow, 1, ideal())
    assert roofline.decode_line()[1] == pytest.approx(2 * 4 * 64 / 1)
    assert roofline.pieces((), 3, 60, 5)[0][1] == pytest.approx(3 * 2 * 4 * 64 / 1)


def test_norms_of_queries_and_keys_cost_their_traffic() -> None:
    normed = Roofline(msgspec.structs.replace(TOY, qk_norm=True), ROUND, 1, ideal())
    extra = time(normed, decodes=7) - time(Roofline(TOY, ROUND, 1, ideal()), decodes=7)
    assert extra == pytest.approx(2 * 2 * (64 + 32) * 7 * 2 / 10)


def test_host_time_is_added_once_a_step() -> None:
    slow, fast = of("Llama-3.1-8B", host_s=0.003), of("Llama-3.1-8B", host_s=0.0)
    for chunks, decodes in (((), 4), ((chunk(0, 64),), 0), ((chunk(0, 64), chunk(64, 64)), 4)):
        assert time(slow, chunks, decodes) - time(fast, chunks, decodes) == pytest.approx(3e6)
    usual = of("Llama-3.1-8B", host_s=efficiency(device("h100")).host_s)
    assert usual.prefill_ns(9) == of("Llama-3.1-8B").prefill_ns(9)


def test_a_step_takes_at_least_a_nanosecond() -> None:
    instant = DeviceSpec("instant", 1.0, 1e15, 1e15, 0.0, "made up")
    assert time(Roofline(TOY, instant, 1, ideal()), decodes=1) >= 1


def test_bad_arguments() -> None:
    alone = DeviceSpec("alone", 1.0, 10.0, 1.0, 0.0, "made up")
    with pytest.raises(InputError, match="tp 2 needs a link between devices, and alone has none"):
        Roofline(TOY, alone, 2, ideal())
    with pytest.raises(InputError, match="tp 3 does not divide the 4 attention heads"):
        Roofline(TOY, ROUND, 3, ideal())
    with pytest.raises(InputError, match="host_s must be a time of at least 0"):
        Roofline(TOY, ROUND, 1, ideal(), host_s=-1.0)
    with pytest.raises(InputError, match="tile must be a number of tokens"):
        Roofline(TOY, ROUND, 1, ideal(), tile=-1)


def test_the_basis_is_that_of_the_efficiency() -> None:
    assert of("Llama-3.1-8B").basis == "roofline, fitted on A100/H100 kernels"
    assert of("Llama-3.1-8B", "l4").basis == "roofline, data sheet only"


@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 700)), min_size=1, max_size=3),
    st.integers(0, 40),
    st.integers(0, 50_000),
    st.integers(2, 12),
)
def test_a_leap_of_chunks_is_its_single_steps(
    spans: list[tuple[int, int]], decodes: int, context: int, steps: int
) -> None:
    """On a device whose memory is slow beside its arithmetic, so that what binds changes on the way."""
    chunks = [Chunk(i, start, tokens, 1 << 20) for i, (start, tokens) in enumerate(spans)]
    slow = msgspec.structs.replace(device("h100"), memory_gb_s=400.0)
    roofline = Roofline(model("meta-llama/Llama-3.1-8B"), slow, 1, efficiency(slow))
    pieces = roofline.pieces(chunks, decodes, context, steps)
    assert sum(n for _, _, n in pieces) == steps
    leapt = [first + i * slope for first, slope, n in pieces for i in range(n)]
    for i, step_ns in enumerate(leapt):
        alone = roofline.pieces([moved_on(c, i) for c in chunks], decodes, context + i * decodes, 1)
        assert step_ns == pytest.approx(alone[0][0], rel=1e-9)


def test_what_binds_does_change_in_such_a_leap() -> None:
    slow = msgspec.structs.replace(device("h100"), memory_gb_s=400.0)
    roofline = Roofline(model("meta-llama/Llama-3.1-8B"), slow, 1, efficiency(slow))
    counts = {len(roofline.pieces([Chunk(0, 0, q, 1 << 20)], 0, 0, 12)) for q in range(1, 900, 7)}
    assert counts == {1, 2}
