"""What the gateway adds to a token: from its emission by the worker to its bytes in a client, which is another process.

    python bench/gateway.py [--streams 200,500] [--replicas 1,4,8] [--seconds 20]

The server is that of `phasewise serve --modelled`, with a step of 50 ms whatever the batch, so that each stream has 20 tokens a
second. Every token's text is the instant at which its iteration was over in the worker, by the clock that all processes of a
machine share; the client reads it beside the instant at which it had the bytes. With one replica all streams have their
tokens at the same instant, which is the worst that can happen; several are out of step with one
another. `bare` is a process that does no more than send as many bytes at once to as many sockets: no gateway is faster.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import select
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from server import Server, children, cpu_s, request

from phasewise.control.ports import Engine, EngineFactory, Place
from phasewise.core.event import StepDone
from phasewise.core.stream import Emitted

RATE = 20
MARK_MS = 1.0
DEPLOYMENT = """
model: meta-llama/Llama-3.1-8B
replicas: [{{device: h100, count: {replicas}}}]
batcher: {{name: vllm-v1, token_budget: 4096, max_seqs: 1024}}
latency: {latency}
"""
LATENCY = """
kind: linear
source: a step of 50 ms, whatever is in it
prefill: {step_us: 1000}
decode: {step_us: 50000}
"""


@dataclass(frozen=True)
class Stamping:
    """Another factory's engine, whose tokens say when they came and their index in place of a text."""

    inner: EngineFactory

    def __call__(self, place: Place) -> Stamper:
        held: list[Emitted] = []
        return Stamper(self.inner(place._replace(emit=held.append)), held, place)


class Stamper:
    """The engine: what it emits is held back until its iteration is over."""

    def __init__(self, inner: Engine, held: list[Emitted], place: Place) -> None:
        self._inner, self._held, self._emit = inner, held, place.emit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def advance(self) -> StepDone | None:
        done = self._inner.advance()
        stamp = f"{time.monotonic_ns()} "
        for token in self._held:
            text = stamp + str(token.index)
            self._emit(Emitted(token.request, token.epoch, token.index, token.token, text, (), token.end))
        self._held.clear()
        return done


def host(deployment: str) -> None:
    """The server's process: `phasewise serve`, but that its engines stamp."""
    from gateway import Stamping  # by a name that a worker can import, which this script's own is not

    import phasewise.cli.serve as command
    from phasewise.cli.entry import main

    served = command.served

    def stamping(*args: Any, **kwargs: Any) -> Any:
        found = served(*args, **kwargs)
        return found._replace(factory=Stamping(found.factory))

    command.served = stamping
    sys.exit(main(["serve", deployment, "--modelled", "--port", "0", "--drain", "0"]))


