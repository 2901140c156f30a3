"""What can become of an attempt: placed, made to wait, handed over, begun anew, ended. The verbs behind the cluster's room.

Of each request that is not over there is one `Life`, and its books. It asks the router where an attempt goes, and says what
follows as actions; it takes no event, and does not know what happened.
"""

from __future__ import annotations

from phasewise.control.bookings import Bookings, Unbooked
from phasewise.control.fleet import Fleet
from phasewise.control.life import NOWHERE, Life
from phasewise.control.patience import Patience, Trust
from phasewise.core.action import Action, Ended, Outcome, Stop, WakeAt
from phasewise.core.errors import PlanError
from phasewise.core.message import Cancel, Release, Submit
from phasewise.core.spec import DECODE, PREFILL
from phasewise.core.units import NS_PER_S
from phasewise.policy.fleet import serves
from phasewise.policy.roles import Homes, Router

RETRY_NS = NS_PER_S  # a hand-over that failed everywhere is tried again after so long


class Attempts:
    """The lives of all requests that are not over. Those `pending` wait for a replica to change."""

    def __init__(self, router: Router, fleet: Fleet, patience: Patience | Trust) -> None:
        self.lives: dict[int, Life] = {}
        self.pending: dict[int, Life] = {}
        self.patience = patience
        self.fleet = fleet
        self.view = fleet.view
        self.books = Bookings(self.view.booked) if getattr(router, "books", False) else Unbooked()
        self.watched = bool(getattr(router, "watches", False))
        self.keeps = self.watched or bool(getattr(router, "books", False))
        # Whether anything is written down of attempts that a reliable wire and a plain router have no need of.
        self.noting = self.keeps or isinstance(patience, Patience)
        self._router = router

    def current(self, request: int, epoch: int, now_ns: int, out: list[Action]) -> Life | None:
        """The life that word of an attempt is about, if it is the current one."""
        life = self.lives.get(request)
        if life is None or life.epoch != epoch:
            return None
        self.patience.heard(request, now_ns, out)
        return life

    def place(self, life: Life, now_ns: int, out: list[Action], reason: str = "") -> None:
        """Begin an attempt wherever the router says; `reason` is why the last one was refused."""
        view, request = self.view, life.request
        if life.refused or self.keeps:
            homes = self.ask(life, life.refused, now_ns)
        else:
            homes = self._router.route(request, view, now_ns)
        if homes is None:
            self.wait(life, now_ns, out, PREFILL, reason)
            return
        if type(homes) is int and view.whole[homes]:
            prefill = decode = life.home = homes
        else:
            prefill, decode = self._send(life, homes, out)
        if self.keeps:
            self._keep(life)
        out.append(Submit(prefill, request, life.epoch, life.delivered, life.stays))
        if decode != prefill:
            out.append(life.reserve())

    def _send(self, life: Life, homes: int | Homes, out: list[Action]) -> tuple[int, int]:
        """The two homes of an attempt, one of which may serve a single phase."""
        prefill, decode = (homes, homes) if isinstance(homes, int) else self._apart(homes, out)
        role = self.view.roles[prefill]
        if not self.view.open[prefill] or role == DECODE:
            raise PlanError(f"request {life.request.id} is sent to replica {prefill}, which serves no prompts now")
        life.home = prefill
        if decode != prefill or role == PREFILL:
            life.stays = False
            if decode != prefill:
                life.next = decode
        return prefill, decode

    def _keep(self, life: Life) -> None:
        """Write down for the router where an attempt was sent."""
        request, prefill, decode = life.request, life.home, life.next
        tokens = request.prompt_tokens + life.delivered
        self.books.place(request.id, prefill, prefill if life.stays else decode, tokens, life.left)
        if self.watched:
            self.view.sent(prefill, request.id, tokens)
            if decode != NOWHERE:
                self.view.handed(decode, request.id, tokens)

    def ask(self, life: Life, barred: tuple[int, ...], now_ns: int, source: int | None = None) -> int | Homes | None:
        """Where the router wants a request, told what it may want to know of it."""
        view = self.view
        view.barred, view.predicted = barred, life.left
        homes = self._router.route(life.request, view, now_ns, source)
        view.barred = ()
        return homes

    def _apart(self, homes: Homes, out: list[Action]) -> tuple[int, int]:
        """The two homes, the roles of replicas changed as the router says."""
        for replica, role in homes.roles:
            out += self.fleet.switch(replica, role)
        return homes.prefill, homes.decode

    def wait(self, life: Life, now_ns: int, out: list[Action], phase: str, reason: str) -> None:
        """Nowhere yet: keep the request until a replica changes, unless none that could serve it will ever come."""
        if life.failed:
            # It could not get there: somebody else may be tried at once, the same ones only later.
            life.failed = ()
            life.not_before_ns = now_ns + RETRY_NS
            out.append(WakeAt(life.not_before_ns))
        elif not self.fleet.hopes(phase, life.refused):
            if life.moving:
                return  # where it is it can go on
            if life.home != NOWHERE:
                self.order(Cancel(life.home, life.request.id, life.epoch), now_ns, out)
            if life.refused and not life.emitted:
                self.end(life, Outcome.REJECTED, 0, now_ns, out, reason)
            else:
                self.end(life, Outcome.FAILED, life.emitted, now_ns, out, f"no replica is left for {phase}")
            return
        life.waits = True
        self.pending[life.request.id] = life

    def again(self, now_ns: int, out: list[Action]) -> list[Action]:
        """A replica has changed: ask anew for those that wait, in order, until one still has to."""
        for request, life in list(self.pending.items()) if self.pending else ():
            if life.not_before_ns > now_ns:
                continue
            del self.pending[request]
            life.waits = False
            if life.prompt_done or life.moving:
                self.hand_over(life, now_ns, out)
            else:
                self.place(life, now_ns, out)
            if life.waits and not life.moving:
                break
        return out

    def stop_waiting(self, life: Life) -> None:
        if life.waits:
            life.waits = False
            del self.pending[life.request.id]

    def anew(self, life: Life, delivered: int, now_ns: int, out: list[Action], reason: str = "") -> None:
        """The attempt is dead: begin the next one after the tokens delivered."""
        self.unreserve(life, now_ns, out)
        self.books.over(life.request.id)
        left = life.home
        life.delivered = delivered
        life.epoch += 1
        life.clear()
        self.place(life, now_ns, out, reason)
        self.drained(left, out)

    def end(self, life: Life, outcome: Outcome, tokens: int, now_ns: int, out: list[Action], reason: str = "") -> None:
        """The life is over: let go of what it may still hold elsewhere."""
        request = life.request.id
        del self.lives[request]
        if life.waits:
            self.stop_waiting(life)
        if life.next != NOWHERE:
            if life.adopting and life.home not in (NOWHERE, life.next):
                self.order(Release(life.home, request, life.epoch), now_ns, out)
            self.unreserve(life, now_ns, out)
        if self.noting:
            self.patience.over(request)
            self.books.over(request)
        out.append(Ended(request, outcome, tokens, reason))
        if self.fleet.draining:
            self.left(life, out)

    def left(self, life: Life, out: list[Action]) -> None:
        for replica in self.fleet.draining:
            if replica in (life.home, life.next):
                self.drained(replica, out)

    def drained(self, replica: int, out: list[Action]) -> None:
        """Let a draining replica stop once nothing is left on it."""
        if replica in self.fleet.draining and not any(replica in (x.home, x.next) for x in self.lives.values()):
            self.fleet.stopped(replica)
            out.append(Stop(replica))

    def hand_over(self, life: Life, now_ns: int, out: list[Action]) -> None:
        """Find the one that decodes a request whose prompt is done, or that is to leave the one that does."""
        view, request = self.view, life.request
        homes = self.ask(life, life.barred, now_ns, life.home)
        if homes is None and life.moving and life.prompt_done:
            life.next = life.home
            self.books.rehome(request.id, life.home)
            self.adopt(life, out)
            return
        if homes is None:
            self.wait(life, now_ns, out, DECODE, "")
            return
        home = homes if isinstance(homes, int) else self._apart(homes, out)[1]
        if not view.open[home] or not serves(view.roles[home], DECODE):
            raise PlanError(f"request {request.id} is to decode on {home}, which serves no answers now")
        life.next = home
        self.books.rehome(request.id, home)
        if self.watched:
            view.handed(home, request.id, request.prompt_tokens + life.from_token)
        if home == life.home:
            self.adopt(life, out)
        else:
            out.append(life.reserve())

    def adopt(self, life: Life, out: list[Action]) -> None:
        life.adopting = True
        out.append(life.adopt())

    def back(self, life: Life, from_: int, now_ns: int, out: list[Action]) -> None:
        """The target will not have it: the source owns the request again."""
        life.next = NOWHERE
        decodes = life.moving and not life.prompt_done
        self.books.rehome(life.request.id, life.home if decodes else NOWHERE)
        life.reserved = life.adopting = False
        life.failed += (from_,)
        if life.home == NOWHERE:
            if life.gone:
                self.end(life, Outcome.CANCELLED, life.emitted, now_ns, out)
            else:
                self.anew(life, life.emitted, now_ns, out)
        elif life.gone:
            out.append(Cancel(life.home, life.request.id, life.epoch))
        elif life.prompt_done or life.moving:
            self.hand_over(life, now_ns, out)

    def empty(self, out: list[Action]) -> None:
        """Have all leave that are where nothing is to stay."""
        for life in list(self.lives.values()) if self.fleet.emptying else ():
            self.move(life, out)

    def move(self, life: Life, out: list[Action]) -> None:
        """Have it leave if its replica is to be empty, unless it does so by itself, was taken back, or has nowhere to go."""
        if life.home not in self.fleet.emptying or life.kept or life.prompt_done or life.gone or life.moving:
            return
        if self.view.able(PREFILL) and self.view.able(DECODE):
            life.moving = life.stays
            out.append(life.evict())

    def unreserve(self, life: Life, now_ns: int, out: list[Action]) -> None:
        """Let a target go that has not been given the request."""
        if life.next != NOWHERE and not life.adopting:
            self.order(Cancel(life.next, life.request.id, life.epoch), now_ns, out)
            life.next = NOWHERE
            self.books.rehome(life.request.id, NOWHERE)

    def order(self, order: Release | Cancel, now_ns: int, out: list[Action]) -> None:
        """An order that stands whatever becomes of the request."""
        out.append(order)
        self.patience.order(order, now_ns, out)
