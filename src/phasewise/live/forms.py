"""The two forms of an answer, chat and plain text, each whole or as a stream of events.

A stream has an event for each token that shows anything. What does not differ from one event to the next is written
beforehand, and only a token's text (and what is told of it) is encoded: that is most of what the gateway does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from phasewise.core.stream import Emitted
from phasewise.live import answers
from phasewise.live.service import Called, Reading, Stream, Text

encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"


class Choice:
    """One answer among those to a request, while it comes. `echo`: the prompt, where it is to be shown before the answer."""

    def __init__(self, index: int, stream: Stream | None, reading: Reading | None = None, echo: str = "") -> None:
        self.index = index
        self.stream = stream
        self.reading = reading
        self.echo = echo
        self.chars = len(echo)
        self.calls = False
        self.tokens = 0
        self.end: str | None = None if stream else "length"
        self.first_s: float | None = None
        self.last_s = 0.0

    @property
    def reason(self) -> answers.Reason:
        """Why it ended, in OpenAI's words."""
        return "length" if self.end == "length" else "tool_calls" if self.calls else "stop"

    def read(self, emitted: Sequence[Emitted], over: bool) -> Sequence[str | Called]:
        """What of an answer with tools is certain after these tokens; with `over`, all that was held back too."""
        assert self.reading is not None
        pieces = [p for e in emitted if e.text for p in self.reading.feed(e.text)]
        if over:
            pieces += self.reading.finish()
        self.calls = self.calls or any(not isinstance(p, str) for p in pieces)
        return pieces


class Form(Protocol):
    """How one request's choices are written. `each_usage`: whether every event says that usage comes later."""

    def opening(self, choice: Choice) -> bytes: ...
    def events(self, choice: Choice, emitted: Sequence[Emitted]) -> bytes: ...
    def closing(self, choice: Choice) -> bytes: ...
    def summary(self, usage: answers.Usage) -> bytes: ...
    def tell(self, usage: answers.Usage) -> None: ...
    def whole(self, choices: Sequence[tuple[Choice, list[Emitted]]], usage: answers.Usage) -> bytes: ...


class ChatForm:
    """Answers of /v1/chat/completions."""

    def __init__(self, id: str, created: int, model: str, text: Text, each_usage: bool, told: bool) -> None:
        self._id, self._created, self._model, self._text, self._told = id, created, model, text, told
        self._head, self._tail = _frame(id, "chat.completion.chunk", created, model, each_usage)

    def opening(self, choice: Choice) -> bytes:
        return self._event(choice, b'{"role":"assistant","content":""}')

    def events(self, choice: Choice, emitted: Sequence[Emitted]) -> bytes:
        if choice.reading is not None:
            return self._read(choice, emitted, over=False)
        out = []
        for e in emitted:
            if e.text or e.logprobs:
                out.append(self._event(choice, b'{"content":' + encode(e.text) + b"}", self._logprobs((e,))))
        return b"".join(out)

    def closing(self, choice: Choice) -> bytes:
        held = self._read(choice, (), over=True) if choice.reading is not None else b""
        return held + self._event(choice, b"{}", reason=b'"' + choice.reason.encode() + b'"')

    def summary(self, usage: answers.Usage) -> bytes:
        return self._head + _with(usage)

    def tell(self, usage: answers.Usage) -> None:
        """Every event has this usage from now on."""
        self._tail = _with(usage)

    def whole(self, choices: Sequence[tuple[Choice, list[Emitted]]], usage: answers.Usage) -> bytes:
        done = [self._choice(choice, emitted) for choice, emitted in choices]
        return encode(answers.ChatCompletion(self._id, self._created, self._model, done, usage))

    def _choice(self, choice: Choice, emitted: list[Emitted]) -> answers.ChatChoice:
        if choice.reading is None:
            message = answers.ChatMessage("".join([e.text for e in emitted]))
        else:
            pieces = choice.read(emitted, over=True)
            calls = answers.tool_calls(pieces, self._call_ids(choice))
            shown = "".join([p for p in pieces if isinstance(p, str)])
            message = answers.ChatMessage(shown or None if calls else shown, calls or msgspec.UNSET)
        told = answers.chat_logprobs(emitted, self._text) if self._told else None
        return answers.ChatChoice(choice.index, message, told, choice.reason)

    def _read(self, choice: Choice, emitted: Sequence[Emitted], over: bool) -> bytes:
        """Events for a batch of an answer that is read for calls; what is told of its tokens comes with the first."""
        deltas = [self._delta(choice, piece) for piece in choice.read(emitted, over)]
        told = self._logprobs(emitted)
        if told != b"null" and not deltas:
            deltas = [b"{}"]
        return b"".join([self._event(choice, d, told if k == 0 else b"null") for k, d in enumerate(deltas)])

    def _delta(self, choice: Choice, piece: str | Called) -> bytes:
        if isinstance(piece, str):
            return encode({"content": piece})
        function = {"arguments": piece.arguments}
        call: dict[str, object] = {"index": piece.number, "function": function}
        if piece.name:
            call |= {"id": f"{self._call_ids(choice)}{piece.number}", "type": "function"}
            function["name"] = piece.name
        return encode({"tool_calls": [call]})

    def _call_ids(self, choice: Choice) -> str:
        return f"call_{self._id.removeprefix('chatcmpl-')}_{choice.index}_"

    def _logprobs(self, emitted: Sequence[Emitted]) -> bytes:
        if not self._told or not any(e.logprobs for e in emitted):
            return b"null"
        return encode(answers.chat_logprobs(emitted, self._text))

    def _event(self, choice: Choice, delta: bytes, told: bytes = b"null", reason: bytes = b"null") -> bytes:
        return b'%b{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._head,
            choice.index,
            delta,
            told,
            reason,
            self._tail,
        )


