"""The run log: a header, then what each room took and did, and at the end the columns; in memory or in a file.

File: the bytes `PHASEWISE-LOG-2`, a newline, then frames of `length (u32), CRC-32 (u32), room (u32), kind (u8), payload`,
little-endian; the checksum is of the payload. Event segments are written as they fill, so that a log can be read on while it
grows; the columns and an END frame with the number of events close it. Room 0 is the cluster; room 1 + i is replica i. The
header holds everything that a replay needs.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from phasewise.core.errors import LogError
from phasewise.record.columns import (
    CHANGES,
    REQUESTS,
    SPANS,
    STEPS,
    TRANSFERS,
    ClusterColumns,
    InstanceColumns,
    Record,
)
from phasewise.record.fleet import fleet, is_fleet
from phasewise.record.header import Header, Tables
from phasewise.record.metrics import summary
from phasewise.record.roomlog import BATCH, LEAST, WAITING, RoomLog, read_segment

MAGIC = b"PHASEWISE-LOG-2\n"
HEADER, EVENTS, REQUESTS_KIND, STEPS_KIND, SPANS_KIND, END, TRANSFERS_KIND, CHANGES_KIND = range(8)
_CLUSTER = {REQUESTS_KIND: REQUESTS, CHANGES_KIND: CHANGES}
_REPLICA = {STEPS_KIND: STEPS, SPANS_KIND: SPANS, TRANSFERS_KIND: TRANSFERS}
_DTYPES = _CLUSTER | _REPLICA
_FRAME = struct.Struct("<IIIB")
_COUNT = struct.Struct("<Q")


class RunLog:
    """A finished run. Its events are decoded only when asked for; its columns are plain arrays."""

    def __init__(
        self,
        header: Header,
        tables: Tables,
        events: int,
        segments: list[tuple[int, bytes]],
        path: str | Path | None = None,
    ) -> None:
        self.header = header
        self.tables = tables
        self.events = events
        self._segments = segments
        self._path = path

    @property
    def rooms(self) -> int:
        return 1 + len(self.tables.steps)

    @property
    def nbytes(self) -> int:
        """Bytes of events and columns held in memory."""
        return sum(len(s) for _, s in self._segments) + self.tables.nbytes

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Everything that the run is summed up to (`metrics.summary`, `fleet.fleet`); worked out when first asked for."""
        found = summary(self.header, self.tables, self.events)
        if is_fleet(self.header.resolved):
            found["fleet"] = fleet(self.header, self.tables)
        return found

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
        draft = Draft(path, self.header)
        try:
            for room, segment in self.segments():
                write_frame(draft.file, EVENTS, room, segment)
            close_file(draft.file, self.tables, self.events)
        except BaseException:
            draft.drop()
            raise
        draft.keep()

    @staticmethod
    def read(path: str | Path) -> RunLog:
        """Read a finished log back; LogError says what is wrong with one that is not."""
        header: Header | None = None
        segments: list[tuple[int, bytes]] = []
        tables: dict[int, dict[int, NDArray[Any]]] = {kind: {} for kind in _DTYPES}
        for _, kind, room, payload in frames(path):
            if kind == HEADER:
                header = read_header(payload, path)
            elif kind == EVENTS:
                segments.append((room, payload))
            elif kind in tables:
                tables[kind][room] = _table(payload, _DTYPES[kind], path)
            elif kind == END and header is not None:
                return RunLog(header, _tables(header, tables, path), _COUNT.unpack(payload)[0], segments)
        raise LogError(f"{path}: the log is cut short; read its frames, or run again")


