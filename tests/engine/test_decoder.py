"""The decoder against transformers: random small models of every family, in float32, however the tokens come."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest
import torch

import networks
from phasewise.core.errors import InputError, PlanError
from phasewise.core.kv import PageBook
from phasewise.engine.compiled import NoKernels, kernels
from phasewise.engine.decoder import Decoder, Hooks, Rows

PAGES, BLOCK = 64, 4
CLOSE = 5e-5
"""The largest difference of a logit that float32 may make; logits here reach 5."""


class Known:
    """A reference model, texts, and what it makes of them at every position."""

    def __init__(self, name: str, lengths: tuple[int, ...] = (70, 33, 48, 9)) -> None:
        self.model = networks.reference(name)
        self.shape = networks.shape(self.model)
        draw = torch.Generator().manual_seed(11)
        self.texts = [torch.randint(0, self.shape.vocab, (n,), generator=draw).tolist() for n in lengths]
        self.logits = [self(text) for text in self.texts]

    def __call__(self, text: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(torch.tensor([text])).logits[0]

    def decoder(self, **options: object) -> Decoder:
        options = {"dtype": torch.float32, "block_tokens": BLOCK, "pages": PAGES, **WAY, **options}
        return Decoder(self.shape, networks.tensors(self.model), **options)


WAY: dict[str, object] = {}
"""How every decoder of a test is to be built, whatever it asks for besides."""


@pytest.fixture(autouse=True, scope="module", params=["compiled", "torch"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything is asked twice: of the compiled kernels, where there is a compiler, and of torch alone."""
    WAY["compiled"] = request.param == "compiled"
    if WAY["compiled"]:
        try:
            kernels(torch.float32)
        except NoKernels as e:
            pytest.skip(str(e))
    yield
    WAY.clear()


@pytest.fixture(scope="module", params=networks.MODELS)
def known(request: pytest.FixtureRequest) -> Known:
    return Known(request.param)


@pytest.fixture(scope="module")
def llama() -> Known:
    return Known("llama")


def scattered(seed: int) -> PageBook:
    """A book that hands its pages out in no order, as one does that has served for a while."""
    book, draw = PageBook(PAGES), random.Random(seed)
    book.reach(-1, PAGES)
    pages = list(range(PAGES))
    draw.shuffle(pages)
    book._owned.clear()
    book.drop(pages)
    return book


def need(tokens: int) -> int:
    return -(-tokens // BLOCK)


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, atol=CLOSE, rtol=0.0)


def test_whole_prompts(known: Known) -> None:
    """Alone and all at once, after which every page is written again: a page's past does not matter."""
    decoder, book = known.decoder(), scattered(1)
    rows = [Rows(text, 0, book.reach(i, need(len(text))), True) for i, text in enumerate(known.texts)]
    last = torch.stack([logits[-1] for logits in known.logits])
    close(decoder.step(rows), last)
    for row, wanted in zip(reversed(rows), reversed(last), strict=True):
        close(decoder.step([row]), wanted[None])


def test_token_by_token(known: Known) -> None:
    """A context that grows by one from nothing has the reference's logits at every position."""
    decoder, pages = known.decoder(), scattered(2).reach(0, need(70))
    text, wanted = known.texts[0], known.logits[0]
    got = [decoder.step([Rows(text[i : i + 1], i, pages[: need(i + 1)], True)]) for i in range(len(text))]
    close(torch.cat(got), wanted)


@pytest.mark.parametrize("size", [2, 7, 16, 31])
def test_chunks(known: Known, size: int) -> None:
    decoder, pages = known.decoder(), scattered(size).reach(0, need(70))
    text, wanted = known.texts[0], known.logits[0]
    for at in range(0, len(text), size):
        end = min(len(text), at + size)
        got = decoder.step([Rows(text[at:end], at, pages[: need(end)], True)])
        close(got[0], wanted[end - 1])


