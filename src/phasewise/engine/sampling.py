"""How the next token is chosen from the logits, for a batch of sequences of which each has wishes of its own.

The order is vLLM's: what may be (grammar, `min_tokens`), bias, repetition, frequency, presence; then, unless greedy,
temperature, min-p, top-k, top-p, and a draw by inverse distribution function in the order of the token ids. Each of the
three filters keeps what reaches some threshold, so that tokens of equal logit stay or go together; a greedy tie goes to the
lowest id. Noise is counted (see `noise`). Logprobs are of the raw model: a log-softmax of the logits before any of the above.

No sequence's token depends on the others of the batch: whatever is computed for all of them at once is computed row by row,
in an order that the number of rows does not change (bit for bit on a CPU). Nothing loops over the vocabulary in Python, and it
is sorted whole only for a nucleus that a thousand tokens do not fill.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from phasewise.core.stream import Sampling, Work
from phasewise.engine.noise import uniform

if TYPE_CHECKING:
    from phasewise.engine.grammar import Grammar

GREEDY_BELOW = 1e-5  # a lower temperature would overflow, and is as good as none
NUCLEUS = 1024  # likeliest tokens among which a nucleus is looked for first
BLOCK = 128  # probabilities that are summed up together before a draw looks into them
SEEDED, UNSEEDED = 0, 1  # streams of noise: a seed of 7 is not the request of number 7
_NONE = float("-inf")


class Choice(NamedTuple):
    """A token, and the raw logprobs asked for: its own first, then the likeliest in falling order."""

    token: int
    logprobs: tuple[tuple[int, float], ...] = ()


def closing(work: Work, ends: Iterable[int]) -> frozenset[int]:
    """The tokens that end an answer, of the model's `ends`. A schema is followed to its end, whatever is to be ignored."""
    return frozenset(work.stop_ids) | (frozenset() if work.ignore_end and work.schema is None else frozenset(ends))


