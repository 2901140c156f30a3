"""One connection, guarded: heads that are too long or too slow, clients that do not read, and what is no HTTP at all.

uvicorn leaves these to a proxy in front of it. A refusal has OpenAI's shape where there is still somebody to read it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from phasewise.live.errors import Fault
from phasewise.live.limits import Limits


class _TooLong(Exception):
    """The head of a request is longer than it may be."""


class Guarded(HttpToolsProtocol):
    """uvicorn's protocol with a deadline for heads and for reading, and a limit to the size of heads."""

    limits = Limits()
    _late_head: asyncio.TimerHandle | None = None
    _late_read: asyncio.TimerHandle | None = None
    _head = 0
    _fault: Fault | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late_head = self.loop.call_later(self.limits.head_s, self._abort)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._late_head, self._late_read):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._late_head is None and (self.cycle is None or self.cycle.response_complete):
            self._late_head = self.loop.call_later(self.limits.head_s, self._abort)
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._late_head is not None:
            self._late_head.cancel()
            self._late_head = None
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._late_read = self.loop.call_later(self.limits.stall_s, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._late_read is not None:
            self._late_read.cancel()
            self._late_read = None

    def timeout_keep_alive_handler(self) -> None:
        self._abort()

    def send_400_response(self, msg: str) -> None:
        """Instead of uvicorn's plain text."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an answer is under way: nothing can be said between its parts
            return
        fault = self._fault or Fault(400, "this is not a valid HTTP/1.1 request", code="invalid_http")
        body = fault.encoded()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[fault.status] + head + body)
        self.transport.close()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self.limits.head_bytes:
            self._fault = Fault(
                431, f"the head of the request is longer than {self.limits.head_bytes} bytes", code="head_too_large"
            )
            raise _TooLong

    def _abort(self) -> None:
        """End it now: a close would first wait for the client to read what is left."""
        self.transport.abort()


def guarded(limits: Limits) -> type[Any]:
    """The protocol with these limits."""
    return type("Guarded", (Guarded,), {"limits": limits})
