"""What can happen to a room. The unions are closed, and one order over simultaneous events is written down here.

Order at one instant: step ends first (by replica, then lane), then keys and values that have come, then messages between rooms
in the order in which they were sent, then what goes wrong and what an operator does, then a client leaving, then arrivals in
the order of their ids, then the rooms that asked to be woken. So a request that arrives at the very instant of a step boundary
finds that boundary past, and an idle replica starts with all that arrive together. Nothing in this order depends on how many
steps a leap covers.
"""

from __future__ import annotations

import msgspec

from phasewise.core.message import Down, Up
from phasewise.core.request import Request
from phasewise.core.step import Piece


class Arrived(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """From the gateway: a client sent a request, which will have `predicted` output tokens by some predictor (None: by none).

    A prediction enters here and nowhere else, so that a replay has it.
    """

    request: Request
    predicted: int | None = None


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


HOST = -1
"""In place of a source: the replica's own host memory."""


class Pulled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """From the link: all keys and values of a request are here, `nbytes` of them, under way since `began_ns`."""

    request: int
    epoch: int
    source: int
    began_ns: int
    nbytes: int


class PullFailed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=15):
    """From the link: the keys and values of a request will not come, for `reason`."""

    request: int
    epoch: int
    reason: str


class Died(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=16):
    """Of a replica: its process is gone, with all that was inside.

    For each lane that was running, the iterations that had ended, as pieces: their tokens are out.
    """

    done: tuple[tuple[int, tuple[Piece, ...]], ...] = ()


class Killed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=54):
    """Of a replica, from whoever watches it: its process was killed or fell over, and its room had no last word.

    `(lane, run, pieces)` for each run whose iterations were heard of: those that had ended, whose tokens are out. Nothing is
    asked of this room any more.
    """

    done: tuple[tuple[int, int, tuple[Piece, ...]], ...] = ()


class Began(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=17):
    """Of a replica: its process has started, empty."""


class Lost(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=18):
    """From whoever watches the replicas: one is gone, or was never there; `returns`: it will be started again.

    `delivered` counts the output tokens of its requests that reached their clients, `finished` likewise of those that reached
    their end: `(request, tokens)` each, as counted on the data path.
    """

    replica: int
    delivered: tuple[tuple[int, int], ...] = ()
    finished: tuple[tuple[int, int], ...] = ()
    returns: bool = False


class Start(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=19):
    """From the operator: start this replica."""

    replica: int


class Drain(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=26):
    """From the operator: let this replica end what it has and give it nothing new.

    `move`: what it has goes to other replicas, as far as there are some, and does not wait for its end.
    """

    replica: int
    move: bool = False


class Switch(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=27):
    """From the operator: let this replica serve another phase."""

    replica: int
    role: str


ClusterEvent = Arrived | Gone | Lost | Start | Drain | Switch | Woken | Up
InstanceEvent = Down | StepDone | Woken | Pulled | PullFailed | Died | Killed | Began
Event = ClusterEvent | InstanceEvent
