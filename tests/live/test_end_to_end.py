"""The whole of it, from outside: processes, sockets, signals; the modelled executor at its own pace, and the built-in model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from prometheus_client.parser import text_string_to_metric_families
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error

from phasewise.control.replay import replay
from phasewise.core.action import Forget
from phasewise.core.event import StepDone
from phasewise.core.message import Cancel, Cancelled
from phasewise.live.openapi import description
from phasewise.record.runlog import RunLog
from phasewise.sim.paced import WORDS, _mixed
from running import Asked, Running

MODEL = "SmolLM2-135M-Instruct"
LITELLM = """
import json, sys, litellm
asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "extra_body": {"ignore_eos": True}}
asked |= {"model": "openai/SmolLM2-135M-Instruct", "api_base": sys.argv[1], "api_key": "any"}
parts = litellm.completion(**asked).choices[0].message.content, litellm.completion(**asked, stream=True)
print(json.dumps([parts[0], "".join(part.choices[0].delta.content or "" for part in parts[1])]))
"""
HI = [{"role": "user", "content": "What is the capital of France?"}]
VLLM = {
    *("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:prompt_tokens"),
    *("vllm:generation_tokens", "vllm:request_success", "vllm:time_to_first_token_seconds"),
    *("vllm:inter_token_latency_seconds", "vllm:request_time_per_output_token_seconds"),
    *("vllm:e2e_request_latency_seconds", "vllm:request_queue_time_seconds", "vllm:request_prefill_time_seconds"),
    "vllm:request_decode_time_seconds",
}


def said(request: int, tokens: int) -> str:
    """What the modelled executor answers."""
    return "".join(f" {WORDS[_mixed(0, request, k) % len(WORDS)]}" for k in range(1, tokens + 1))


def stopped(server: Running, folder: Path, answers: int) -> RunLog:
    """Ends a server in peace; its log replays, and has so many answers that were finished."""
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert [path.name for path in folder.iterdir()] == ["run.log"]
    log = RunLog.read(folder / "run.log")
    assert replay(log) == log.events
    assert log.summary["completed"] == answers
    return log


# --- modelled


def test_clients_of_a_modelled_service(tmp_path: Path) -> None:
    with Running(tmp_path, "--modelled", "--log", "run.log") as server:
        assert server.http.get("/ready").json() == {"status": "ready"}
        whole = server.openai.chat.completions.create(model=MODEL, messages=HI, max_tokens=9)  # type: ignore[arg-type]
        assert whole.choices[0].message.content == said(0, whole.usage.completion_tokens)  # type: ignore[union-attr]
        assert Asked(server, 20).over().text == said(1, 20)
        # In a process of its own: it warns of itself.
        command = [sys.executable, "-c", LITELLM, f"{server.url}/v1"]
        environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        texts = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout
        assert json.loads(texts.splitlines()[-1]) == [said(2, 9), said(3, 9)]
        assert server.meter("vllm:request_success_total") == 4
        log = stopped(server, tmp_path, 4)
    assert log.header.workload["requests"] == 4
    told = [line for line in server.lines() if line.get("path") == "/v1/completions"]
    assert [(line["status"], line["requests"], line["outcomes"]) for line in told] == [(200, [1], ["finished"])]
    assert "run.log" in server.lines()[-1]["message"]


def test_who_leaves_holds_no_block_after_the_step(tmp_path: Path) -> None:
    with Running(tmp_path, "--modelled", "--log", "run.log") as server:
        body = {"prompt": "Once upon a time", "max_tokens": 8000, "ignore_eos": True, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
        server.hear(lambda line: '"outcomes":["cancelled"]' in line)
        while server.meter("vllm:num_requests_running") or server.meter("vllm:kv_cache_usage_perc"):
            assert server.process.poll() is None
        assert Asked(server, 5).over().reason == "length"
        log = stopped(server, tmp_path, 1)
    records = list(log.records(1))
    at = next(k for k, (_, event, _) in enumerate(records) if isinstance(event, Cancel))
    # The run that it met is the last one: nothing is planned in between.
    _, done, actions = next(record for record in records[at + 1 :] if record[2])
    assert isinstance(done, StepDone)
    assert Forget(0) in actions
    assert any(isinstance(action, Cancelled) for action in actions)


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    with Running(tmp_path, "--modelled", "--log", "run.log") as server:
        answers = [Asked(server, 400) for _ in range(4)]
        heard = len(server.said)
        os.kill(server.workers()[0], signal.SIGKILL)
        server.hear(lambda line: "replica 0 serves" in line, heard)
        assert len(set(server.workers())) == 2
        for answer in answers:
            assert answer.over().error is None
            assert answer.reason == "length"
        assert {answer.text for answer in answers} == {said(k, 400) for k in range(4)}
        log = stopped(server, tmp_path, 4)
    assert list(log.tables.requests["attempts"]) == [1, 1, 1, 1]


def test_a_drain_finishes_what_is_inside(tmp_path: Path) -> None:
    with Running(tmp_path, "--modelled", "--log", "run.log") as server:
        answer = Asked(server, 500)
        server.signal(signal.SIGTERM)
        server.hear(lambda line: "told to stop; 1 requests are inside" in line)
        late = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x"})
        assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")
        assert int(late.headers["retry-after"]) >= 1
        assert server.http.get("/ready").json() == {"status": "draining"}
        assert answer.over().text == said(0, 500)
        assert server.ended() == 0
    log = RunLog.read(tmp_path / "run.log")
    assert log.summary["completed"] == 1
    assert replay(log) == log.events


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(number: signal.Signals, tmp_path: Path) -> None:
    with Running(tmp_path, "--modelled", "--log", "run.log") as server:
        answer = Asked(server, 8000)
        server.signal(number)
        server.hear(lambda line: "told to stop" in line)
        server.signal(number)
        assert server.ended() == 0
        assert answer.over().reason is None
        assert isinstance(answer.error, openai.APIError)
        assert "the answer was stopped after" in answer.error.message
    log = RunLog.read(tmp_path / "run.log")
    assert log.summary["completed"] == 0
    assert replay(log) == log.events


def test_the_gateway_is_killed(tmp_path: Path) -> None:
    """Nobody is left, and what was written of the log is found by the next one."""
    with Running(tmp_path, "--modelled", "--log", "run.log") as server:
        Asked(server, 20).over()
        Asked(server, 8000)
        server.signal(signal.SIGKILL)
        assert server.ended() == -signal.SIGKILL
    with Running(tmp_path, "--modelled", "--log", "run.log") as server:
        server.hear(lambda line: "an earlier run was cut short" in line)
        server.signal(signal.SIGINT)
        assert server.ended() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.log", "run.log.1"]
    cut = RunLog.read(tmp_path / "run.log.1")
    assert replay(cut) == cut.events
    assert cut.summary["completed"] == 1


def test_whatever_is_asked_of_it_is_no_fault_of_the_server(tmp_path: Path) -> None:
    schema = schemathesis.openapi.from_dict(description(MODEL, locked=False))
    posts = [result.ok() for result in schema.get_all_operations() if result.ok().method == "post"]
    with Running(tmp_path, "--modelled") as server:
        for operation in posts:
            for mode in GenerationMode:

                @seed(7)
                @settings(
                    max_examples=8,
                    deadline=None,
                    database=None,
                    phases=(Phase.generate,),
                    suppress_health_check=list(HealthCheck),
                )
                @given(operation.as_strategy(generation_mode=mode))
                def looks(case: Case) -> None:
                    if isinstance(case.body, dict):
                        case.body["max_tokens"] = 3  # the model takes its time over each
                    case.call_and_validate(base_url=server.url, checks=[not_a_server_error])

                looks()
        assert server.http.get("/ready").status_code == 200
        assert not [line for line in server.lines() if "exception" in line]


# --- the built-in model


class City(msgspec.Struct, forbid_unknown_fields=True):
    city: str
    inhabitants: int


CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "inhabitants": {"type": "integer", "maximum": 99999999},
    },
    "required": ["city", "inhabitants"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Of its own cache, which is thrown away."""
    folder = tmp_path_factory.mktemp("real")
    flags = "--dtype", "float32", "--threads", "1", "--kv-gib", "0.1", "--log", "run.log"
    with Running(folder, *flags, XDG_CACHE_HOME=str(folder / "cache")) as server:
        yield server
        shutil.rmtree(folder / "cache")
        stopped(server, folder, int(server.meter("vllm:request_success_total")))


