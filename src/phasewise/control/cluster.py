"""The room in the gateway: the fleet, and each request's life.

It owns a request's epoch (which attempt is current) and its end; the instances own blocks and batches. Word of an older
epoch is dropped. Today an attempt is followed by another only when a replica refuses a request that it can never serve;
hand-over, faults and stale views come with the fleet.
"""

from __future__ import annotations

from phasewise.core.action import Action, Ended, Outcome
from phasewise.core.event import Arrived, ClusterEvent, Gone
from phasewise.core.message import Cancel, Cancelled, Finished, Refused, Submit
from phasewise.core.request import Request
from phasewise.core.view import ClusterView
from phasewise.policy.roles import Router


class Life:
    """A request that is not over: its current attempt, and the replicas that have not refused it."""

    __slots__ = ("epoch", "open", "replica", "request")

    def __init__(self, request: Request, replica: int, open_to: tuple[int, ...]) -> None:
        self.request = request
        self.epoch = 0
        self.replica = replica
        self.open = open_to


class ClusterControl:
    """The fleet of `replicas` replicas behind one router."""

    def __init__(self, router: Router, replicas: int) -> None:
        self._router = router
        self._all = tuple(range(replicas))
        self._view = ClusterView(self._all)
        self._lives: dict[int, Life] = {}

    def on(self, event: ClusterEvent, now_ns: int) -> list[Action]:
        """The actions that follow from an event."""
        kind = type(event)
        if kind is Arrived:
            request = event.request  # type: ignore[union-attr]
            replica = self._router.route(request, self._view)
            self._lives[request.id] = Life(request, replica, self._all)
            return [Submit(replica, request, 0)]
        if kind is Gone:
            gone = self._lives.get(event.request)  # type: ignore[union-attr, arg-type]
            return [] if gone is None else [Cancel(gone.replica, gone.request.id, gone.epoch)]
        life = self._lives.get(event.request)  # type: ignore[union-attr, arg-type]
        if life is None or life.epoch != event.epoch:  # type: ignore[union-attr]
            return []
        if kind is Finished:
            return self._over(life, Outcome.FINISHED, event.tokens)  # type: ignore[union-attr]
        if kind is Cancelled:
            return self._over(life, Outcome.CANCELLED, event.tokens)  # type: ignore[union-attr]
        if kind is Refused:
            return self._refused(life, event.reason)  # type: ignore[union-attr]
        raise TypeError(f"a cluster does not take {kind.__name__}")

    def _over(self, life: Life, outcome: Outcome, tokens: int, reason: str = "") -> list[Action]:
        del self._lives[life.request.id]
        return [Ended(life.request.id, outcome, tokens, reason)]

    def _refused(self, life: Life, reason: str) -> list[Action]:
        """Try a replica that has not refused the request; reject it when none is left."""
        life.open = tuple(i for i in life.open if i != life.replica)
        if not life.open:
            return self._over(life, Outcome.REJECTED, 0, reason)
        life.replica = self._router.route(life.request, ClusterView(life.open))
        life.epoch += 1
        return [Submit(life.replica, life.request, life.epoch)]
