"""What goes wrong in a run, and what an operator does to it: a closed union of faults, each with its instant.

A fault says what happens, not what comes of it: that is for the rooms, which learn of it only by what reaches them, or no
longer does. Nothing is random here but the share of messages that `Mangles` picks; random failures are drawn before.

Instants count on the run's own axis, as arrivals do. Where a fault lasts from `at_ns` until `until_ns` (None: to the end),
the first instant belongs to it and the last does not.
"""

from __future__ import annotations

import msgspec

MESSAGES = (
    "submit",
    "cancel",
    "reserve",
    "adopt",
    "release",
    "evict",
    "accepted",
    "ready",
    "promptdone",
    "evicted",
    "prefilled",
    "reserved",
    "adopted",
    "released",
    "finished",
    "cancelled",
    "declined",
    "refused",
    "report",
    "setrole",
)
"""Messages between the rooms as `Mangles` names them: their classes' names in lower case."""


class Dies(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="dies"):
    """The process of `replica` dies with all that it holds. At `back_ns` it is started again (None: never), and serves
    after the deployment's cold start."""

    at_ns: int
    replica: int
    back_ns: int | None = None


class Slows(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="slows"):
    """Each step of `replica` begun in the window takes `factor` times as long; where windows overlap, factors multiply."""

    at_ns: int
    replica: int
    factor: float
    until_ns: int | None = None


class Cuts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cuts"):
    """The link from `source` to `target` (None: any) is `factor` times as slow in the window, or lost (None)."""

    at_ns: int
    source: int | None
    target: int | None
    factor: float | None = None
    until_ns: int | None = None


class Drains(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="drains"):
    """`replica` is given no new work from now on; what is inside ends there, or goes to other replicas (`move`)."""

    at_ns: int
    replica: int
    move: bool = False


class Starts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="starts"):
    """`replica` is absent from the beginning. It is started now, and serves after the deployment's cold start."""

    at_ns: int
    replica: int


class Switches(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="switches"):
    """`replica` has the role `role` (one of `core.spec.ROLES`) from now on."""

    at_ns: int
    replica: int
    role: str


class Mangles(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="mangles"):
    """Of the messages between rooms sent in the window, a `share` in (0, 1], picked at random, comes `delay_ns` later
    than it would, or never (None). `kind` is one of `MESSAGES` (None: all)."""

    kind: str | None
    share: float
    delay_ns: int | None = None
    at_ns: int = 0
    until_ns: int | None = None


Fault = Dies | Slows | Cuts | Drains | Starts | Switches | Mangles


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that goes wrong in a run. `seed` stands behind whatever is picked by chance: two runs of a scenario pick the same."""

    faults: tuple[Fault, ...] = ()
    seed: int = 0
    name: str = ""

    def timed(self) -> tuple[Fault, ...]:
        """The faults in the order in which they begin; those of one instant in the order in which they stand."""
        return tuple(sorted(self.faults, key=lambda fault: fault.at_ns))

    def absent(self) -> tuple[int, ...]:
        """The replicas that are not there at the beginning, ascending: those that a fault starts."""
        return tuple(sorted({fault.replica for fault in self.faults if isinstance(fault, Starts)}))


def holds(fault: Slows | Cuts | Mangles, at_ns: int) -> bool:
    """Whether the instant lies in the fault's window."""
    return fault.at_ns <= at_ns and (fault.until_ns is None or at_ns < fault.until_ns)
