"""What a replica has in flight. Kept by `instance`, read by `check`."""

from __future__ import annotations

from phasewise.core.action import Run
from phasewise.core.resident import Cohort


class Lane:
    """One forward pass at a time: the `Run` in flight (None: free) since `began_ns`, and the cohorts in it."""

    __slots__ = ("began_ns", "cohorts", "interrupted", "run")

    def __init__(self) -> None:
        self.run: Run | None = None
        self.cohorts: tuple[Cohort, ...] = ()
        self.interrupted = False
        self.began_ns = 0
