"""What a room asks of its ports. Messages to the other room are actions too; see `message`."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from phasewise.core.message import Down, Up
from phasewise.core.step import StepPlan


class Outcome(IntEnum):
    """How a request's life ended; INSIDE while it has not."""

    INSIDE = 0
    FINISHED = 1
    REJECTED = 2
    CANCELLED = 3
    FAILED = 4


class Run(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=20):
    """To the executor: run `plan`, `repeat` times (None: until a resident ends).

    `repeat` is the plan's own, clamped by the mechanism to the blocks that are left. `decodes` residents take a decode step;
    together they have `context` tokens computed before the first of them.
    """

    id: int
    plan: StepPlan
    repeat: int | None
    decodes: int
    context: int


class Interrupt(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=21):
    """To the executor: stop what runs on `lane` at its next step boundary."""

    lane: int


class Forget(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=22):
    """To the executor: the request was cancelled between steps; it will not be mentioned again."""

    request: int


class Regroup(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=25):
    """To the executor: before the next run, each of these `(request, cohort)` decodes in another cohort than so far.

    A batcher plans one in front of the steps that it is for. It takes up no lane.
    """

    moves: tuple[tuple[int, str], ...]
    lane: int = -1


class WakeAt(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=24):
    """To the clock: send `Woken` at this instant, after everything else that happens then.

    A batcher may plan one in place of steps: ask again then, if nothing has changed before. It takes up no lane.
    """

    at_ns: int
    lane: int = -1


class Ended(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=23):
    """To the gateway: the request's life is over; `reason` says why if it was not served to its end."""

    request: int
    outcome: Outcome
    tokens: int
    reason: str = ""


class Enter(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=28):
    """To the executor: before the next run, a request that was handed over decodes in `cohort`.

    `known` tokens of it are computed, and `tokens` output tokens are out, the last of which is still to be computed.
    """

    request: int
    known: int
    cohort: str
    tokens: int = 1


class Pull(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=29):
    """To the link: fetch the keys and values of `tokens` tokens of a request from `source`, as they are there.

    They come after the first `start` tokens, which have been fetched before. Unless it `waits`, the source has them by now, or
    the pull fails; otherwise they may still have to be computed.
    """

    request: int
    epoch: int
    source: int
    tokens: int
    start: int = 0
    waits: bool = True


class Drop(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=50):
    """To the link: a pull is not wanted any more."""

    request: int
    epoch: int


class Perished(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=53):
    """To whoever watches the replicas: this one is gone; `(request, tokens)` that each of its requests had emitted."""

    delivered: tuple[tuple[int, int], ...]


class Boot(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=51):
    """To whoever watches the replicas: start this one."""

    replica: int


class Stop(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=52):
    """To whoever watches the replicas: this one is drained, and can be stopped."""

    replica: int


Action = Run | Regroup | Interrupt | Forget | WakeAt | Ended | Enter | Pull | Drop | Perished | Boot | Stop | Down | Up
