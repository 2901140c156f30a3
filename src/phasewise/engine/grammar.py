"""Answers that follow a JSON schema: which tokens may come next, by llguidance.

Whitespace between the parts of a document is bounded, so that a small model cannot go on with blanks for ever; strings and
lists are as long as the schema lets them be, and the answer may still be cut by `max_tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from phasewise.core.errors import InputError

BLANK = r" {0,2}|\n {0,24}"  # what may stand between two parts of a document
KEPT = 64  # compiled schemas that are remembered


def check(schema: str) -> None:
    """An InputError, if answers cannot be made to follow `schema`."""
    failed, messages = LLMatcher.validate_grammar_with_warnings(_grammar(schema))
    if failed:
        raise _refusal(messages[0])


class Grammars:
    """Compiles schemas for the tokenizer of a model's `folder`, whose answers end with one of `ends`.

    `vocab` is how many logits the model has; it may be more than the tokenizer knows.
    """

    def __init__(self, folder: Path, vocab: int, ends: Sequence[int]) -> None:
        self._tokenizer = cache(
            lambda: LLTokenizer(str(folder / "tokenizer.json"), n_vocab=vocab, eos_token=list(ends))
        )
        self._compiled = lru_cache(KEPT)(self._compile)
        self._ends = list(ends)

    def compile(self, schema: str) -> Grammar:
        """A fresh grammar, at the beginning of an answer."""
        return Grammar(self._compiled(schema).deep_copy(), self._ends)

    def _compile(self, schema: str) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer(), _grammar(schema), log_level=0)
        if matcher.is_error():
            raise _refusal(matcher.get_error())
        return matcher


class Grammar:
    """What may follow in one answer, advanced token by token.

    Should following the schema become too hard, or a token not follow it, `fault` says so and the answer can but end: one
    answer's trouble is no reason to fail a batch.
    """

    def __init__(self, matcher: LLMatcher, ends: list[int]) -> None:
        self.fault: str | None = None
        self._matcher = matcher
        self._ends = ends

    @property
    def may_end(self) -> bool:
        """Whether the answer is a whole document as it stands."""
        return self.fault is None and self._matcher.is_accepting()

    def mask(self, vocab: int) -> NDArray[np.bool_]:
        """By token id, whether it may come next: at least one may, the end if nothing else."""
        if not self._over():
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            allowed = np.unpackbits(bits, count=vocab, bitorder="little").view(np.bool_)
        if self._over():
            allowed = np.zeros(vocab, np.bool_)
            allowed[self._ends] = True
        return allowed

    def advance(self, token: int) -> None:
        if not self._over():
            self._matcher.consume_token(token)
            self._over()

    def _over(self) -> bool:
        if self.fault is None and self._matcher.is_error():
            self.fault = _line(self._matcher.get_error())
        return self.fault is not None or self._matcher.is_stopped()


def _grammar(schema: str) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": BLANK})
    except ValueError as error:
        raise _refusal(str(error)) from None


def _refusal(message: str) -> InputError:
    return InputError(f"the schema cannot be followed: {_line(message)}", "response_format")


def _line(message: str) -> str:
    return " ".join(message.split())