class Seen:
    """The distinct tokens of a text, with how often each was output: two columns that grow by one token at a time."""

    def __init__(self, prompt: Sequence[int] = ()) -> None:
        distinct = dict.fromkeys(prompt)
        self._at = {token: i for i, token in enumerate(distinct)}
        room = len(distinct) + 64
        self._ids, self._counts = np.zeros(room, np.int64), np.zeros(room, np.float32)
        self._ids[: len(distinct)] = list(distinct)

    def add(self, token: int) -> None:
        at = self._at.setdefault(token, len(self._at))
        if at == len(self._ids):
            self._ids, self._counts = (
                np.concatenate([column, np.zeros_like(column)]) for column in (self._ids, self._counts)
            )
        self._ids[at] = token
        self._counts[at] += 1

    def columns(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Token ids, and how often each was output."""
        n = len(self._at)
        return torch.from_numpy(self._ids[:n]).to(device), torch.from_numpy(self._counts[:n]).to(device)


class Chooser:
    """What the choice of one answer's next token hangs on, kept up to date token by token.

    Built from the work of an attempt, whatever earlier attempts output included. `grammar` is a fresh one that the answer
    follows, or None.
    """

    def __init__(self, work: Work, ends: Iterable[int], grammar: Grammar | None = None) -> None:
        wish = work.sampling
        self.wish: Sampling = wish
        self.index = 0
        self.greedy = wish.temperature < GREEDY_BELOW
        self.grammar = grammar
        self._closing = sorted(token for token in closing(work, ends) if token >= 0)
        self._min_tokens = work.min_tokens if self._closing else 0
        self._key = (work.request, UNSEEDED) if wish.seed is None else (wish.seed, SEEDED)
        self._penal = bool(wish.presence or wish.frequency or wish.repetition != 1)
        first = len(work.prompt) - work.from_token
        self._seen = Seen(work.prompt[:first] if wish.repetition != 1 else ())
        self._bias = dict(wish.bias)
        for token in work.prompt[first:]:
            self.advance(token)

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is the choice, and nothing is to be told of it."""
        return self.greedy and self.wish.logprobs is None and not self.edits

    @property
    def edits(self) -> bool:
        return self._penal or bool(self._bias) or self.grammar is not None or self.index < self._min_tokens

    def advance(self, token: int) -> None:
        """Take down the token that the answer goes on with."""
        self.index += 1
        if self._penal:
            self._seen.add(token)
        if self.grammar is not None:
            self.grammar.advance(token)

    def noise(self) -> float:
        """The uniform number that the next token is drawn with."""
        return uniform(*self._key, self.index)

    def edit(self, row: Tensor) -> None:
        """Change the logits of the next token, in place, by all that comes before temperature."""
        wish = self.wish
        early = [token for token in self._closing if token < len(row)] if self.index < self._min_tokens else []
        if self.grammar is not None:
            allowed = self.grammar.mask(len(row))
            if early:
                longer = allowed.copy()
                longer[early] = False
                # Where the grammar has come to its end there is nothing else to say.
                allowed = longer if longer.any() else allowed
            row.masked_fill_(torch.from_numpy(~allowed).to(row.device), _NONE)
        elif early:
            row[early] = _NONE
        # Tokens beyond the vocabulary are the service's to refuse; here they must not fail a whole batch.
        if bias := {token: value for token, value in self._bias.items() if 0 <= token < len(row)}:
            row[list(bias)] += torch.tensor(list(bias.values()), dtype=row.dtype, device=row.device)
        if self._penal:
            at, counts = self._seen.columns(row.device)
            now = row[at]
            if wish.repetition != 1:
                now = torch.where(now > 0, now / wish.repetition, now * wish.repetition)
            row[at] = now - wish.frequency * counts - wish.presence * (counts > 0)


@torch.inference_mode()
def choose(logits: Tensor, choosers: Sequence[Chooser]) -> list[Choice]:
    """The next token of each sequence, of float32 logits [sequences, vocabulary]. The choosers are not advanced."""
    if all(c.plain for c in choosers):
        return [Choice(token) for token in _argmax(logits)]
    x = logits
    if any(c.edits for c in choosers):
        x = logits.clone()
        for row, chooser in zip(x, choosers, strict=True):
            if chooser.edits:
                chooser.edit(row)
    tokens = [0] * len(choosers)
    for greedy in (True, False):
        rows = [i for i, c in enumerate(choosers) if c.greedy is greedy]
        if rows:
            part = x if len(rows) == len(x) else x[rows]
            picked = _argmax(part) if greedy else _draw(part, [choosers[i] for i in rows])
            for i, token in zip(rows, picked, strict=True):
                tokens[i] = token
    told = _tell(logits, choosers, tokens)
    return [Choice(token, told.get(i, ())) for i, token in enumerate(tokens)]


def weights(logits: Tensor, wishes: Sequence[Sampling]) -> Tensor:
    """What the tokens of each row are drawn in proportion to: softmax at its temperature, 0 for what is filtered out."""
    device = logits.device
    x = logits
    if any(w.temperature != 1 for w in wishes):
        x = logits / _column([w.temperature for w in wishes], torch.float32, device)
    p = x.softmax(-1)
    if not any(w.min_p > 0 or w.top_k > 0 or w.top_p < 1 for w in wishes):
        return p
    least = torch.full((len(x), 1), _NONE, device=device)
    if any(w.min_p > 0 for w in wishes):
        gaps = [math.log(w.min_p) if w.min_p > 0 else _NONE for w in wishes]
        least = x.amax(-1, keepdim=True) + _column(gaps, torch.float32, device)
    ranks = [w.top_k if 0 < w.top_k < x.shape[1] else 0 for w in wishes]
    if any(ranks):
        best = _best(x, max(ranks))
        kth = best.gather(1, _column([max(k - 1, 0) for k in ranks], torch.int64, device))
        least = least.maximum(torch.where(_column(ranks, torch.int64, device) > 0, kth, _NONE))
    narrow = [i for i, w in enumerate(wishes) if w.top_p < 1]
    for width in (NUCLEUS, 8 * NUCLEUS, x.shape[1]):
        if narrow:
            narrow = _narrow(x, p, least, narrow, [wishes[i].top_p for i in narrow], min(width, x.shape[1]))
    return _over(x, least, p)


def _narrow(x: Tensor, p: Tensor, least: Tensor, rows: list[int], shares: list[float], width: int) -> list[int]:
    """Raise what `rows` keep at `least` to the fewest likeliest tokens that have their `shares` of what is kept so far, if
    `width` tokens suffice; the rows for which they do not."""
    whole = len(rows) == len(x)
    at = torch.tensor(rows, device=x.device)
    x, p, floor = (x, p, least) if whole else (x[at], p[at], least[at])
    best = _best(x, width)
    kept = best >= floor
    mass = ((best - best[:, :1]).double().exp() * p.amax(-1, keepdim=True) * kept).cumsum(-1)
    total = torch.where(kept[:, -1:], _cumulated(_over(x, floor, p))[1][:, -1:], mass[:, -1:])
    last = (mass < total * _column(shares, torch.float64, x.device)).sum(-1, keepdim=True)
    found = last < width
    least[at] = torch.where(found, best.gather(1, last.clamp(max=width - 1)), floor)
    return [row for row, done in zip(rows, found[:, 0].tolist(), strict=True) if not done]


def _draw(x: Tensor, choosers: Sequence[Chooser]) -> list[int]:
    blocks, sums = _cumulated(weights(x, [c.wish for c in choosers]))
    target = _column([c.noise() for c in choosers], torch.float64, x.device) * sums[:, -1:]
    block = _crossed(sums, target)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[torch.arange(len(x), device=x.device), block[:, 0]].double().cumsum(-1)
    # What a block sums up to differs in its last digits with the way of summing; the target keeps its place in it.
    target = (target - before) / (sums.gather(1, block) - before) * inside[:, -1:]
    return (block * BLOCK + _crossed(inside, target))[:, 0].tolist()


def _cumulated(p: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of `p` cut into blocks, and the sums up to the end of each block."""
    if p.shape[1] % BLOCK:
        p = pad(p, (0, -p.shape[1] % BLOCK))
    blocks = p.view(len(p), -1, BLOCK)
    return blocks, blocks.sum(-1).double().cumsum(-1)


def _crossed(sums: Tensor, target: Tensor) -> Tensor:
    """Where the rising `sums` of each row first exceed its target; should rounding prevent it, where they rise last."""
    return (sums <= target).sum(-1, keepdim=True).minimum((sums < sums[:, -1:]).sum(-1, keepdim=True))


def _over(x: Tensor, least: Tensor, p: Tensor) -> Tensor:
    """`p` where `x` reaches what its row keeps, elsewhere 0: several times faster than a masked fill."""
    return torch.ge(x, least, out=torch.empty_like(p)).mul_(p)


def _best(x: Tensor, k: int) -> Tensor:
    """The `k` largest of each row in falling order. On a CPU numpy is several times faster, and thirty when it is all."""
    if x.device.type != "cpu":
        return x.topk(k).values
    top = np.partition(x.numpy(), x.shape[1] - k, axis=-1)[:, x.shape[1] - k :]
    top.sort(axis=-1)
    return torch.from_numpy(top[:, ::-1].copy())


def _argmax(x: Tensor) -> list[int]:
    """The first of the largest of each row."""
    return (x.numpy().argmax(-1) if x.device.type == "cpu" else x.argmax(-1)).tolist()


def _column(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype).unsqueeze(1).to(device)


def _tell(
    logits: Tensor, choosers: Sequence[Chooser], tokens: Sequence[int]
) -> dict[int, tuple[tuple[int, float], ...]]:
    """By row, the raw logprobs of the token chosen and of the likeliest that its wish asks for (ties: lowest id first)."""
    told = {}
    for i, chooser in enumerate(choosers):
        if (count := chooser.wish.logprobs) is not None:
            raw = logits[i].log_softmax(-1)
            values, ids = raw.topk(min(count, len(raw)))
            likeliest = sorted(zip(values.tolist(), ids.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
            told[i] = ((tokens[i], raw[tokens[i]].item()), *((token, value) for value, token in likeliest))
    return told
