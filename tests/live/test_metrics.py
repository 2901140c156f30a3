"""The page for Prometheus says what happened, under vLLM's names."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from phasewise.core.action import Outcome
from phasewise.live.metrics import Gaps
from phasewise.live.service import Load
from serving import Board, FakeStream, says


def page(board: Board) -> dict[str, float]:
    """Samples by name and labels, the model's name left out."""
    response = board.ask("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    out = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "model_name"}
            out[sample.name + "".join(f"{{{k}={v}}}" for k, v in sorted(labels.items()))] = sample.value
    return out


def test_what_was_asked_and_answered_is_counted() -> None:
    board = Board(says("abcd"))
    headers = {"x-slo-ttft-ms": "1e8", "x-slo-tpot-ms": "0.000001"}
    board.post("/v1/completions", {"prompt": "123", "stream": True}, headers=headers)
    board.complete("12345", max_tokens=2, n=2)
    board.complete("1", nonsense=True)
    seen = page(board)
    want = {
        "vllm:prompt_tokens_total": 3 + 5,
        "vllm:generation_tokens_total": 4 + 2 + 2,
        "vllm:request_success_total{finished_reason=stop}": 1,
        "vllm:request_success_total{finished_reason=length}": 2,
        "vllm:time_to_first_token_seconds_count": 3,
        "vllm:inter_token_latency_seconds_count": 3 + 1 + 1,
        "vllm:request_time_per_output_token_seconds_count": 3,
        "vllm:e2e_request_latency_seconds_count": 3,
        "vllm:request_queue_time_seconds_sum": 0.75,
        "vllm:request_prefill_time_seconds_sum": 1.5,
        "vllm:request_decode_time_seconds_sum": 3.0,
        "phasewise_phase_seconds_total{phase=prefill}": 1.5,
        "phasewise_requests_total{outcome=finished}": 3,
        "phasewise_slo_total{met=yes}{target=ttft}": 1,
        "phasewise_http_requests_total{path=/v1/completions}{status=200}": 2,
        "phasewise_http_requests_total{path=/v1/completions}{status=400}": 1,
    }
    assert {name: seen.get(name) for name in want} == want


def test_the_load_is_asked_for_when_the_page_is() -> None:
    board = Board()
    board.service.state = Load(3, 2, 0.5)
    seen = page(board)
    names = ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc")
    assert [seen[n] for n in names] == [3, 2, 0.5]


def test_what_breaks_is_no_success() -> None:
    def script(stream: FakeStream) -> None:
        stream.feed("ab")
        stream.close(Outcome.FAILED if stream.request == 0 else Outcome.CANCELLED)

    board = Board(script)
    board.complete()
    board.complete()
    seen = page(board)
    assert seen["phasewise_requests_total{outcome=failed}"] == 1
    assert seen["phasewise_requests_total{outcome=cancelled}"] == 1
    assert seen["vllm:request_success_total{finished_reason=abort}"] == 1
    assert seen["vllm:generation_tokens_total"] == 4
    assert seen["vllm:e2e_request_latency_seconds_count"] == 0


def test_gaps_are_counted_as_the_librarys_own_histogram_counts_them() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bounds = (0.001, 0.5, 1.0, 2.5)
    gaps = Gaps("gap_seconds", "Between two.", "tiny", bounds)
    ours.register(gaps)
    each = Histogram("gap_seconds", "Between two.", ["model_name"], buckets=bounds, registry=theirs).labels("tiny")
    for value in (0.0, 0.001, 0.0011, 0.5, 0.75, 1.0, 2.5, 2.6, 1e9):
        gaps.observe(value)
        each.observe(value)
    want = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == want
