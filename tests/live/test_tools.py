"""Calls of tools: written by the model in its own way, or forced by a schema; whole and as a stream."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from serving import Board, Reads, events, says


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


NUMBER = {"$defs": {"n": {"type": "integer"}}}
TOOLS = [tool("add", properties={"a": {"$ref": "#/$defs/n"}}, required=["a"], **NUMBER), tool("now")]


def call(name: str, arguments: str, index: int | None = None) -> dict[str, Any]:
    """A call without its id, which is checked apart."""
    out: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return out if index is None else out | {"index": index}


def ask(board: Board, stream: bool, **body: Any) -> tuple[str | None, list[dict[str, Any]], str]:
    """The text, the calls, and the reason of the end, of an answer that may call tools."""
    response = board.chat(stream=stream, tools=TOOLS, **body)
    assert response.status_code == 200, response.text
    if not stream:
        choice = response.json()["choices"][0]
        calls = choice["message"].get("tool_calls", [])
        text = choice["message"]["content"]
    else:
        parts = [c for p in events(response) for c in p["choices"]]
        choice, calls, text = parts[-1], [], None
        for part in parts[1:]:
            delta = part["delta"]
            if "content" in delta:
                text = (text or "") + delta["content"]
            for piece in delta.get("tool_calls", []):
                if "id" in piece:
                    assert piece["index"] == len(calls)
                    calls.append(call(piece["function"]["name"], "") | {"id": piece["id"]})
                    assert piece["type"] == "function"
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    ids = [c.pop("id") for c in calls]
    assert len(set(ids)) == len(ids)
    assert all(i.startswith("call_") for i in ids)
    return text, calls, choice["finish_reason"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("per_token", [1, 3, 50])
def test_the_models_own_calls_are_parsed(stream: bool, per_token: int) -> None:
    board = Board(says('So: <add>{"a": 1}</><now>{}</>', per_token), tools=Reads)
    text, calls, reason = ask(board, stream)
    assert (text, reason) == ("So: ", "tool_calls")
    assert calls == [call("add", '{"a": 1}'), call("now", "{}")]
    assert '"name": "add"' in bytes(board.service.streams[0].wanted.prompt).decode(), "the template was given the tools"


@pytest.mark.parametrize("stream", [False, True])
def test_text_is_text_and_a_call_cut_short_too(stream: bool) -> None:
    assert ask(Board(says("No call"), tools=Reads), stream) == ("No call", [], "stop")
    cut = Board(says('<add>{"a": 1}</>'), tools=Reads)
    assert ask(cut, stream, max_tokens=8) == ('<add>{"a', [], "length")


@pytest.mark.parametrize("stream", [False, True])
def test_no_tools_are_offered_where_none_are_wanted(stream: bool) -> None:
    board = Board(says("<now>{}</>"), tools=Reads)
    assert ask(board, stream, tool_choice="none") == ("<now>{}</>", [], "stop")
    assert bytes(board.service.streams[0].wanted.prompt).startswith(b"null\n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_named_tool_is_called_by_a_schema(stream: bool) -> None:
    board = Board(says('{"a": 3}'))
    choice = {"type": "function", "function": {"name": "add"}}
    assert ask(board, stream, tool_choice=choice) == (None, [call("add", '{"a": 3}')], "tool_calls")
    assert json.loads(board.service.streams[0].wanted.schema or "") == TOOLS[0]["function"]["parameters"]


@pytest.mark.parametrize("stream", [False, True])
def test_some_tool_is_called_by_a_schema(stream: bool) -> None:
    said = [{"name": "now", "arguments": {}}, {"name": "add", "arguments": {"a": 3}}]
    board = Board(says(json.dumps(said)))
    text, calls, reason = ask(board, stream, tool_choice="required")
    assert (text, reason) == (None, "tool_calls")
    assert [json.loads(c["function"]["arguments"]) for c in calls] == [{}, {"a": 3}]
    schema = json.loads(board.service.streams[0].wanted.schema or "")
    jsonschema.validate(said, schema)
    for wrong in ([], [{"name": "sub", "arguments": {}}], [{"name": "add", "arguments": {"a": "x"}}]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
    assert ask(Board(says(json.dumps(said))), stream, tool_choice="required", max_tokens=9)[1:] == ([], "length")


def test_one_call_at_a_time_is_in_the_schema() -> None:
    board = Board(says("[]"))
    ask(board, False, tool_choice="required", parallel_tool_calls=False)
    assert json.loads(board.service.streams[0].wanted.schema or "")["maxItems"] == 1


def test_what_cannot_be_is_said() -> None:
    board = Board(says("x"))
    other = {"type": "function", "function": {"name": "sub"}}
    assert "among the 'tools'" in board.chat(tools=TOOLS, tool_choice=other).json()["error"]["message"]
    assert "calls no tools" in board.chat(tools=TOOLS).json()["error"]["message"]
    both = board.chat(tools=TOOLS, tool_choice="required", response_format={"type": "json_object"})
    assert both.status_code == 400


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_told_beside_calls(stream: bool) -> None:
    board = Board(says("<now>{}</>"), tools=Reads)
    response = board.chat(tools=TOOLS, logprobs=True, stream=stream)
    choices = [c for p in (events(response) if stream else [response.json()]) for c in p["choices"]]
    told = [t["token"] for c in choices if c["logprobs"] for t in c["logprobs"]["content"]]
    assert "".join(told) == "<now>{}</>"
