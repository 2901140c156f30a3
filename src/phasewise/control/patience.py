"""When to repeat an order: how long ago there was word of each request. Kept by `cluster` where messages can get lost."""

from __future__ import annotations

from phasewise.core.action import Action, Boot, WakeAt
from phasewise.core.message import Cancel, Cancelled, Ready, Release, Released

Order = Release | Cancel | Boot
Answer = Released | Cancelled | Ready
"""Orders that may outlive the attempt that they are about, and what answers them."""

_LOOKS = 4  # at most so often in the time of one patience


class Patience:
    """After `patience_ns` without word of a request its orders are repeated, after twice as long again, and so on."""

    __slots__ = ("_alarm_ns", "_orders", "_patience_ns", "_silent")

    def __init__(self, patience_ns: int) -> None:
        self._patience_ns = patience_ns
        # request -> since when there has been no word of it, and for how long that may be
        self._silent: dict[int, tuple[int, int]] = {}
        # (replica, request; -1: of the replica itself) -> an order that outlives its request, repeated until it is answered
        self._orders: dict[tuple[int, int], tuple[Order, int, int]] = {}
        self._alarm_ns = -1  # none is set

    def heard(self, request: int, now_ns: int, out: list[Action]) -> None:
        """There is word of a request."""
        self._silent[request] = now_ns, self._patience_ns
        self._arm(now_ns, out)

    def over(self, request: int) -> None:
        """No more word is expected of it."""
        self._silent.pop(request, None)

    def order(self, order: Order, now_ns: int, out: list[Action]) -> None:
        """Repeat this order as well."""
        self._orders[_key(order)] = order, now_ns, self._patience_ns
        self._arm(now_ns, out)

    def answered(self, event: Answer) -> None:
        """Such an order is answered."""
        self._orders.pop(_key(event), None)

    def called_off(self, order: Order) -> None:
        """Such an order is not to be repeated any more."""
        self._orders.pop(_key(order), None)

    def lost(self, replica: int) -> None:
        """A replica is lost, and with it whatever it was to release."""
        self._orders = {key: found for key, found in self._orders.items() if key[0] != replica}

    def due(self, now_ns: int, out: list[Action]) -> list[int]:
        """The requests whose silence is too long; the other orders to repeat are put to `out`, and the next alarm is set."""
        if now_ns < self._alarm_ns or self._alarm_ns < 0:
            return []
        self._alarm_ns = -1
        found = [request for request, (since_ns, wait_ns) in self._silent.items() if since_ns + wait_ns <= now_ns]
        for request in found:
            self._silent[request] = now_ns, 2 * self._silent[request][1]
        for key, (order, since_ns, wait_ns) in self._orders.items():
            if since_ns + wait_ns <= now_ns:
                self._orders[key] = order, now_ns, 2 * wait_ns
                out.append(order)
        self._arm(now_ns, out)
        return found

    def _arm(self, now_ns: int, out: list[Action]) -> None:
        """Set the alarm, unless it is set or nothing is awaited. It may come too early, never too late."""
        if self._alarm_ns >= 0:
            return
        due = [since_ns + wait_ns for since_ns, wait_ns in self._silent.values()]
        due += [since_ns + wait_ns for _, since_ns, wait_ns in self._orders.values()]
        if due:
            self._alarm_ns = max(min(due), now_ns + self._patience_ns // _LOOKS, now_ns + 1)
            out.append(WakeAt(self._alarm_ns))


class Trust:
    """Where the wire is reliable: nothing is repeated, and nothing noted."""

    __slots__ = ()

    def heard(self, request: int, now_ns: int, out: list[Action]) -> None: ...

    def over(self, request: int) -> None: ...

    def order(self, order: Order, now_ns: int, out: list[Action]) -> None: ...

    def answered(self, event: Answer) -> None: ...

    def called_off(self, order: Order) -> None: ...

    def lost(self, replica: int) -> None: ...

    def due(self, now_ns: int, out: list[Action]) -> list[int]:
        return []


def _key(order: Order | Answer) -> tuple[int, int]:
    return order.replica, -1 if isinstance(order, Boot | Ready) else order.request
