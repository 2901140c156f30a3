"""What a loop needs of the world outside. The simulator and the live server each bring their own; the rooms see neither."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from phasewise.core.action import Action, Drop, Ended, Enter, Forget, Interrupt, Pull, Regroup, Run, WakeAt
from phasewise.core.event import StepDone
from phasewise.core.spec import Resolved
from phasewise.core.stream import Emitted, Work
from phasewise.core.view import InstanceState


class Clock(Protocol):
    """Something that knows the time."""

    @property
    def now_ns(self) -> int: ...


Handlers = dict[type, Callable[[Any, int], list[Action]]]
"""For each kind of event, what answers it: `(event, now_ns) -> actions`."""


class Alarm(Protocol):
    """The clock's other half: sends `Woken` when it is time."""

    def wake_at(self, action: WakeAt) -> None: ...


class Room(Protocol):
    """A state machine: one event in, the actions that follow from it out."""

    @property
    def handlers(self) -> Handlers: ...


class Journal(Protocol):
    """Where a room's events and actions are written down: lines wait in `batch`, and `flush` writes them when it is full."""

    @property
    def batch(self) -> list[tuple[int, Any, list[Action]]]: ...

    @property
    def full(self) -> int: ...

    def flush(self) -> None: ...


class Executor(Protocol):
    """What runs the steps of one replica, and answers every `Run` with one `StepDone`."""

    def run(self, action: Run) -> None: ...

    def regroup(self, action: Regroup) -> None: ...

    def enter(self, action: Enter) -> None: ...

    def interrupt(self, action: Interrupt) -> None: ...

    def forget(self, action: Forget) -> None: ...


class Engine(Executor, Protocol):
    """An executor in real time. Whoever holds it calls `advance` when it is due, and sees to messages in between."""

    def accept(self, work: Work) -> None:
        """What an attempt is computed from; it comes before anything else is heard of that attempt.

        InputError if it can never be served: nothing more is heard of it then. `forget` ends it whether or not it has begun,
        and may come twice.
        """
        ...

    def due_ns(self) -> int | None:
        """When there is something to do next, on its clock (past or present: now). None: nothing runs."""
        ...

    def advance(self) -> StepDone | None:
        """Run one iteration, or go on to the next: hand out the tokens, and say so if the run is over by that."""
        ...


class Place(NamedTuple):
    """Where an engine is put: what it may read of its replica, and whom it gives its tokens to.

    `state` is the live face of the room beside it: who runs, and in the ledger which pages are whose (`page_ids` when a run
    begins, `page_ahead` within a leap). `clock` is that by which it is due. `emit` takes the tokens of an iteration while
    `advance` runs it.
    """

    resolved: Resolved
    replica: int
    state: InstanceState
    clock: Clock
    emit: Callable[[Emitted], None]


EngineFactory = Callable[[Place], Engine]
"""What brings an engine into the process that it will run in. It can be pickled; what is heavy it imports when it is called."""


class Wire(Protocol):
    """What fetches keys and values from other replicas: answers every `Pull` with `Pulled` or `PullFailed`, unless dropped."""

    def pull(self, action: Pull) -> None: ...

    def drop(self, action: Drop) -> None: ...


class Gateway(Protocol):
    """Where clients are: told when a request's life is over."""

    def ended(self, action: Ended) -> None: ...
