"""Replay: feed each room of a log its own events again, and hold its actions against those written down.

Needs the log and nothing else: no workload, no truth, no executor, no network. It is how a log proves that the decisions in
it follow from what was known, and that the same code would take them again.
"""

from __future__ import annotations

from phasewise.control.ports import Room
from phasewise.control.rooms import open_cluster, open_instance
from phasewise.core.errors import LogError
from phasewise.record.runlog import RunLog


def replay(log: RunLog) -> int:
    """Replay every room; how many events that were. LogError names the first event answered differently."""
    resolved = log.header.resolved
    rooms: list[Room] = [open_cluster(resolved), *(open_instance(resolved, i) for i in range(len(resolved.replicas)))]
    count = 0
    for number, room in enumerate(rooms):
        name = f"replica {number - 1}" if number else "the cluster"
        for at_ns, event, actions in log.records(number):
            again = room.handlers[type(event)](event, at_ns)
            if again != actions:
                raise LogError(f"{name} at {at_ns} ns: {event} gave {actions} and now gives {again}")
            count += 1
    return count
