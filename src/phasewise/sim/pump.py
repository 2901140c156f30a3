"""The pump of a simulated world, and the whole of its logic: which event is next.

One heap holds the promised ends of runs and transfers, another the alarms, one queue the messages under way, one iterator what
comes from outside. At one instant they go in the order that `core.event` lays down. It knows no room, and nothing of what an
event means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop
from typing import TYPE_CHECKING, Any

from phasewise.core.event import Woken

if TYPE_CHECKING:
    from phasewise.sim.world import World

NEVER = 1 << 62
END = NEVER + 1

WOKEN = Woken()


def pump(world: World, outside: Iterator[tuple[int, Any]]) -> None:
    """Hand events to their rooms until nothing is left to happen. `outside` goes on for ever, at last with `NEVER`.

    One long loop: it turns once an event, and calls would add to each.
    """
    clock, agenda, inbox, alarms = world.clock, world.clock.agenda, world.inbox, world.alarms
    lanes, takes, transfers, last = world.lanes, world.takes, world.transfers, world.last_order
    letter: Callable[[], Any] = inbox.popleft if isinstance(inbox, deque) else lambda: heappop(inbox)
    cluster = world.cluster.take
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
            lane, done, room, number = lanes[order]
            # A promise that no longer agrees with its lane has been superseded.
            if lane.end_ns == done_ns and lane.run is not None:
                clock.now_ns = done_ns
                takes[room](done(number))
                if transfers is not None and room in transfers.waiting:
                    transfers.computed(room)
        elif alarms and alarms[0][0] < next_ns:
            if event is None and done_ns == END and not inbox and alarms[0][0] > world.lull_ns():
                return
            clock.now_ns, room = heappop(alarms)
            takes[room](WOKEN)
        elif mail:
            clock.now_ns, _, room, message = letter()
            takes[room](message)
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