@pytest.mark.parametrize("seed", range(3))
def test_mixed_batches(known: Known, seed: int) -> None:
    """Texts that advance by chunks and single tokens of any size, in any order and company, some of them silent."""
    decoder, book, draw = known.decoder(), scattered(seed), random.Random(seed)
    done = [0] * len(known.texts)
    emitted = 0
    while any(at < len(text) for at, text in zip(done, known.texts, strict=True)):
        rows, wanted = [], []
        for i in draw.sample(range(len(done)), len(done)):
            left = len(known.texts[i]) - done[i]
            if not left or draw.random() < 0.2:
                continue
            count = min(left, draw.choice((1, 1, 1, 2, 5, 13, 40)))
            start, emits = done[i], draw.random() < 0.7
            done[i] += count
            rows.append(Rows(known.texts[i][start : done[i]], start, book.reach(i, need(done[i])), emits))
            if emits:
                wanted.append(known.logits[i][done[i] - 1])
        if rows:
            got = decoder.step(rows)
            assert got.shape == (len(wanted), known.shape.vocab)
            assert got.dtype == torch.float32
            emitted += len(wanted)
            if wanted:
                close(got, torch.stack(wanted))
    assert emitted


def test_shared_pages(known: Known) -> None:
    """Two continuations of one prefix read the same pages, and write only their own."""
    decoder, book = known.decoder(), scattered(5)
    prefix = known.texts[0][: 6 * BLOCK]
    shared = book.reach(0, 6)
    decoder.step([Rows(prefix, 0, shared, False)])
    texts = [prefix + known.texts[1][:11], prefix + known.texts[2][:18]]
    rows = []
    for i, text in enumerate(texts, 1):
        book.lend(i, shared)
        rows.append(Rows(text[len(prefix) :], len(prefix), book.reach(i, need(len(text))), True))
    close(decoder.step(rows), torch.stack([known(text)[-1] for text in texts]))
    assert all(book.refs(page) == 3 for page in shared)
    singles = [Rows(text[-1:], len(text) - 1, row.pages, True) for text, row in zip(texts, rows, strict=True)]
    close(decoder.step(singles), torch.stack([known(text)[-1] for text in texts]))


def test_plain_linear_maps_equal_packed_ones(known: Known) -> None:
    text, pages = known.texts[0], list(range(need(70)))
    plain, packed = (known.decoder(packed=packed).step([Rows(text, 0, pages, True)]) for packed in (False, True))
    close(plain, packed)


def test_bfloat16(known: Known) -> None:
    """Not far from float32, and not it: a chunk, then token by token, then all again in company."""
    decoder, pages = known.decoder(dtype=torch.bfloat16), list(range(need(70)))
    text, wanted = known.texts[0], known.logits[0]
    got = [decoder.step([Rows(text[:40], 0, pages, True)])]
    got += [decoder.step([Rows(text[i : i + 1], i, pages, True)]) for i in range(40, 70)]
    far = (torch.cat(got) - wanted[39:]).abs()
    assert got[0].dtype == torch.float32
    # A mixture may choose another expert for a token whose second and third are as good: then logits differ altogether.
    assert 0 < far.mean() < (0.1 if known.shape.experts is None else 0.3)


def test_the_weights_are_taken() -> None:
    known = Known("llama")
    tensors = networks.tensors(known.model)
    Decoder(known.shape, tensors, torch.float32, pages=PAGES, **WAY)
    assert not tensors


@pytest.mark.parametrize("packed", [False, True])
def test_what_becomes_of_the_weights_is_not_shared(packed: bool) -> None:
    """The tensors given may be a file's pages: the decoder changes none of them."""
    known = Known("qwen3-tied")
    tensors = networks.tensors(known.model)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    held = dict(tensors)
    decoder = Decoder(known.shape, tensors, torch.float32, BLOCK, PAGES, packed=packed, **WAY)
    decoder.step([Rows(known.texts[0], 0, list(range(need(70))), True)])
    assert all(torch.equal(before[name], held[name]) for name in before)


