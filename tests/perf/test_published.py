"""Published latency models: times worked out from the published formulas, tables as measured, and what is not covered."""

from __future__ import annotations

import msgspec
import pytest

from phasewise.core.errors import InputError
from phasewise.core.step import Chunk
from phasewise.core.steptimes import StepTimes
from phasewise.perf.fitted import Fitted
from phasewise.perf.hardware import device
from phasewise.perf.models import model
from phasewise.perf.published import _rows, published, same_model
from worlds import TOY_MODEL

LLAMA = model("meta-llama/Llama-2-70b-hf")


def opt(size: str, tp: int) -> StepTimes:
    return published("distserve", msgspec.structs.replace(TOY_MODEL, name=f"facebook/opt-{size}"), device("a100"), tp)


def time_ms(times: StepTimes, chunks: list[tuple[int, int]], decodes: int = 0, context: int = 0) -> float:
    spread = [Chunk(i, start, q, 1 << 20) for i, (start, q) in enumerate(chunks)]
    return Fitted(times).pieces(spread, decodes, context, 1)[0][0] / 1e6


def test_distserve_prefill_is_the_published_line_with_its_overheads() -> None:
    """a + b t + c t2, 1 ms for the stage, 2 ms + 0.1 us a token for the engine; coefficients in full."""
    t, t2 = 512 + 200, 512**2 + 200**2
    expected = 18.10254647486372 + 0.1019122572698738 * t + 7.122264314252114e-06 * t2 + 1 + 2 + 0.0001 * t
    assert time_ms(opt("13b", 1), [(0, 512), (0, 200)]) == pytest.approx(expected, rel=1e-6)


def test_distserve_decode_has_two_lines() -> None:
    for n, a, b, c in (
        (94, 30.760284619, 4.51947603788e-4, 0.0632841957507),
        (95, 27.4708213743, 4.046845541e-4, 0.124806677383),
    ):
        expected = a + b * (40_000 + n) + c * n + 2 + 0.0001 * (40_000 + n)
        assert time_ms(opt("66b", 4), [], n, 40_000) == pytest.approx(expected, rel=1e-6)


def test_the_chunks_of_a_prompt_sum_to_its_square() -> None:
    times = opt("66b", 2)
    fixed = times.prefill.step_us / 1e3
    # 0.1 us for each token that a chunk reads, the engine's: a chunk reads again what came before it.
    whole = time_ms(times, [(0, 1200)]) - fixed - 0.0001 * 1200
    parts = sum(time_ms(times, [(start, 300)]) - fixed - 0.0001 * (start + 300) for start in range(0, 1200, 300))
    assert parts == pytest.approx(whole)


def test_a_mixed_step_pays_the_larger_constant_once() -> None:
    times = opt("13b", 2)
    apart = time_ms(times, [(0, 400)]) + time_ms(times, [], 20, 9_000)
    constants = 14.74297 + 1 + 2, 13.29480 + 2
    assert time_ms(times, [(0, 400)], 20, 9_000) == pytest.approx(apart - min(constants), abs=1e-4)


def test_splitwise_at_its_points_and_between() -> None:
    times = published("splitwise", LLAMA, device("h100"), 8)
    assert time_ms(times, [(0, 2_048)]) == pytest.approx(134.72)
    assert time_ms(times, [(0, 1_024), (0, 512)]) == pytest.approx((77.4 + 134.72) / 2)
    assert time_ms(times, [], 64, 64 * 511) == pytest.approx(50.161)
    assert time_ms(times, [], 1, 0) == pytest.approx(29.873)
    assert time_ms(times, [(0, 2_000)], 48, 30_000) == pytest.approx(1.1 * 134.72)
    # Beyond the last point, as between the last two.
    assert time_ms(times, [(0, 65_536)]) == pytest.approx(2936.3 + 2 * (2936.3 - 1551.7))


def test_the_tables_are_whole() -> None:
    found = _rows("splitwise")
    assert set(found) == {("llama-2-70b", on, tp) for on in ("a100", "h100") for tp in (2, 4, 8)}
    for (_, _, tp), row in found.items():
        last = 14 if tp == 2 else 15  # batch 64 with tp 2 was not measured properly
        assert row["tokens"] == [2**n for n in range(7, last + 1)]
        assert len(row["prompt_ms"]) == len(row["token_ms"]) == len(row["tokens"])
        assert min(row["token_ms"]) > 25
        # Prompts of 512 tokens and more take longer the longer they are; below, the measurements of 8 H100 wobble.
        assert row["prompt_ms"][2:] == sorted(row["prompt_ms"][2:])
    fits = _rows("distserve")
    assert set(fits) == {("opt-13b", "a100", tp) for tp in (1, 2, 4)} | {("opt-66b", "a100", tp) for tp in (2, 3, 4, 8)}
    assert all(row["split_batch"] == 95 for row in fits.values())


@pytest.mark.parametrize(
    ("name", "spec", "on", "tp", "says"),
    [
        ("splitwise", LLAMA, "h100", 1, "llama-2-70b on a100, tp 2, 4, 8; llama-2-70b on h100, tp 2, 4, 8"),
        ("splitwise", LLAMA, "h200", 8, "'splitwise' does not cover meta-llama/Llama-2-70b-hf, tp 8 on h200"),
        ("splitwise", TOY_MODEL, "h100", 8, "does not cover toy"),
        ("distserve", LLAMA, "a100", 4, "it covers opt-13b on a100, tp 1, 2, 4; opt-66b on a100, tp 2, 3, 4, 8"),
        ("distserv", LLAMA, "a100", 4, "unknown latency model 'distserv'; did you mean 'distserve'?"),
    ],
)
def test_what_is_not_covered(name: str, spec: object, on: str, tp: int, says: str) -> None:
    with pytest.raises(InputError, match=r"^d\.yaml: ") as caught:
        published(name, spec, device(on), tp, "d.yaml")  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_names_of_one_model() -> None:
    assert same_model("meta-llama/Llama-2-70b-chat-hf", "llama2-70B")
    assert same_model("facebook/opt-13b", "OPT-13B")
    assert not same_model("opt-13b", "opt-30b")
    assert not same_model("Meta-Llama-3-8B", "Llama-3.1-8B")
