"""Choosing a token: against transformers' processors, exact probabilities, and each sequence alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from phasewise.core.stream import Sampling, Work
from phasewise.engine.sampling import BLOCK, Chooser, choose, weights

torch.set_num_threads(1)
ENDS = (0, 2)


def work(request=0, prompt=(5, 6), from_token=0, **wishes):
    rest = {k: wishes.pop(k) for k in ("min_tokens", "stop_ids", "ignore_end", "schema") if k in wishes}
    return Work(request, 0, tuple(prompt), 100, from_token, Sampling(**wishes), **rest)


def logits(rows, vocab, seed=0, spread=3.0):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def alone(row, chooser):
    return choose(row.unsqueeze(0), [chooser])[0]


wishes = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([1.0, 0.99, 0.9, 0.5, 0.0]),
    top_k=st.sampled_from([0, 1, 2, 20, 299, 4000]),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    seed=st.one_of(st.none(), st.integers(0, 9)),
    presence=st.sampled_from([0.0, 0.0, 1.5, -1.0]),
    frequency=st.sampled_from([0.0, 0.0, 0.7]),
    repetition=st.sampled_from([1.0, 1.0, 1.3, 0.8]),
    bias=st.lists(st.tuples(st.integers(0, 299), st.floats(-100, 100)), max_size=3, unique_by=lambda b: b[0]).map(
        tuple
    ),
    logprobs=st.one_of(st.none(), st.integers(0, 20)),
)
works = st.builds(
    lambda wish, prompt, past, request, least: Work(
        request, 0, (*prompt, *past), 100, len(past), wish, stop_ids=(7,), min_tokens=least
    ),
    wishes,
    st.lists(st.integers(0, 299), max_size=8),
    st.lists(st.integers(0, 299), max_size=8),
    st.integers(0, 5),
    st.sampled_from([0, 0, 3, 20]),
)


def warped(row, wish):
    """What transformers keeps, in the order that is ours."""
    row = row.clone().unsqueeze(0)
    for on, warper in (
        (wish.temperature != 1, lambda: TemperatureLogitsWarper(wish.temperature)),
        (wish.min_p > 0, lambda: MinPLogitsWarper(wish.min_p)),
        (wish.top_k > 0, lambda: TopKLogitsWarper(wish.top_k)),
        (wish.top_p < 1, lambda: TopPLogitsWarper(wish.top_p)),
    ):
        if on:
            row = warper()(None, row)
    return row[0]


@settings(deadline=None)
@given(st.lists(works, min_size=1, max_size=5), st.sampled_from([300, 3 * BLOCK, 5003]), st.integers(0, 99))
def test_the_batch_does_not_matter(batch, vocab, seed):
    x = logits(len(batch), vocab, seed)
    before = x.clone()
    together = choose(x, [Chooser(w, ENDS) for w in batch])
    assert torch.equal(x, before)
    assert together == [alone(row, Chooser(w, ENDS)) for row, w in zip(x, batch, strict=True)]


def test_the_batch_does_not_matter_at_full_size():
    x = logits(16, 49_152, spread=2.0)
    kinds = [{}, {"top_p": 0.95}, {"top_k": 40, "temperature": 0.6}, {"min_p": 0.1, "top_p": 0.5, "temperature": 1.5}]
    batch = [work(i, **kinds[i % 4]) for i in range(16)]
    together = choose(x, [Chooser(w, ENDS) for w in batch])
    assert together == [alone(row, Chooser(w, ENDS)) for row, w in zip(x, batch, strict=True)]
    one_by_one = torch.cat([weights(row.unsqueeze(0), [w.sampling]) for row, w in zip(x, batch, strict=True)])
    assert torch.equal(weights(x, [w.sampling for w in batch]), one_by_one)


@settings(deadline=None)
@given(wishes.filter(lambda w: w.temperature > 0), st.integers(0, 999), st.sampled_from([300, 5003]))
def test_what_is_kept_is_what_transformers_keeps(wish, seed, vocab):
    row = logits(1, vocab, seed)[0]
    ours, theirs = weights(row.unsqueeze(0), [wish])[0], warped(row, wish).softmax(-1)
    assert torch.equal(ours > 0, theirs > 0)
    torch.testing.assert_close(ours / ours.sum(), theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("top_p", [0.9, 0.999])
def test_a_nucleus_wider_than_the_first_look(top_p):
    row, wish = logits(1, 49_152, spread=0.5), Sampling(top_p=top_p)
    kept = weights(row, [wish])[0] > 0
    assert kept.sum() > 8 * 1024
    assert torch.equal(kept, warped(row[0], wish) > -math.inf)


def test_equal_logits_stay_or_go_together():
    row = torch.tensor([[2.0, 1.0, 2.0, 0.0, 1.0]])
    assert (weights(row, [Sampling(top_k=1)]) > 0).tolist() == [[True, False, True, False, False]]
    assert (weights(row, [Sampling(top_k=3)]) > 0).tolist() == [[True, True, True, False, True]]
    assert (weights(row, [Sampling(top_p=0.1)]) > 0).tolist() == [[True, False, True, False, False]]
    assert alone(row[0], Chooser(work(temperature=0.0), ENDS)).token == 0


def test_greedy_takes_the_lowest_of_the_likeliest_however_it_is_asked():
    row = torch.zeros(700)
    row[[650, 31, 90]] = 1.0
    for wish in ({}, {"logprobs": 2}, {"bias": ((3, 0.5),)}):
        assert alone(row, Chooser(work(temperature=0.0, **wish), ENDS)).token == 31
    # a temperature that would overflow is greedy
    assert alone(row * 1e4, Chooser(work(temperature=1e-300), ENDS)).token == 31


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"temperature": 0.5},
        {"top_p": 0.8},
        {"top_k": 7},
        {"min_p": 0.1, "temperature": 1.5},
        {"top_k": 30, "top_p": 0.7},
    ],
    ids=str,
)
@pytest.mark.parametrize("by", ["seed", "index", "request"])
def test_tokens_come_as_often_as_they_should(wish, by):
    vocab, n = 300, 4000
    row = logits(1, vocab, 3, 1.5)
    one = Chooser(work(seed=11, **wish), ENDS)
    choosers = []
    for i in range(n):
        if by == "index":
            draw = Chooser(work(seed=11, **wish), ENDS)
            draw.index = i
        else:
            draw = Chooser(work(seed=i, **wish) if by == "seed" else work(i, **wish), ENDS)
        choosers.append(draw)
    drawn = np.bincount([c.token for c in choose(row.expand(n, -1), choosers)], minlength=vocab)
    exact = warped(row[0], one.wish).double().softmax(-1).numpy()
    assert not drawn[exact == 0].any()
    often = exact * n >= 5
    observed = [*drawn[often], drawn[~often].sum()]
    expected = np.array([*exact[often], exact[~often].sum()]) * n
    keep = expected > 0
    assert keep.sum() > 1
    assert chisquare(np.array(observed)[keep], expected[keep]).pvalue > 1e-3


def test_the_draw_inverts_the_distribution_function(monkeypatch):
    row = logits(1, 1000, 8)
    p = row[0].softmax(-1).double()
    steps = torch.cat([torch.zeros(1), p.cumsum(-1) / p.sum()])
    for token in (0, 1, BLOCK - 1, BLOCK, 517, 999):
        for into in (0.01, 0.99):
            u = float(steps[token] + into * (steps[token + 1] - steps[token]))
            if steps[token + 1] - steps[token] > 1e-5:
                monkeypatch.setattr(Chooser, "noise", lambda _, u=u: u)
                assert alone(row[0], Chooser(work(), ENDS)).token == token
    # the ends of the interval never fall off the last token that may be
    for u, token in ((2**-53, 4), (1 - 2**-53, 6)):
        monkeypatch.setattr(Chooser, "noise", lambda _, u=u: u)
        masked = torch.full((1000,), -math.inf)
        masked[[4, 5, 6]] = 1.0
        assert alone(masked, Chooser(work(), ENDS)).token == token


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 49), min_size=1, max_size=12),
    st.lists(st.integers(0, 49), max_size=12),
    st.sampled_from([1.0, 1.3, 0.7]),
    st.sampled_from([0.0, 0.4, -2.0]),
    st.sampled_from([0.0, 0.9]),
    st.sampled_from([(), ((3, 4.5), (20, -100.0))]),
)
def test_penalties(prompt, past, repetition, frequency, presence, bias):
    x = logits(1, 50, len(past))
    chooser = Chooser(
        work(
            prompt=(*prompt, *past),
            from_token=len(past),
            repetition=repetition,
            frequency=frequency,
            presence=presence,
            bias=bias,
        ),
        ENDS,
    )
    expected = x.clone()
    for token, value in bias:
        expected[0, token] += value
    if repetition != 1:
        expected = RepetitionPenaltyLogitsProcessor(repetition)(torch.tensor([[*prompt, *past]]), expected)
    for token in set(past):  # as OpenAI's reference writes it: mu - c * frequency - (c > 0) * presence
        expected[0, token] -= past.count(token) * frequency + presence
    row = x[0].clone()
    chooser.edit(row)
    torch.testing.assert_close(row, expected[0], rtol=1e-5, atol=1e-5)


def test_many_distinct_tokens_are_remembered():
    chooser = Chooser(work(prompt=range(500), from_token=400, repetition=2.0, presence=1.0), ENDS)
    row = torch.ones(600)
    chooser.edit(row)
    assert row.tolist() == [0.5] * 100 + [-0.5] * 400 + [1.0] * 100


@settings(deadline=None, max_examples=60)
@given(works, st.integers(1, 6), st.integers(0, 6))
def test_a_retry_goes_on_with_the_same_tokens(first, more, cut):
    vocab = 300

    def go_on(chooser, start, stop):
        out = []
        for i in range(start, stop):
            token = alone(logits(1, vocab, i, 1.0)[0], chooser).token
            chooser.advance(token)
            out.append(token)
        return out

    whole = go_on(Chooser(first, ENDS), 0, 6 + more)
    retry = Work(
        first.request, 1, (*first.prompt, *whole[:cut]), 100, first.from_token + cut, first.sampling,
        stop_ids=first.stop_ids, min_tokens=first.min_tokens,
    )  # fmt: skip
    assert go_on(Chooser(retry, ENDS), cut, 6 + more) == whole[cut:]


def test_no_end_before_its_time():
    row = torch.zeros(50)
    row[[0, 2, 9]] = torch.tensor([9.0, 8.0, 7.0])
    chooser = Chooser(work(temperature=0.0, min_tokens=2, stop_ids=(9,)), ENDS)
    row[30] = 1.0
    got = []
    for _ in range(3):
        got.append(alone(row, chooser).token)
        chooser.advance(got[-1])
    assert got == [30, 30, 0]
    # an end that ends nothing may be said
    assert alone(row, Chooser(work(temperature=0.0, min_tokens=2, ignore_end=True), ENDS)).token == 0


def test_wishes_about_tokens_that_are_not_there_fail_no_batch():
    wish = work(temperature=0.0, bias=((50, 9.0), (-1, 9.0), (7, 1.0)), stop_ids=(-1, 5000), min_tokens=3)
    assert alone(torch.zeros(50), Chooser(wish, (0, 60))).token == 7


class Allows:
    """A grammar that allows some tokens, and writes down what it is told."""

    def __init__(self, *tokens):
        self.tokens, self.told = list(tokens), []

    def mask(self, vocab):
        mask = np.zeros(vocab, bool)
        mask[self.tokens] = True
        return mask

    def advance(self, token):
        self.told.append(token)


def test_only_what_the_grammar_allows():
    x = logits(1, 300)[0]
    for wish in ({"temperature": 0.0}, {"temperature": 3.0}, {"bias": ((9, 100.0),)}, {"top_k": 50}):
        for request in range(20):
            chooser = Chooser(work(request, **wish), ENDS, Allows(3, 77, 150))
            assert alone(x, chooser).token in (3, 77, 150)
    # the end waits for `min_tokens` only while the grammar has anything else to say
    row = torch.zeros(300)
    assert alone(row, Chooser(work(temperature=0.0, min_tokens=5), ENDS, Allows(0, 8))).token == 8
    assert alone(row, Chooser(work(temperature=0.0, min_tokens=5), ENDS, Allows(0, 2))).token == 0
    # what earlier attempts output has been told to it
    grammar = Allows(1)
    Chooser(work(prompt=(4, 5, 6), from_token=2), ENDS, grammar)
    assert grammar.told == [5, 6]


def test_logprobs_are_the_raw_models():
    x = logits(3, 300)
    raw = x.log_softmax(-1)
    plain = [Chooser(work(temperature=0.0), ENDS)]
    choosers = [Chooser(work(i, logprobs=k, bias=((7, 100.0),), temperature=0.3), ENDS) for i, k in enumerate((0, 3))]
    none, zero, three = choose(x, plain + choosers)
    assert none.logprobs == ()
    assert zero.logprobs == ((7, pytest.approx(raw[1, 7].item())),)
    values, ids = raw[2].topk(3)
    assert three.token == 7
    assert three.logprobs == ((7, raw[2, 7].item()), *zip(ids.tolist(), values.tolist(), strict=True))


def test_a_long_vocabulary_is_sorted_by_nobody(monkeypatch):
    """Counted: with 16 sequences of 49,152 tokens, greedy and plain sampling sort nothing, the filters what they need."""
    looked = []
    best = weights.__globals__["_best"]
    monkeypatch.setitem(weights.__globals__, "_best", lambda x, k: looked.append((len(x), k)) or best(x, k))
    x = logits(16, 49_152, spread=6.0)
    for wish, expected in (
        ({"temperature": 0.0}, []),
        ({"temperature": 0.7}, []),
        ({"min_p": 0.1}, []),
        ({"top_k": 50}, [(16, 50)]),
        ({"top_p": 0.9}, [(16, 1024)]),
    ):
        looked.clear()
        choose(x, [Chooser(work(i, **wish), ENDS) for i in range(16)])
        assert looked == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_chooses_alike():
    x = logits(64, 49_152)
    kinds = [{}, {"top_p": 0.95}, {"top_k": 40, "presence": 1.0}, {"min_p": 0.1}, {"temperature": 0.0}, {"logprobs": 3}]
    choosers = [Chooser(work(i, **kinds[i % len(kinds)], min_tokens=i % 2), ENDS) for i in range(64)]
    here, there = choose(x, choosers), choose(x.cuda(), choosers)
    assert [c.token for c in here] == [c.token for c in there]
    for one, other in zip(here, there, strict=True):
        assert [value for _, value in one.logprobs] == pytest.approx([value for _, value in other.logprobs], abs=1e-4)
