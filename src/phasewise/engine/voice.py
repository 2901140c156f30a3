"""A voice for each answer: what chooses its tokens and what puts them into words, together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from torch import Tensor

from phasewise.core.stream import Emitted, Work
from phasewise.engine.answer import Answer, Pieces
from phasewise.engine.grammar import Grammar
from phasewise.engine.sampling import Chooser, choose


class Voice(NamedTuple):
    """Of one attempt; both remember what was said, by the attempts before it too."""

    chooser: Chooser
    answer: Answer


class Voices:
    """Of one model, whose own `ends` close an answer; `grammar` compiles a schema (InputError if it makes no sense)."""

    def __init__(self, tokenizer: Pieces, ends: Sequence[int], grammar: Callable[[str], Grammar]) -> None:
        self._tokenizer = tokenizer
        self._ends = ends
        self._grammar = grammar

    def of(self, work: Work) -> Voice:
        """The voice of an attempt. InputError for a schema that makes no sense."""
        grammar = None if work.schema is None else self._grammar(work.schema)
        return Voice(Chooser(work, self._ends, grammar), Answer(self._tokenizer, work, self._ends))

    def speak(self, logits: Tensor, voices: Sequence[Voice]) -> list[Emitted]:
        """The next token of each, of float32 logits [voices, vocabulary], and what its client is told of it."""
        out = []
        for (chooser, answer), (token, logprobs) in zip(
            voices, choose(logits, [v.chooser for v in voices]), strict=True
        ):
            chooser.advance(token)
            one = answer.emit(token, logprobs)
            if one.end == "stop" and chooser.grammar is not None and chooser.grammar.fault is not None:
                one = msgspec.structs.replace(one, end="fault")
            out.append(one)
        return out
