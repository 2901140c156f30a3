"""Bodies of answers, and how what was emitted becomes one. The OpenAPI description is made from the same types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from phasewise.core.stream import Emitted, Logprob
from phasewise.live.service import Called, Stream, Text

Reason = Literal["stop", "length", "tool_calls"]


class Phases(msgspec.Struct, frozen=True):
    """Seconds in each phase; of several answers the longest of each. Null: never reached."""

    queue_s: float | None
    prefill_s: float | None
    decode_s: float | None


class Usage(msgspec.Struct, frozen=True):
    """Tokens, each prompt counted once; `phases` is an extension."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    phases: Phases


class Top(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class Told(msgspec.Struct, frozen=True):
    """A token, its logarithmic probability, and the likeliest in its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Top]


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[Told]


class CallFunction(msgspec.Struct):
    name: str
    arguments: str


class ToolCall(msgspec.Struct):
    id: str
    function: CallFunction
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct, frozen=True):
    content: str | None
    tool_calls: list[ToolCall] | UnsetType = UNSET
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Reason


class ChatCompletion(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    object: Literal["chat.completion"] = "chat.completion"


class TextLogprobs(msgspec.Struct, frozen=True):
    """In the older form: columns, `text_offset` being characters from the start of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    object: Literal["text_completion"] = "text_completion"


class Model(msgspec.Struct, frozen=True):
    id: str
    created: int
    max_model_len: int
    object: Literal["model"] = "model"
    owned_by: str = "phasewise"


class Models(msgspec.Struct, frozen=True):
    data: list[Model]
    object: Literal["list"] = "list"


class Tokens(msgspec.Struct, frozen=True):
    """What /tokenize answers."""

    count: int
    max_model_len: int
    tokens: list[int]


class Detokenized(msgspec.Struct, frozen=True):
    """What /detokenize answers."""

    prompt: str


class State(msgspec.Struct, frozen=True):
    """What /health and /ready answer."""

    status: Literal["ok", "ready", "starting", "draining"]


def chat_logprobs(emitted: Sequence[Emitted], text: Text) -> ChatLogprobs:
    return ChatLogprobs([_told(e.logprobs, text) for e in emitted if e.logprobs])


def _told(logprobs: tuple[Logprob, ...], text: Text) -> Told:
    id, logprob, shown = logprobs[0]
    top = [Top(t, p, list(text.token_bytes(i))) for i, p, t in logprobs[1:]]
    return Told(shown, logprob, list(text.token_bytes(id)), top)


def text_logprobs(emitted: Sequence[Emitted], offset: int) -> TextLogprobs:
    """Columns for tokens the first of which stands `offset` characters from the start of its choice."""
    told = [e.logprobs for e in emitted if e.logprobs]
    offsets = []
    for logprobs in told:
        offsets.append(offset)
        offset += len(logprobs[0][2])
    top = [{t: p for _, p, t in logprobs[1:] or logprobs} for logprobs in told]
    return TextLogprobs([p[0][2] for p in told], [p[0][1] for p in told], top, offsets)


def tool_calls(pieces: Sequence[str | Called], ids: str) -> list[ToolCall]:
    """The calls that `pieces` make up, their ids beginning with `ids`."""
    calls: dict[int, ToolCall] = {}
    for piece in pieces:
        if not isinstance(piece, str):
            call = calls.setdefault(piece.number, ToolCall(f"{ids}{piece.number}", CallFunction("", "")))
            call.function.name += piece.name
            call.function.arguments += piece.arguments
    return [calls[k] for k in sorted(calls)]


def usage(prompt_tokens: int, tokens: int, streams: Sequence[Stream]) -> Usage:
    def longest(times: Sequence[float | None]) -> float | None:
        return max((t for t in times if t is not None), default=None)

    phases = Phases(
        longest([s.queue_s for s in streams]),
        longest([s.prefill_s for s in streams]),
        longest([s.decode_s for s in streams]),
    )
    return Usage(prompt_tokens, tokens, prompt_tokens + tokens, phases)
