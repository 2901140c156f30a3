"""Keys and values of every layer in pages, addressed by the page ids that the block ledger's book hands out.

A page id is the same row in every layer, so one id pays for `block_tokens` tokens of a whole model. What is in a page, whose
it is and when it is free is the ledger's affair: nothing here is ever cleared.
"""

from __future__ import annotations

import math
import mmap

import torch


class PagedCache:
    """`data` is [layers, 2 * kv_heads, pages, block_tokens, head_dim]: of each layer the heads' keys, then their values.

    Heads lie outside pages, so that one selection of pages gives every head's context in one stretch, as products want it.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        pages: int,
        block_tokens: int,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.kv_heads, self.head_dim, self.pages, self.block_tokens = kv_heads, head_dim, pages, block_tokens
        self.data = zeros((layers, 2 * kv_heads, pages, block_tokens, head_dim), dtype)
        self._slots = self.data.view(layers, 2 * kv_heads, pages * block_tokens, head_dim)
        self._pages = self.data.view(layers, 2 * kv_heads, pages, block_tokens * head_dim)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers."""
        return self.data[:, :, :1].numel() * self.data.element_size()

    def write(self, layer: int, kv: torch.Tensor, slots: torch.Tensor) -> None:
        """Store `kv` [tokens, 2 * kv_heads, head_dim] at `slots` [tokens]: page * block_tokens + offset."""
        self._slots[layer].index_copy_(1, slots, kv.transpose(0, 1))

    def gather(self, layer: int, pages: torch.Tensor) -> torch.Tensor:
        """A copy of what `pages` [n] hold: [2, kv_heads, n * block_tokens, head_dim]."""
        return self._pages[layer].index_select(1, pages).view(2, self.kv_heads, -1, self.head_dim)


def zeros(size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros that take up memory only where something has been written.

    Torch's own zeros are written at once, numpy's come in huge pages, and empty tensors may hold a NaN, which survives being
    masked by a weight of 0.
    """
    space = mmap.mmap(-1, max(1, math.prod(size) * dtype.itemsize))
    return torch.frombuffer(space, dtype=dtype, count=math.prod(size)).view(size)
