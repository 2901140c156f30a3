"""What can happen to a room. The unions are closed, and one order over simultaneous events is written down here.

Order at one instant: step ends first (by replica, then lane), then messages between rooms in the order in which they were
sent, then a client leaving, then arrivals in the order of their ids. So a request that arrives at the very instant of a
step boundary finds that boundary past. Nothing in this order depends on how many steps a leap covers.
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

    `ended` lists the requests that emitted their last token in the final step, in the order of the executor's book.
    """

    lane: int
    run: int
    pieces: tuple[Piece, ...]
    ended: tuple[int, ...] = ()


ClusterEvent = Arrived | Gone | Refused | Finished | Cancelled
InstanceEvent = Submit | Cancel | StepDone
Event = Arrived | Gone | StepDone | Submit | Cancel | Refused | Finished | Cancelled
