"""The room in the gateway: the fleet, and each request's life.

It owns a request's epoch (which attempt is current), what has been delivered, and its end; the instances own blocks and
batches. Word of an older epoch is dropped. A request follows its router: one replica for all of it, or one for the prompt and
another for the answer, found at once or when the prompt is done. An attempt is followed by another only when it is certain
that the old one is dead: its replica refused it, or is lost. The new one begins after the tokens delivered, so none is
delivered twice. What follows for an attempt is `attempts`' affair, what happens to replicas `fleet`'s.
"""

from __future__ import annotations

from phasewise.control.attempts import Attempts
from phasewise.control.fleet import Fleet
from phasewise.control.life import NOWHERE, Life
from phasewise.control.patience import Patience, Trust
from phasewise.control.ports import Handlers
from phasewise.core.action import Action, Boot, Outcome
from phasewise.core.event import Arrived, Drain, Gone, Lost, Start, Switch, Woken
from phasewise.core.message import (
    Accepted,
    Adopt,
    Adopted,
    Cancel,
    Cancelled,
    Declined,
    Evicted,
    Finished,
    Prefilled,
    PromptDone,
    Ready,
    Refused,
    Release,
    Released,
    Report,
    Reserved,
)
from phasewise.policy.roles import Router


class ClusterControl:
    """The fleet behind one router. `roles` and `blocks` (of `block_tokens` tokens) by replica; `patience_ns` None: the wire is
    reliable.

    `handlers` as in `InstanceControl`.
    """

    def __init__(
        self,
        router: Router,
        roles: list[str],
        blocks: list[int] | None = None,
        patience_ns: int | None = None,
        block_tokens: int = 1,
    ) -> None:
        self.handlers: Handlers = {
            Arrived: self._arrived,
            Gone: self._gone,
            Finished: self._finished,
            Cancelled: self._cancelled,
            Refused: self._refused,
            PromptDone: self._prompt_done,
            Evicted: self._evicted,
            Prefilled: self._prefilled,
            Reserved: self._reserved,
            Adopted: self._adopted,
            Declined: self._declined,
            Released: self._released,
            Accepted: self._accepted,
            Report: self._report,
            Ready: self._ready,
            Lost: self._lost,
            Start: self._start,
            Drain: self._drain,
            Switch: self._switch,
            Woken: self._woken,
        }
        self.fleet = Fleet(roles, blocks or [0] * len(roles), block_tokens)
        self._attempts = Attempts(router, self.fleet, Patience(patience_ns) if patience_ns else Trust())

    # --- a request's life

    def _arrived(self, event: Arrived, now_ns: int) -> list[Action]:
        request = event.request
        attempts = self._attempts
        attempts.lives[request.id] = life = Life(request, event.predicted)
        out: list[Action] = []
        if attempts.noting:
            attempts.patience.heard(request.id, now_ns, out)
        attempts.place(life, now_ns, out)
        return out

    def _gone(self, event: Gone, now_ns: int) -> list[Action]:
        life = self._attempts.lives.get(event.request)
        if life is None or life.gone:
            return []
        life.gone = True
        out: list[Action] = []
        if life.waits and life.home == NOWHERE:
            self._attempts.end(life, Outcome.CANCELLED, life.delivered, now_ns, out)
            return out
        self._attempts.stop_waiting(life)
        out.append(Cancel(life.owner, event.request, life.epoch))
        self._attempts.unreserve(life, now_ns, out)
        return out

    def _finished(self, event: Finished, now_ns: int) -> list[Action]:
        out: list[Action] = []
        attempts = self._attempts
        life = attempts.lives.get(event.request)
        if life is not None and life.epoch == event.epoch:
            attempts.end(life, Outcome.FINISHED, event.tokens, now_ns, out)
        return attempts.again(now_ns, out) if attempts.pending else out

    def _cancelled(self, event: Cancelled, now_ns: int) -> list[Action]:
        out: list[Action] = []
        self._attempts.patience.answered(event)
        life = self._attempts.current(event.request, event.epoch, now_ns, out)
        if life is not None and life.gone and event.replica in (life.owner, NOWHERE):
            self._attempts.end(life, Outcome.CANCELLED, max(event.tokens, life.emitted), now_ns, out)
        elif life is not None and not (life.gone or life.adopting) and event.replica == life.home:
            # It was to leave, and waited in the queue there.
            self._attempts.stop_waiting(life)
            self._attempts.anew(life, max(event.tokens, life.emitted), now_ns, out)
        return self._attempts.again(now_ns, out)

    def _refused(self, event: Refused, now_ns: int) -> list[Action]:
        """Try a replica that has not refused the request, unless its client has left; reject it when none is left."""
        out: list[Action] = []
        life = self._attempts.current(event.request, event.epoch, now_ns, out)
        if life is None:
            return out
        if life.gone:
            self._attempts.end(life, Outcome.CANCELLED, life.delivered, now_ns, out)
            return out
        life.refused += (life.home,)
        self._attempts.anew(life, life.delivered, now_ns, out, event.reason)
        return out

    # --- handing it over

    def _prompt_done(self, event: PromptDone | Evicted, now_ns: int) -> list[Action]:
        """A request is parked: its prompt is done, or it was taken out of its batch."""
        out: list[Action] = []
        life = self._attempts.current(event.request, event.epoch, now_ns, out)
        if life is None or life.gone or life.prompt_done or event.replica != life.home:
            return out
        if life.kept:
            # An order to leave came late, or this word does.
            out.append(Adopt(life.home, event.request, event.epoch, back=True))
            return out
        self._attempts.stop_waiting(life)
        life.prompt_done = True
        life.emitted = event.tokens
        self._attempts.books.computed(event.request)
        if life.next == NOWHERE:
            self._attempts.hand_over(life, now_ns, out)
        elif life.reserved:
            self._attempts.adopt(life, out)
        return self._attempts.again(now_ns, out)

    def _evicted(self, event: Evicted, now_ns: int) -> list[Action]:
        if event.parked:
            return self._prompt_done(event, now_ns)
        out: list[Action] = []
        life = self._attempts.current(event.request, event.epoch, now_ns, out)
        if life is None or life.gone or not life.moving or event.replica != life.home:
            return out
        if life.next == NOWHERE and not life.waits and not life.prompt_done:
            life.emitted = max(life.emitted, event.tokens)
            self._attempts.hand_over(life, now_ns, out)
        return out

    def _prefilled(self, event: Prefilled, now_ns: int) -> list[Action]:
        out: list[Action] = []
        if self._attempts.current(event.request, event.epoch, now_ns, out) is not None:
            self._attempts.books.computed(event.request)
        return out

    def _reserved(self, event: Reserved, now_ns: int) -> list[Action]:
        out: list[Action] = []
        life = self._attempts.current(event.request, event.epoch, now_ns, out)
        if life is None or event.replica not in (life.home, life.next):
            # An order that came late, when the request had gone another way.
            self._attempts.order(Cancel(event.replica, event.request, event.epoch), now_ns, out)
        elif event.replica == life.next and event.copied and not life.adopting and not life.gone:
            life.reserved = True
            if life.prompt_done:
                self._attempts.adopt(life, out)
            elif life.moving:
                out.append(life.evict())
        return out

    def _adopted(self, event: Adopted, now_ns: int) -> list[Action]:
        out: list[Action] = []
        life = self._attempts.current(event.request, event.epoch, now_ns, out)
        if life is not None and life.adopting and event.replica == life.next:
            source = life.home
            life.home, life.next = life.next, NOWHERE
            life.adopting = life.prompt_done = life.reserved = life.moving = False
            life.stays = True
            life.kept = source == life.home
            life.failed = ()
            self._attempts.books.moved(event.request)
            if source not in (NOWHERE, life.home):
                life.been += (source,)
                self._attempts.order(Release(source, event.request, event.epoch), now_ns, out)
                self._attempts.drained(source, out)
            self._attempts.move(life, out)
        return self._attempts.again(now_ns, out)

    def _declined(self, event: Declined, now_ns: int) -> list[Action]:
        """The hand-over has failed: back to the source, if it is still there, and to another target."""
        out: list[Action] = []
        life = self._attempts.current(event.request, event.epoch, now_ns, out)
        if life is None or event.replica != life.next:
            return out
        self._attempts.back(life, life.next, now_ns, out)
        return self._attempts.again(now_ns, out)

    def _released(self, event: Released, now_ns: int) -> list[Action]:
        self._attempts.patience.answered(event)
        return []

    def _accepted(self, event: Accepted, now_ns: int) -> list[Action]:
        out: list[Action] = []
        self._attempts.current(event.request, event.epoch, now_ns, out)
        return out

    def _woken(self, event: Woken, now_ns: int) -> list[Action]:
        """Try again what failed a while ago; repeat what has had no answer."""
        out: list[Action] = []
        for request in self._attempts.patience.due(now_ns, out):
            out += self._attempts.lives[request].unanswered()
        return self._attempts.again(now_ns, out)

    # --- replicas come and go

    def _lost(self, event: Lost, now_ns: int) -> list[Action]:
        """A replica is gone: whatever it owned begins anew elsewhere, after the tokens delivered."""
        out: list[Action] = []
        lost = event.replica
        self.fleet.lost(lost, event.returns)
        delivered, finished = dict(event.delivered), dict(event.finished)
        self._attempts.patience.lost(lost)
        for request, life in list(self._attempts.lives.items()):
            if life.owner == lost:
                if request in finished:
                    self._attempts.end(life, Outcome.FINISHED, finished[request], now_ns, out)
                else:
                    self._bereft(life, max(delivered.get(request, 0), life.emitted), now_ns, out)
            elif life.home == lost:
                # Adopted elsewhere or about to be: the target will say which.
                life.home = NOWHERE
                self._attempts.books.moved(request)
            elif life.next == lost:
                self._attempts.back(life, lost, now_ns, out)
        return self._attempts.again(now_ns, out)

    def _bereft(self, life: Life, delivered: int, now_ns: int, out: list[Action]) -> None:
        """Its owner is lost, and `delivered` tokens are with its client."""
        if life.adopting and delivered == life.emitted and life.home not in (NOWHERE, life.next):
            # The target had not begun: the source has all of it.
            self._attempts.back(life, life.next, now_ns, out)
            return
        if life.adopting and life.home not in (NOWHERE, life.next):
            self._attempts.order(Release(life.home, life.request.id, life.epoch), now_ns, out)
        life.adopting = False
        if life.owner == life.home and not self.fleet.present(life.home):
            life.home = NOWHERE
        if life.next != NOWHERE and not self.fleet.present(life.next):
            life.next = NOWHERE
        self._attempts.stop_waiting(life)
        if life.gone:
            life.emitted = delivered
            self._attempts.end(life, Outcome.CANCELLED, delivered, now_ns, out)
        else:
            self._attempts.anew(life, delivered, now_ns, out)

    def _ready(self, event: Ready, now_ns: int) -> list[Action]:
        self.fleet.ready(event.replica)
        self._attempts.patience.answered(event)
        out: list[Action] = []
        self._attempts.empty(out)
        return self._attempts.again(now_ns, out)

    def _start(self, event: Start, now_ns: int) -> list[Action]:
        order = self.fleet.start(event.replica)
        if order is None:
            return []
        out: list[Action] = [order]
        self._attempts.patience.order(order, now_ns, out)
        return out

    def _drain(self, event: Drain, now_ns: int) -> list[Action]:
        out: list[Action] = []
        if not self.fleet.present(event.replica):
            # It may have been told to start: that is not repeated any more.
            self._attempts.patience.called_off(Boot(event.replica))
        self.fleet.drain(event.replica, event.move)
        self._attempts.drained(event.replica, out)
        self._attempts.empty(out)
        return self._attempts.again(now_ns, out)

    def _switch(self, event: Switch, now_ns: int) -> list[Action]:
        out = self.fleet.switch(event.replica, event.role)
        self._attempts.empty(out)
        return self._attempts.again(now_ns, out)

    def _report(self, event: Report, now_ns: int) -> list[Action]:
        self._attempts.view.heard(event)
        return self._attempts.again(now_ns, [])
