"""What can happen to a room. The unions are closed, and one order over simultaneous events is written down here.

Order at one instant: step ends first (by replica, then lane), then messages between rooms in the order in which they were
sent, then a client leaving, then arrivals in the order of their ids, then the rooms that asked to be woken. So a request that
arrives at the very instant of a step boundary finds that boundary past, and an idle replica starts with all that arrive
together. Nothing in this order depends on how many steps a leap covers.
"""

from __future__ import annotations

import msgspec

from phasewise.core.message import Cancel, Cancelled, Finished, Refused, Submit
from phasewise.core.request import Request
from phasewise.core.step import Piece


class Arrived(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """From the gateway: a client sent a request."""

    request: Request


class Gone(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """From the gateway: the client of `request` hung up."""

    request: int


class StepDone(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """From the executor: the run `run` on `lane` is over, its steps taking the times in `pieces`.

    `ended` lists the requests that emitted their last token in the final step, in the order of the executor's book. `bubble_ns`
    is how long the stages of a pipeline, summed, stood idle for it after the micro-batch before it.
    """

    lane: int
    run: int
    pieces: tuple[Piece, ...]
    ended: tuple[int, ...] = ()
    bubble_ns: int = 0


class Woken(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """From the clock: the instant that a room asked for has come."""


ClusterEvent = Arrived | Gone | Refused | Finished | Cancelled
InstanceEvent = Submit | Cancel | StepDone | Woken
Event = Arrived | Gone | StepDone | Woken | Submit | Cancel | Refused | Finished | Cancelled
