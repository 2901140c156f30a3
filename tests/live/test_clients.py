"""OpenAI's own client, over a socket: what it understands is what counts."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel

from phasewise.core.action import Outcome
from serving import MODEL, Board, FakeStream, Limits, Reads, in_a_thread, says

HI = [{"role": "user", "content": "Hi"}]
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}


class Point(BaseModel):
    x: int
    y: int


def script(stream: FakeStream) -> None:
    """JSON to who wants JSON, a call to who has tools, else a text."""
    if stream.wanted.schema is not None:
        says('{"x": 1, "y": 2}')(stream)
    elif b'"add"' in bytes(stream.wanted.prompt):
        says('Let me see. <add>{"a": 41}</>', 3)(stream)
    else:
        says("Hello, world!")(stream)


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with in_a_thread(lambda: Board(script, tools=Reads, keys=["key"])) as (port, _):  # noqa: SIM117
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="key", max_retries=0) as client:
            yield client


def test_conversations(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(model=MODEL, messages=HI, n=2, seed=1)  # type: ignore[arg-type]
    assert [c.message.content for c in done.choices] == ["Hello, world!"] * 2
    assert done.usage is not None
    assert done.usage.completion_tokens == 26
    assert done.usage.model_extra == {"phases": {"queue_s": 0.25, "prefill_s": 0.5, "decode_s": 1.0}}
    assert done._request_id


def test_streams(client: openai.OpenAI) -> None:
    told = {"include_usage": True}
    parts = list(client.chat.completions.create(model=MODEL, messages=HI, stream=True, stream_options=told))  # type: ignore[call-overload]
    assert "".join(p.choices[0].delta.content or "" for p in parts[:-1]) == "Hello, world!"
    assert [p.choices[0].finish_reason for p in parts[-2:-1]] == ["stop"]
    assert parts[-1].usage.total_tokens > parts[-1].usage.completion_tokens == 13


def test_logprobs_and_stop(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(
        model=MODEL,
        messages=HI,  # type: ignore[arg-type]
        logprobs=True,
        top_logprobs=2,
        stop=[", "],
    )
    told = done.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert "".join(t.token for t in told.content) == done.choices[0].message.content == "Hello"
    assert [t.logprob for t in told.content[0].top_logprobs] == [-1.0, -2.0]


def test_texts(client: openai.OpenAI) -> None:
    done = client.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=5, logprobs=1, echo=False)
    assert [(c.text, c.finish_reason) for c in done.choices] == [("Hello", "length")] * 2
    assert done.choices[0].logprobs is not None
    assert done.choices[0].logprobs.text_offset == [0, 1, 2, 3, 4]
    parts = list(client.completions.create(model=MODEL, prompt="a", stream=True))
    assert "".join(p.choices[0].text for p in parts) == "Hello, world!"


def test_tools(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(model=MODEL, messages=HI, tools=[TOOL]).choices[0].message  # type: ignore[call-overload]
    assert message.content == "Let me see. "
    assert [(c.function.name, c.function.arguments) for c in message.tool_calls] == [("add", '{"a": 41}')]
    with client.chat.completions.stream(model=MODEL, messages=HI, tools=[TOOL]) as stream:  # type: ignore[arg-type, list-item]
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert streamed.message.content == "Let me see. "
    calls = streamed.message.tool_calls
    assert calls is not None
    assert [(c.function.name, json.loads(c.function.arguments)) for c in calls] == [("add", {"a": 41})]


def test_structured_output(client: openai.OpenAI) -> None:
    done = client.chat.completions.parse(model=MODEL, messages=HI, response_format=Point)  # type: ignore[arg-type]
    assert done.choices[0].message.parsed == Point(x=1, y=2)


def test_models(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == [MODEL]


def test_errors_are_the_ones_that_it_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9") as missing:
        client.chat.completions.create(model="gpt-9", messages=HI)  # type: ignore[arg-type]
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="context is 2000 tokens"):
        client.completions.create(model=MODEL, prompt="x" * 3000)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="other").models.list()


def test_limits_are_the_ones_that_it_knows() -> None:
    with in_a_thread(lambda: Board(limits=Limits(rate=1e-3, burst=1))) as (port, board):  # noqa: SIM117
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
            client.completions.create(model=MODEL, prompt="x")
            with pytest.raises(openai.RateLimitError):
                client.completions.create(model=MODEL, prompt="x")
            board.service.draining = True
            with pytest.raises(openai.InternalServerError, match="shutting down"):
                client.completions.create(model=MODEL, prompt="x")


def test_a_stream_that_breaks_raises() -> None:
    def breaks(stream: FakeStream) -> None:
        stream.feed("Hel")
        stream.close(Outcome.FAILED, "the worker died")

    with in_a_thread(lambda: Board(breaks)) as (port, _):  # noqa: SIM117
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
            parts = client.completions.create(model=MODEL, prompt="x", stream=True)
            with pytest.raises(openai.APIError, match="the worker died"):
                list(parts)
