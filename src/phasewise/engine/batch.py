"""What one forward pass works on: the rows that it was asked for, laid side by side as tensors.

Rows that bring one token (decodes, and chunks of one) come after those that bring more, whatever order they were given in,
so that each kind is one slice of the tokens. It knows pages as numbers only, and nothing of layers or heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from phasewise.core.errors import PlanError


class Rows(NamedTuple):
    """One sequence's share of a step: `tokens` follow `start` tokens of its context that are in the cache already.

    `pages` are the ids of the pages that hold its context, in order; they cover at least `start + len(tokens)` tokens.
    `emits`: the logits of its last token are wanted.
    """

    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    emits: bool


class Chunk(NamedTuple):
    """A row of several tokens: they are `tokens[first : first + length]` of the batch, its context the pages' first `end`."""

    first: int
    length: int
    start: int
    pages: torch.Tensor

    @property
    def end(self) -> int:
        """Tokens of its context once the step is done."""
        return self.start + self.length


class Group(NamedTuple):
    """Decodes of like context, read together: `pages` [rows, width] from each one's first page that matters.

    `rows` are their places among the decodes; `bias` [1, rows, 1, width * block_tokens] is 0 where a row may look and -inf
    where it may not.
    """

    rows: torch.Tensor
    pages: torch.Tensor
    bias: torch.Tensor


# Decodes are read together while the shortest has at least this share of the longest's pages: a third is waste at most.
ALIKE = 2 / 3


class Batch:
    """The rows of one step as tensors: `tokens`, `positions` and cache `slots` [n], then what each kind of row needs.

    `lengths` and `tables` describe the decodes (rows of one token): context after the step and page ids. `emitting` are the
    places of the tokens whose logits are wanted, in the order of the rows as given.
    """

    def __init__(self, rows: Sequence[Rows], block_tokens: int, pages: int, context: int, vocab: int) -> None:
        self.block_tokens = block_tokens
        check(rows, block_tokens, pages, context, vocab)
        several = [row for row in rows if len(row.tokens) > 1]
        single = [row for row in rows if len(row.tokens) == 1]
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        self.chunks: list[Chunk] = []
        for row in several:
            first, count, start = len(tokens), len(row.tokens), row.start
            tokens += row.tokens
            positions += range(start, start + count)
            slots += [row.pages[at // block_tokens] * block_tokens + at % block_tokens for at in positions[first:]]
            reach = -(-(start + count) // block_tokens)
            self.chunks.append(Chunk(first, count, start, torch.tensor(row.pages[:reach], dtype=torch.int32)))
        self.prompt_tokens = len(tokens)
        for row in single:
            start = row.start
            tokens.append(row.tokens[0])
            positions.append(start)
            slots.append(row.pages[start // block_tokens] * block_tokens + start % block_tokens)
        self.lengths = [row.start + 1 for row in single]
        self.tables = [row.pages for row in single]
        self.tokens = torch.tensor(tokens)
        self.positions = torch.tensor(positions)
        self.slots = torch.tensor(slots)
        self.emitting = torch.tensor(_emitting(rows, self.prompt_tokens), dtype=torch.int64)
        self._groups: dict[int | None, list[Group]] = {}

    @cached_property
    def flat_tables(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The decodes' page ids end to end (int32), where each one's begin, and their lengths (int32)."""
        needs = [-(-length // self.block_tokens) for length in self.lengths]
        begins = np.zeros(len(needs) + 1, np.int32)
        np.cumsum(needs, out=begins[1:])
        flat = np.empty(begins[-1], np.int32)
        for table, need, begin in zip(self.tables, needs, begins, strict=False):
            flat[begin : begin + need] = table[:need]
        return torch.from_numpy(flat), torch.from_numpy(begins), torch.tensor(self.lengths, dtype=torch.int32)

    def groups(self, window: int | None) -> list[Group]:
        """The decodes in groups of like context, as a layer with this window sees them."""
        if window not in self._groups:
            self._groups[window] = self._grouped(window)
        return self._groups[window]

    def _grouped(self, window: int | None) -> list[Group]:
        size = self.block_tokens
        firsts = [0 if window is None else max(0, length - window) // size for length in self.lengths]
        needs = [-(-length // size) - first for length, first in zip(self.lengths, firsts, strict=True)]
        order = sorted(range(len(needs)), key=lambda i: -needs[i])
        groups = []
        while order:
            width = needs[order[0]]
            together = [i for i in order if needs[i] >= ALIKE * width]
            order = order[len(together) :]
            pages = torch.zeros(len(together), width, dtype=torch.int64)
            for at, i in enumerate(together):
                pages[at, : needs[i]] = torch.tensor(self.tables[i][firsts[i] : firsts[i] + needs[i]])
            begins = torch.tensor([firsts[i] * size for i in together])
            lengths = torch.tensor([self.lengths[i] for i in together])
            places = torch.arange(width * size) + begins[:, None]
            hidden = places >= lengths[:, None]
            if window is not None:
                hidden |= places < (lengths - window)[:, None]
            bias = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[None, :, None, :]
            groups.append(Group(torch.tensor(together), pages, bias))
        return groups


def check(rows: Sequence[Rows], block_tokens: int, pages: int, context: int, vocab: int) -> None:
    """PlanError for rows that no step can run: none at all, no tokens, beyond the context, or pages that do not cover them."""
    if not rows:
        raise PlanError("a step of no rows")
    for row in rows:
        end = row.start + len(row.tokens)
        if not len(row.tokens) or row.start < 0 or end > context:
            raise PlanError(
                f"{len(row.tokens)} tokens after {row.start} are no share of a context of at most {context}"
            )
        if end > len(row.pages) * block_tokens:
            raise PlanError(f"{len(row.pages)} pages of {block_tokens} tokens do not cover a context of {end}")
        if min(row.pages) < 0 or max(row.pages) >= pages:
            raise PlanError(f"pages {min(row.pages)} to {max(row.pages)} are addressed, and the cache has {pages}")
        if min(row.tokens) < 0 or max(row.tokens) >= vocab:
            raise PlanError(f"tokens {min(row.tokens)} to {max(row.tokens)} are given, and the vocabulary has {vocab}")


def _emitting(rows: Sequence[Rows], prompt_tokens: int) -> list[int]:
    """The place of the last token of each row that emits."""
    chunk = -1
    single = prompt_tokens - 1
    places = []
    for row in rows:
        if len(row.tokens) > 1:
            chunk += len(row.tokens)
            place = chunk
        else:
            single += 1
            place = single
        if row.emits:
            places.append(place)
    return places
