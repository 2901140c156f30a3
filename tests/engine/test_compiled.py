"""The compiled kernels against their twins in torch, at sizes that fit no vector, and a machine that cannot have them."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import networks
from phasewise.core.errors import PhasewiseError
from phasewise.engine import compiled
from phasewise.engine.attention import HeadNorms, TorchAttention
from phasewise.engine.batch import Batch, Rows
from phasewise.engine.cache import PagedCache
from phasewise.engine.compiled import CompiledAttention, CompiledPointwise, Kernels, NoKernels
from phasewise.engine.decoder import Decoder
from phasewise.engine.pointwise import TorchPointwise

DTYPES = [torch.float32, torch.bfloat16]
WIDTHS = [1, 8, 12, 31, 32, 33, 64, 80, 127, 576]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=DTYPES, ids=["float32", "bfloat16"])
def made(request: pytest.FixtureRequest) -> tuple[torch.dtype, Kernels]:
    try:
        return request.param, compiled.kernels(request.param)
    except NoKernels as e:
        pytest.skip(str(e))


def drawn(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def near(got: torch.Tensor, exact: torch.Tensor, roundings: int = 1, floor: float = 1e-6) -> None:
    """Within so many roundings of the dtype of what float32 makes of the same numbers."""
    unit = torch.finfo(got.dtype).eps * roundings * (4 if got.dtype == torch.float32 else 0.51)
    torch.testing.assert_close(got.float(), exact.float(), rtol=unit, atol=floor)


@pytest.mark.parametrize("width", WIDTHS)
def test_norms(made: tuple[torch.dtype, Kernels], width: int) -> None:
    dtype, kernels = made
    x = drawn(0, 5, width)
    change, weight = drawn(1, 5, width).to(dtype), drawn(2, width).to(dtype)
    summed = x + change
    wanted = TorchPointwise().norm(summed.float(), None, weight.float(), 1e-5)
    alone = CompiledPointwise(kernels).norm(summed.clone(), None, weight, 1e-5)
    got = CompiledPointwise(kernels).norm(x, change, weight, 1e-5)
    assert torch.equal(x, summed)
    assert torch.equal(got, alone)
    near(got, wanted)


@pytest.mark.parametrize("width", WIDTHS)
def test_gates(made: tuple[torch.dtype, Kernels], width: int) -> None:
    """At ordinary values and where the exponential is nothing or beyond all numbers."""
    dtype, kernels = made
    x = drawn(1, 7, 2 * width).to(dtype)
    x[1] *= 30
    x[2, :width], x[3, :width], x[4, :width] = 200.0, -200.0, 0.0
    near(CompiledPointwise(kernels).gate(x), TorchPointwise().gate(x.float()))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "turned", "block"),
    [
        (9, 3, 64, 64, 16),
        (4, 4, 8, 8, 4),
        (6, 2, 12, 12, 1),
        (7, 1, 20, 10, 3),
        (8, 1, 128, 128, 32),
        (5, 1, 96, 48, 16),
        (2, 2, 256, 256, 20),
        (33, 1, 16, 16, 8),
        (120, 1, 4, 4, 16),
    ],
)
@pytest.mark.parametrize("window", [None, 1, 5, 17, 40])
def test_attention(
    made: tuple[torch.dtype, Kernels],
    heads: int,
    kv_heads: int,
    width: int,
    turned: int,
    block: int,
    window: int | None,
) -> None:
    """Chunks after chunks and single tokens, of sequences whose pages lie anywhere, against torch in float32."""
    dtype, kernels = made
    lengths = [(0, 1), (3, 1), (70, 1), (49, 1), (0, 33), (41, 60), (64, 2)]
    draw, pages = random.Random(heads), 120 * (-(-16 // block))
    free = draw.sample(range(pages), pages)
    rows = [Rows([1] * new, old, [free.pop() for _ in range(-(-(old + new) // block))], True) for old, new in lengths]
    batch = Batch(rows, block, pages, 1000, 10)
    cos, sin = drawn(1, 200, turned // 2), drawn(2, 200, turned // 2)
    norms = HeadNorms(drawn(3, width).to(dtype), drawn(4, width).to(dtype), 1e-6) if window != 5 else None
    cache, exact = (PagedCache(2, kv_heads, width, pages, block, kind) for kind in (dtype, torch.float32))
    cache.data.copy_(drawn(6, *cache.data.shape))
    exact.data.copy_(cache.data)
    ours, theirs = CompiledAttention(kernels, cache, heads, cos, sin), TorchAttention(exact, heads, cos, sin)
    got = drawn(5, len(batch.tokens), heads + 2 * kv_heads, width).to(dtype)
    wanted = got.to(torch.float32, copy=True)
    ours.write(1, got, batch, norms)
    theirs.write(1, wanted, batch, norms and HeadNorms(norms.q.float(), norms.k.float(), norms.eps))
    near(got, wanted, roundings=2, floor=1e-5 if dtype == torch.float32 else 0.05)
    near(cache.data, exact.data, roundings=2, floor=1e-5 if dtype == torch.float32 else 0.05)
    # From here on torch sees what the kernels have written, as float32.
    exact.data.copy_(cache.data)
    wanted.copy_(got)
    for chunk in batch.chunks:
        mine = slice(chunk.first, chunk.first + chunk.length)
        near(ours.prompt(1, got[mine], chunk, window), theirs.prompt(1, wanted[mine], chunk, window), floor=2e-5)
    mine = slice(batch.prompt_tokens, None)
    near(ours.decode(1, got[mine], batch, window), theirs.decode(1, wanted[mine], batch, window), floor=2e-5)


def test_scores_beyond_all_measure(made: tuple[torch.dtype, Kernels]) -> None:
    """One key that outweighs every other by more than float32 can say: its value alone is the answer, wherever it lies."""
    dtype, kernels = made
    cache = PagedCache(1, 1, 32, 8, 16, dtype)
    cache.data.normal_(generator=torch.Generator().manual_seed(1))
    attention = CompiledAttention(kernels, cache, 1, torch.ones(128, 16), torch.zeros(128, 16))
    heads = torch.full((1, 3, 32), 30.0).to(dtype)
    for place in (0, 15, 16, 77, 99):
        cache.data[0, 0] = -30.0
        cache.data[0, 0, place // 16, place % 16] = 30.0
        batch = Batch([Rows([0], 99, range(8), True)], 16, 8, 128, 1)
        assert torch.equal(attention.decode(0, heads, batch, None)[0], cache.data[0, 1, place // 16, place % 16])


def test_two_threads_make_the_same_numbers() -> None:
    """Work is shared out by whole rows and heads, so the sums are the same to the last bit."""
    known = networks.reference("smollm2")
    rows = [Rows(list(range(200)), 0, list(range(13)), True), Rows([5], 0, [13], True)]
    rows += [Rows([i], 0, [14 + i], True) for i in range(70)]
    outs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        pair = [CompiledPointwise(compiled.kernels(torch.float32)), drawn(1, 300, 1152)]
        outs.append([pair[0].gate(pair[1]), pair[0].norm(pair[1].clone(), pair[1], drawn(2, 1152), 1e-5)])
        cache = PagedCache(1, 3, 64, 120, 16, torch.float32)
        cos, sin = drawn(3, 256, 32), drawn(4, 256, 32)
        attention = CompiledAttention(compiled.kernels(torch.float32), cache, 9, cos, sin)
        batch = Batch(rows, 16, 120, 256, 512)
        heads = drawn(5, len(batch.tokens), 15, 64)
        attention.write(0, heads, batch, None)
        outs[-1] += [heads, cache.data, attention.prompt(0, heads[:200], batch.chunks[0], None)]
        outs[-1] += [attention.decode(0, heads[200:], batch, None)]
    assert known.config.head_dim == 64
    assert all(torch.equal(one, two) for one, two in zip(*outs, strict=True))


def test_they_are_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = subprocess.run

    def counted(command: list[str], **options: object) -> object:
        calls.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        compiled._library.__wrapped__()
    except NoKernels as e:
        pytest.skip(str(e))
    compiled._library.__wrapped__()
    assert len(calls) == 1
    assert [path.suffix for path in (tmp_path / "phasewise" / "kernels").iterdir()] == [".so"]


@pytest.mark.parametrize(
    ("compiler", "told"), [("/no/such/compiler", "No such file"), ("false", "the compiler false fails: status 1")]
)
def test_without_a_compiler_torch_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, told: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(compiled, "_library", compiled._library.__wrapped__)
    model = networks.reference("llama")
    decoder = Decoder(networks.shape(model), networks.tensors(model), torch.float32, pages=8)
    assert told in (decoder.without or "")
    assert type(decoder.attention) is TorchAttention
    with torch.inference_mode():
        wanted = model(torch.arange(20)[None]).logits[:, -1]
    torch.testing.assert_close(decoder.step([Rows(range(20), 0, [0, 1], True)]), wanted, atol=5e-5, rtol=0.0)
    with pytest.raises(PhasewiseError, match=told):
        Decoder(networks.shape(model), networks.tensors(model), torch.float32, compiled=True)


def test_no_place_to_keep_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(NoKernels, match="cannot be kept"):
        compiled._library.__wrapped__()
    with pytest.raises(NoKernels, match=r"float16"):
        compiled.kernels(torch.float16)
