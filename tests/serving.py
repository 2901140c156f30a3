"""A service that says what it is told to say, and ways to reach a gateway before it: in memory, or over a socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import httpx

from phasewise.core.action import Outcome
from phasewise.core.errors import InputError
from phasewise.core.stream import Emitted
from phasewise.live.forced import Call
from phasewise.live.gateway import Gateway
from phasewise.live.limits import Limits
from phasewise.live.serve import Ends, listen, serve, signalled
from phasewise.live.service import Load, Wanted

MODEL = "tiny"


class FakeText:
    """A token is a byte; the template writes roles and contents down."""

    vocab = 256

    def encode(self, text: str, special: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def token_bytes(self, id: int) -> bytes:
        return bytes([id])

    def chat(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, **kwargs: Any) -> str:
        if messages[0]["role"] == "tool":
            raise InputError("a conversation does not begin with a tool")
        lines = [f"{m['role']}: {m['content'].strip()}" + json.dumps(m.get("tool_calls", "")) for m in messages]
        return f"{json.dumps(tools)}\n" + "\n".join(lines) + ("\nassistant:" if kwargs["add_generation_prompt"] else "")


class FakeStream:
    """Emits what its service tells it to; `feed` and `close` are the service's side."""

    def __init__(self, request: int, wanted: Wanted) -> None:
        self.request, self.wanted = request, wanted
        self.outcome, self.reason = Outcome.INSIDE, ""
        self.queue_s: float | None = None
        self.prefill_s: float | None = None
        self.decode_s: float | None = None
        self.cancels = 0
        self._ready: list[Emitted] = []
        self._index = 0
        self._told = asyncio.Event()

    def feed(self, text: str, end: str | None = None, per_token: int = 1) -> None:
        """Tokens of so many characters each, the last of which ends for `end`."""
        pieces = [text[i : i + per_token] for i in range(0, len(text), per_token)] or [""]
        for k, piece in enumerate(pieces):
            last = k == len(pieces) - 1
            logprobs: tuple[tuple[int, float, str], ...] = ()
            if self.wanted.sampling.logprobs is not None:
                tops = [(65 + j, -1.0 - j, chr(65 + j)) for j in range(self.wanted.sampling.logprobs)]
                logprobs = ((ord(piece[0]) % 256 if piece else 0, -0.5, piece), *tops)
            self._ready.append(Emitted(self.request, 0, self._index, 0, piece, logprobs, end if last else None))
            self._index += 1
        if end is not None:
            self.queue_s, self.prefill_s, self.decode_s = 0.25, 0.5, 1.0
            self.close(Outcome.FINISHED)
        self._told.set()

    def close(self, outcome: Outcome, reason: str = "") -> None:
        if self.outcome is Outcome.INSIDE:
            self.outcome, self.reason = outcome, reason
        self._told.set()

    async def more(self) -> Sequence[Emitted]:
        while not self._ready and self.outcome is Outcome.INSIDE:
            self._told.clear()
            await self._told.wait()
        out, self._ready = self._ready, []
        return out

    def cancel(self) -> None:
        self.cancels += 1
        self.close(Outcome.CANCELLED)


class FakeService:
    """Answers by `script`, called with each stream as it starts."""

    model, max_context = MODEL, 2000

    def __init__(self, script: Callable[[FakeStream], None]) -> None:
        self.script = script
        self.text = FakeText()
        self.streams: list[FakeStream] = []
        self.begun: asyncio.Queue[FakeStream] = asyncio.Queue()
        self.ready, self.draining, self.state = True, False, Load()
        self.drained_within_s: float | None = None

    def submit(self, wanted: Wanted) -> FakeStream:
        if wanted.schema == '{"type":"impossible"}':
            raise InputError("a schema of this kind cannot be followed")
        stream = FakeStream(len(self.streams), wanted)
        self.streams.append(stream)
        self.script(stream)
        self.begun.put_nowait(stream)
        return stream

    def load(self) -> Load:
        return self.state

    async def drain(self, within_s: float) -> None:
        self.draining, self.drained_within_s = True, within_s
        for stream in self.streams:
            if within_s == 0:
                stream.cancel()
            while await asyncio.sleep(0, stream.outcome is Outcome.INSIDE):
                stream._told.clear()
                await stream._told.wait()


