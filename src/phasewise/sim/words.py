"""The text of a model that is only modelled: its answers are words, and prompts are bytes, up to four of them a token.

Nothing is lost on the way to tokens and back, and a prompt has about as many as it would have for a real model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phasewise.core.errors import InputError
from phasewise.sim.paced import WORDS

_BYTES = 4


class Words:
    """A tokenizer without a vocabulary of its own: the first ids are those of the words that answers are made of."""

    vocab = len(WORDS) + 2 * 256**_BYTES

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text; there are no special ones."""
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise InputError("the text has half of a surrogate pair, which is no character") from None
        # A one before the bytes, so that zeros at their beginning count.
        return [len(WORDS) + int.from_bytes(b"\1" + data[i : i + _BYTES], "big") for i in range(0, len(data), _BYTES)]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """What a token stands for. Ids between those that are used stand for nothing."""
        if id < len(WORDS):
            return f" {WORDS[id]}".encode()
        value = id - len(WORDS)
        whole = value.to_bytes(_BYTES + 1, "big").lstrip(b"\0")
        return whole[1:] if whole[:1] == b"\1" else b""

    def chat(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, **kwargs: Any) -> str:
        """The prompt of a conversation."""
        said = [f"{message.get('role')}: {_plain(message.get('content'))}\n" for message in messages]
        return "".join(said) + ("assistant:" if kwargs.get("add_generation_prompt", True) else "")


def _plain(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""
