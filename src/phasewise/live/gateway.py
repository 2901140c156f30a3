"""The gateway: an ASGI application with OpenAI's endpoints over a `Service`.

It knows paths, keys, order of checks and what each endpoint answers. Everything that can go wrong ends as an error in OpenAI's
shape; an exception that nobody foresaw too, with what it was (but no text of anybody's) in the log.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import msgspec

from phasewise.live import answers
from phasewise.live.answering import Answering, error_event
from phasewise.live.asking import Asker
from phasewise.live.bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from phasewise.live.errors import Fault, malformed, too_deep
from phasewise.live.exchange import GONE, Exchange, Gone, Receive, Scope, Send
from phasewise.live.forced import NamedReading, RequiredReading
from phasewise.live.forms import ChatForm, Form, TextForm, encode
from phasewise.live.limits import Door, Limits
from phasewise.live.metrics import Meters
from phasewise.live.openapi import description
from phasewise.live.service import Reading, Service, Tools

B = TypeVar("B")
Handler = Callable[[Exchange], Awaitable[None]]
_BODIES = (ChatBody, CompletionBody, TokenizeBody, DetokenizeBody)
_FIELDS: dict[type, list[str]] = {kind: [f.name for f in msgspec.structs.fields(kind)] for kind in _BODIES}
_DECODERS: dict[type, Callable[[bytes], Any]] = {kind: msgspec.json.Decoder(kind).decode for kind in _BODIES}
_METRICS_MEDIA = "text/plain; version=0.0.4; charset=utf-8"


def to_stderr(line: bytes) -> None:
    sys.stderr.buffer.write(line + b"\n")
    sys.stderr.buffer.flush()


class Gateway:
    """Speaks HTTP for `service`. `tools` reads the model's calls of tools (None: it has no way of its own to write them).

    `log` takes a line of JSON for each request; `clock` tells seconds of any origin.
    """

    def __init__(
        self,
        service: Service,
        tools: Tools | None = None,
        keys: Iterable[str] = (),
        limits: Limits = Limits(),
        log: Callable[[bytes], None] = to_stderr,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._service, self._tools, self._log, self._clock = service, tools, log, clock
        self._door = Door(keys, limits, clock())
        self._asker = Asker(service, limits)
        self._meters = Meters(service)
        self._born = int(time.time())
        self._description = encode(description(service.model, self._door.locked))
        self._routes: dict[str, dict[str, Handler]] = {
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completions},
            "/v1/models": {"GET": self._models},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
            "/health": {"GET": self._health},
            "/ready": {"GET": self._ready},
            "/metrics": {"GET": self._metrics},
            "/openapi.json": {"GET": self._openapi},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the gateway does not speak {scope['type']}")
        exchange = Exchange(scope, receive, send, self._clock())
        methods = self._routes.get(exchange.path)
        try:
            await self._serve(exchange, methods)
        except Gone:
            exchange.facts["gone"] = True
            exchange.status = exchange.status or GONE
        except Exception as error:
            await self._unforeseen(exchange, error)
        finally:
            # A path that is none of ours may be anything, a text or a key included.
            self._done(exchange, exchange.path if methods else "other")

    async def _serve(self, exchange: Exchange, methods: dict[str, Handler] | None) -> None:
        try:
            if methods is None:
                raise Fault(
                    404, f"there is nothing here; the endpoints are {', '.join(self._routes)}", code="unknown_path"
                )
            handler = methods.get(exchange.method)
            if handler is None:
                allow = ", ".join(methods)
                fault = Fault(405, f"this endpoint takes {allow}, not {exchange.method}", code="method_not_allowed")
                await exchange.fault(fault, {"allow": allow})
                return
            await handler(exchange)
        except Fault as fault:
            await exchange.fault(fault)
        except RecursionError:
            if exchange.status is not None:
                raise
            await exchange.fault(too_deep())

    async def _unforeseen(self, exchange: Exchange, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        exchange.facts["exception"] = type(error).__name__
        exchange.facts["frames"] = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames]
        fault = Fault(
            500, f"the server made a mistake; its log tells more under request id {exchange.id}", code="internal_error"
        )
        if exchange.status is None:
            await exchange.fault(fault)
        else:
            await exchange.events(error_event(fault.body), last=True)

    def _done(self, exchange: Exchange, path: str) -> None:
        status = exchange.status or GONE
        self._meters.answered(path, status)
        total_s = self._clock() - exchange.asked_s
        line = {
            "at": round(time.time(), 3),
            "id": exchange.id,
            "method": exchange.method,
            "path": path,
            "status": status,
        }
        self._log(encode(line | {"total_s": round(total_s, 6)} | exchange.facts))

    def _enter(self, exchange: Exchange) -> int:
        who = self._door.who(exchange.header("authorization"))
        if who >= 0:
            exchange.facts["key"] = who
        return who

    async def _read(self, exchange: Exchange, kind: type[B]) -> B:
        """The body, decoded and for a model that is here."""
        raw = await exchange.body(self.limits)
        try:
            body = _DECODERS[kind](raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise malformed(error, _FIELDS[kind]) from error
        self._asker.known(body.model)
        return body  # type: ignore[no-any-return]

    async def _chat(self, exchange: Exchange) -> None:
        self._door.admit(self._enter(exchange), self._service, self._clock())
        body = await self._read(exchange, ChatBody)
        reader = self._reader(body)
        wanted = await self._asker.chat(body, _targets(exchange))
        told = any(w.sampling.logprobs is not None for w in wanted)
        each = bool(body.stream_options and body.stream_options.include_usage)
        form = ChatForm(
            f"chatcmpl-{exchange.id}", int(time.time()), self._service.model, self._service.text, each, told
        )
        answering = self._answering(exchange, body)
        await self._answer(answering, form, bool(body.stream), each, partial(answering.start, wanted, 1, reader))

    async def _completions(self, exchange: Exchange) -> None:
        self._door.admit(self._enter(exchange), self._service, self._clock())
        body = await self._read(exchange, CompletionBody)
        wanted = await self._asker.completions(body, _targets(exchange))
        prompts = len(wanted) // (body.n or 1)
        echoes = [self._service.text.decode(w.prompt) for w in wanted] if body.echo else []
        each = bool(body.stream_options and body.stream_options.include_usage)
        id = f"cmpl-{exchange.id}"
        form = TextForm(id, int(time.time()), self._service.model, each, body.logprobs is not None)
        answering = self._answering(exchange, body)
        await self._answer(
            answering, form, bool(body.stream), each, partial(answering.start, wanted, prompts, None, echoes)
        )

    def _answering(self, exchange: Exchange, body: ChatBody | CompletionBody) -> Answering:
        continuous = bool(body.stream_options and body.stream_options.continuous_usage_stats)
        return Answering(exchange, self._service, self._meters, self._clock, self.limits.retry_s, continuous)

    async def _answer(
        self, answering: Answering, form: Form, stream: bool, usage: bool, start: Callable[[], None]
    ) -> None:
        try:
            start()
            await (answering.events(form, usage) if stream else answering.whole(form))
        finally:
            answering.settle()

    def _reader(self, body: ChatBody) -> Callable[[], Reading] | None:
        """What reads the answers for calls of tools."""
        choice = body.tool_choice
        if choice == "required":
            return RequiredReading
        if choice not in (None, "none", "auto"):
            return partial(NamedReading, choice.function.name)  # type: ignore[union-attr]
        if not body.tools or choice == "none":
            return None
        if self._tools is None:
            message = "this model calls no tools of itself; use tool_choice 'required' or name one"
            raise Fault(400, message, "tools", "unsupported_parameter")
        return partial(self._tools, [tool.function.name for tool in body.tools])

    async def _models(self, exchange: Exchange) -> None:
        self._enter(exchange)
        model = answers.Model(self._service.model, self._born, self._service.max_context)
        await exchange.answer(200, encode(answers.Models([model])))

    async def _tokenize(self, exchange: Exchange) -> None:
        self._enter(exchange)
        tokens = await self._asker.tokens(await self._read(exchange, TokenizeBody))
        await exchange.answer(200, encode(answers.Tokens(len(tokens), self._service.max_context, tokens)))

    async def _detokenize(self, exchange: Exchange) -> None:
        self._enter(exchange)
        body = await self._read(exchange, DetokenizeBody)
        vocabulary = self._service.text.vocab
        if body.tokens and max(body.tokens) >= vocabulary:
            raise Fault(400, f"token {max(body.tokens)} is not one of the model's {vocabulary}", "tokens")
        await exchange.answer(200, encode(answers.Detokenized(self._service.text.decode(body.tokens))))

    async def _health(self, exchange: Exchange) -> None:
        await exchange.answer(200, encode(answers.State("ok")))

    async def _ready(self, exchange: Exchange) -> None:
        service = self._service
        state = answers.State("draining" if service.draining else "ready" if service.ready else "starting")
        await exchange.answer(200 if state.status == "ready" else 503, encode(state))

    async def _metrics(self, exchange: Exchange) -> None:
        await exchange.answer(200, self._meters.page(), _METRICS_MEDIA)

    async def _openapi(self, exchange: Exchange) -> None:
        await exchange.answer(200, self._description)


def _targets(exchange: Exchange) -> dict[str, Any]:
    return {"ttft_s": exchange.target_s("x-slo-ttft-ms"), "tpot_s": exchange.target_s("x-slo-tpot-ms")}
