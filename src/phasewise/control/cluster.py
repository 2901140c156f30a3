"""The room in the gateway: the fleet, and each request's life.

It owns a request's epoch (which attempt is current), what has been delivered, and its end; the instances own blocks and
batches. Word of an older epoch is dropped. A request follows its router: one replica for all of it, or one for the prompt and
another for the answer, found at once or when the prompt is done. An attempt is followed by another only when it is certain
that the old one is dead: its replica refused it, or is lost. The new one begins after the tokens delivered, so none is
delivered twice. What happens to replicas is `fleet`'s affair.
"""

from __future__ import annotations

from phasewise.control.bookings import Bookings, Unbooked
from phasewise.control.fleet import Fleet
from phasewise.control.life import NOWHERE, Life
from phasewise.control.patience import Patience
from phasewise.control.ports import Handlers
from phasewise.core.action import Action, Ended, Outcome, Stop, WakeAt
from phasewise.core.errors import PlanError
from phasewise.core.event import Arrived, Drain, Gone, Lost, Start, Switch, Woken
from phasewise.core.message import (
    Accepted,
    Adopt,
    Adopted,
    Cancel,
    Cancelled,
    Declined,
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
from phasewise.core.spec import DECODE, PREFILL
from phasewise.core.units import NS_PER_S
from phasewise.policy.fleet import serves
from phasewise.policy.roles import Homes, Router

RETRY_NS = NS_PER_S  # a hand-over that failed everywhere is tried again after so long


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
        self._router = router
        self._watched = bool(getattr(router, "watches", False))
        self.fleet = Fleet(roles, blocks or [0] * len(roles), block_tokens)
        self._view = self.fleet.view
        self._books = Bookings(self._view.booked) if getattr(router, "books", False) else Unbooked()
        self._lives: dict[int, Life] = {}
        self._pending: dict[int, Life] = {}
        self._patience = None if patience_ns is None else Patience(patience_ns)

    # --- a request's life

    def _arrived(self, event: Arrived, now_ns: int) -> list[Action]:
        request = event.request
        self._lives[request.id] = life = Life(request, event.predicted)
        out: list[Action] = []
        if self._patience is not None:
            self._patience.heard(request.id, now_ns, out)
        self._place(life, now_ns, out)
        return out

    def _place(self, life: Life, now_ns: int, out: list[Action], reason: str = "") -> None:
        """Begin an attempt wherever the router says; `reason` is why the last one was refused."""
        view, request = self._view, life.request
        homes = self._ask(life, life.refused, now_ns, out)
        if homes is None:
            self._wait(life, now_ns, out, PREFILL, reason)
            return
        prefill, decode, _ = homes
        role = view.roles[prefill]
        if not view.open[prefill] or not serves(role, PREFILL):
            raise PlanError(f"request {request.id} is sent to replica {prefill}, which serves no prompts now")
        life.home = prefill
        life.stays = decode == prefill and serves(role, DECODE)
        life.next = NOWHERE if decode == prefill else decode
        tokens = request.prompt_tokens + life.delivered
        self._books.place(request.id, prefill, prefill if life.stays else life.next, tokens, life.left)
        if self._watched:
            view.sent(prefill, request.id, tokens)
            if life.next != NOWHERE:
                view.handed(decode, request.id, tokens)
        out.append(life.submit())
        if life.next != NOWHERE:
            out.append(life.reserve())

    def _ask(
        self, life: Life, barred: tuple[int, ...], now_ns: int, out: list[Action], source: int | None = None
    ) -> Homes | None:
        """Where the router wants a request, the roles of replicas changed as it says."""
        view = self._view
        view.barred, view.predicted = barred, life.left
        homes = self._router.route(life.request, view, now_ns, source)
        view.barred = ()
        if homes is None:
            return None
        if isinstance(homes, int):
            return Homes(homes, homes)
        for replica, role in homes.roles:
            out += self.fleet.switch(replica, role)
        return homes

    def _wait(self, life: Life, now_ns: int, out: list[Action], phase: str, reason: str) -> None:
        """Nowhere yet: keep the request until a replica changes, unless none that could serve it will ever come."""
        if life.failed:
            # It could not get there: somebody else may be tried at once, the same ones only later.
            life.failed = ()
            life.not_before_ns = now_ns + RETRY_NS
            out.append(WakeAt(life.not_before_ns))
        elif not self.fleet.hopes(phase, life.refused):
            if life.home != NOWHERE:
                self._order(Cancel(life.home, life.request.id, life.epoch), now_ns, out)
            if life.refused and not life.emitted:
                self._end(life, Outcome.REJECTED, 0, now_ns, out, reason)
            else:
                self._end(life, Outcome.FAILED, life.emitted, now_ns, out, f"no replica is left for {phase}")
            return
        life.waits = True
        self._pending[life.request.id] = life

    def _again(self, now_ns: int, out: list[Action]) -> list[Action]:
        """A replica has changed: ask anew for those that wait, in order, until one still has to."""
        for request, life in list(self._pending.items()):
            if life.not_before_ns > now_ns:
                continue
            del self._pending[request]
            life.waits = False
            if life.prompt_done:
                self._hand_over(life, now_ns, out)
            else:
                self._place(life, now_ns, out)
            if life.waits:
                break
        return out

    def _gone(self, event: Gone, now_ns: int) -> list[Action]:
        life = self._lives.get(event.request)
        if life is None or life.gone:
            return []
        life.gone = True
        out: list[Action] = []
        if life.waits and life.home == NOWHERE:
            self._end(life, Outcome.CANCELLED, life.delivered, now_ns, out)
            return out
        self._stop_waiting(life)
        out.append(Cancel(life.owner, event.request, life.epoch))
        self._unreserve(life, now_ns, out)
        return out

    def _current(self, request: int, epoch: int, now_ns: int, out: list[Action]) -> Life | None:
        """The life that word of an attempt is about, if it is the current one."""
        life = self._lives.get(request)
        if life is None or life.epoch != epoch:
            return None
        if self._patience is not None:
            self._patience.heard(request, now_ns, out)
        return life

    def _finished(self, event: Finished, now_ns: int) -> list[Action]:
        out: list[Action] = []
        life = self._current(event.request, event.epoch, now_ns, out)
        if life is not None:
            self._end(life, Outcome.FINISHED, event.tokens, now_ns, out)
        return self._again(now_ns, out) if self._pending else out

    def _cancelled(self, event: Cancelled, now_ns: int) -> list[Action]:
        out: list[Action] = []
        if self._patience is not None:
            self._patience.answered(event)
        life = self._current(event.request, event.epoch, now_ns, out)
        if life is not None and life.gone and event.replica in (life.owner, NOWHERE):
            self._end(life, Outcome.CANCELLED, max(event.tokens, life.emitted), now_ns, out)
        return self._again(now_ns, out) if self._pending else out

    def _end(self, life: Life, outcome: Outcome, tokens: int, now_ns: int, out: list[Action], reason: str = "") -> None:
        """The life is over: let go of what it may still hold elsewhere."""
        request = life.request.id
        del self._lives[request]
        self._stop_waiting(life)
        if self._patience is not None:
            self._patience.over(request)
        if life.adopting and life.home not in (NOWHERE, life.next):
            self._order(Release(life.home, life.request.id, life.epoch), now_ns, out)
        self._unreserve(life, now_ns, out)
        self._books.over(request)
        out.append(Ended(request, outcome, tokens, reason))
        self._left(life, out)

    def _stop_waiting(self, life: Life) -> None:
        if life.waits:
            life.waits = False
            del self._pending[life.request.id]

    def _refused(self, event: Refused, now_ns: int) -> list[Action]:
        """Try a replica that has not refused the request, unless its client has left; reject it when none is left."""
        out: list[Action] = []
        life = self._current(event.request, event.epoch, now_ns, out)
        if life is None:
            return out
        if life.gone:
            self._end(life, Outcome.CANCELLED, life.delivered, now_ns, out)
            return out
        life.refused += (life.home,)
        self._anew(life, life.delivered, now_ns, out, event.reason)
        return out

    def _anew(self, life: Life, delivered: int, now_ns: int, out: list[Action], reason: str = "") -> None:
        """The attempt is dead: begin the next one after the tokens delivered."""
        self._unreserve(life, now_ns, out)
        self._books.over(life.request.id)
        life.delivered = delivered
        life.epoch += 1
        life.clear()
        self._place(life, now_ns, out, reason)

    # --- handing it over

    def _prompt_done(self, event: PromptDone, now_ns: int) -> list[Action]:
        out: list[Action] = []
        life = self._current(event.request, event.epoch, now_ns, out)
        if life is None or life.gone or life.prompt_done or event.replica != life.home:
            return out
        life.prompt_done = True
        life.emitted = event.tokens
        self._books.computed(event.request)
        if life.next == NOWHERE:
            self._hand_over(life, now_ns, out)
        elif life.reserved:
            self._adopt(life, out)
        return self._again(now_ns, out) if self._pending else out

    def _prefilled(self, event: Prefilled, now_ns: int) -> list[Action]:
        out: list[Action] = []
        if self._current(event.request, event.epoch, now_ns, out) is not None:
            self._books.computed(event.request)
        return out

    def _hand_over(self, life: Life, now_ns: int, out: list[Action]) -> None:
        """Find the one that decodes a request whose prompt is done."""
        view, request = self._view, life.request
        homes = self._ask(life, life.barred, now_ns, out, life.home)
        if homes is None:
            self._wait(life, now_ns, out, DECODE, "")
            return
        home = homes.decode
        if not view.open[home] or not serves(view.roles[home], DECODE):
            raise PlanError(f"request {request.id} is to decode on {home}, which serves no answers now")
        life.next = home
        self._books.rehome(request.id, home)
        if self._watched:
            view.handed(home, request.id, request.prompt_tokens + life.delivered)
        if home == life.home:
            self._adopt(life, out)
        else:
            out.append(life.reserve())

    def _adopt(self, life: Life, out: list[Action]) -> None:
        life.adopting = True
        out.append(Adopt(life.next, life.request.id, life.epoch))

    def _reserved(self, event: Reserved, now_ns: int) -> list[Action]:
        out: list[Action] = []
        life = self._current(event.request, event.epoch, now_ns, out)
        if life is None or event.replica not in (life.home, life.next):
            # An order that came late, when the request had gone another way.
            self._order(Cancel(event.replica, event.request, event.epoch), now_ns, out)
        elif event.replica == life.next and not life.adopting and not life.gone:
            life.reserved = True
            if life.prompt_done:
                self._adopt(life, out)
        return out

    def _adopted(self, event: Adopted, now_ns: int) -> list[Action]:
        out: list[Action] = []
        life = self._current(event.request, event.epoch, now_ns, out)
        if life is not None and life.adopting and event.replica == life.next:
            source = life.home
            life.home, life.next = life.next, NOWHERE
            life.adopting = life.prompt_done = False
            life.stays = True
            self._books.moved(event.request)
            if source not in (NOWHERE, life.home):
                self._order(Release(source, event.request, event.epoch), now_ns, out)
                self._drained(source, out)
        return self._again(now_ns, out) if self._pending else out

    def _declined(self, event: Declined, now_ns: int) -> list[Action]:
        """The hand-over has failed: back to the source, if it is still there, and to another target."""
        out: list[Action] = []
        life = self._current(event.request, event.epoch, now_ns, out)
        if life is None or event.replica != life.next:
            return out
        self._back(life, life.next, now_ns, out)
        return self._again(now_ns, out) if self._pending else out

    def _back(self, life: Life, from_: int, now_ns: int, out: list[Action]) -> None:
        """The target will not have it: the source owns the request again."""
        life.next = NOWHERE
        self._books.rehome(life.request.id, NOWHERE)
        life.reserved = life.adopting = False
        life.failed += (from_,)
        if life.home == NOWHERE:
            if life.gone:
                self._end(life, Outcome.CANCELLED, life.emitted, now_ns, out)
            else:
                self._anew(life, life.emitted, now_ns, out)
        elif life.gone:
            out.append(Cancel(life.home, life.request.id, life.epoch))
        elif life.prompt_done:
            self._hand_over(life, now_ns, out)

    def _unreserve(self, life: Life, now_ns: int, out: list[Action]) -> None:
        """Let a target go that has not been given the request."""
        if life.next != NOWHERE and not life.adopting:
            self._order(Cancel(life.next, life.request.id, life.epoch), now_ns, out)
            life.next = NOWHERE
            self._books.rehome(life.request.id, NOWHERE)

    def _order(self, order: Release | Cancel, now_ns: int, out: list[Action]) -> None:
        """An order that stands whatever becomes of the request."""
        out.append(order)
        if self._patience is not None:
            self._patience.order(order, now_ns, out)

    def _released(self, event: Released, now_ns: int) -> list[Action]:
        if self._patience is not None:
            self._patience.answered(event)
        return []

    def _accepted(self, event: Accepted, now_ns: int) -> list[Action]:
        out: list[Action] = []
        self._current(event.request, event.epoch, now_ns, out)
        return out

    def _woken(self, event: Woken, now_ns: int) -> list[Action]:
        """Try again what failed a while ago; repeat what has had no answer."""
        out: list[Action] = []
        if self._patience is not None:
            for request in self._patience.due(now_ns, out):
                out += self._lives[request].unanswered()
        return self._again(now_ns, out) if self._pending else out

    # --- replicas come and go

    def _lost(self, event: Lost, now_ns: int) -> list[Action]:
        """A replica is gone: whatever it owned begins anew elsewhere, after the tokens delivered."""
        out: list[Action] = []
        lost = event.replica
        self.fleet.lost(lost, event.returns)
        delivered, finished = dict(event.delivered), dict(event.finished)
        if self._patience is not None:
            self._patience.lost(lost)
        for request, life in list(self._lives.items()):
            if life.owner == lost:
                if request in finished:
                    self._end(life, Outcome.FINISHED, finished[request], now_ns, out)
                else:
                    self._bereft(life, max(delivered.get(request, 0), life.emitted), now_ns, out)
            elif life.home == lost:
                # Adopted elsewhere or about to be: the target will say which.
                life.home = NOWHERE
                self._books.moved(request)
            elif life.next == lost:
                self._back(life, lost, now_ns, out)
        return self._again(now_ns, out) if self._pending else out

    def _bereft(self, life: Life, delivered: int, now_ns: int, out: list[Action]) -> None:
        """Its owner is lost, and `delivered` tokens are with its client."""
        if life.adopting and delivered == life.emitted and life.home not in (NOWHERE, life.next):
            # The target had not begun: the source has all of it.
            self._back(life, life.next, now_ns, out)
            return
        if life.adopting and life.home not in (NOWHERE, life.next):
            self._order(Release(life.home, life.request.id, life.epoch), now_ns, out)
        life.adopting = False
        if life.owner == life.home and not self.fleet.present(life.home):
            life.home = NOWHERE
        if life.next != NOWHERE and not self.fleet.present(life.next):
            life.next = NOWHERE
        self._stop_waiting(life)
        if life.gone:
            life.emitted = delivered
            self._end(life, Outcome.CANCELLED, delivered, now_ns, out)
        else:
            self._anew(life, delivered, now_ns, out)

    def _ready(self, event: Ready, now_ns: int) -> list[Action]:
        self.fleet.ready(event.replica)
        if self._patience is not None:
            self._patience.answered(event)
        return self._again(now_ns, [])

    def _start(self, event: Start, now_ns: int) -> list[Action]:
        order = self.fleet.start(event.replica)
        if order is None:
            return []
        out: list[Action] = [order]
        if self._patience is not None:
            self._patience.order(order, now_ns, out)
        return out

    def _drain(self, event: Drain, now_ns: int) -> list[Action]:
        out: list[Action] = []
        self.fleet.drain(event.replica)
        self._drained(event.replica, out)
        return self._again(now_ns, out)

    def _drained(self, replica: int, out: list[Action]) -> None:
        """Let a draining replica stop once nothing is left on it."""
        if replica in self.fleet.draining and not any(replica in (x.home, x.next) for x in self._lives.values()):
            self.fleet.stopped(replica)
            out.append(Stop(replica))

    def _left(self, life: Life, out: list[Action]) -> None:
        for replica in self.fleet.draining:
            if replica in (life.home, life.next):
                self._drained(replica, out)

    def _switch(self, event: Switch, now_ns: int) -> list[Action]:
        return self._again(now_ns, self.fleet.switch(event.replica, event.role))

    def _report(self, event: Report, now_ns: int) -> list[Action]:
        self._view.heard(event)
        return self._again(now_ns, []) if self._pending else []
