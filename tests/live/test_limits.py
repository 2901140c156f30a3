"""Who is let in, how often, and what those who are not are told; and what the log says of it all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.live.limits import Bucket, Limits
from phasewise.live.service import Load
from serving import Board, says

BODY = {"prompt": "Hi"}
KEYS = ("alpha-key", "beta-key")


@pytest.mark.parametrize(
    "told", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic alpha-key", "alpha-key", "Bearer alpha-key2"]
)
@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
def test_without_a_right_key_nothing_is_answered(told: str | None, path: str) -> None:
    board = Board(keys=KEYS)
    response = board.post(path, BODY, headers={} if told is None else {"authorization": told})
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"
    assert response.headers["www-authenticate"] == "Bearer"
    assert not board.service.streams


def test_with_a_key_it_is_and_the_log_has_its_number_alone() -> None:
    board = Board(keys=KEYS)
    for key in KEYS:
        assert board.post("/v1/completions", BODY, headers={"authorization": f"Bearer {key}"}).status_code == 200
    assert [line["key"] for line in board.lines] == [0, 1]
    assert "-key" not in json.dumps(board.lines)


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/openapi.json"])
def test_what_looks_after_the_server_needs_no_key(path: str) -> None:
    assert Board(keys=KEYS).ask("GET", path).status_code == 200


def test_each_key_has_its_own_rate() -> None:
    now = [0.0]
    board = Board(keys=KEYS, limits=Limits(rate=0.5, burst=2), clock=lambda: now[0])

    def ask(key: str) -> int:
        response = board.post("/v1/completions", BODY, headers={"authorization": f"Bearer {key}"})
        if response.status_code == 429:
            assert response.json()["error"]["type"] == "rate_limit_error"
            assert response.headers["retry-after"] == "2"
        return response.status_code

    assert [ask(KEYS[0]) for _ in range(3)] == [200, 200, 429]
    assert ask(KEYS[1]) == 200
    now[0] = 2.0
    assert [ask(KEYS[0]) for _ in range(2)] == [200, 429]


def test_without_keys_all_share_one_rate() -> None:
    board = Board(limits=Limits(rate=1, burst=1), clock=lambda: 0.0)
    assert [board.complete().status_code for _ in range(2)] == [200, 429]


@given(st.floats(0.01, 100), st.integers(1, 20), st.lists(st.floats(0, 5), max_size=60))
def test_a_bucket_never_gives_more_than_its_rate_and_burst(rate: float, burst: int, gaps: list[float]) -> None:
    bucket, now_s, taken = Bucket(rate, burst, 0.0), 0.0, 0
    for gap in gaps:
        now_s += gap
        wait_s = bucket.take(now_s)
        taken += wait_s == 0
        assert taken <= burst + rate * now_s + 1e-6
        if wait_s:
            assert bucket.take(now_s + wait_s * 1.0001) == 0, "after the time told there is one"
            taken, now_s = taken + 1, now_s + wait_s * 1.0001


def test_a_full_queue_sends_away() -> None:
    board = Board(limits=Limits(waiting=5, retry_s=3))
    board.service.state = Load(waiting=5)
    response = board.complete()
    assert response.status_code == 503
    assert response.headers["retry-after"] == "3"
    assert response.json()["error"]["code"] == "queue_full"
    board.service.state = Load(waiting=4)
    assert board.complete().status_code == 200


@pytest.mark.parametrize(
    ("field", "code", "status"), [("draining", "draining", "draining"), ("ready", "not_ready", "starting")]
)
def test_neither_before_it_is_ready_nor_while_it_drains(field: str, code: str, status: str) -> None:
    board = Board()
    setattr(board.service, field, field == "draining")
    response = board.complete()
    assert response.status_code == 503
    assert response.json()["error"]["code"] == code
    assert "retry-after" in response.headers
    ready = board.ask("GET", "/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": status})
    assert board.ask("GET", "/health").status_code == 200


def test_request_ids_are_the_clients_or_made() -> None:
    board = Board()
    assert board.post("/v1/completions", BODY, headers={"x-request-id": "mine-7"}).headers["x-request-id"] == "mine-7"
    made = [board.post("/v1/completions", BODY, headers={"x-request-id": bad}) for bad in ("", "a b", "x" * 129)]
    ids = [r.headers["x-request-id"] for r in made]
    assert len(set(ids)) == 3
    assert all(len(i) == 24 for i in ids)
    assert board.ask("GET", "/nowhere").headers["x-request-id"]
    assert [line["id"] for line in board.lines[:4]] == ["mine-7", *ids]


def test_the_log_has_counts_and_times_and_no_texts() -> None:
    board = Board(says("confidential answer"), limits=Limits(rate=1e-9, burst=2))
    headers = {"authorization": "Bearer confidential-key"}
    path = "/v1/completions?confidential=1"
    board.post(path, {"prompt": "confidential", "n": 2, "user": "confidential"}, headers=headers)
    board.post(path, {"prompt": "confidential", "confidential": 1}, headers=headers)
    board.post(path, {"prompt": "confidential"}, headers=headers)
    assert "confidential" not in json.dumps(board.lines)
    good, wrong, many = board.lines
    assert good.pop("at") > 0
    assert good.pop("total_s") >= good.pop("ttft_s") >= 0
    assert good == {
        "id": good["id"],
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "requests": [0, 1],
        "outcomes": ["finished", "finished"],
        "prompt_tokens": 12,
        "output_tokens": 38,
        "phases": {"queue_s": 0.25, "prefill_s": 0.5, "decode_s": 1.0},
    }
    assert (wrong["status"], wrong["error"]) == (400, "unsupported_parameter")
    assert (many["status"], many["error"]) == (429, "rate_limit_exceeded")
