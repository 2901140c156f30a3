"""Answers that have to be calls of tools: the schemas that make them so, and how such an answer is read.

No parser of the model's own way of writing calls is needed here: the whole answer is JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from phasewise.live.bodies import Tool


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


class Call(NamedTuple):
    """A `live.service.Called`."""

    number: int
    name: str
    arguments: str


class NamedReading:
    """Reads an answer that is the arguments of the tool `name`: shown as they come."""

    def __init__(self, name: str) -> None:
        self._name = name

    def feed(self, text: str) -> Sequence[str | Call]:
        name, self._name = self._name, ""
        return (Call(0, name, text),)

    def finish(self) -> Sequence[str | Call]:
        return ()


class _Written(msgspec.Struct):
    name: str
    arguments: msgspec.Raw


class RequiredReading:
    """Reads an answer that is a list of calls: all of them at its end. One cut short is text."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, text: str) -> Sequence[str | Call]:
        self._text += text
        return ()

    def finish(self) -> Sequence[str | Call]:
        try:
            calls = msgspec.json.decode(self._text, type=list[_Written])
        except msgspec.DecodeError:
            return (self._text,) if self._text else ()
        return [Call(k, call.name, bytes(call.arguments).decode()) for k, call in enumerate(calls)]
