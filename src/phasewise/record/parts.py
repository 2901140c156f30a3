"""A run log in the making by several processes: a part for each room, joined into one log when the run is over.

A part is itself a log without an end: a header, then the events of its room. Its writer lets nothing that
follows from a segment be heard elsewhere before the segment is written, by one call; so when a process is killed, its part
holds all that anybody knows of it. What was torn off in the middle of a segment is cut away. Columns are folded from the parts
at the end: while a server runs, no part of its log is in memory. A part survives the death of its process, not that of the
machine: nothing waits for the disk.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from phasewise.core.action import Action
from phasewise.core.errors import LogError
from phasewise.core.event import Arrived
from phasewise.core.units import NS_PER_S
from phasewise.record.columns import ClusterColumns, InstanceColumns, Record
from phasewise.record.header import Header, Tables
from phasewise.record.roomlog import read_segment
from phasewise.record.runlog import (
    EVENTS,
    HEADER,
    MAGIC,
    Draft,
    RunLog,
    as_frame,
    close_file,
    frames,
    read_header,
    write_frame,
)


class Unfolded:
    """In place of columns, of a room whose part is folded when the run is over."""

    def fold(self, records: list[Record]) -> None: ...


class Part:
    """The part of one room. Opened again, it is written on; what an earlier process left torn is cut off first.

    `write` is a sink for the room's log. The process that opens it is the only one that writes to it.
    """

    def __init__(self, path: Path, header: Header, room: int) -> None:
        self._room = room
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise LogError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._file).st_size < len(MAGIC):
                os.ftruncate(self._file, 0)
                self._put(MAGIC + as_frame(HEADER, 0, msgspec.msgpack.encode(header)))
            else:
                os.ftruncate(self._file, max((end for end, *_ in frames(path)), default=len(MAGIC)))
        except BlockingIOError:
            self.close()
            raise _in_use(path) from None
        except BaseException:
            self.close()
            raise

    def write(self, segment: bytes) -> None:
        """Append a segment of the room's events."""
        self._put(as_frame(EVENTS, self._room, segment))

    def add(self, at_ns: int, event: Any, actions: list[Action]) -> None:
        """Append what its process could not write any more."""
        self.write(msgspec.msgpack.encode([(at_ns, event, actions)]))

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _put(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._file, data) :]


def part_path(path: str | Path, room: int) -> Path:
    """Where the part of a room is while the log `path` is in the making."""
    path = Path(path)
    return path.with_name(f".{path.name}.part-{room}")


def parts_of(path: str | Path) -> list[Path]:
    """The parts that there are of a log, the cluster's first."""
    path = Path(path)
    lead = f".{path.name}.part-"
    found = [p for p in path.parent.glob(f"{lead}*") if p.name.removeprefix(lead).isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix(lead)))


def rescue(path: str | Path) -> RunLog | None:
    """Join what an earlier run that was killed has left of the log `path`, under the first name of `path.1`, `path.2`, ... that
    is free. None if it has left nothing. LogError if the run is still going on."""
    parts = parts_of(path)
    if not parts:
        return None
    for part in parts:
        _check_left(part)
    names = (f"{path}.{i}" for i in count(1))
    return join(path, next(name for name in names if not Path(name).exists()))


def join(path: str | Path, name: str | Path | None = None) -> RunLog:
    """Make one log of the parts, under the name for which they were opened (or another `name`), and drop them.

    A run whose processes were all killed is joined in the same way, as far as it came. LogError if there are no parts.
    """
    parts = parts_of(path)
    if not parts:
        raise LogError(f"{path}: no parts of such a log are here")
    header = _header(parts[0])
    cluster = ClusterColumns(header.classes)
    replicas = [InstanceColumns() for _ in header.resolved.replicas]
    arrivals = Arrivals()
    for room, segment in _segments(parts):
        records = list(read_segment(segment))
        (replicas[room - 1] if room else cluster).fold(records)
        arrivals.events += len(records)
        if not room:
            arrivals.count(records)
    header = msgspec.structs.replace(header, workload={**header.workload, **arrivals.describe()})
    found = [columns.tables() for columns in replicas]
    transfers = tuple(columns.transfers() for columns in replicas)
    steps, spans = tuple(t[0] for t in found), tuple(t[1] for t in found)
    tables = Tables(cluster.table(), steps, spans, transfers, cluster.changes())
    draft = Draft(name or path, header)
    try:
        for room, segment in _segments(parts):
            write_frame(draft.file, EVENTS, room, segment)
        close_file(draft.file, tables, arrivals.events)
    except BaseException:
        draft.drop()
        raise
    draft.keep()
    for part in parts:
        part.unlink(missing_ok=True)
    return RunLog(header, tables, arrivals.events, [], name or path)


class Arrivals:
    """What can be told of a run's arrivals once it is over, and how many `events` it had."""

    def __init__(self) -> None:
        self.events = self._requests = 0
        self._first_ns = self._last_ns = 0

    def count(self, records: Iterable[Record]) -> None:
        for at_ns, event, _ in records:
            if type(event) is Arrived:
                if not self._requests:
                    self._first_ns = at_ns
                self._requests += 1
                self._last_ns = at_ns

    def describe(self) -> dict[str, Any]:
        """For the header: how many requests there were, and how many a second (None: all at once)."""
        span_ns = self._last_ns - self._first_ns
        rate = (self._requests - 1) * NS_PER_S / span_ns if span_ns else None
        return {"requests": self._requests, "mean_rate_rps": rate}


def _check_left(part: Path) -> None:
    """LogError if somebody writes to it."""
    try:
        with part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(part) from None
    except OSError as error:
        raise LogError(f"{part}: cannot be read: {error.strerror}") from None


def _in_use(path: Path) -> LogError:
    return LogError(f"{path}: another process writes it; give this run a log of another name")


def _header(path: Path) -> Header:
    for _, kind, _, payload in frames(path):
        if kind == HEADER:
            return read_header(payload, path)
    raise LogError(f"{path}: the part is cut short before its header ends")


def _segments(parts: Iterable[Path]) -> Iterator[tuple[int, bytes]]:
    for part in parts:
        for _, kind, room, payload in frames(part):
            if kind == EVENTS:
                yield room, payload
