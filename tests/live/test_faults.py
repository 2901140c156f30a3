"""Whatever a client does wrong is answered in OpenAI's shape, with the right status and words that help."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.action import Outcome
from phasewise.core.stream import Emitted
from serving import Board, FakeStream, silent

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "Hi"}]


def check(response: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """The error of an answer, which has this status and says these words."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    for word in words:
        assert word in error["message"], error
    return error  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "ends too early"),
        (b"{", "not valid JSON"),
        (b'{"prompt": "a"', "not valid JSON"),
        (b'{"prompt": "a"} x', "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b'{"prompt": "\xff"}', "not valid UTF-8"),
        (b'{"\xff": 1, "prompt": "a"}', "not valid UTF-8"),
        (b'{"prompt": "\\ud800"}', "not valid JSON"),
        (b'{"prompt": NaN}', "not valid JSON"),
        (b"[1]", "Expected `object`"),
        (b"null", "Expected `object`"),
        (b'{"prompt":"a","metadata":' + b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_bodies_that_cannot_be_read(raw: bytes, words: str) -> None:
    check(Board().ask("POST", TEXT, content=raw), 400, words)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "messages", "missing"),
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": "hi"}, "messages", "Expected `array`"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "robot"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "no content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            "image_url",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "template refuses"),
        ({"messages": HI, "max_tokens": -1}, "max_tokens", ">= 1"),
        ({"messages": HI, "max_completion_tokens": 0}, "max_completion_tokens", ">= 1"),
        ({"messages": HI, "max_tokens": "3"}, "max_tokens", "got `str`"),
        ({"messages": HI, "max_tokens": 3, "min_tokens": 4}, "min_tokens", "more than max_tokens 3"),
        ({"messages": HI, "temperature": 2.1}, "temperature", "<= 2"),
        ({"messages": HI, "top_p": 0}, "top_p", "> 0"),
        ({"messages": HI, "n": 0}, "n", ">= 1"),
        ({"messages": HI, "seed": 2**64}, "seed", "<="),
        ({"messages": HI, "stop": [""]}, "stop[0]", "length >= 1"),
        ({"messages": HI, "logit_bias": {"a": 1}}, "logit_bias", "regex"),
        ({"messages": HI, "logit_bias": {"256": 1}}, "logit_bias", "token 256"),
        ({"messages": HI, "temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"messages": HI, "audio": {"voice": "x"}}, "audio", "not supported"),
        ({"messages": HI, "response_format": {"type": "xml"}}, "response_format.type", "xml"),
        (
            {"messages": HI, "tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
            "regex",
        ),
        ({"messages": HI, "tool_choice": "required"}, "tool_choice", "no 'tools'"),
        ({"messages": HI, "continue_final_message": True}, "continue_final_message", "last message"),
        ({"messages": HI, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "messages"),
    ],
)
def test_conversations_that_are_wrong(body: dict[str, Any], param: str, words: str) -> None:
    board = Board(silent)
    assert check(board.post(CHAT, body), 400, words)["param"] == param
    assert not board.service.streams


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": []}, "prompt", "empty list"),
        ({"prompt": [[]]}, "prompt", "empty"),
        ({"prompt": [1, "a"]}, "prompt", "mixes"),
        ({"prompt": [256]}, "prompt", "token 256"),
        ({"prompt": [-1]}, "prompt[0]", ">= 0"),
        ({"prompt": "a", "best_of": 2}, "best_of", "best_of"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "not supported"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "logprobs", "logprobs of the prompt"),
        ({"prompt": ["a"] * 33, "n": 2}, "prompt", "more than 64 answers"),
        (
            {
                "prompt": "a",
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "impossible"}},
                },
            },
            None,
            "cannot be followed",
        ),
    ],
)
def test_texts_that_are_wrong(body: dict[str, Any], param: str | None, words: str) -> None:
    board = Board(silent)
    assert check(board.post(TEXT, body), 400, words)["param"] == param
    assert not board.service.streams


def test_a_prompt_beyond_the_context_is_told_both_numbers() -> None:
    board = Board()
    check(board.complete("x" * 2000), 400, "2000 tokens", "context is 2000")
    check(board.complete("x" * 1999, min_tokens=2), 400, "1999 tokens", "at least 2", "context is 2000")
    check(board.complete("x" * 200_000), 400, "200000 characters", "2000 tokens")
    assert board.complete("x" * 1999).status_code == 200


def test_an_unknown_model_is_404_and_the_known_one_is_named() -> None:
    error = check(Board().chat(model="gpt-9"), 404, "gpt-9", "tiny")
    assert error["code"] == "model_not_found"


