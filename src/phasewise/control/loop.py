"""The one loop: stamp the event, ask the room, write both down, hand the actions to their ports.

What pumps it (the simulator's heap, a worker's socket, a gateway's event loop) holds no logic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phasewise.control.ports import Clock, Journal, Room
from phasewise.core.event import Event


class Loop:
    """One room with its clock, its journal and its ports: a port for each kind of action that the room can ask for."""

    __slots__ = ("_batch", "_clock", "_full", "_handlers", "_journal", "_ports", "room")

    def __init__(self, room: Room, clock: Clock, journal: Journal, ports: dict[type, Callable[[Any], None]]) -> None:
        self.room = room
        self._handlers = room.handlers
        self._clock = clock
        self._journal = journal
        self._batch = journal.batch
        self._full = journal.full
        self._ports = ports

    def take(self, event: Event) -> None:
        now_ns = self._clock.now_ns
        actions = self._handlers[type(event)](event, now_ns)
        batch = self._batch
        batch.append((now_ns, event, actions))
        if len(batch) == self._full:
            self._journal.flush()
        for action in actions:
            self._ports[type(action)](action)