def test_it_speaks(real: Running) -> None:
    ask = {"model": MODEL, "messages": HI, "temperature": 0, "max_tokens": 24, "logprobs": True, "top_logprobs": 2}
    whole = real.openai.chat.completions.create(**ask)  # type: ignore[call-overload]
    assert "Paris" in whole.choices[0].message.content
    parts = list(real.openai.chat.completions.create(**ask, stream=True))  # type: ignore[call-overload]
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content
    told = whole.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in told).decode().startswith(whole.choices[0].message.content)
    for token in told:
        assert token.logprob == max(top.logprob for top in token.top_logprobs) <= 0
        assert len(token.top_logprobs) == 2


def test_it_draws_by_seeds(real: Running) -> None:
    def drawn(**more: int) -> list[str | None]:
        done = real.openai.chat.completions.create(model=MODEL, messages=HI, max_tokens=12, **more)  # type: ignore[call-overload]
        return [choice.message.content for choice in done.choices]

    both = drawn(n=2, seed=5)
    assert both[0] != both[1]
    assert both == drawn(n=2, seed=5)
    assert both == drawn(seed=5) + drawn(seed=6)


def test_it_follows_a_schema_and_calls_a_tool(real: Running) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    done = real.openai.chat.completions.create(
        model=MODEL,
        messages=HI,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=100,
        response_format=form,  # type: ignore[arg-type]
    )
    msgspec.json.decode(done.choices[0].message.content or "", type=City)
    tool = {"type": "function", "function": {"name": "tell", "parameters": CITY}}
    called = real.openai.chat.completions.create(
        model=MODEL,
        messages=HI,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=100,
        tools=[tool],  # type: ignore[list-item]
        tool_choice={"type": "function", "function": {"name": "tell"}},
    )
    (call,) = called.choices[0].message.tool_calls or ()
    assert call.function.name == "tell"  # type: ignore[union-attr]
    msgspec.json.decode(call.function.arguments, type=City)  # type: ignore[union-attr]
    assert json.loads(call.function.arguments)["city"]  # type: ignore[union-attr]


def test_answers_go_on_after_their_process_died(real: Running) -> None:
    wishes: list[dict[str, int]] = [{"temperature": 0}, {"seed": 3}]
    undisturbed = [answer.over().text for answer in [Asked(real, 40, **wish) for wish in wishes]]
    answers = [Asked(real, 40, **wish) for wish in wishes]
    assert all(answer.is_alive() for answer in answers)
    os.kill(real.workers()[-1], signal.SIGKILL)
    assert [answer.over().error for answer in answers] == [None, None]
    assert [answer.text for answer in answers] == undisturbed
    assert len(set(real.workers())) == 2


def test_what_prometheus_reads(real: Running) -> None:
    families = {family.name: family for family in text_string_to_metric_families(real.http.get("/metrics").text)}
    assert families.keys() >= VLLM
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "serve.md").read_text()
    told = {name.removesuffix("_total") for name in re.findall(r"`((?:vllm:|phasewise_)\w+)(?:{.*?})?`", guide)}
    assert told == {name for name in families if not name.endswith("_created")}
    assert {sample.labels["model_name"] for sample in families["vllm:generation_tokens"].samples} == {MODEL}
