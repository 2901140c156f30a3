"""One request over HTTP and its answer: headers in, a body within limits, an answer whole or in pieces, a line in the log."""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from phasewise.live.errors import Fault
from phasewise.live.limits import Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

GONE = 499  # the status in the log of a request whose client left before it was answered
_ID = re.compile(r"[!-~]{1,128}")


class Gone(Exception):
    """The client hung up."""


class Exchange:
    """`facts` are what the log says of it, never a text or a key. `status` is None until the answer begins."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, now_s: float) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self.asked_s = now_s
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.status: int | None = None
        self.facts: dict[str, Any] = {}
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        told = self.header("x-request-id")
        self.id = told if told and _ID.fullmatch(told) else os.urandom(12).hex()

    def header(self, name: str) -> str | None:
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def target_s(self, name: str) -> float | None:
        """Seconds, from a header that has milliseconds."""
        text = self.header(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < 1e9:
            raise Fault(400, f"the header '{name}' is not a positive number of milliseconds", name, "invalid_value")
        return value / 1000

    async def body(self, limits: Limits) -> bytes:
        """The whole body."""
        if self.header("content-encoding") not in (None, "", "identity"):
            raise Fault(415, "compressed bodies are not read; send it as it is", "content-encoding")
        most, length = limits.body_bytes, self.header("content-length")
        if length and length.isdecimal() and len(length) < 20 and int(length) > most:
            raise _too_large(most)
        parts, size = [], 0
        try:
            async with asyncio.timeout(limits.body_s):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    part = message.get("body", b"")
                    parts.append(part)
                    size += len(part)
                    if size > most:
                        raise _too_large(most)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise Fault(408, f"the body did not come within {limits.body_s:g} s") from None

    async def answer(
        self, status: int, body: bytes, media: str = "application/json", more: Mapping[str, str] | None = None
    ) -> None:
        """A whole answer."""
        await self._begin(status, [("content-type", media), ("content-length", str(len(body))), *(more or {}).items()])
        await self._send({"type": "http.response.body", "body": body})

    async def fault(self, fault: Fault, more: Mapping[str, str] | None = None) -> None:
        """An error for an answer."""
        headers = dict(more or {})
        if fault.retry_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(fault.retry_s)))
        if fault.status == 401:
            headers["www-authenticate"] = "Bearer"
        if fault.status == 408:
            headers["connection"] = "close"
        self.facts["error"] = fault.body.error.code or fault.body.error.type
        await self.answer(fault.status, fault.encoded(), more=headers)

    async def begin_events(self) -> None:
        """The head of an answer that comes in events."""
        headers = [
            ("content-type", "text/event-stream; charset=utf-8"),
            ("cache-control", "no-cache"),
            ("x-accel-buffering", "no"),
        ]
        await self._begin(200, headers)

    async def events(self, events: bytes, last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": events, "more_body": not last})

    async def _begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.status = status
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in (*headers, ("x-request-id", self.id))]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})


def _too_large(most: int) -> Fault:
    return Fault(413, f"the body is larger than {most} bytes", code="body_too_large")
