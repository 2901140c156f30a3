"""Answers that have to be calls of tools: the schemas that make them so, and how such an answer is read.

No parser of the model's own way of writing calls is needed here: the whole answer is JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from phasewise.live.bodies import Tool
from phasewise.live.service import Piece


def named_schema(tool: Tool) -> str:
    """The answer is the arguments of one tool."""
    return msgspec.json.encode(tool.function.parameters or {"type": "object"}).decode()


def required_schema(tools: Sequence[Tool], several: bool) -> str:
    """The answer is a list of calls of any of the tools: one, or `several`."""
    definitions: dict[str, Any] = {}
    calls = []
    for tool in tools:
        parameters = dict(tool.function.parameters or {"type": "object"})
        definitions |= parameters.pop("$defs", {})  # references to them start at the root
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.function.name}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
    if not several:
        schema["maxItems"] = 1
    if definitions:
        schema["$defs"] = definitions
    return msgspec.json.encode(schema).decode()


class NamedReading:
    """Reads an answer that is the arguments of the tool `name`: shown as they come."""

    def __init__(self, name: str) -> None:
        self._name: str | None = name

    def feed(self, text: str) -> Sequence[Piece]:
        if not text:
            return ()
        name, self._name = self._name, None
        return (Piece(call=0, name=name, arguments=text),)

    def finish(self) -> Sequence[Piece]:
        return ()


class _Written(msgspec.Struct):
    name: str
    arguments: msgspec.Raw


class RequiredReading:
    """Reads an answer that is a list of calls: all of them at its end. One cut short is text."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, text: str) -> Sequence[Piece]:
        self._text += text
        return ()

    def finish(self) -> Sequence[Piece]:
        try:
            calls = msgspec.json.decode(self._text, type=list[_Written])
        except msgspec.DecodeError:
            return (Piece(text=self._text),) if self._text else ()
        return [Piece(call=k, name=c.name, arguments=bytes(c.arguments).decode()) for k, c in enumerate(calls)]
