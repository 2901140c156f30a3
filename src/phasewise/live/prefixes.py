"""Names for the content of prompts, by which a replica finds what it has computed before."""

from __future__ import annotations

import os
from hashlib import blake2b
from struct import pack


class Prefixes:
    """Names the content of prompts by blocks of `tokens` tokens: a block's 64 bits stand for it and all that comes before it.

    They hang on a secret of this process, so that nobody can make two prompts pass for one.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._key = os.urandom(16)

    def __call__(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        size, key = self.tokens, self._key
        names: list[int] = []
        last = b""
        for start in range(0, len(prompt) - size + 1, size):
            content = last + pack(f"<{size}q", *prompt[start : start + size])
            last = blake2b(content, digest_size=8, key=key).digest()
            names.append(int.from_bytes(last, "little"))
        return tuple(names)