def frames(path: str | Path, offset: int = 0) -> Iterator[tuple[int, int, int, bytes]]:
    """`(offset after the frame, kind, room, payload)` for every whole frame from `offset` on (0: from the first).

    Stops before a frame that is not all there yet: read on from the last offset when the file has grown. LogError for a file
    that is not a log, or a frame that is not what was written.
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
            length, checksum, room, kind = _FRAME.unpack(head)
            payload = file.read(length)
            if len(payload) < length:
                return
            if crc32(payload, kind ^ room) != checksum:
                raise LogError(f"{path}: damaged before byte {file.tell()}; copy it again, or run again")
            yield file.tell(), kind, room, payload


def read_header(payload: bytes, path: str | Path) -> Header:
    try:
        return msgspec.msgpack.decode(payload, type=Header)
    except msgspec.MsgspecError as error:
        raise LogError(f"{path}: its header is not one of this version ({error})") from None


def _table(payload: bytes, dtype: np.dtype[Any], path: str | Path) -> NDArray[Any]:
    if len(payload) % dtype.itemsize:
        raise LogError(f"{path}: its columns are not those of this version; run again")
    return np.frombuffer(payload, dtype)


def _tables(header: Header, found: dict[int, dict[int, NDArray[Any]]], path: str | Path) -> Tables:
    rooms = range(1, 1 + len(header.resolved.replicas))
    if any(0 not in found[kind] for kind in _CLUSTER) or any(
        room not in found[kind] for kind in _REPLICA for room in rooms
    ):
        raise LogError(f"{path}: columns are missing; its events can still be read frame by frame")
    steps, spans, transfers = (tuple(found[kind][room] for room in rooms) for kind in _REPLICA)
    return Tables(found[REQUESTS_KIND][0], steps, spans, transfers, found[CHANGES_KIND][0])


class Recorder:
    """Writes a run down: one `RoomLog` a room, in memory, or streamed to a file that appears when the run is kept."""

    def __init__(self, header: Header, path: str | Path | None = None) -> None:
        self._header = header
        self._path = path
        self._segments: list[tuple[int, bytes]] = []
        self._draft = None if path is None else Draft(path, header)
        self._requests = ClusterColumns(header.classes)
        self._replicas = [InstanceColumns() for _ in header.resolved.replicas]
        self.cluster = RoomLog(self._requests, self._sink(0))
        full = min(BATCH, max(LEAST, WAITING // len(self._replicas)))
        self.instances = [RoomLog(columns, self._sink(1 + i), full) for i, columns in enumerate(self._replicas)]

    def _sink(self, room: int) -> Callable[[bytes], None]:
        if self._draft is None:
            return lambda segment: self._segments.append((room, segment))
        file = self._draft.file
        return lambda segment: write_frame(file, EVENTS, room, segment)

    def close(self) -> RunLog:
        """The finished log. One that was streamed to a file reads its events from there, once it is kept."""
        rooms = (self.cluster, *self.instances)
        for room in rooms:
            room.flush()
        found = [columns.tables() for columns in self._replicas]
        steps, spans = tuple(t[0] for t in found), tuple(t[1] for t in found)
        transfers = tuple(columns.transfers() for columns in self._replicas)
        tables = Tables(self._requests.table(), steps, spans, transfers, self._requests.changes())
        events = sum(room.events for room in rooms)
        if self._draft is not None:
            close_file(self._draft.file, tables, events)
        return RunLog(self._header, tables, events, self._segments, self._path)

    def keep(self) -> None:
        """Let the file appear, if the run was streamed to one."""
        if self._draft is not None:
            self._draft.keep()

    def abandon(self) -> None:
        """Leave nothing behind of a run that did not finish."""
        if self._draft is not None:
            self._draft.drop()


class Draft:
    """A log in the making: it appears under its name only when it is kept, and leaves nothing behind when it is dropped."""

    def __init__(self, path: str | Path, header: Header) -> None:
        self._path = Path(path)
        self._partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        if self._path.is_dir():
            raise LogError(f"{path}: cannot be written: it is a folder; name a file in it")
        try:
            self.file: BinaryIO = self._partial.open("wb")
        except OSError as error:
            raise LogError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            self.file.write(MAGIC)
            write_frame(self.file, HEADER, 0, msgspec.msgpack.encode(header))
        except BaseException:
            self.drop()
            raise

    def keep(self) -> None:
        self.file.close()
        self._partial.replace(self._path)

    def drop(self) -> None:
        self.file.close()
        self._partial.unlink(missing_ok=True)


def write_frame(file: BinaryIO, kind: int, room: int, payload: bytes) -> None:
    file.write(_FRAME.pack(len(payload), crc32(payload, kind ^ room), room, kind))
    file.write(payload)


def as_frame(kind: int, room: int, payload: bytes) -> bytes:
    """A frame as one piece, for whoever writes it with one call."""
    return _FRAME.pack(len(payload), crc32(payload, kind ^ room), room, kind) + payload


def close_file(file: BinaryIO, tables: Tables, events: int) -> None:
    write_frame(file, REQUESTS_KIND, 0, tables.requests.tobytes())
    write_frame(file, CHANGES_KIND, 0, tables.changes.tobytes())
    for room, parts in enumerate(zip(tables.steps, tables.spans, tables.transfers, strict=True), 1):
        for kind, part in zip(_REPLICA, parts, strict=True):
            write_frame(file, kind, room, part.tobytes())
    write_frame(file, END, 0, _COUNT.pack(events))
