"""The wire between the gateway and a worker: what travels on it, and how.

Control messages and the data path share one connection, so that the order in which they were sent is kept: `Work` is there
before its `Submit`, a step's tokens before word of its end. It does not know what a message means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import zmq

from phasewise.core.message import Down, Up
from phasewise.core.stream import Emitted, Work


class Quit(msgspec.Struct, frozen=True, array_like=True, tag=70):
    """Down: write everything down and exit; nobody is inside any more."""


class Burst(msgspec.Struct, frozen=True, array_like=True, tag=71):
    """Up: an iteration of `run` is over, at `at_ns` and after `took_ns`; its tokens.

    `begun` are the attempts whose first chunk it was asked to run: `(request, epoch, at_ns)`, when. `free` blocks were free in
    the books then.
    """

    run: int
    at_ns: int
    took_ns: int
    free: int
    tokens: list[Emitted]
    begun: list[tuple[int, int, int]] = []


class Standing(msgspec.Struct, frozen=True, array_like=True, tag=72):
    """Up: nothing runs now, and so many blocks are free."""

    free: int


class Fell(msgspec.Struct, frozen=True, array_like=True, tag=73):
    """Up: the worker cannot go on, for `reason`. `wrong`: what it was given cannot be served, and would not be next time."""

    reason: str
    wrong: bool = False


ToWorker = Work | Down | Quit
ToGateway = Burst | Up | Standing | Fell

_encode = msgspec.msgpack.Encoder().encode
_LINGER_MS = 1_000  # how long a process that exits waits for its last words to be on their way


class Wire:
    """One end of the connection. Nothing here waits; `fd` becomes readable when there may be something to do.

    It does so once for whatever has come since the wire was last looked at: ask `readable` before sleeping on it, and after
    every `send`.
    """

    def __init__(self, socket: zmq.Socket[bytes], kind: Any) -> None:
        self._socket = socket
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self.fd = int(socket.getsockopt(zmq.FD))

    @property
    def readable(self) -> bool:
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def send(self, message: Any) -> None:
        """Put a message under way. To one who is gone it is lost."""
        try:
            self._socket.send(_encode(message), zmq.NOBLOCK, copy=True)
        except zmq.Again:
            return

    def receive(self) -> Iterator[Any]:
        """All messages that are here."""
        socket, decode = self._socket, self._decode
        while True:
            try:
                frame = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield decode(frame)

    def close(self, linger_ms: int = _LINGER_MS) -> None:
        """Hang up; what is still to be sent has so long to go."""
        self._socket.close(linger_ms)


def listen(context: zmq.Context[Any], address: str) -> Wire:
    """The gateway's end of the wire to one worker."""
    socket = _socket(context)
    socket.bind(address)
    return Wire(socket, ToGateway)


def connect(context: zmq.Context[Any], address: str) -> Wire:
    """The worker's end."""
    socket = _socket(context)
    socket.connect(address)
    return Wire(socket, ToWorker)


def _socket(context: zmq.Context[Any]) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    # No bounds: a full queue would make a step wait. What may be inside is bounded at the door.
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    return socket
