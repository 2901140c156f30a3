"""Bytes under way between replicas on virtual time. It knows no request, no prompt and no latency: numbers and rates.

A flow goes from one sender to one receiver. Whoever is under way shares: rates are max-min fair between what each sender
sends out and what each receiver takes in at most, by progressive filling (Bertsekas and Gallager, Data Networks, section
6.5.2): all rates grow alike until a card is full, its flows stop there, and the others grow on.

Rates change only at whole nanoseconds: when a flow begins, ends, waits for its sender, or is dropped, and when a link changes
its speed. A flow ends at the first whole nanosecond at which all is sent, and is reckoned from the last instant at which its
rate changed, not from where somebody looked: looking more often changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf

from phasewise.sim.clock import VirtualClock

NEVER = 1 << 62
_ROUNDING_NS = 1e-4
"""By so much an end may be late by the rounding of floats alone; it is not worth another nanosecond."""


class Card:
    """What bounds flows together: `capacity` bytes/ns. `room` and `users` are scratch of `fair_rates`."""

    __slots__ = ("capacity", "room", "users")

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.room = 0.0
        self.users = 0


def fair_rates(routes: Sequence[tuple[Card, ...]]) -> list[float]:
    """Max-min fair rates, bytes/ns, of flows that each pass the cards of their route; without a card: infinite."""
    if len(routes) == 1:
        return [min((card.capacity for card in routes[0]), default=inf)]
    for route in routes:
        for card in route:
            card.room = card.capacity
            card.users = 0
    for route in routes:
        for card in route:
            card.users += 1
    rates = [inf] * len(routes)
    growing = [i for i, route in enumerate(routes) if route]
    while growing:
        least = min(card.room / card.users for i in growing for card in routes[i])
        stopped = [i for i in growing if any(card.room / card.users == least for card in routes[i])]
        for i in stopped:
            rates[i] = least
            for card in routes[i]:
                card.room -= least
                card.users -= 1
        growing = [i for i in growing if rates[i] == inf]
    return rates


class Flow:
    """Bytes under way: `left` of them at `since_ns`, from when on they go at `rate`.

    The last `held` of them are not there before `ready_ns`; a flow that has sent all others by then `waits`. `due_ns` is when
    it is over, or begins to wait, or has waited.
    """

    __slots__ = ("cards", "due_ns", "held", "left", "rate", "ready_ns", "since_ns", "source", "target", "waits")

    def __init__(self, source: int, target: int, nbytes: int, at_ns: int, ready_ns: int, held: int) -> None:
        self.source = source
        self.target = target
        self.left = float(nbytes)
        self.held = min(held, nbytes)
        self.ready_ns = ready_ns
        self.since_ns = at_ns
        self.due_ns = NEVER
        self.rate = 0.0
        self.waits = False
        self.cards: tuple[Card, ...] = ()

    def go(self, rate: float, at_ns: int) -> None:
        """From now on at this rate."""
        if rate == self.rate and self.due_ns != NEVER:
            return
        if at_ns > self.since_ns:
            self.left -= (at_ns - self.since_ns) * self.rate
            self.since_ns = at_ns
        self.rate = rate
        if at_ns < self.ready_ns:
            self.due_ns = self._sent_ns(self.left - self.held)
            if self.due_ns < self.ready_ns:
                return
        self.due_ns = self._sent_ns(self.left)

    def turn(self) -> bool:
        """Its instant has come. True: it is over; else it begins to wait for its sender, or has waited."""
        at_ns = self.due_ns
        if not self.waits and at_ns >= self.ready_ns:
            return True
        self.waits = at_ns < self.ready_ns
        self.left = float(self.held)
        self.since_ns = at_ns
        self.rate = 0.0
        self.due_ns = self.ready_ns if self.waits else NEVER
        return False

    def _sent_ns(self, nbytes: float) -> int:
        """When so many bytes are sent at this rate."""
        if nbytes <= 0:
            return self.since_ns
        return self.since_ns + ceil(nbytes / self.rate - _ROUNDING_NS) if self.rate else NEVER


class Flows:
    """All flows between some replicas. A flow is under way until `ended` has handed it out.

    `out_bytes_per_ns` and `in_bytes_per_ns` say by replica what it sends and takes in at most (inf: no bound; a flow without
    bounds is over at once).
    """

    def __init__(
        self, clock: VirtualClock, out_bytes_per_ns: Sequence[float], in_bytes_per_ns: Sequence[float]
    ) -> None:
        self._clock = clock
        self._capacities = tuple(out_bytes_per_ns), tuple(in_bytes_per_ns)
        self._outs = [Card(capacity) for capacity in out_bytes_per_ns]
        self._ins = [Card(capacity) for capacity in in_bytes_per_ns]
        # A pair of replicas has a card of its own only while the link between the two is slow.
        self._pairs: dict[tuple[int, int], Card] = {}
        self._factors: dict[tuple[int | None, int | None], float] = {}
        self._sending: dict[int, Flow] = {}
        self._over: dict[int, Flow] = {}
        self._next_ns = NEVER

    def begin(
        self, flow: int, source: int, target: int, nbytes: int, ready_ns: int | None = None, last_bytes: int = 0
    ) -> None:
        """A flow of `nbytes` begins now. Its sender computes the last `last_bytes` of them until `ready_ns`, if that is given:
        they cannot be sent before."""
        assert flow not in (*self._sending, *self._over), f"flow {flow} is under way already"
        now_ns = self._settle()
        begun = Flow(source, target, nbytes, now_ns, now_ns if ready_ns is None else ready_ns, last_bytes)
        begun.cards = self._route(source, target)
        self._sending[flow] = begun
        self._share(now_ns)

    def drop(self, flow: int) -> None:
        """Forget a flow under way, what it has sent included; nothing if there is none of that id."""
        now_ns = self._settle()
        self._over.pop(flow, None)
        if self._sending.pop(flow, None) is not None:
            self._share(now_ns)

    def drop_between(self, source: int | None, target: int | None) -> list[int]:
        """Drop the flows under way from `source` (None: any) to `target` (None: any): their ids, in order."""
        now_ns = self._settle()
        dropped = []
        for flows in (self._sending, self._over):
            for flow, way in flows.items():
                if source in (None, way.source) and target in (None, way.target):
                    dropped.append(flow)
        for flow in dropped:
            self._sending.pop(flow, None)
            self._over.pop(flow, None)
        self._share(now_ns)
        return sorted(dropped)

    def scale(self, source: int | None, target: int | None, factor: float) -> None:
        """From now on the link is slower by `factor`, at least 1 (1: as it was; inf: nothing passes).

        With both named, the pair sends each other no more than the slower of their two ends, divided by `factor`, and the rest
        of both is others'. With one named it is all that this replica sends (None as target) or takes in; with none, all. What
        applies at once multiplies.
        """
        now_ns = self._settle()
        self._factors.pop((source, target), None)
        if factor != 1:
            self._factors[source, target] = factor
        self._rate_cards()
        self._share(now_ns)

    def rate(self, flow: int) -> float:
        """Bytes/ns at which a flow goes now; 0 while it waits for its sender and when it is over."""
        self._settle()
        return self._sending[flow].rate if flow in self._sending else 0.0

    def next_ns(self) -> int | None:
        """When to look again: the earliest end, unless a flow begins to wait for its sender, or has waited, before (then
        rates change, and `ended` may have nothing). None: nothing is under way, or nothing passes."""
        if self._over:
            return self._clock.now_ns
        return None if self._next_ns == NEVER else self._next_ns

    def ended(self) -> list[int]:
        """The flows that are over by now, each once, in order of their ids."""
        if self._next_ns > self._clock.now_ns and not self._over:
            return []
        self._settle()
        over = sorted(self._over)
        self._over.clear()
        return over

    def _settle(self) -> int:
        """Let everything happen that is due by now, each at its own instant. Returns now."""
        now_ns = self._clock.now_ns
        while self._next_ns <= now_ns:
            at_ns = self._next_ns
            for flow in [flow for flow, way in self._sending.items() if way.due_ns == at_ns]:
                if self._sending[flow].turn():
                    self._over[flow] = self._sending.pop(flow)
            self._share(at_ns)
        return now_ns

    def _share(self, at_ns: int) -> None:
        """Share what there is among the flows that have something to send."""
        ways = [way for way in self._sending.values() if not way.waits]
        for way, rate in zip(ways, fair_rates([way.cards for way in ways]), strict=True):
            way.go(rate, at_ns)
        self._next_ns = min((way.due_ns for way in self._sending.values()), default=NEVER)

    def _route(self, source: int, target: int) -> tuple[Card, ...]:
        """The cards that bound a flow between two replicas."""
        cards = [self._outs[source], self._ins[target]]
        if (source, target) in self._pairs:
            cards.append(self._pairs[source, target])
        return tuple(card for card in cards if card.capacity < inf)

    def _rate_cards(self) -> None:
        """Set every capacity by the factors that apply, and every flow's route by that."""
        slow = self._factors
        outs, ins = self._capacities
        every = slow.get((None, None), 1.0)
        for i, card in enumerate(self._outs):
            card.capacity = _slowed(outs[i], every * slow.get((i, None), 1.0))
        for i, card in enumerate(self._ins):
            card.capacity = _slowed(ins[i], every * slow.get((None, i), 1.0))
        self._pairs = {}
        for (source, target), factor in slow.items():
            if source is not None and target is not None:
                slower = min(self._outs[source].capacity, self._ins[target].capacity)
                self._pairs[source, target] = Card(_slowed(slower, factor))
        for way in self._sending.values():
            way.cards = self._route(way.source, way.target)


def _slowed(capacity: float, factor: float) -> float:
    """A capacity divided by a factor; a factor without end leaves nothing, of an endless capacity too."""
    return 0.0 if factor == inf else capacity / factor
