"""The pump of a simulated world, and the whole of its logic: which event is next.

One heap holds the promised ends of runs and transfers, another the alarms, one queue the messages under way, one iterator what
comes from outside. At one instant they go in the order that `core.event` lays down. It knows no room, and nothing of what an
event means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop
from typing import Any

from phasewise.core.event import StepDone, Woken
from phasewise.sim.clock import VirtualClock
from phasewise.sim.executor import Lane
from phasewise.sim.transfers import Transfers

NEVER = 1 << 62
END = NEVER + 1

WOKEN = Woken()

Mail = tuple[int, int, int, Any]
"""`(at_ns, number, room, message)`; without mishaps messages keep their order, and the number is 0."""

Seat = tuple[Lane, Callable[[int], StepDone], int, int]
"""A lane, what says that its run is over, and the numbers of its room and of the lane there."""


def pump(
    clock: VirtualClock,
    outside: Iterator[tuple[int, Any]],
    inbox: deque[Mail] | list[Mail],
    alarms: list[tuple[int, int]],
    seats: list[Seat],
    takers: list[Callable[[Any], None]],
    cluster: Callable[[Any], None],
    transfers: Transfers | None,
    lull_ns: Callable[[], int],
) -> None:
    """Hand events to the `takers`, rooms by number, until nothing is left to happen.

    What comes from `outside`, for the `cluster`, goes on for ever, at last with `NEVER`. An `inbox` of one wire is a queue, one
    whose letters overtake each other a heap. A number on the agenda is that of a seat; the one after the last means transfers.
    Alarms beyond `lull_ns` are not waited for if nothing else is to come. One long loop: it turns once an event, and calls
    would add to each.
    """
    agenda, last = clock.agenda, len(seats)
    letter: Callable[[], Mail] = inbox.popleft if isinstance(inbox, deque) else lambda: heappop(inbox)
    outside_ns, event = next(outside)
    while True:
        next_ns, mail = outside_ns, False
        if inbox and inbox[0][0] <= outside_ns:
            next_ns, mail = inbox[0][0], True
        done_ns = agenda[0][0] if agenda else END
        if done_ns <= next_ns and (not alarms or done_ns <= alarms[0][0]):
            order = heappop(agenda)[1]
            if order == last:
                clock.now_ns = done_ns
                transfers.due()  # type: ignore[union-attr]
                continue
            lane, done, room, number = seats[order]
            # A promise that no longer agrees with its lane has been superseded.
            if lane.end_ns == done_ns and lane.run is not None:
                clock.now_ns = done_ns
                takers[room](done(number))
                if transfers is not None and room in transfers.waiting:
                    transfers.computed(room)
        elif alarms and alarms[0][0] < next_ns:
            if event is None and done_ns == END and not inbox and alarms[0][0] > lull_ns():
                return
            clock.now_ns, room = heappop(alarms)
            takers[room](WOKEN)
        elif mail:
            clock.now_ns, _, room, message = letter()
            takers[room](message)
        elif event is not None:
            clock.now_ns = outside_ns
            cluster(event)
            outside_ns, event = next(outside)
        else:
            return


def silence() -> Iterator[tuple[int, Any]]:
    """Nothing from outside, for ever."""
    while True:
        yield NEVER, None
