"""The front desk of a replica: whom it serves, and what is said beside the answer to an event itself.

That is a wake-up when something has changed between two steps, a report to the cluster, and, where messages get lost, the last
word on a request once more. The desk does not know what has changed, or why.
"""

from __future__ import annotations

from collections.abc import Mapping

from phasewise.control.lane import Lane
from phasewise.control.setup import Setup
from phasewise.control.told import Told
from phasewise.core.action import Action, Interrupt, WakeAt
from phasewise.core.message import Cancelled
from phasewise.core.resident import Resident


class Desk:
    """`inside` are those that replica number `replica` serves; while it is `waking`, a free lane is about to be filled.

    It has the batcher asked for the `lanes`. Without any, somebody else does: so for the pipes of a pipeline, which share one.
    """

    __slots__ = ("_lanes", "inside", "replica", "reporter", "told", "waking")

    def __init__(self, setup: Setup, lanes: Mapping[int, Lane]) -> None:
        self.replica = setup.replica
        self.reporter = setup.reporter
        self.told = None if setup.forgetful else Told()
        self.inside: dict[int, Resident] = {}
        self.waking = False
        self._lanes = lanes

    def nudge(self, now_ns: int, heed_closed: bool) -> list[Action]:
        """Something changed between step boundaries: have a free lane filled, or cut short the leap that it may change.

        A free lane is filled when everything that happens at this instant has, so that requests that arrive together start
        together.
        """
        out: list[Action] = []
        for i, lane in self._lanes.items():
            run = lane.run
            if run is None:
                if self.waking:
                    return []
                self.waking = True
                return [WakeAt(now_ns)]
            if run.repeat != 1 and not lane.interrupted and not (heed_closed and run.plan.closed):
                lane.interrupted = True
                out.append(Interrupt(i))
        return out

    def after(self, now_ns: int, out: list[Action]) -> list[Action]:
        """Something changed: remember what was said of it, think again at the next step boundary, and report it."""
        out = self.say(out)
        out += self.nudge(now_ns, False)
        return out if self.reporter is None else self.report(now_ns, out)

    def given(self, request: int, now_ns: int, out: list[Action], dropped: bool = False) -> list[Action]:
        """The cluster has given a request to this replica: the next report says that it is no longer on its way.

        `dropped`: it is not here either.
        """
        if self.reporter is None:
            return out
        self.reporter.taken = request
        self.reporter.dropped += dropped
        return self.report(now_ns, out)

    def report(self, now_ns: int, out: list[Action]) -> list[Action]:
        """Report a change, unless a lane is about to be filled: then what it runs is told as well."""
        reporter = self.reporter
        if reporter is not None and not reporter.alarmed and not self.waking:
            reporter.tell(now_ns, out)
        return out

    def say(self, out: list[Action]) -> list[Action]:
        """The same actions, the last words among them remembered."""
        return out if self.told is None else self.told.keep(out)

    def nobody(self, request: int, epoch: int) -> list[Action]:
        """The answer to an order about an attempt that is not here."""
        if self.told is None:
            return []
        again = self.told.again(request, epoch)
        return self.say([Cancelled(request, epoch, 0, self.replica)]) if again is None else again
