"""What prompts hold, by blocks: ragged columns, so that a million rows stay two arrays. It does not know what is cached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from phasewise.core.errors import InputError


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Request i's prompt holds the blocks `ids[offsets[i]:offsets[i + 1]]`, each of `block_tokens` tokens, from its start.

    Two requests that begin with the same k ids begin with the same k blocks; the last id of a request may stand for less
    than a whole block. `offsets` has n + 1 entries, from 0 to `len(ids)`. InputError if they do not fit together.
    """

    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    block_tokens: int

    def __post_init__(self) -> None:
        offsets = self.offsets
        if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != len(self.ids) or (np.diff(offsets) < 0).any():
            raise InputError(f"offsets of prefixes must climb from 0 to {len(self.ids)}, the number of ids")
        if self.block_tokens < 1:
            raise InputError(f"blocks of {self.block_tokens} tokens; give at least 1")

    @staticmethod
    def of(rows: list[list[int]], block_tokens: int) -> Prefixes:
        """From one list of ids a request."""
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
        ids = np.fromiter((i for row in rows for i in row), np.int64, int(offsets[-1]))
        return Prefixes(offsets, ids, block_tokens)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def tuples(self, low: int, high: int) -> Iterator[tuple[int, ...]]:
        """The ids of requests `low` to `high` - 1."""
        at = self.offsets[low : high + 1].tolist()
        ids = self.ids[at[0] : at[-1]].tolist()
        for begin, end in pairwise(at):
            yield tuple(ids[begin - at[0] : end - at[0]])

    def rows(self, low: int, high: int) -> Prefixes:
        """Those of requests `low` to `high` - 1."""
        offsets = self.offsets[low : high + 1]
        return Prefixes(offsets - offsets[0], self.ids[offsets[0] : offsets[-1]], self.block_tokens)

    def taken(self, order: NDArray[np.int64]) -> Prefixes:
        """Those of the requests `order`, in that order."""
        length = np.diff(self.offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        index = np.repeat(self.offsets[:-1][order] - offsets[:-1], length) + np.arange(offsets[-1])
        return Prefixes(offsets, self.ids[index], self.block_tokens)
