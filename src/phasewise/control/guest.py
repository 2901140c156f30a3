"""A request on its way to a replica, as the replica that expects it keeps it. It does not know why the request moves."""

from __future__ import annotations

from phasewise.core.action import Action, Pull
from phasewise.core.message import Reserve
from phasewise.core.resident import Resident


class Guest:
    """Its blocks are held once it is a `resident`; `pulled` and `adopted` make it one of ours.

    Of a live one `tokens` output tokens are out by the time that it is ours.
    """

    __slots__ = ("adopted", "order", "pulled", "resident", "tokens")

    def __init__(self, order: Reserve) -> None:
        self.order = order
        self.resident: Resident | None = None
        self.pulled = False
        self.adopted = False
        self.tokens = 0

    @property
    def copied(self) -> bool:
        """Of a live one whether so much is here as was asked for; no other is waited for."""
        return self.pulled or not self.order.live

    @property
    def behind(self) -> bool:
        """Whether tokens are missing here that its source has computed since it was copied."""
        return self.resident is not None and self.tokens > self.resident.generated

    @property
    def wanted(self) -> int:
        """How many tokens must be here of one that is behind: all but the last that is out."""
        return self.order.request.prompt_tokens + self.tokens - 1

    def catch_up(self, resident: Resident, out: list[Action]) -> None:
        """It is behind, and its blocks reach far enough: pull the tokens that are missing, and those alone."""
        start, known = resident.computed, self.wanted
        resident.computed = resident.known = known
        resident.generated = self.tokens
        self.pulled = False
        out.append(Pull(resident.id, resident.epoch, self.order.source, known - start, start, waits=False))
