"""What was emitted arrives, in both forms and both ways, and what was asked for is what the service is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.stream import Sampling
from serving import MODEL, Board, FakeStream, events, says


def content(parts: list[dict[str, Any]], index: int = 0) -> str:
    """The text of a streamed chat choice."""
    deltas = [c["delta"] for p in parts for c in p["choices"] if c["index"] == index]
    return "".join(d.get("content") or "" for d in deltas)


def reasons(parts: list[dict[str, Any]]) -> dict[int, str]:
    return {c["index"]: c["finish_reason"] for p in parts for c in p["choices"] if c["finish_reason"]}


@given(st.text(max_size=60), st.integers(1, 7))
def test_a_text_arrives_whole_and_in_pieces(text: str, per_token: int) -> None:
    board = Board(says(text, per_token))
    whole = board.chat().json()
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert content(events(board.chat(stream=True))) == text
    assert board.complete().json()["choices"][0]["text"] == text
    parts = events(board.complete(stream=True))
    assert "".join(c["text"] for p in parts for c in p["choices"]) == text
    assert reasons(parts) == {0: "stop"}


def test_a_stream_opens_with_the_role_and_has_an_event_for_each_token() -> None:
    parts = events(Board(says("abc")).chat(stream=True))
    assert [p["choices"][0]["delta"] for p in parts] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": "b"},
        {"content": "c"},
        {},
    ]
    assert {(p["object"], p["model"], p["id"]) for p in parts} == {("chat.completion.chunk", MODEL, parts[0]["id"])}
    assert not any("usage" in p for p in parts)


@pytest.mark.parametrize("path", ["chat", "complete"])
def test_usage_comes_last_where_it_is_asked_for(path: str) -> None:
    board = Board(says("abc"))
    parts = events(getattr(board, path)(stream=True, stream_options={"include_usage": True}))
    whole = getattr(board, path)().json()["usage"]
    assert [p["usage"] for p in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"] == whole
    assert whole["completion_tokens"] == 3
    assert whole["total_tokens"] == 3 + whole["prompt_tokens"]
    assert whole["phases"] == {"queue_s": 0.25, "prefill_s": 0.5, "decode_s": 1.0}


@pytest.mark.parametrize("path", ["chat", "complete"])
def test_usage_comes_with_every_event_where_that_is_asked_for(path: str) -> None:
    """As vLLM does it; benchmarking clients count tokens by it."""
    board = Board(says("abc"))
    options = {"include_usage": True, "continuous_usage_stats": True}
    parts = events(getattr(board, path)(stream=True, stream_options=options))
    counts = [p["usage"]["completion_tokens"] for p in parts]
    assert counts == sorted(counts)
    assert counts[-1] == 3
    assert {p["usage"]["prompt_tokens"] for p in parts} == {parts[-1]["usage"]["prompt_tokens"]}


@pytest.mark.parametrize("stream", [False, True])
def test_choices_come_side_by_side_and_differ_by_their_seeds(stream: bool) -> None:
    def script(s: FakeStream) -> None:
        s.feed(f"choice of seed {s.wanted.sampling.seed}", "stop")

    board = Board(script)
    response = board.chat(n=3, seed=2**63 - 1, stream=stream)
    seeds = [2**63 - 1, -(2**63), 1 - 2**63]
    if stream:
        parts = events(response)
        texts = [content(parts, k) for k in range(3)]
        assert reasons(parts) == dict.fromkeys(range(3), "stop")
    else:
        texts = [c["message"]["content"] for c in response.json()["choices"]]
        prompt = board.chat().json()["usage"]["prompt_tokens"]
        assert response.json()["usage"]["prompt_tokens"] == prompt, "the prompt counts once"
    assert texts == [f"choice of seed {s}" for s in seeds]


def test_without_a_seed_no_choice_has_one() -> None:
    board = Board()
    board.chat(n=2)
    assert [s.wanted.sampling.seed for s in board.service.streams] == [None, None]


def test_every_wish_reaches_the_service() -> None:
    board = Board()
    asked = {
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 3,
        "min_p": 0.125,
        "seed": 11,
        "presence_penalty": 1,
        "frequency_penalty": -2,
        "repetition_penalty": 1.5,
        "logit_bias": {"65": 2.5, "7": -100},
        "logprobs": True,
        "top_logprobs": 4,
        "stop": ["x", "yy"],
        "stop_token_ids": [9],
        "min_tokens": 2,
        "ignore_eos": True,
        "priority": -3,
        "kind": "batch",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string"}}},
    }
    body = {"messages": [{"role": "user", "content": "Hi"}], **asked}
    headers = {"x-slo-ttft-ms": "250", "x-slo-tpot-ms": "12.5"}
    assert board.post("/v1/chat/completions", body, headers=headers).status_code == 200
    wanted = board.service.streams[0].wanted
    assert wanted.sampling == Sampling(0.5, 0.25, 3, 0.125, 11, 1, -2, 1.5, ((7, -100), (65, 2.5)), 4)
    assert (wanted.max_tokens, wanted.min_tokens, wanted.ignore_end) == (7, 2, True)
    assert (wanted.stop, wanted.stop_ids) == (("x", "yy"), (9,))
    assert (wanted.priority, wanted.kind) == (-3, "batch")
    assert (wanted.ttft_s, wanted.tpot_s) == (0.25, 0.0125)
    assert json.loads(wanted.schema or "") == {"type": "string"}


def test_nulls_are_defaults_and_a_cap_beyond_the_context_is_the_context() -> None:
    board = Board()
    assert (
        board.complete("four", temperature=None, stop=None, n=None, logit_bias=None, max_tokens=10**6).status_code
        == 200
    )
    wanted = board.service.streams[0].wanted
    assert wanted.sampling == Sampling()
    assert wanted.max_tokens == board.service.max_context - 4
    assert wanted.prompt == tuple(b"four")


def test_a_json_object_is_a_schema() -> None:
    board = Board()
    board.chat(response_format={"type": "json_object"})
    board.chat(response_format={"type": "text"})
    assert [s.wanted.schema for s in board.service.streams] == ['{"type":"object"}', None]


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        (list(b"one"), ["one"]),
        ([list(b"one"), list(b"two")], ["one", "two"]),
        ([list(b"one"), "two"], ["one", "two"]),
    ],
)
def test_prompts_come_as_texts_or_ids(prompt: Any, texts: list[str]) -> None:
    board = Board(says("!"))
    done = board.complete(prompt, echo=True, n=2).json()
    assert [c["text"] for c in done["choices"]] == [f"{t}!" for t in texts for _ in range(2)]
    assert [c["index"] for c in done["choices"]] == list(range(2 * len(texts)))
    assert done["usage"]["prompt_tokens"] == 3 * len(texts)
    parts = events(board.complete(prompt, echo=True, stream=True))
    shown = ["".join(c["text"] for p in parts for c in p["choices"] if c["index"] == k) for k in range(len(texts))]
    assert shown == [f"{t}!" for t in texts]


@pytest.mark.parametrize("stream", [False, True])
def test_no_tokens_at_all_may_be_asked_for_and_nobody_is_bothered(stream: bool) -> None:
    board = Board()
    response = board.complete("one", echo=True, max_tokens=0, stream=stream)
    choices = [c for p in (events(response) if stream else [response.json()]) for c in p["choices"]]
    assert "".join(c["text"] for c in choices) == "one"
    assert choices[-1]["finish_reason"] == "length"
    assert not board.service.streams


def test_logprobs_of_a_conversation() -> None:
    board = Board(says("ab"))
    told = board.chat(logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    tops = [{"token": "A", "logprob": -1.0, "bytes": [65]}, {"token": "B", "logprob": -2.0, "bytes": [66]}]
    assert told == [
        {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": tops},
        {"token": "b", "logprob": -0.5, "bytes": [98], "top_logprobs": tops},
    ]
    parts = events(board.chat(logprobs=True, top_logprobs=2, stream=True))
    assert [t for p in parts if (some := p["choices"][0]["logprobs"]) for t in some["content"]] == told
    assert board.chat().json()["choices"][0]["logprobs"] is None


def test_logprobs_of_a_text() -> None:
    board = Board(says("abc", per_token=2))
    told = board.complete(logprobs=1).json()["choices"][0]["logprobs"]
    assert told == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"A": -1.0}, {"A": -1.0}],
        "text_offset": [0, 2],
    }
    parts = [some for p in events(board.complete(logprobs=1, stream=True)) if (some := p["choices"][0]["logprobs"])]
    assert [p["text_offset"] for p in parts] == [[0], [2]]
    assert [p["tokens"] for p in parts] == [["ab"], ["c"]]


def test_length_and_stop_are_told_apart() -> None:
    board = Board(says("Hello!"))
    assert board.chat(max_tokens=3).json()["choices"][0] | {"logprobs": 0} == {
        "index": 0,
        "message": {"role": "assistant", "content": "Hel", "refusal": None},
        "logprobs": 0,
        "finish_reason": "length",
    }
    assert reasons(events(board.chat(stop="o", stream=True))) == {0: "stop"}


def test_messages_reach_the_template_in_its_own_form() -> None:
    board = Board()
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    assert board.post("/v1/chat/completions", {"messages": messages}).status_code == 200
    text = bytes(board.service.streams[0].wanted.prompt).decode()
    assert text.splitlines()[1] == "system: be"
    assert '"arguments": {"a": 1}' in text
    assert text.endswith("assistant:")


def test_the_last_message_can_be_gone_on_with() -> None:
    board = Board()
    body = {"messages": [{"role": "user", "content": "Once"}, {"role": "assistant", "content": " Once "}]}
    assert board.post("/v1/chat/completions", body | {"continue_final_message": True}).status_code == 200
    assert bytes(board.service.streams[0].wanted.prompt).endswith(b"\nassistant: Once")
    body["messages"][1]["content"] = ""
    assert board.post("/v1/chat/completions", body | {"continue_final_message": True}).status_code == 400


def test_models_tokens_and_texts() -> None:
    board = Board()
    model = board.ask("GET", "/v1/models").json()["data"]
    assert [(m["id"], m["max_model_len"]) for m in model] == [(MODEL, 2000)]
    assert board.post("/tokenize", {"prompt": "abc"}).json() == {
        "count": 3,
        "max_model_len": 2000,
        "tokens": [97, 98, 99],
    }
    told = board.post("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]}).json()["tokens"]
    assert bytes(told).endswith(b"assistant:")
    assert board.post("/detokenize", {"tokens": [97, 98, 99]}).json() == {"prompt": "abc"}


def test_a_long_prompt_is_encoded_beside_the_loop_and_comes_out_the_same() -> None:
    board = Board()
    tokens = board.post("/tokenize", {"prompt": "ab" * 8192}).json()["tokens"]
    assert tokens == list(b"ab" * 8192)
