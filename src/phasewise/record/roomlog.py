"""One room's log: its events and actions as bytes, in the order in which it took them, and its columns beside them.

Records wait in a short batch and are then encoded and folded together; no Python object per event is kept. Where the bytes
go (memory, a file) is the sink's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from phasewise.core.action import Action
from phasewise.core.errors import LogError
from phasewise.core.event import Event
from phasewise.record.columns import Record

BATCH, WAITING, LEAST = 256, 512, 8
"""Records encoded at a time, which make a segment: enough to spread the cost of a call; of a fleet fewer in each room, so that
no more than so many wait in all, but never below. They take a kilobyte each, and are to be still in a cache when their turn
comes."""

Sink = Callable[[bytes], None]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[int, Event, list[Action]]]).decode


class Columns(Protocol):
    """Whatever folds a room's records into tables."""

    def fold(self, records: list[Record]) -> None: ...


class RoomLog:
    """The journal of one room (see `control.ports.Journal`)."""

    __slots__ = ("_sink", "batch", "columns", "events", "full")

    def __init__(self, columns: Columns, sink: Sink, full: int = BATCH) -> None:
        self.columns = columns
        self.events = 0
        self.batch: list[Record] = []
        self.full = full
        self._sink = sink

    def flush(self) -> None:
        """Encode and fold what waits."""
        batch = self.batch
        if batch:
            self.events += len(batch)
            self._sink(_encode(batch))
            self.columns.fold(batch)
            batch.clear()


def read_segment(segment: bytes) -> Iterator[Record]:
    """The records that a segment holds. LogError if it is not one of this version."""
    try:
        return iter(_decode(segment))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LogError(f"events that this version cannot read: {error}") from None