def bare(streams: int, bursts: int, tokens: int) -> None:
    """A server that does nothing but send: as many bytes, to as many sockets, in so many bursts each 50 ms."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", file=sys.stderr, flush=True)
    connections = []
    for _ in range(streams):
        connections.append(listener.accept()[0])
        connections[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    begun = time.monotonic()
    for index in range(tokens):
        for k in range(bursts):
            time.sleep(max(0.0, begun + (index + k / bursts) / RATE - time.monotonic()))
            event = {"choices": [{"text": f"{time.monotonic_ns()} {index}"}], "as": "in an event of the gateway's" * 4}
            piece = b"data: " + json.dumps(event).encode() + b"\n\n"
            for connection in connections[k::bursts]:
                connection.send(piece)
    for connection in connections:
        connection.send(b"data: [DONE]\n\n")
        connection.close()


@dataclass
class Told:
    """One stream as its client had it: pieces of bytes, and when."""

    asked: socket.socket
    pieces: list[tuple[int, bytes]]
    over: bool = False

    def tokens(self) -> list[tuple[int, int, int]]:
        """Index, when emitted and when read, of each token."""
        out, rest = [], b""
        for at_ns, piece in self.pieces:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data: {"):
                    text = json.loads(line[6:])["choices"][0]["text"]
                    if text:
                        stamp, index = text.split()
                        out.append((int(index), int(stamp), at_ns))
        return out

    @property
    def whole(self) -> bool:
        """Whether it was told that this is the end."""
        return b"data: [DONE]" in b"".join(piece for _, piece in self.pieces[-3:])


def ask(port: int, streams: int, tokens: int, bursts: int = 1) -> tuple[list[Told], float]:
    """All streams together, read as their bytes come; and the seconds from the first question to the last answer.

    The first `bursts` of them begin apart from one another, and with them the steps of as many replicas, asked in turn.
    """
    body = {"prompt": "how late?", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    asked, told, poll = request("/v1/completions", body), [], select.epoll()
    begun = time.perf_counter()
    for k in range(streams):
        time.sleep(1 / RATE / bursts if 0 < k < bursts else 0.0)
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(asked)
        connection.setblocking(False)
        told.append(Told(connection, []))
        poll.register(connection, select.EPOLLIN)
    by = {each.asked.fileno(): each for each in told}
    clock = time.monotonic_ns
    gc.collect()
    gc.disable()  # a client that stops to sweep would read late
    while by:
        for fd, _ in poll.poll():
            each = by[fd]
            try:
                piece = each.asked.recv(65536)
            except ConnectionResetError:
                piece = b""
            each.pieces.append((clock(), piece))
            if not piece:
                poll.unregister(fd)
                each.asked.close()
                del by[fd]
    gc.enable()
    return told, time.perf_counter() - begun


def unaided(streams: int, bursts: int, seconds: float) -> tuple[str, ...]:
    """A row of the table for the bare server: what sockets, client and machine take of themselves."""
    tokens = int(seconds * RATE)
    server = Server([__file__, "--bare", f"{streams},{bursts},{tokens}"])
    server.wait()
    told, took_s = ask(server.port, streams, tokens, bursts)
    server.process.wait(20)
    return _row(f"{streams}", f"{bursts}, bare", told, tokens, took_s, (0.0, 0.0))


def measured(streams: int, replicas: int, seconds: float, folder: Path) -> tuple[str, ...]:
    """A row of the table."""
    (latency := folder / "latency.yaml").write_text(LATENCY)
    (deployment := folder / "deployment.yaml").write_text(DEPLOYMENT.format(replicas=replicas, latency=latency))
    server = Server([__file__, "--host", str(deployment)])
    try:
        server.wait()
        tokens = int(seconds * RATE)
        ask(server.port, replicas, 5)
        workers = children(server.pid)
        before = cpu_s(server.pid), sum(map(cpu_s, workers))
        told, took_s = ask(server.port, streams, tokens, replicas)
        after = cpu_s(server.pid), sum(map(cpu_s, workers))
    finally:
        server.process.terminate()
        server.process.wait(20)
    used = (after[0] - before[0], after[1] - before[1])
    return _row(f"{streams}", f"{replicas}", told, tokens, took_s, used)


def _row(
    streams: str, bursts: str, told: list[Told], tokens: int, took_s: float, used_s: tuple[float, float]
) -> tuple[str, ...]:
    """Streams that are not whole, or miss an index or have one twice, are lost. The first second is not counted."""
    late, lost = [], 0
    for each in told:
        stamped = each.tokens()
        lost += not each.whole or [index for index, *_ in stamped] != list(range(tokens))
        late += [(read - stamp) / 1e6 for _, stamp, read in stamped[RATE:]]
    cuts = statistics.quantiles(late, n=100)
    shares = [f"{100 * used / took_s:.0f} %" if used else "" for used in used_s]
    spread = (f"{cuts[k - 1]:.2f}" for k in (50, 90, 99))
    return streams, bursts, f"{len(told) * tokens / took_s:,.0f}", *spread, *shares, f"{lost}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streams", default="200,500", metavar="N,...")
    parser.add_argument("--replicas", default="1,4,8", metavar="N,...")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--host", help=argparse.SUPPRESS)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.host:
        host(options.host)
        return
    if options.bare:
        bare(*map(int, options.bare.split(",")))
        return
    table = Table(title=f"load {os.getloadavg()[0]:.1f} before; mark: median under {MARK_MS:g} ms at 200 streams")
    headings = ("streams", "replicas", "tokens/s", "median ms", "p90", "p99", "gateway CPU", "workers CPU", "lost")
    for heading in headings:
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for streams in map(int, options.streams.split(",")):
            for replicas in map(int, options.replicas.split(",")):
                table.add_row(*measured(streams, replicas, options.seconds, Path(folder)))
                table.add_row(*unaided(streams, replicas, options.seconds))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
