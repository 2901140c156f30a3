"""Which replicas there are, what they do, and whether they can be given work. Kept by `cluster`; it knows no request."""

from __future__ import annotations

from collections.abc import Sequence

from phasewise.core.action import Action, Boot
from phasewise.core.message import SetRole
from phasewise.policy.fleet import ClusterView, serves

SERVING, COMING, DRAINING, GONE = range(4)


class Fleet:
    """The state of each replica: serving, coming (it will start, or is starting), draining, or gone."""

    def __init__(self, roles: Sequence[str], blocks: Sequence[int], block_tokens: int = 1) -> None:
        self.view = ClusterView(roles, blocks, block_tokens)
        self.draining: list[int] = []
        # Those of them whose requests go to others.
        self.emptying: list[int] = []
        self._states = [SERVING] * len(roles)

    def present(self, replica: int) -> bool:
        """Whether the replica is there, if only to end what it has."""
        return self._states[replica] in (SERVING, DRAINING)

    def hopes(self, phase: str, refused: Sequence[int]) -> bool:
        """Whether any replica but these serves the phase, or will."""
        return any(
            state in (SERVING, COMING) and serves(role, phase) and i not in refused
            for i, (state, role) in enumerate(zip(self._states, self.view.roles, strict=True))
        )

    def lost(self, replica: int, returns: bool) -> None:
        """The replica is gone, for good or for a while."""
        self._set(replica, COMING if returns else GONE)
        self.view.emptied(replica)

    def start(self, replica: int) -> Boot | None:
        """Start a replica, unless it is there."""
        if self.present(replica):
            return None
        self._set(replica, COMING)
        return Boot(replica)

    def ready(self, replica: int) -> None:
        """The replica has started."""
        self._set(replica, SERVING)

    def drain(self, replica: int, move: bool = False) -> None:
        """Give the replica nothing new, and `move` what it has; one that is not there will not come."""
        if move and replica not in self.emptying:
            self.emptying.append(replica)
        self._set(replica, DRAINING if self.present(replica) else GONE)

    def stopped(self, replica: int) -> None:
        """The replica is drained."""
        self._set(replica, GONE)

    def switch(self, replica: int, role: str) -> list[Action]:
        """Let a replica serve another phase."""
        if self.view.roles[replica] == role:
            return []
        self.view.set_role(replica, role)
        return [SetRole(replica, role)]

    def _set(self, replica: int, state: int) -> None:
        self._states[replica] = state
        self.view.set_open(replica, state == SERVING)
        self.draining = [i for i, now in enumerate(self._states) if now == DRAINING]
        self.emptying = [i for i in self.emptying if i in self.draining]
