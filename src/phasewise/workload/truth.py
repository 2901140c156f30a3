"""Real output lengths, kept apart from what clients say. It does not know arrivals, prompts or who reads it.

The no-oracle law: only an executor's stop rule, and oracles that say in their name that they are, may read a `Truth`.
No batcher, router, predictor or report that is not such an oracle gets one; what they may know of a request is in
`core.request.Request`, whose `max_tokens` never equals a true length except by chance.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from phasewise.core.errors import InputError


class Lengths(Protocol):
    """Whatever knows how long answers will be: a `Truth`, or what stands in for one where there is no trace."""

    def output_tokens(self, request_id: int) -> int: ...


class Truth:
    """Output tokens that each request really produces, by request id (0..n-1). Immutable."""

    __slots__ = ("_column", "_tokens")

    def __init__(self, output_tokens: NDArray[np.int64]) -> None:
        """`output_tokens[i]` is request i's length in tokens, at least 1. InputError if one is not."""
        column = np.array(output_tokens, dtype=np.int64)
        if column.ndim != 1:
            raise InputError("true output lengths must be one column; give an array of one dimension")
        if column.size and int(column.min()) < 1:
            request_id = int(np.argmax(column < 1))
            raise InputError(f"request {request_id} ends after {int(column[request_id])} tokens; give at least 1")
        column.flags.writeable = False
        self._column = column
        # A plain list: the executor asks once a request, and indexing an array would make a numpy scalar each time.
        self._tokens: list[int] = column.tolist()

    def __len__(self) -> int:
        return len(self._tokens)

    def output_tokens(self, request_id: int) -> int:
        """True output length of one request, in tokens."""
        return self._tokens[request_id]

    def column(self) -> NDArray[np.int64]:
        """All lengths by request id, read-only: for digests and for oracles, under the same law."""
        return self._column

    def head(self, n: int) -> Truth:
        """The lengths of requests 0..n-1."""
        return Truth(self._column[:n])

    def clipped(self, max_tokens: int) -> Truth:
        """No length above `max_tokens` (a cap that the executor enforces anyway). Itself if none is."""
        if not self._tokens or int(self._column.max()) <= max_tokens:
            return self
        return Truth(np.minimum(self._column, max_tokens))

    def permuted(self, seed: int) -> Truth:
        """The same lengths dealt to other requests: what a policy decides before the first end must not notice."""
        return Truth(np.random.default_rng(seed).permutation(self._column))
