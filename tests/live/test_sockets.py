"""Over real sockets: clients that leave, that are slow, that send no HTTP, and a server that is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket

import pytest

from phasewise.core.action import Outcome
from phasewise.core.errors import InputError
from phasewise.live.limits import Limits
from phasewise.live.serve import listen
from serving import Board, listening, says, silent

BODY = b'{"prompt":"Hi","stream":%s}'


def request(body: bytes, path: str = "/v1/completions", more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body


async def talk(port: int, raw: bytes) -> bytes:
    """All that is answered to these bytes until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    answer = await reader.read()
    writer.close()
    return answer


def split(answer: bytes) -> tuple[int, dict[str, object]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize("stream", [b"true", b"false"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves_frees_what_it_holds(stream: bytes, half: bool, begun: bool) -> None:
    async def main() -> None:
        board = Board(silent)
        async with listening(board) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(BODY % stream))
            fake = await board.service.begun.get()
            if begun:
                fake.feed("He")
                if stream == b"true":
                    await reader.readuntil(b'"e"')
            if half:
                writer.write_eof()
            else:
                writer.transport.abort()
            while await fake.more():
                pass
            assert fake.outcome is Outcome.CANCELLED
            writer.close()
        assert fake.cancels >= 1
        assert board.lines[0]["gone"] is True
        assert board.lines[0]["status"] == (200 if begun and stream == b"true" else 499)

    asyncio.run(asyncio.wait_for(main(), 120))


def test_a_client_that_leaves_in_its_body_was_never_there() -> None:
    async def main() -> None:
        board = Board(silent)
        async with listening(board) as (port, _):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(b"x" * 100)[:-50])
            writer.close()
            while not board.lines:
                await asyncio.sleep(0)
        assert not board.service.streams
        assert board.lines[0]["status"] == 499

    asyncio.run(asyncio.wait_for(main(), 120))


def test_a_client_that_does_not_read_is_hung_up_on() -> None:
    async def main() -> None:
        board = Board(silent, limits=Limits(stall_s=0.01))
        async with listening(board) as (port, _):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(BODY % b"true"))
            fake = await board.service.begun.get()
            while fake.outcome is Outcome.INSIDE:
                fake.feed("x" * 4096)
                await asyncio.sleep(0)
            assert fake.outcome is Outcome.CANCELLED
            writer.transport.abort()

    asyncio.run(asyncio.wait_for(main(), 120))


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x00\x01\x02\x03\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"HELLO\r\n\r\n", 400),
        (b"GET /health HTTP/9.9\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST /tokenize HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST /tokenize HTTP/1.1\r\ncontent-length: x\r\n\r\n", 400),
        (b"GET /\xff\xfe HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 40_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 8_000, 431),
    ],
)
def test_what_is_no_http_gets_an_error_in_the_same_shape(raw: bytes, status: int) -> None:
    async def main() -> bytes:
        async with listening(Board()) as (port, _):
            return await talk(port, raw)

    told, body = split(asyncio.run(asyncio.wait_for(main(), 120)))
    assert told == status
    assert isinstance(body["error"], dict)
    assert body["error"]["message"]


def test_odd_but_right_requests_are_answered() -> None:
    async def main() -> None:
        async with listening(Board()) as (port, _):
            odd = b"x-request-id: \xe9\xff\r\nauthorization: \xff\r\nconnection: close\r\n"
            paths = {b"/health": 200, b"/health?x=%ff": 200, b"/%ff%00": 404, b"//health": 404, b"*": 404}
            for path, status in paths.items():
                answer = await talk(port, b"GET " + path + b" HTTP/1.1\r\n" + odd + b"\r\n")
                assert int(answer.split()[1]) == status, answer
            upgrade = b"GET /health HTTP/1.1\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n"
            assert int((await talk(port, upgrade)).split()[1]) == 200

    asyncio.run(asyncio.wait_for(main(), 120))


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n", b"GET /hea", b"GET /health HTTP/1.1\r\nx: y\r\n"])
def test_a_head_that_never_ends_is_hung_up_on(sent: bytes) -> None:
    async def main() -> None:
        async with listening(Board(limits=Limits(head_s=0.01))) as (port, _):
            with contextlib.suppress(ConnectionResetError):
                assert await talk(port, sent) == b""

    asyncio.run(asyncio.wait_for(main(), 120))


def test_a_body_that_never_ends_is_a_time_out() -> None:
    async def main() -> bytes:
        async with listening(Board(limits=Limits(body_s=0.01))) as (port, _):
            return await talk(port, request(b"x" * 100)[:-50])

    assert split(asyncio.run(asyncio.wait_for(main(), 120)))[0] == 408


def test_a_large_body_is_refused_before_it_is_read_and_the_connection_lives_on() -> None:
    async def main() -> bytes:
        async with listening(Board()) as (port, _):
            large = request(b"x" * 10_000_000)
            return await talk(port, large + b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n")

    answer = asyncio.run(asyncio.wait_for(main(), 120))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"HTTP/1.1 200 OK" in answer


def test_pipelined_requests_are_answered_in_order() -> None:
    async def main() -> bytes:
        async with listening(Board(says("abc"))) as (port, _):
            one = request(BODY % b"false")
            return await talk(port, one + one + request(b"{", more="connection: close\r\n"))

    answer = asyncio.run(asyncio.wait_for(main(), 120))
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.index(b"HTTP/1.1 400") > answer.rindex(b"HTTP/1.1 200")


def test_a_drain_lets_streams_finish_and_takes_no_more() -> None:
    async def main() -> None:
        board = Board(silent)
        async with listening(board) as (port, stop):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(BODY % b"true"))
            fake = await board.service.begun.get()
            fake.feed("He")
            await reader.readuntil(b'"e"')
            stop.set()
            while not board.service.draining:
                await asyncio.sleep(0)
            refused = await talk(port, request(BODY % b"true", more="connection: close\r\n"))
            assert split(refused)[0] == 503
            assert b"retry-after: 1" in refused
            fake.feed("y", "stop")
            rest = await reader.read()
            writer.close()
        assert b'"y"' in rest
        assert b"[DONE]" in rest
        assert board.service.drained_within_s == 1.0

    asyncio.run(asyncio.wait_for(main(), 120))


def test_signals_drain_and_a_second_one_ends_it_at_once() -> None:
    async def main() -> None:
        board = Board(silent)
        async with listening(board) as (port, _):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(BODY % b"true"))
            fake = await board.service.begun.get()
            os.kill(os.getpid(), signal.SIGTERM)
            while not board.service.draining:
                await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGINT)
            await fake.more()
            writer.close()
        assert fake.outcome is Outcome.CANCELLED

    before = signal.getsignal(signal.SIGTERM)
    asyncio.run(asyncio.wait_for(main(), 120))
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="cannot listen there"):
            listen("127.0.0.1", taken.getsockname()[1])
