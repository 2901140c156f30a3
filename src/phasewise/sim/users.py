"""Users in a closed loop: each waits for the end of the answer, thinks, and sends the next request.

They live on the pump's heap of alarms, with the index -1: so they send after all step ends and messages of an instant, and
before the rooms that asked to be woken then, as arrivals do. Users are alike, so nobody keeps track of who is who: an end lets
one request more arrive, and the i-th to arrive is request i.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush
from typing import Any

import msgspec

from phasewise.core.action import Ended
from phasewise.core.event import Arrived
from phasewise.core.request import Request
from phasewise.sim.clock import VirtualClock
from phasewise.workload.workload import Workload

SEND = -1


class Users:
    """The users of a closed workload, until all of its requests have been sent. `alarms` holds `(at_ns, SEND)` for each.

    `arrived` makes the event of a request.
    """

    def __init__(
        self,
        workload: Workload,
        clock: VirtualClock,
        alarms: list[tuple[int, int]],
        arrived: Callable[[Request], Arrived] = Arrived,
    ) -> None:
        assert workload.closed is not None
        self._arrived = arrived
        self._clock = clock
        self._alarms = alarms
        self._requests = workload.requests()
        self._think_ns: list[int] = workload.closed.think_ns.tolist()
        first = min(workload.closed.users, len(workload))
        # Requests sent or promised: a user who would think towards one too many goes home.
        self._promised = first
        self._most = len(workload)
        for _ in range(first):
            heappush(alarms, (clock.now_ns, SEND))

    def open(self, take: Callable[[Any], None], progress: Callable[[int], None] | None) -> Callable[[Any], None]:
        """What answers an alarm: the next request arrives now, at the cluster's `take`."""

        def send(alarm: object) -> None:
            request = msgspec.structs.replace(next(self._requests), arrival_ns=self._clock.now_ns)
            take(self._arrived(request))
            if progress is not None and not request.id % 1024:
                progress(request.id)

        return send

    def ended(self, action: Ended) -> None:
        """An answer is over, however it ended: its user thinks, then sends again."""
        if self._promised < self._most:
            self._promised += 1
            heappush(self._alarms, (self._clock.now_ns + self._think_ns[action.request], SEND))