def test_paths_and_methods() -> None:
    board = Board()
    check(board.ask("GET", "/v2/nothing"), 404, "/v1/chat/completions")
    response = board.ask("GET", CHAT)
    check(response, 405, "POST")
    assert response.headers["allow"] == "POST"
    assert board.lines[0]["path"] == "other", "a path that is none of ours is not logged"


def test_large_bodies_whether_or_not_they_say_so() -> None:
    board = Board()
    check(board.ask("POST", TEXT, content=b"x" * 10_000_000), 413, "larger than")

    async def parts() -> Any:
        for _ in range(100):
            yield b"x" * 100_000

    check(board.ask("POST", TEXT, content=parts()), 413, "larger than")
    check(board.ask("POST", TEXT, content=b"x", headers={"content-encoding": "gzip"}), 415, "compressed")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", "1e400"])
def test_targets_are_numbers(value: str) -> None:
    board = Board()
    body = {"messages": HI}
    check(board.post(CHAT, body, headers={"x-slo-ttft-ms": value}), 400, "x-slo-ttft-ms")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("outcome", "status"), [(Outcome.REJECTED, 400), (Outcome.FAILED, 503), (Outcome.CANCELLED, 503)]
)
def test_what_never_begins_is_a_plain_error(stream: bool, outcome: Outcome, status: int) -> None:
    board = Board(lambda s: s.close(outcome, "too few blocks"))
    response = board.chat(stream=stream, n=2)
    check(response, status, "too few blocks")
    assert ("retry-after" in response.headers) == (status == 503)


def breaks(stream: FakeStream) -> None:
    """The first choice says something and fails; the others go on for ever."""
    stream.feed("Hel")
    if stream.request == 0:
        stream.close(Outcome.FAILED, "the worker died")


def test_what_breaks_off_is_an_error_after_what_came() -> None:
    board = Board(breaks)
    check(board.chat(n=2), 503, "broke off after 3 tokens", "the worker died")
    response = Board(breaks).chat(n=2, stream=True)
    assert response.status_code == 200
    last = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "failed"
    assert "the worker died" in last["error"]["message"]
    assert "[DONE]" not in response.text
    assert all(s.outcome is not Outcome.INSIDE for s in board.service.streams), "the other choice is freed"


@pytest.mark.parametrize("late", [False, True])
def test_what_nobody_foresaw_has_the_same_shape_and_its_text_stays_out_of_the_log(late: bool) -> None:
    def script(stream: FakeStream) -> None:
        if not late:
            raise KeyError("secret")
        stream.feed("a")
        stream._ready.append(Emitted(0, 0, 1, 0, "\ud800"))  # cannot be encoded

    board = Board(script)
    response = board.chat(stream=True)
    if late:
        assert response.status_code == 200
        assert (
            json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]["code"]
            == "internal_error"
        )
    else:
        check(response, 500, response.headers["x-request-id"])
    line = board.lines[-1]
    assert line["exception"] in ("KeyError", "UnicodeEncodeError")
    assert line["frames"]
    assert "secret" not in str(line)
    assert [s.outcome for s in board.service.streams if late] == [Outcome.CANCELLED] * late


@pytest.mark.parametrize("depth", [200, 400, 800, 900, 950, 1000, 2000])
def test_schemas_nested_deeply_are_taken_or_refused(depth: int) -> None:
    schema = '{"a":' * depth + "1" + "}" * depth
    form = '{"type":"json_schema","json_schema":{"name":"x","schema":' + schema + "}}"
    tool = '{"type":"function","function":{"name":"x","parameters":' + schema + "}}"
    for more in (f'"response_format":{form}', f'"tools":[{tool}],"tool_choice":"required"'):
        raw = '{"messages":[{"role":"user","content":"Hi"}],' + more + "}"
        response = Board().ask("POST", CHAT, content=raw)
        if response.status_code != 200:
            assert check(response, 400)["code"] in ("invalid_json", "context_length_exceeded")


@given(st.binary(max_size=200), st.sampled_from([CHAT, TEXT, "/tokenize", "/detokenize"]))
def test_no_bytes_are_a_mistake_of_the_server(raw: bytes, path: str) -> None:
    assert Board().ask("POST", path, content=raw).status_code == 400


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["prompt", "messages", "stop", "n", "logit_bias", "tools", "tool_choice", "response_format", "stream", "echo"]


@given(st.dictionaries(st.sampled_from(FIELDS), values), st.sampled_from([CHAT, TEXT, "/tokenize"]))
def test_no_field_is_either(body: dict[str, Any], path: str) -> None:
    raw = json.dumps({"messages": HI} | body if path == CHAT else {"prompt": "a"} | body)
    assert Board().ask("POST", path, content=raw).status_code in (200, 400)
