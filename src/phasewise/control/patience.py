"""When to repeat an order: how long ago there was word of each request. Kept by `cluster` where messages can get lost."""

from __future__ import annotations

from phasewise.core.action import Action, WakeAt
from phasewise.core.message import Release, Released


class Patience:
    """After `patience_ns` without word of a request, its orders are repeated. One alarm for all: the longest silence's end."""

    __slots__ = ("_armed", "_patience_ns", "_releases", "_said")

    def __init__(self, patience_ns: int) -> None:
        self._patience_ns = patience_ns
        # request -> when there was last word of it, the longest silence first
        self._said: dict[int, int] = {}
        self._releases: dict[tuple[int, int], Release] = {}
        self._armed = False

    def heard(self, request: int, now_ns: int, out: list[Action]) -> None:
        """There is word of a request."""
        self._said.pop(request, None)
        self._said[request] = now_ns
        self.arm(now_ns, out)

    def over(self, request: int) -> None:
        """No more word is expected of it."""
        self._said.pop(request, None)

    def release(self, order: Release) -> None:
        """Repeat this order as well, until it is answered; its request may be over long before."""
        self._releases[order.replica, order.request] = order

    def released(self, event: Released) -> None:
        """It is answered."""
        self._releases.pop((event.replica, event.request), None)

    def lost(self, replica: int) -> None:
        """A replica is lost, and with it whatever it was to release."""
        self._releases = {key: order for key, order in self._releases.items() if key[0] != replica}

    def due(self, now_ns: int, out: list[Action]) -> list[int]:
        """The requests whose silence is too long; the releases to repeat are put to `out`, and the next alarm is set."""
        self._armed = False
        found = []
        for request, said_ns in self._said.items():
            if said_ns + self._patience_ns > now_ns:
                break
            found.append(request)
        for request in found:
            del self._said[request]
            self._said[request] = now_ns
        out += self._releases.values()
        self.arm(now_ns, out)
        return found

    def arm(self, now_ns: int, out: list[Action]) -> None:
        """Set the alarm, unless it is set or nothing is awaited."""
        if self._armed or not (self._said or self._releases):
            return
        self._armed = True
        oldest_ns = next(iter(self._said.values()), now_ns)
        out.append(WakeAt(max(oldest_ns, now_ns - self._patience_ns + 1) + self._patience_ns))
