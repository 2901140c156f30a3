"""Attention whose time is not one line: sliding windows, and prompts of latent attention. Nanoseconds; no launches.

`Roofline` asks it in place of its own constants. A step's time is then no longer affine in the context over any number of
steps, but still over each of a few runs of steps: `cuts` says where one ends, so that a leap stays a closed form.

With w the window, and pairs(c, q) the pairs of query and key of a chunk of q tokens after c:

    full layers     pairs = q*c + q*(q+1)/2,                         reads = c + q
    window layers   pairs = sum of min(position + 1, w) over the q,  reads = min(c + q, q + w - 1)
    chunk           sum over groups of layers of max(pairs * pair, reads * read) + c * cached

A batch of decodes is known by its sum of contexts alone, so a window cuts their *mean* context, not each one: exact if all
are on one side of the window, else too much (by concavity), never too little.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from phasewise.core.step import Chunk


class Layers(NamedTuple):
    """So many layers, whose attention sees the last `window` tokens (None: all)."""

    number: int
    window: int | None


class BentAttention:
    """`pair_ns`, `read_ns` for one layer's chunks, `context_ns` for its decodes, each for one pair, key or token;
    `cached_ns` for every cached token of a chunk in one layer (keys and values expanded anew from the latent cache)."""

    def __init__(
        self, groups: Sequence[Layers], pair_ns: float, read_ns: float, context_ns: float, cached_ns: float
    ) -> None:
        self._groups = tuple(group for group in groups if group.number)
        self._pair_ns, self._read_ns, self._context_ns = pair_ns, read_ns, context_ns
        self._cached_ns = cached_ns * sum(group.number for group in self._groups)

    def chunk_ns(self, start: int, tokens: int) -> float:
        """`tokens` prompt tokens after `start` cached ones, all layers."""
        total = self._cached_ns * start
        for group in self._groups:
            total += group.number * max(self._sides(group, start, tokens))
        return total

    def decode_ns(self, decodes: int, context: int) -> float:
        """One step of `decodes` sequences that hold `context` tokens together before it, all layers."""
        total = 0.0
        for number, window in self._groups:
            seen = context + decodes
            total += number * self._context_ns * (seen if window is None else min(seen, decodes * window))
        return total

    def line(self) -> tuple[float, float]:
        """One decode alone beyond every window: nanoseconds extrapolated to no context, and for each token of context."""
        grows = sum(number for number, window in self._groups if window is None) * self._context_ns
        most = sum(number * (1 if window is None else window) for number, window in self._groups)
        return self._context_ns * most, grows

    def cuts(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> list[int]:
        """Steps, rising from 0, at which a new affine run of `steps` steps begins."""
        found = {0}
        for group in self._groups:
            if group.window is not None and decodes:
                found.add(((group.window - 1) * decodes - context) // decodes + 1)
            for chunk in chunks:
                found |= self._cuts(group, chunk, steps)
        return sorted(step for step in found if 0 <= step < steps)

    def _sides(self, group: Layers, start: int, tokens: int) -> tuple[float, float]:
        """Times of a chunk's operations and of its reads in one layer of the group."""
        window, end = group.window, start + tokens
        if window is None or end <= window:
            return self._pair_ns * 0.5 * (tokens * (end + start + 1)), self._read_ns * end
        before = max(0, window - start)  # tokens that still see all that came before them
        pairs = before * (start + start + before + 1) / 2 + (tokens - before) * window
        return self._pair_ns * pairs, self._read_ns * min(end, tokens + window - 1)

    def _cuts(self, group: Layers, chunk: Chunk, steps: int) -> set[int]:
        """Where a chunk that moves on by its tokens enters the window, has left it, or is bound by the other side."""
        growing, flat = steps, steps
        if group.window is not None:
            growing = max(0, (group.window - chunk.start) // chunk.tokens)
            flat = max(0, -(-(group.window - 1 - chunk.start) // chunk.tokens))

        def by_operations(step: int) -> bool:
            operations, reads = self._sides(group, chunk.start + step * chunk.tokens, chunk.tokens)
            return operations > reads

        last = min(growing, steps)
        if last < 2 or by_operations(0) == by_operations(last - 1):
            return {growing, flat}
        first = by_operations(0)
        # Both sides grow by equal amounts: one that has overtaken the other stays ahead.
        return {growing, flat, bisect_left(range(last), True, key=lambda step: by_operations(step) != first)}