class Watch(Hooks):
    """Keeps whatever it is shown."""

    def __init__(self) -> None:
        self.layers: list[tuple[int, torch.Tensor]] = []
        self.last: list[torch.Tensor] = []
        self.routes: list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def hidden(self, layer: int, states: torch.Tensor) -> None:
        self.layers.append((layer, states.clone()))

    def final(self, states: torch.Tensor) -> None:
        self.last.append(states.clone())

    def router(self, layer: int, logits: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> None:
        self.routes.append((layer, logits.clone(), experts.clone(), weights.clone()))


@pytest.mark.parametrize("name", ["llama", "qwen3-moe"])
def test_hooks_see_what_transformers_says(name: str) -> None:
    known, watch = Known(name), Watch()
    decoder, book = known.decoder(hooks=watch), scattered(3)
    first, silent, second = known.texts[0], known.texts[1], known.texts[2]
    decoder.step([Rows(second[:-1], 0, book.reach(2, need(len(second))), False)])
    watch.__init__()
    decoder.step(
        [
            Rows(second[-1:], len(second) - 1, book.reach(2, 0), True),
            Rows(silent, 0, book.reach(1, need(len(silent))), False),
            Rows(first, 0, book.reach(0, need(len(first))), True),
        ]
    )
    moe = known.shape.experts is not None
    with torch.inference_mode():
        theirs = [
            known.model(
                torch.tensor([text]), output_hidden_states=True, **({"output_router_logits": True} if moe else {})
            )
            for text in (second, silent, first)
        ]
    assert [layer for layer, _ in watch.layers] == list(range(known.shape.layers))
    # Transformers' list begins with the embedding, and its last entry is normed already.
    for layer, states in watch.layers[:-1]:
        close(states, torch.stack([theirs[i].hidden_states[layer + 1][0, -1] for i in (0, 2)]))
    close(watch.last[0], torch.stack([theirs[i].hidden_states[-1][0, -1] for i in (0, 2)]))
    if moe:
        assert [layer for layer, *_ in watch.routes] == list(known.shape.experts.layers)
        for at, (_, logits, experts, weights) in enumerate(watch.routes):
            wanted = torch.cat([theirs[i].router_logits[at] for i in (1, 2)] + [theirs[0].router_logits[at][-1:]])
            close(logits, wanted)
            assert torch.equal(experts, wanted.topk(known.shape.experts.active).indices)
            close(weights.sum(-1), torch.ones(len(weights)))
    else:
        assert not watch.routes


def test_steps_without_logits(llama: Known) -> None:
    decoder = llama.decoder()
    assert decoder.step([Rows([3, 4, 5], 0, [9], False)]).shape == (0, llama.shape.vocab)


def test_small_steps_run_on_one_thread_and_say_the_same(llama: Known) -> None:
    text = llama.texts[0]
    decoder = llama.decoder(threads=2)
    pages = range(-(-len(text) // BLOCK))
    close(decoder.step([Rows(text[:40], 0, pages, True)]), llama.logits[0][39:40])
    assert torch.get_num_threads() == 2
    close(decoder.step([Rows(text[40:41], 40, pages, True)]), llama.logits[0][40:41])
    assert torch.get_num_threads() == 1


def test_impossible_rows_are_refused_before_anything_is_written(llama: Known) -> None:
    decoder = llama.decoder()
    good = Rows([1, 2], 0, [0], True)
    for bad in (
        [],
        [good, Rows([], 0, [0], True)],
        [good, Rows([1, 2], 3, [1], True)],
        [good, Rows([1], 0, [PAGES], True)],
        [good, Rows([1], 0, [-1], True)],
        [good, Rows([1], -1, [1], True)],
        [good, Rows([1], 0, [], True)],
        [good, Rows([llama.shape.vocab], 0, [1], True)],
        [good, Rows([-1], 0, [1], True)],
        [good, Rows([1], 256, list(range(PAGES)), True)],
    ):
        with pytest.raises(PlanError):
            decoder.step(bad)
    assert not decoder.cache.data.any()


def test_weights_that_do_not_fit_are_named(llama: Known) -> None:
    tensors = networks.tensors(llama.model)
    del tensors["model.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(InputError, match=r"model\.layers\.1\.self_attn\.k_proj\.weight"):
        Decoder(llama.shape, tensors)
    wider = msgspec.structs.replace(llama.shape, ffn=81)
    with pytest.raises(InputError, match=r"gate_proj.weight is \[80, 48\].*\[81, 48\]"):
        Decoder(wider, networks.tensors(llama.model))


def test_a_window_forgets(llama: Known) -> None:
    """What lies before every layer's window changes nothing: the pages there may hold anything."""
    known = Known("mistral")
    decoder, pages = known.decoder(), list(range(need(70)))
    text = known.texts[0]
    decoder.step([Rows(text[:60], 0, pages, False)])
    decoder.cache.data[:, :, : (60 + 1 - 21) // BLOCK] = 1e4
    got = decoder.step([Rows(text[60:61], 60, pages, True)])
    close(got[0], known.logits[0][60])
