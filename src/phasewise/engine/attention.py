"""Attention over paged keys and values: one face, whatever the device, and the one for CPUs in torch.

A step's tokens come to each layer as one tensor of heads (queries, keys, values side by side). `write` turns and stores,
`prompt` serves a chunk of one sequence, `decode` all sequences that bring one token.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

from phasewise.engine.batch import Batch, Chunk
from phasewise.engine.cache import PagedCache


class HeadNorms(NamedTuple):
    """RMSNorm over each head of queries and keys before they are turned: weights [head_dim]."""

    q: torch.Tensor
    k: torch.Tensor
    eps: float


class Attention(Protocol):
    """What the decoder asks of a device. `heads` is [tokens, heads + 2 * kv_heads, head_dim]."""

    def write(self, layer: int, heads: torch.Tensor, batch: Batch, norms: HeadNorms | None) -> None:
        """Normalise and turn queries and keys where they lie; store keys and values in the cache."""

    def prompt(self, layer: int, heads: torch.Tensor, chunk: Chunk, window: int | None) -> torch.Tensor:
        """A chunk's attention to what is cached before it and, causally, to itself; [length, heads * head_dim].

        `heads` are the chunk's own rows, as `write` left them.
        """

    def decode(self, layer: int, heads: torch.Tensor, batch: Batch, window: int | None) -> torch.Tensor:
        """The attention of all decodes, each to its own context; [decodes, heads * head_dim]. `heads` are their rows."""


class TorchAttention:
    """Attention on a CPU by torch alone: what any machine can run, and what compiled kernels are tested against."""

    def __init__(self, cache: PagedCache, heads: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        self.cache = cache
        self.heads, self.kv_heads, self.head_dim = heads, cache.kv_heads, cache.head_dim
        self.cos, self.sin = cos, sin
        self.bounds = (heads, heads + cache.kv_heads, heads + 2 * cache.kv_heads)
        self.scale = cache.head_dim**-0.5

    def write(self, layer: int, heads: torch.Tensor, batch: Batch, norms: HeadNorms | None) -> None:
        """Angles are applied in float32 and rounded once."""
        turned = heads[:, : self.heads + self.kv_heads]
        if norms is not None:
            q, k = turned[:, : self.heads], turned[:, self.heads :]
            q.copy_(F.rms_norm(q, (self.head_dim,), norms.q, norms.eps))
            k.copy_(F.rms_norm(k, (self.head_dim,), norms.k, norms.eps))
        cos, sin = (table.index_select(0, batch.positions)[:, None] for table in (self.cos, self.sin))
        half = cos.shape[-1]
        first, second = turned[..., :half], turned[..., half : 2 * half]
        a, b = first.float(), second.float()
        rotated = a * cos - b * sin, b * cos + a * sin
        first.copy_(rotated[0])
        second.copy_(rotated[1])
        self.cache.write(layer, heads[:, self.heads :], batch.slots)

    def prompt(self, layer: int, heads: torch.Tensor, chunk: Chunk, window: int | None) -> torch.Tensor:
        """Torch's own attention: it works in tiles, so scores are never stored."""
        q = heads[:, : self.heads].transpose(0, 1)[None]
        bites = window is not None and chunk.end > window
        if not chunk.start and not bites:
            k, v = (heads[:, first:last].transpose(0, 1) for first, last in pairwise(self.bounds))
            out = F.scaled_dot_product_attention(q, k[None], v[None], is_causal=True, enable_gqa=True)
        else:
            size = self.cache.block_tokens
            first = max(0, chunk.start + 1 - window) // size if window is not None else 0
            k, v = self.cache.gather(layer, chunk.pages[first:])[:, :, : chunk.end - first * size]
            seen = visible(chunk, first * size, window if bites else None)
            out = F.scaled_dot_product_attention(q, k[None], v[None], attn_mask=seen, enable_gqa=True)
        return out[0].transpose(0, 1).reshape(chunk.length, -1)

    def decode(self, layer: int, heads: torch.Tensor, batch: Batch, window: int | None) -> torch.Tensor:
        """Two batched products a group, the query heads that share keys being the rows of one; softmax in float32."""
        out = heads.new_empty(len(heads), self.heads, self.head_dim)
        shared = self.heads // self.kv_heads
        for rows, pages, bias in batch.groups(window):
            count = len(rows)
            k, v = self.cache.gather(layer, pages.flatten()).view(2, self.kv_heads * count, -1, self.head_dim)
            q = heads[rows, : self.heads].view(count, self.kv_heads, shared, self.head_dim).transpose(0, 1)
            scores = torch.bmm(q.reshape(self.kv_heads * count, shared, self.head_dim), k.transpose(1, 2)).float()
            scores = scores.view(self.kv_heads, count, shared, -1) * self.scale + bias
            weights = scores.softmax(-1).to(v.dtype).view(self.kv_heads * count, shared, -1)
            mixed = torch.bmm(weights, v).view(self.kv_heads, count, shared, self.head_dim)
            out[rows] = mixed.transpose(0, 1).reshape(count, self.heads, self.head_dim)
        return out.view(len(heads), -1)


def visible(chunk: Chunk, first: int, window: int | None) -> torch.Tensor:
    """Which of the context's tokens from `first` on each token of the chunk sees: bool [length, end - first]."""
    own = torch.arange(chunk.start, chunk.end)[:, None]
    other = torch.arange(first, chunk.end)[None, :]
    seen = other <= own
    if window is not None:
        seen &= other > own - window
    return seen
