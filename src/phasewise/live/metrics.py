"""What Prometheus reads: vLLM's names where the meaning is vLLM's, and `phasewise_*` for the phases and targets.

Times are as the gateway sees them: a token's is when it is handed to the socket.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from phasewise.core.action import Outcome
from phasewise.live.forms import Choice
from phasewise.live.service import Service, Wanted

_SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
_LONG_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)


class Gaps(Collector):
    """A histogram that is told of every token: the library's own takes a lock and looks at one bucket after the other."""

    def __init__(self, name: str, text: str, model: str, bounds: Sequence[float]) -> None:
        self._name, self._text, self._model, self._bounds = name, text, model, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterable[Metric]:
        """What the library asks for when it writes a page."""
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        buckets = list(zip(names, map(float, accumulate(self._counts)), strict=True))
        family = HistogramMetricFamily(self._name, self._text, labels=["model_name"])
        family.add_metric([self._model], buckets, self._sum)
        return [family]


class Meters:
    """The meters of one gateway, in a registry of its own."""

    def __init__(self, service: Service) -> None:
        self._registry = registry = CollectorRegistry()
        self._service = service
        model = service.model

        def count(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ["model_name", *labels], registry=registry)

        def spread(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, ["model_name", *labels], buckets=buckets, registry=registry)

        def level(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["model_name"], registry=registry).labels(model)

        self._running = level("vllm:num_requests_running", "Requests in execution")
        self._waiting = level("vllm:num_requests_waiting", "Requests in the queue")
        self._kv = level("vllm:kv_cache_usage_perc", "Share of the KV blocks held, 0 to 1")
        self._prompt = count("vllm:prompt_tokens", "Prompt tokens taken").labels(model)
        self._generated = count("vllm:generation_tokens", "Output tokens sent").labels(model)
        # Not counted there yet: a counter of the library's takes a lock.
        self._sent = 0
        self._success = count("vllm:request_success", "Requests that ended well", "finished_reason")
        self._ttft = spread("vllm:time_to_first_token_seconds", "From a request to its first token", _LONG_S).labels(
            model
        )
        self._itl = Gaps("vllm:inter_token_latency_seconds", "Between two tokens of an answer", model, _SHORT_S)
        registry.register(self._itl)
        self._tpot = spread("vllm:request_time_per_output_token_seconds", "Mean of an answer's gaps", _SHORT_S).labels(
            model
        )
        self._e2e = spread("vllm:e2e_request_latency_seconds", "From a request to its last token", _LONG_S).labels(
            model
        )
        self._queue = spread("vllm:request_queue_time_seconds", "In the queue", _LONG_S).labels(model)
        self._prefill = spread("vllm:request_prefill_time_seconds", "In prefill", _LONG_S).labels(model)
        self._decode = spread("vllm:request_decode_time_seconds", "In decode", _LONG_S).labels(model)
        self._http = Counter("phasewise_http_requests", "Answered over HTTP", ["path", "status"], registry=registry)
        self._outcomes = count("phasewise_requests", "Requests by how they ended", "outcome")
        self._phases = count("phasewise_phase_seconds", "Seconds that requests spent in each phase", "phase")
        self._targets = count(
            "phasewise_slo", "Answers with a target of their client's, by whether it was met", "target", "met"
        )

    def answered(self, path: str, status: int) -> None:
        self._http.labels(path, str(status)).inc()

    def taken(self, prompt_tokens: int) -> None:
        self._prompt.inc(prompt_tokens)

    def tokens(self, choice: Choice, count: int, asked_s: float, now_s: float) -> None:
        """`count` tokens of an answer came now, to a request that was made at `asked_s`."""
        self._sent += count
        if choice.first_s is None:
            choice.first_s = now_s
            self._ttft.observe(now_s - asked_s)
        else:
            self._itl.observe(now_s - choice.last_s)
        for _ in range(count - 1):
            self._itl.observe(0)
        choice.last_s = now_s
        choice.tokens += count

    def over(self, choice: Choice, wanted: Wanted, asked_s: float, now_s: float) -> None:
        """An answer is over, whichever way."""
        stream, model = choice.stream, self._service.model
        if stream is None:
            return
        outcome = (
            Outcome.CANCELLED if stream.outcome is Outcome.INSIDE else stream.outcome
        )  # it is told to, and will be
        good = outcome is Outcome.FINISHED
        reason = choice.end or "stop" if good else "abort" if outcome is Outcome.CANCELLED else None
        if reason:
            self._success.labels(model, reason).inc()
        self._outcomes.labels(model, outcome.name.lower()).inc()
        meters = {"queue": self._queue, "prefill": self._prefill, "decode": self._decode}
        for phase, seconds in zip(meters, (stream.queue_s, stream.prefill_s, stream.decode_s), strict=True):
            if seconds is not None:
                meters[phase].observe(seconds)
                self._phases.labels(model, phase).inc(max(0.0, seconds))
        if not good:
            return
        self._e2e.observe(now_s - asked_s)
        first_s = now_s if choice.first_s is None else choice.first_s
        tpot_s = (choice.last_s - first_s) / (choice.tokens - 1) if choice.tokens > 1 else None
        if tpot_s is not None:
            self._tpot.observe(tpot_s)
        if wanted.ttft_s is not None:
            self._met("ttft", first_s - asked_s <= wanted.ttft_s)
        if wanted.tpot_s is not None and tpot_s is not None:
            self._met("tpot", tpot_s <= wanted.tpot_s)

    def page(self) -> bytes:
        """All meters as text."""
        load = self._service.load()
        self._running.set(load.running)
        self._waiting.set(load.waiting)
        self._kv.set(load.kv_usage)
        self._generated.inc(self._sent)
        self._sent = 0
        return generate_latest(self._registry)

    def _met(self, target: str, met: bool) -> None:
        self._targets.labels(self._service.model, target, "yes" if met else "no").inc()
