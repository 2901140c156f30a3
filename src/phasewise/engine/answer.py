"""From an answer's tokens, one by one, to the text that can be shown and to its end.

An answer's text is that of its tokens, without the one that ends it, up to where it ends: before the stop that is complete
first (of those complete at once, the longest), wherever token borders lie. What is shown is never taken back: half a character
waits for its other half, and a text that may be the beginning of a stop for what follows. At the end what waits is shown, half
a character as U+FFFD. All of it is a function of the work and the tokens, so a retry withholds what the attempt before it did.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Protocol

from phasewise.core.stream import Emitted, Logprob, Work
from phasewise.engine.sampling import closing


class Pieces(Protocol):
    """What of a tokenizer is needed here."""

    def piece(self, token: int) -> bytes: ...

    def token_text(self, token: int) -> str: ...


class Answer:
    """The answer to `work`, whatever earlier attempts output included; `end` says why it is over, None while it is not.

    A stop counts from the token on that makes the answer `min_tokens` long.
    """

    def __init__(self, tokenizer: Pieces, work: Work, ends: Iterable[int]) -> None:
        self.work = work
        self.count = 0
        self.end: str | None = None
        self._tokenizer = tokenizer
        self._closing = closing(work, ends)
        self._stops = [stop for stop in work.stop if stop]
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        for token in work.prompt[len(work.prompt) - work.from_token :]:
            self.take(token)

    def emit(self, token: int, logprobs: Iterable[tuple[int, float]] = ()) -> Emitted:
        """The answer goes on with `token`: what the client is told of it."""
        told: tuple[Logprob, ...] = tuple((t, value, self._tokenizer.token_text(t)) for t, value in logprobs)
        text = self.take(token)
        return Emitted(self.work.request, self.work.epoch, self.count - 1, token, text, told, self.end)

    def take(self, token: int) -> str:
        """The text that can be shown now that the answer goes on with `token`; see `end` for whether it was the last."""
        self.count += 1
        if token in self._closing:
            self.end = "stop"
            return self._show(self._utf8.decode(b"", final=True))
        if self.count >= self.work.max_tokens:
            self.end = "length"
        return self._show(self._utf8.decode(self._tokenizer.piece(token), final=self.end is not None))

    def _show(self, fresh: str) -> str:
        """What can be shown of the text held back and of what comes behind it."""
        text = self._held + fresh
        if fresh and self._stops and self.count >= self.work.min_tokens:
            # A stop that ends within what was held back came too early to count.
            found = [
                (start + len(stop), start)
                for stop in self._stops
                if (start := text.find(stop, max(0, len(self._held) - len(stop) + 1))) >= 0
            ]
            if found:
                self.end, self._held = "stop", ""
                return text[: min(found)[1]]
        keep = len(text) if self.end else min((_beginning(text, stop) for stop in self._stops), default=len(text))
        self._held = text[keep:]
        return text[:keep]


def _beginning(text: str, stop: str) -> int:
    """Where the longest end of `text` lies that `stop` goes on from."""
    for start in range(max(0, len(text) - len(stop) + 1), len(text)):
        if stop.startswith(text[start:]):
            return start
    return len(text)