class TextForm:
    """Answers of /v1/completions."""

    def __init__(self, id: str, created: int, model: str, each_usage: bool, told: bool) -> None:
        self._id, self._created, self._model, self._told = id, created, model, told
        self._head, self._tail = _frame(id, "text_completion", created, model, each_usage)

    def opening(self, choice: Choice) -> bytes:
        return self._event(choice, choice.echo) if choice.echo else b""

    def events(self, choice: Choice, emitted: Sequence[Emitted]) -> bytes:
        out = []
        for e in emitted:
            told = b"null"
            if self._told and e.logprobs:
                told = encode(answers.text_logprobs((e,), choice.chars))
                choice.chars += len(e.logprobs[0][2])
            if e.text or told != b"null":
                out.append(self._event(choice, e.text, told))
        return b"".join(out)

    def closing(self, choice: Choice) -> bytes:
        return self._event(choice, "", reason=b'"' + choice.reason.encode() + b'"')

    def summary(self, usage: answers.Usage) -> bytes:
        return self._head + _with(usage)

    def tell(self, usage: answers.Usage) -> None:
        """Every event has this usage from now on."""
        self._tail = _with(usage)

    def whole(self, choices: Sequence[tuple[Choice, list[Emitted]]], usage: answers.Usage) -> bytes:
        done = []
        for choice, emitted in choices:
            told = answers.text_logprobs(emitted, choice.chars) if self._told else None
            text = choice.echo + "".join([e.text for e in emitted])
            done.append(answers.TextChoice(choice.index, text, told, "length" if choice.end == "length" else "stop"))
        return encode(answers.Completion(self._id, self._created, self._model, done, usage))

    def _event(self, choice: Choice, text: str, told: bytes = b"null", reason: bytes = b"null") -> bytes:
        return b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._head,
            choice.index,
            encode(text),
            told,
            reason,
            self._tail,
        )


def _with(usage: answers.Usage) -> bytes:
    """The end of an event that tells the usage."""
    return b'],"usage":' + encode(usage) + b"}\n\n"


def _frame(id: str, kind: str, created: int, model: str, each_usage: bool) -> tuple[bytes, bytes]:
    """What stands before and after the only choice of each event."""
    head = encode({"id": id, "object": kind, "created": created, "model": model, "choices": []})
    return b"data: " + head[:-2], (b'],"usage":null}\n\n' if each_usage else b"]}\n\n")
