"""The one face of every latency model: numbers in, affine pieces out. It does not know who asks, or when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from phasewise.core.step import Chunk, Piece


class LatencyModel(Protocol):
    """How long a step takes on one replica."""

    @property
    def basis(self) -> str:
        """What the times rest on, in words that every output repeats."""
        ...

    def pieces(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        """Times of `steps` identical iterations, as affine pieces whose step counts add up to `steps`.

        `decodes` residents take one decode step in each; before the first they have `context` tokens computed together,
        and `decodes` more after every step. Every chunk moves on by its tokens after every step, and none of several steps
        is a prompt's last. Nanoseconds; every step takes at least 1.
        """
        ...
