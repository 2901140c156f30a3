"""Answering one request: its streams started, read, written, counted, and stopped when the client has left.

A choice is read by whoever writes it, so that what came together goes out together and no token has a task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from phasewise.core.action import Outcome
from phasewise.core.errors import InputError
from phasewise.core.stream import Emitted
from phasewise.live import answers
from phasewise.live.errors import ErrorBody, Fault
from phasewise.live.exchange import Exchange, Gone
from phasewise.live.forms import DONE, Choice, Form, encode
from phasewise.live.metrics import Meters
from phasewise.live.service import Reading, Service, Stream, Wanted


class Answering:
    """The answers to one request. `echoes`: the prompts to be shown before them, if any (one for each of `wanted`)."""

    def __init__(
        self,
        exchange: Exchange,
        service: Service,
        meters: Meters,
        clock: Callable[[], float],
        retry_s: float,
        continuous: bool = False,
    ) -> None:
        self._exchange, self._service, self._meters, self._clock, self._retry_s = (
            exchange,
            service,
            meters,
            clock,
            retry_s,
        )
        self._continuous = continuous
        self._wanted: Sequence[Wanted] = ()
        self._choices: list[Choice] = []
        self._prompt_tokens = 0
        self._gone = False
        self._broken: Fault | None = None

    def start(
        self,
        wanted: Sequence[Wanted],
        prompts: int,
        reader: Callable[[], Reading] | None = None,
        echoes: Sequence[str] = (),
    ) -> None:
        """Submit what is wanted, which is so many answers to each of `prompts` prompts."""
        self._wanted = wanted
        self._prompt_tokens = sum(len(w.prompt) for w in wanted[:: len(wanted) // prompts])
        self._meters.taken(self._prompt_tokens)
        for k, wish in enumerate(wanted):
            stream: Stream | None = None
            if wish.max_tokens:
                try:
                    stream = self._service.submit(wish)
                except InputError as error:
                    self.stop()
                    raise Fault(400, str(error), code="rejected") from error
            self._choices.append(Choice(k, stream, reader() if reader else None, echoes[k] if echoes else ""))

    def stop(self) -> None:
        """Free whatever is not over."""
        for stream in self._streams():
            if stream.outcome is Outcome.INSIDE:
                stream.cancel()

    def settle(self) -> None:
        """Count what became of the answers, and tell the log."""
        now_s, streams = self._clock(), self._streams()
        self.stop()
        for choice, wish in zip(self._choices, self._wanted, strict=False):
            self._meters.over(choice, wish, self._exchange.asked_s, now_s)
        firsts = [c.first_s for c in self._choices if c.first_s is not None]
        facts = {
            "requests": [s.request for s in streams],
            "outcomes": [s.outcome.name.lower() for s in streams],
            "prompt_tokens": self._prompt_tokens,
            "output_tokens": self._tokens(),
            "ttft_s": min(firsts) - self._exchange.asked_s if firsts else None,
            "phases": self._usage().phases,
        }
        self._exchange.facts |= facts

    async def whole(self, form: Form) -> None:
        """Answer when all is known."""
        async with _Watch(self):
            done = await asyncio.gather(*(self._collect(choice) for choice in self._choices))
            if self._gone:
                raise Gone
            if self._broken is not None:
                raise self._broken
            body = form.whole(list(zip(self._choices, done, strict=True)), self._usage())
        await self._exchange.answer(200, body)

    async def events(self, form: Form, usage: bool) -> None:
        """Answer while it comes. What is wrong before the first token is a plain error, and later an event."""
        exchange, choices = self._exchange, self._choices
        async with _Watch(self):
            first = await self._next(choices[0])
            if self._gone:
                raise Gone
            if not first and choices[0].end is None:
                raise self._break(choices[0])
            await exchange.begin_events()
            if self._continuous:
                form.tell(self._usage())
            await exchange.events(b"".join([form.opening(choice) for choice in choices]))
            rest = (self._pump(choice, form, None) for choice in choices[1:])
            await asyncio.gather(self._pump(choices[0], form, first), *rest)
            if self._gone:
                raise Gone
            if self._broken is not None:
                exchange.facts["error"] = self._broken.body.error.code
                last = error_event(self._broken.body)
            else:
                last = (form.summary(self._usage()) if usage else b"") + DONE
        await exchange.events(last, last=True)

    async def _pump(self, choice: Choice, form: Form, batch: Sequence[Emitted] | None) -> None:
        """Write one choice to its end."""
        if batch is None:
            batch = await self._next(choice)
        while batch:
            if self._continuous:
                form.tell(self._usage())
            events = form.events(choice, batch)
            if choice.end is not None:
                break
            if events:
                await self._exchange.events(events)
            batch = await self._next(choice)
        else:
            events = b""
        if choice.end is None:
            self._break(choice)
        else:
            await self._exchange.events(events + form.closing(choice))

    async def _collect(self, choice: Choice) -> list[Emitted]:
        """All that comes of one choice."""
        emitted: list[Emitted] = []
        while choice.end is None:
            batch = await self._next(choice)
            if not batch:
                self._break(choice)
                break
            emitted += batch
        return emitted

    async def _next(self, choice: Choice) -> Sequence[Emitted]:
        """The next tokens of a choice, counted; none when it is over."""
        if choice.stream is None:
            return ()
        batch = await choice.stream.more()
        if batch:
            self._meters.tokens(choice, len(batch), self._exchange.asked_s, self._clock())
            choice.end = batch[-1].end
        return batch

    def _break(self, choice: Choice) -> Fault:
        """A choice broke off, and with it the whole answer; returns why the first one did."""
        stream, outcome = choice.stream, choice.stream.outcome if choice.stream else Outcome.FAILED
        if self._broken is None:
            retry_s: float | None = self._retry_s
            if outcome is Outcome.REJECTED:
                status, code, message, retry_s = 400, "rejected", "this request can never be served", None
            elif outcome is Outcome.CANCELLED:
                status, code, message = 503, "stopped", f"the answer was stopped after {choice.tokens} tokens"
            else:
                status, code, message = 503, "failed", f"the answer broke off after {choice.tokens} tokens"
            reason = f": {stream.reason}" if stream and stream.reason else ""
            self._broken = Fault(status, message + reason, code=code, retry_s=retry_s)
            self.stop()
        return self._broken

    def _streams(self) -> list[Stream]:
        return [c.stream for c in self._choices if c.stream is not None]

    def _tokens(self) -> int:
        return sum(c.tokens for c in self._choices)

    def _usage(self) -> answers.Usage:
        return answers.usage(self._prompt_tokens, self._tokens(), self._streams())

    async def left(self) -> None:
        """Wait until the client hangs up, and free what it holds."""
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self.stop()


class _Watch:
    """While it lasts, somebody looks whether the client is still there."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._answering.left())

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def error_event(body: ErrorBody) -> bytes:
    return b"data: " + encode(body) + b"\n\n"