def says(text: str, per_token: int = 1) -> Callable[[FakeStream], None]:
    """Says `text` to whoever asks, cut to what was asked for, as a model would that stops at the first stop."""

    def script(stream: FakeStream) -> None:
        shown, wanted = text, stream.wanted
        cuts = [at for stop in wanted.stop if (at := shown.find(stop)) >= 0]
        shown = shown[: min(cuts)] if cuts else shown
        most = wanted.max_tokens * per_token
        stream.feed(shown[:most], "length" if len(shown) > most else "stop", per_token)

    return script


def silent(stream: FakeStream) -> None:
    """Says nothing until the test does."""


class Reads:
    """Tools called as <name>arguments</>, for tests; a call comes in two pieces."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.text, self.calls = "", 0

    def feed(self, text: str) -> Sequence[str | Call]:
        self.text += text
        out: list[str | Call] = []
        while True:
            before, opened, rest = self.text.partition("<")
            if before:
                out.append(before)
            name, named, rest = rest.partition(">")
            arguments, closed, after = rest.partition("</>")
            if not closed:
                self.text = opened + name + named + rest
                return out
            assert name in self.names
            out += [Call(self.calls, name, ""), Call(self.calls, "", arguments)]
            self.calls += 1
            self.text = after

    def finish(self) -> Sequence[str | Call]:
        return [self.text] if self.text else []


class Board:
    """A gateway in memory with its service, and the lines of its log."""

    def __init__(self, script: Callable[[FakeStream], None] = says("Hello!"), **more: Any) -> None:
        self.service = FakeService(script)
        self.lines: list[dict[str, Any]] = []
        self.gateway = Gateway(self.service, log=lambda line: self.lines.append(json.loads(line)), **more)

    def client(self, **more: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.gateway), base_url="http://test", **more)

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request in an event loop of its own."""

        async def once() -> httpx.Response:
            async with self.client() as client:
                return await client.request(method, path, **more)

        return asyncio.run(once())

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return self.ask("POST", path, json=body, **more)

    def chat(self, **body: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], **body})

    def complete(self, prompt: Any = "Hi", **body: Any) -> httpx.Response:
        return self.post("/v1/completions", {"prompt": prompt, **body})


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream that came to its end."""
    blocks = response.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""], blocks[-3:]
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


@contextlib.asynccontextmanager
async def listening(board: Board, drain_s: float = 1.0) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """The board's gateway on a port, in this event loop; the event stops it."""
    begun = asyncio.Event()
    with signalled() as ends:
        listener = listen("127.0.0.1", 0)
        serving = asyncio.create_task(serve(board.gateway, board.service, listener, ends, drain_s, begun.set))
        port = listener.getsockname()[1]
        await begun.wait()
        try:
            yield port, ends.stop
        finally:
            ends.stop.set()
            await serving


@contextlib.contextmanager
def in_a_thread(make: Callable[[], Board]) -> Iterator[tuple[int, Board]]:
    """A board (made there) on a port, served by another thread for clients that block."""
    begun = threading.Event()
    told: dict[str, Any] = {}

    async def main() -> None:
        board, told["stop"], told["loop"] = make(), asyncio.Event(), asyncio.get_running_loop()
        listener = listen("127.0.0.1", 0)
        told["board"], told["port"] = board, listener.getsockname()[1]
        ends = Ends(told["stop"], asyncio.Event())
        await serve(board.gateway, board.service, listener, ends, 0.0, begun.set)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert begun.wait(20)
    try:
        yield told["port"], told["board"]
    finally:
        told["loop"].call_soon_threadsafe(told["stop"].set)
        thread.join()


__all__ = ["MODEL", "Board", "FakeStream", "Limits", "Reads", "events", "in_a_thread", "listening", "says", "silent"]
