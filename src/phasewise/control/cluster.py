"""The room in the gateway: the fleet, and each request's life.

It owns a request's epoch (which attempt is current) and its end; the instances own blocks and batches. Word of an older
epoch is dropped. Today an attempt is followed by another only when a replica refuses a request that it can never serve;
hand-over, faults and stale views come with the fleet.
"""

from __future__ import annotations

from phasewise.control.ports import Handlers
from phasewise.core.action import Action, Ended, Outcome
from phasewise.core.event import Arrived, Gone
from phasewise.core.message import Cancel, Cancelled, Finished, Refused, Submit
from phasewise.core.request import Request
from phasewise.core.view import ClusterView
from phasewise.policy.roles import Router


class Life:
    """A request that is not over: its current attempt, the replicas that have not refused it, whether its client left."""

    __slots__ = ("epoch", "gone", "open", "replica", "request")

    def __init__(self, request: Request, replica: int, open_to: tuple[int, ...]) -> None:
        self.request = request
        self.epoch = 0
        self.replica = replica
        self.open = open_to
        self.gone = False


class ClusterControl:
    """The fleet of `replicas` replicas behind one router. `handlers` as in `InstanceControl`."""

    def __init__(self, router: Router, replicas: int) -> None:
        self.handlers: Handlers = {
            Arrived: self._arrived,
            Gone: self._gone,
            Finished: self._finished,
            Cancelled: self._cancelled,
            Refused: self._refused,
        }
        self._router = router
        self._all = tuple(range(replicas))
        self._view = ClusterView(self._all)
        self._lives: dict[int, Life] = {}

    def _arrived(self, event: Arrived, now_ns: int) -> list[Action]:
        request = event.request
        replica = self._router.route(request, self._view)
        self._lives[request.id] = Life(request, replica, self._all)
        return [Submit(replica, request, 0)]

    def _gone(self, event: Gone, now_ns: int) -> list[Action]:
        life = self._lives.get(event.request)
        if life is None or life.gone:
            return []
        life.gone = True
        return [Cancel(life.replica, event.request, life.epoch)]

    def _finished(self, event: Finished, now_ns: int) -> list[Action]:
        return self._over(event.request, event.epoch, Outcome.FINISHED, event.tokens)

    def _cancelled(self, event: Cancelled, now_ns: int) -> list[Action]:
        return self._over(event.request, event.epoch, Outcome.CANCELLED, event.tokens)

    def _over(self, request: int, epoch: int, outcome: Outcome, tokens: int, reason: str = "") -> list[Action]:
        life = self._lives.get(request)
        if life is None or life.epoch != epoch:
            return []
        del self._lives[request]
        return [Ended(request, outcome, tokens, reason)]

    def _refused(self, event: Refused, now_ns: int) -> list[Action]:
        """Try a replica that has not refused the request, unless its client has left; reject it when none is left."""
        life = self._lives.get(event.request)
        if life is None or life.epoch != event.epoch:
            return []
        if life.gone:
            return self._over(event.request, event.epoch, Outcome.CANCELLED, 0)
        life.open = tuple(i for i in life.open if i != life.replica)
        if not life.open:
            return self._over(event.request, event.epoch, Outcome.REJECTED, 0, event.reason)
        life.replica = self._router.route(life.request, ClusterView(life.open))
        life.epoch += 1
        return [Submit(life.replica, life.request, life.epoch)]
