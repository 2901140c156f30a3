"""The gateway on a socket, until a signal: then no new requests, the streams finished within a time, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import uvicorn

from phasewise.core.errors import InputError
from phasewise.live.gateway import Gateway
from phasewise.live.service import Service
from phasewise.live.sockets import guarded

_LOG = logging.getLogger("phasewise.live")
_ENDS = (signal.SIGTERM, signal.SIGINT)
_LAST_S = 2  # for what was cancelled at the end of a drain to say so to its clients


class Ends(NamedTuple):
    """How a service is told to end: `stop` takes no more and finishes what is inside, `hurry` ends that too."""

    stop: asyncio.Event
    hurry: asyncio.Event


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to us and says when it has begun."""

    def __init__(self, config: uvicorn.Config, begun: Callable[[], None]) -> None:
        super().__init__(config)
        self._begun = begun

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begun()


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on (they wait until somebody serves). Port 0: any that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise InputError(f"cannot listen there: {error.strerror or error}", f"{host}:{port}") from error
    return listener


async def serve(
    gateway: Gateway,
    service: Service,
    listener: socket.socket,
    ends: Ends,
    drain_s: float = 30.0,
    begun: Callable[[], None] = lambda: None,
) -> None:
    """Serve until told to stop, then for at most `drain_s`, or until told to hurry.

    `begun` is called when requests are answered.
    """
    limits = gateway.limits
    config = uvicorn.Config(
        gateway,
        http=guarded(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=math.ceil(limits.idle_s),
        timeout_graceful_shutdown=_LAST_S,
    )
    server = _Server(config, begun)
    stop, hurry = ends
    serving = asyncio.create_task(server.serve([listener]))
    await first(serving, stop)
    if stop.is_set():
        load = service.load()
        inside = load.waiting + load.running
        _LOG.info("told to stop; %d requests are inside and have %g s to finish", inside, drain_s)
    draining = asyncio.create_task(service.drain(drain_s))
    await first(draining, hurry)
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)
    if hurry.is_set():
        await service.drain(0.0)
    server.should_exit = True
    await serving


async def first(task: asyncio.Task[None], event: asyncio.Event) -> None:
    """Wait for a task or an event."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


@contextlib.contextmanager
def signalled() -> Iterator[Ends]:
    """SIGTERM and SIGINT as events, on the main thread only, where they can be looked at."""
    ends = Ends(asyncio.Event(), asyncio.Event())
    if threading.current_thread() is not threading.main_thread():
        yield ends
        return
    loop = asyncio.get_running_loop()
    for number in _ENDS:
        loop.add_signal_handler(number, lambda: (ends.hurry if ends.stop.is_set() else ends.stop).set())
    try:
        yield ends
    finally:
        for number in _ENDS:
            loop.remove_signal_handler(number)
