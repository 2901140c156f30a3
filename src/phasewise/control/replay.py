"""Replay: feed each room of a log its own events again, and hold its actions against those written down.

Needs the log and nothing else: no workload, no truth, no executor, no network. It is how a log proves that the decisions in
it follow from what was known, and that the same code would take them again.
"""

from __future__ import annotations

from phasewise.control.ports import Room
from phasewise.control.rooms import Beliefs, open_cluster, open_instance
from phasewise.core.errors import LogError
from phasewise.core.event import Died, Killed
from phasewise.record.roomlog import read_segment
from phasewise.record.runlog import RunLog


def replay(log: RunLog, beliefs: Beliefs | None = None) -> int:
    """Replay every room; how many events that were. LogError names the first event answered differently.

    `beliefs` as the run had them (None: as its deployment says).
    """
    rooms: dict[int, Room] = {}
    count = 0
    for number, segment in log.segments():
        for at_ns, event, actions in read_segment(segment):
            if number not in rooms:
                rooms[number] = _open(log, number, beliefs)
            again = rooms[number].handlers[type(event)](event, at_ns)
            if type(event) in (Died, Killed):
                # The next process has a room of its own, that remembers nothing.
                del rooms[number]
            if again != actions:
                name = f"replica {number - 1}" if number else "the cluster"
                raise LogError(f"{name} at {at_ns} ns: {event} gave {actions} and now gives {again}")
            count += 1
    return count


def _open(log: RunLog, number: int, beliefs: Beliefs | None) -> Room:
    resolved = log.header.resolved
    return open_instance(resolved, number - 1, beliefs) if number else open_cluster(resolved, log.header.seed)
