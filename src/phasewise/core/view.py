"""What a policy sees. Read only: `plan` and `route` never change what they are shown; the mechanism does, afterwards."""

from __future__ import annotations

from collections import deque

from phasewise.core.errors import PlanError
from phasewise.core.kv import BlockLedger
from phasewise.core.resident import Cohort, Resident
from phasewise.core.spec import MIXED
from phasewise.core.step import ALL, StepPlan

MOST_COHORTS = 64  # a row of the log's columns has a bit for each


class InstanceState:
    """The live face of one replica for its own batcher.

    `waiting`: the queue, first come first, the preempted at its front. `running`: residents with blocks, in the order of
    admission; `prefilling`: those of them with tokens still to compute. `cohorts`: the decoding residents by group, opened
    when a last chunk first names it; `groups` keeps those found by `group`. `last` is the plan that ran last, `arrived_ns`
    when the last request came. Of a hand-over: `parked` keep their blocks here until they are adopted elsewhere, `landed` have
    come with theirs and wait for a seat. `role` is what the replica is for.
    """

    __slots__ = (
        "arrived_ns",
        "cohorts",
        "free_lanes",
        "groups",
        "landed",
        "last",
        "ledger",
        "max_context",
        "parked",
        "prefilling",
        "role",
        "running",
        "waiting",
    )

    def __init__(self, ledger: BlockLedger, max_context: int) -> None:
        self.ledger = ledger
        self.max_context = max_context
        self.waiting: deque[Resident] = deque()
        self.running: dict[int, Resident] = {}
        self.prefilling: dict[int, Resident] = {}
        self.cohorts: dict[str, Cohort] = {ALL: Cohort(ALL, ledger.block_tokens)}
        self.free_lanes: tuple[int, ...] = (0,)
        self.last: StepPlan | None = None
        self.arrived_ns = -1
        self.parked: dict[int, Resident] = {}
        self.landed: deque[Resident] = deque()
        self.role = MIXED
        self.groups: dict[tuple[str, ...], tuple[Cohort, ...]] = {}

    def open(self, name: str) -> Cohort:
        """A new cohort, for the first chunk that names it. PlanError beyond 64 of them."""
        if len(self.cohorts) == MOST_COHORTS:
            raise PlanError(f"cohort '{name}' would be the {MOST_COHORTS + 1}th; a replica keeps {MOST_COHORTS}")
        self.cohorts[name] = Cohort(name, self.ledger.block_tokens)
        return self.cohorts[name]

    def group(self, names: tuple[str, ...]) -> tuple[Cohort, ...]:
        """The cohorts of these names; PlanError if there is none of a name, or one is named twice."""
        found = self.groups.get(names)
        if found is None:
            for name in names:
                if name not in self.cohorts:
                    raise PlanError(f"there is no cohort '{name}'")
            for name in names:
                if names.count(name) > 1:
                    raise PlanError(f"cohort '{name}' is planned twice")
            found = self.groups[names] = tuple(self.cohorts[name] for name in names)
        return found
