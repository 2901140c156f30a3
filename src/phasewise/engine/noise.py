"""Noise that is counted, not drawn: a uniform number as a pure function of (seed, stream, index).

There is no state to carry along, so an answer that goes on in another process, in another batch or after a retry meets the
same noise. The function is Philox4x64-10 (Salmon et al., SC 2011): the key is (seed, stream), the counter the index.
"""

from __future__ import annotations

_WORD = (1 << 64) - 1
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_ROUNDS = 10

Block = tuple[int, int, int, int]


def philox(counter: Block, key: tuple[int, int]) -> Block:
    """Four words of 64 bits that look random, of a counter of four words and a key of two."""
    a, b, c, d = counter
    k, q = key
    for _ in range(_ROUNDS):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (right >> 64) ^ b ^ k, right & _WORD, (left >> 64) ^ d ^ q, left & _WORD
        k, q = (k + _WEYL[0]) & _WORD, (q + _WEYL[1]) & _WORD
    return a, b, c, d


def uniform(seed: int, stream: int, index: int) -> float:
    """One of 2**52 equally likely numbers, evenly spaced strictly between 0 and 1. Arguments count modulo 2**64."""
    word = philox((index & _WORD, 0, 0, 0), (seed & _WORD, stream & _WORD))[0]
    return ((word >> 12) + 0.5) / (1 << 52)
