"""Calls of tools, read out of an answer's text as it comes.

Models write calls as their chat templates taught them. Three forms are known, each told by its marker in the template:
`hermes` (Qwen, Hermes, SmolLM2): <tool_call>{"name": ..., "arguments": {...}}</tool_call>, between texts, any number of times;
`mistral`: [TOOL_CALLS] and a list of such objects, or a name with its arguments (also [ARGS] between), after a text;
`llama` (3.1 and later): an answer that is an object with "parameters", perhaps after <|python_tag|>, several divided by ";".

A call is told of when it is complete: until then what has been written may yet turn out to be text. What only looks like
a call (no JSON, another object, a tool that was not offered) stays text, to the letter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

Form = Literal["hermes", "mistral", "llama"]
MARKERS = frozenset(["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"])
"""Tokens that are shown in the text of an answer even if a model counts them as special, because calls are known by them."""

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_CALLS, _ARGS, _TAG = "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"
_NAME = re.compile(r"[\w.-]*")
_BLANK = re.compile(r"\s*")
_SIGN = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)


class Call(NamedTuple):
    """Call `number` (from 0) of an answer, with its arguments as JSON."""

    number: int
    name: str
    arguments: str


def form_of(template: str | None) -> Form | None:
    """The form in which a model with this chat template calls tools, if it is one of those known."""
    text = template or ""
    if _OPEN in text:
        return "hermes"
    if _CALLS in text:
        return "mistral"
    if _TAG in text or ("ipython" in text and '"parameters"' in text):
        return "llama"
    return None


class ToolReader:
    """Reads one answer; `names` are the tools that the client offered. Blanks before, between and after calls are dropped."""

    def __init__(self, form: Form, names: Iterable[str]) -> None:
        self.calls = 0
        self._form = form
        self._look = {"hermes": self._tagged, "mistral": self._listed, "llama": self._bare}[form]
        self._names = frozenset(names)
        self._text = ""  # not yet known to be text or call
        self._blanks: str | None = ""  # blanks since the beginning or the last call; None: text has come since
        self._span: _Span | None = None  # how far the call that the text begins with has been looked at

    def feed(self, text: str) -> list[str | Call]:
        """What is certain now that the answer goes on with `text`: pieces of text, and calls, in order."""
        self._text += text
        return self._read(last=False)

    def finish(self) -> list[str | Call]:
        """What is left at the answer's end."""
        found = self._read(last=True)
        if self._blanks and not self.calls:
            found.append(self._blanks)
        self._blanks = None
        return found

    def _read(self, last: bool) -> list[str | Call]:
        found: list[str | Call] = []
        while self._text:
            start, marked = self._marker(last)
            self._say(found, start)
            if not marked:
                break
            try:
                calls, length = self._look(last)
            except _More:
                if not last:
                    break
                calls, length = [], 1
            self._span = None
            if calls:
                found += [Call(self.calls + i, *call) for i, call in enumerate(calls)]
                self.calls += len(calls)
                self._blanks, self._text = "", self._text[length:]
            else:  # it only looked like a call
                self._say(found, 1)
        return found

    def _say(self, found: list[str | Call], length: int) -> None:
        """The first `length` letters are text."""
        text, self._text = self._text[:length], self._text[length:]
        if self._blanks is not None:
            if not text.strip():
                self._blanks += text
                return
            text, self._blanks = self._blanks + text, None
        if text and found and isinstance(found[-1], str):
            found[-1] += text
        elif text:
            found.append(text)

    def _marker(self, last: bool) -> tuple[int, bool]:
        """Where a call may begin, and whether its marker is whole: all before that is text."""
        if self._form == "llama":
            at = _past(_BLANK, self._text)
            rest = self._text[at:]
            if self._blanks is None:
                return len(self._text), False
            if rest.startswith((_TAG, "{", ";" if self.calls else "{")):
                return at, True
            return (at if not last and _TAG.startswith(rest) else len(self._text)), False
        marker = _OPEN if self._form == "hermes" else _CALLS
        if (at := self._text.find(marker)) >= 0:
            return at, True
        starts = range(max(0, len(self._text) - len(marker) + 1), len(self._text))
        kept = (at for at in starts if not last and marker.startswith(self._text[at:]))
        return next(kept, len(self._text)), False

    def _tagged(self, last: bool) -> tuple[list[tuple[str, str]], int]:
        value, end = self._value(len(_OPEN), "{")
        calls = self._named(value)
        at = _past(_BLANK, self._text, end)
        rest = self._text[at : at + len(_CLOSE)]
        if rest == _CLOSE or (last and _CLOSE.startswith(rest)):  # the end of an answer may stand for the tag
            return calls, at + len(rest)
        if calls and _CLOSE.startswith(rest):
            raise _More
        return [], 0

    def _listed(self, last: bool) -> tuple[list[tuple[str, str]], int]:
        at = _past(_BLANK, self._text, len(_CALLS))
        if self._text.startswith("[", at):
            value, end = self._value(at, "[")
            calls = [call for entry in value or [] for call in self._named(entry)]
            return (calls if len(calls) == len(value or []) else []), end
        past = _past(_NAME, self._text, at)
        name, rest = self._text[at:past], self._text[past:].lstrip()
        if _ARGS.startswith(rest):
            raise _More
        if name not in self._names:
            return [], 0
        past = len(self._text) - len(rest) + (len(_ARGS) if rest.startswith(_ARGS) else 0)
        value, end = self._value(past, "{")
        return ([] if value is None else [(name, _json(value))]), end

    def _bare(self, last: bool) -> tuple[list[tuple[str, str]], int]:
        at = 0
        if self._text.startswith((";", _TAG)):
            at = 1 if self._text[0] == ";" else len(_TAG)
        value, end = self._value(at, "{")
        return (self._named(value) if value and "parameters" in value else []), end

    def _value(self, at: int, opening: str) -> tuple[Any, int]:
        """The JSON value that begins at `at` or after blanks, None if there is none, and where it ends."""
        at = _past(_BLANK, self._text, at)
        if at == len(self._text):
            raise _More
        if self._text[at] != opening:
            return None, at
        self._span = self._span or _Span(at)
        end = self._span.end(self._text)
        if end is None:
            raise _More
        try:
            return json.loads(self._text[at:end]), end
        except (ValueError, RecursionError):
            return None, end

    def _named(self, value: Any) -> list[tuple[str, str]]:
        """The one call that an object stands for, or none."""
        if not isinstance(value, dict) or not isinstance(name := value.get("name"), str) or name not in self._names:
            return []
        arguments = value.get("arguments", value.get("parameters", {}))
        return [(name, _json(arguments))] if isinstance(arguments, dict) else []


class _More(Exception):
    """Whether it is a call depends on what is still to come."""


class _Span:
    """Where a JSON object or list that starts at `at` ends, looked for letter by letter once, however it comes in pieces."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._depth = 0
        self._quoted = False
        self._end: int | None = None

    def end(self, text: str) -> int | None:
        if self._end is not None:
            return self._end
        for found in _SIGN.finditer(text, self._at):
            sign = found[0]
            if sign == "\\":  # what it escapes has not come yet
                self._at = found.start()
                return None
            if sign == '"':
                self._quoted = not self._quoted
            elif not self._quoted and sign in "{[":
                self._depth += 1
            elif not self._quoted and sign in "}]":
                self._depth -= 1
                if not self._depth:
                    self._end = found.end()
                    return self._end
        self._at = len(text)
        return None


def _past(pattern: re.Pattern[str], text: str, at: int = 0) -> int:
    """Where what `pattern` matches at `at` (perhaps nothing) ends."""
    found = pattern.match(text, at)
    return found.end() if found else at


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
