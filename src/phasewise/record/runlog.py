"""The run log: a header, then what each room took and did, and at the end the columns; in memory or in a file.

File: the bytes `PHASEWISE-LOG-1`, a newline, then frames of `length (u32), kind (u8), room (u16), payload`, little-endian.
Event segments are written as they fill, so that a log can be read on while it grows; the columns and an empty END frame
close it. Room 0 is the cluster; room 1 + i is replica i. The header holds everything that a replay needs.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from phasewise.core.errors import LogError
from phasewise.core.spec import Resolved
from phasewise.record.columns import REQUESTS, SPANS, STEPS, ClusterColumns, InstanceColumns, Record
from phasewise.record.roomlog import RoomLog, read_segment

MAGIC = b"PHASEWISE-LOG-1\n"
HEADER, EVENTS, REQUESTS_KIND, STEPS_KIND, SPANS_KIND, END = range(6)
_FRAME = struct.Struct("<IBH")


class Header(msgspec.Struct, frozen=True):
    """What ran: the resolved deployment, the workload's description, the seed.

    `reference` tabulates unloaded times for slowdowns: rows of (prompt tokens, TTFT in ns), and the line of one lone
    decode step, (ns, ns per token of context).
    """

    version: str
    resolved: Resolved
    workload: dict[str, Any]
    seed: int
    reference_ttft: tuple[tuple[int, float], ...] = ()
    reference_decode: tuple[float, float] = (0.0, 0.0)


class Tables(msgspec.Struct, frozen=True):
    """The columns of a run: `requests` of the cluster, `steps` and `spans` of each replica by index."""

    requests: NDArray[Any]
    steps: tuple[NDArray[Any], ...]
    spans: tuple[NDArray[Any], ...]

    @property
    def nbytes(self) -> int:
        return self.requests.nbytes + sum(t.nbytes for t in self.steps) + sum(t.nbytes for t in self.spans)


class RunLog:
    """A finished run. Its events are decoded only when asked for; its columns are plain arrays."""

    def __init__(
        self, header: Header, segments: list[tuple[int, bytes]], tables: Tables, path: str | Path | None = None
    ) -> None:
        self.header = header
        self.tables = tables
        self.summary: dict[str, Any] = {}
        self._segments = segments
        self._path = path

    @property
    def rooms(self) -> int:
        return 1 + len(self.tables.steps)

    @property
    def nbytes(self) -> int:
        """Bytes of events and columns held in memory."""
        return sum(len(s) for _, s in self._segments) + self.tables.nbytes

    def records(self, room: int) -> Iterator[Record]:
        """What a room took and did, in order: `(at_ns, event, actions)`. Room 0 is the cluster, 1 + i replica i."""
        for owner, segment in self.segments():
            if owner == room:
                yield from read_segment(segment)

    def segments(self) -> Iterator[tuple[int, bytes]]:
        """The encoded events as `(room, bytes)`, in the order in which they were written; from the file if streamed there."""
        if self._path is None:
            yield from self._segments
            return
        for _, kind, room, payload in frames(self._path):
            if kind == EVENTS:
                yield room, payload

    def write(self, path: str | Path) -> None:
        """Write the log to a file, whole or not at all."""
        draft = _Draft(path)
        try:
            _begin(draft.file, self.header)
            for room, segment in self.segments():
                _frame(draft.file, EVENTS, room, segment)
            _finish(draft.file, self.tables)
        except BaseException:
            draft.drop()
            raise
        draft.keep()

    @staticmethod
    def read(path: str | Path) -> RunLog:
        """Read a finished log back; LogError says what is wrong with one that is not."""
        header: Header | None = None
        segments: list[tuple[int, bytes]] = []
        tables: dict[int, dict[int, NDArray[Any]]] = {REQUESTS_KIND: {}, STEPS_KIND: {}, SPANS_KIND: {}}
        dtypes = {REQUESTS_KIND: REQUESTS, STEPS_KIND: STEPS, SPANS_KIND: SPANS}
        for _, kind, room, payload in frames(path):
            if kind == HEADER:
                header = msgspec.msgpack.decode(payload, type=Header)
            elif kind == EVENTS:
                segments.append((room, payload))
            elif kind in tables:
                tables[kind][room] = np.frombuffer(payload, dtypes[kind])
            elif kind == END and header is not None:
                steps, spans = (tuple(tables[k][r] for r in sorted(tables[k])) for k in (STEPS_KIND, SPANS_KIND))
                return RunLog(header, segments, Tables(tables[REQUESTS_KIND][0], steps, spans))
        raise LogError(f"{path}: the log is cut short; read its frames, or run again")


def frames(path: str | Path, offset: int = 0) -> Iterator[tuple[int, int, int, bytes]]:
    """`(offset after the frame, kind, room, payload)` for every whole frame from `offset` on (0: from the first).

    Stops before a frame that is not all there yet: read on from the last offset when the file has grown.
    """
    try:
        file = Path(path).open("rb")  # noqa: SIM115
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}") from None
    with file:
        if file.read(len(MAGIC)) != MAGIC:
            raise LogError(f"{path}: not a run log of this version; one begins with {MAGIC.decode().strip()}")
        file.seek(max(offset, len(MAGIC)))
        while len(head := file.read(_FRAME.size)) == _FRAME.size:
            length, kind, room = _FRAME.unpack(head)
            payload = file.read(length)
            if len(payload) < length:
                return
            yield file.tell(), kind, room, payload


class Recorder:
    """Writes a run down: one `RoomLog` a room, in memory, or streamed to a file that appears when the run is over."""

    def __init__(self, header: Header, replicas: int, path: str | Path | None = None) -> None:
        self._header = header
        self._segments: list[tuple[int, bytes]] = []
        self._path = path
        self._draft = None if path is None else _Draft(path)
        self._requests = ClusterColumns()
        self._replicas = [InstanceColumns() for _ in range(replicas)]
        if self._draft is not None:
            _begin(self._draft.file, header)
        self.cluster = RoomLog(self._requests, self._sink(0))
        self.instances = [RoomLog(columns, self._sink(1 + i)) for i, columns in enumerate(self._replicas)]

    def _sink(self, room: int) -> Callable[[bytes], None]:
        if self._draft is None:
            return lambda segment: self._segments.append((room, segment))
        file = self._draft.file
        return lambda segment: _frame(file, EVENTS, room, segment)

    @property
    def events(self) -> int:
        """Events that the rooms have taken."""
        return self.cluster.events + sum(room.events for room in self.instances)

    def close(self) -> RunLog:
        """The finished log. One that was streamed to a file holds its columns, and reads its events from there."""
        for room in (self.cluster, *self.instances):
            room.flush()
        tables = [c.tables() for c in self._replicas]
        log = RunLog(
            self._header,
            self._segments,
            Tables(self._requests.table(), tuple(t[0] for t in tables), tuple(t[1] for t in tables)),
            self._path,
        )
        if self._draft is not None:
            _finish(self._draft.file, log.tables)
            self._draft.keep()
        return log

    def abandon(self) -> None:
        """Leave nothing behind of a run that did not finish."""
        if self._draft is not None:
            self._draft.drop()


class _Draft:
    """A file that appears under its name only when it is kept, and leaves nothing behind when it is dropped."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        try:
            self.file: BinaryIO = self._partial.open("wb")
        except OSError as error:
            raise LogError(f"{path}: cannot be written: {error.strerror}") from None

    def keep(self) -> None:
        self.file.close()
        self._partial.replace(self._path)

    def drop(self) -> None:
        self.file.close()
        self._partial.unlink(missing_ok=True)


def _begin(file: BinaryIO, header: Header) -> None:
    file.write(MAGIC)
    _frame(file, HEADER, 0, msgspec.msgpack.encode(header))


def _frame(file: BinaryIO, kind: int, room: int, payload: bytes) -> None:
    file.write(_FRAME.pack(len(payload), kind, room))
    file.write(payload)


def _finish(file: BinaryIO, tables: Tables) -> None:
    _frame(file, REQUESTS_KIND, 0, tables.requests.tobytes())
    for i, (steps, spans) in enumerate(zip(tables.steps, tables.spans, strict=True)):
        _frame(file, STEPS_KIND, i, steps.tobytes())
        _frame(file, SPANS_KIND, i, spans.tobytes())
    _frame(file, END, 0, b"")
