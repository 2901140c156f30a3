"""Keys and values on their way between simulated replicas: when a pull can begin, and when it is over.

A replica pulls; the source's executor says when there is something to fetch. Serialised, that is when the prompt is done; of
a request that decodes, it is there already. If the source gives up what it has while it is under way, the pull fails.
Layer-wise, its layers are sent while the step with the prompt's last chunk computes the next ones; what earlier chunks computed
waits for that step as well. `sim.links` shares the links; this knows which request's bytes a flow carries.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import ceil
from typing import Any

from phasewise.core.action import Drop, Pull, Run
from phasewise.core.event import HOST, Pulled, PullFailed
from phasewise.core.spec import Resolved
from phasewise.core.step import AWAY
from phasewise.perf.links import handed_bytes, layer_wise, presets, resolve_link
from phasewise.sim.clock import VirtualClock
from phasewise.sim.links import Flows

HOST_LINK = "pcie4"
"""What host memory is reached over: each device by its own sixteen lanes. An assumption."""


class Transfer:
    """One pull: `flow` is its number once bytes are under way, `after_ns` what it takes when the last of them is sent.

    `ready_ns` is when its prompt will be done, if its layers are sent one by one.
    """

    __slots__ = ("after_ns", "began_ns", "epoch", "flow", "nbytes", "ready_ns", "request", "source", "target")

    def __init__(self, target: int, action: Pull, nbytes: int) -> None:
        self.target = target
        self.request = action.request
        self.epoch = action.epoch
        self.source = action.source
        self.nbytes = nbytes
        self.flow = -1
        self.began_ns = -1
        self.after_ns = 0
        self.ready_ns = -1


class Transfers:
    """All pulls of a fleet. Ends go onto the clock's agenda with `order`.

    `there(source, request, epoch)` says whether a prompt is done and its replica has it; `tell(target, event)` brings word to
    a replica.
    """

    def __init__(
        self,
        resolved: Resolved,
        clock: VirtualClock,
        order: int,
        there: Callable[[int, int, int], bool],
        tell: Callable[[int, Any], None],
    ) -> None:
        deployment = resolved.deployment
        self._clock = clock
        self._order = order
        self._there = there
        self._tell = tell
        self._spec = deployment.link
        self._link = link = resolve_link(deployment.link)
        self._model = resolved.model
        rates = [link.bytes_per_ns(r.tp * r.pp) for r in resolved.replicas]
        self._flows = Flows(clock, rates, rates)
        host = presets()[HOST_LINK]
        self._host_rates = [host.bytes_per_ns(r.tp * r.pp) for r in resolved.replicas]
        self._host_free_ns: dict[int, int] = {}
        self._lost: dict[tuple[int | None, int | None], None] = {}
        # (target, request) -> its transfer
        self._open: dict[tuple[int, int], Transfer] = {}
        # source -> transfers that wait for its prompts
        self.waiting: dict[int, list[Transfer]] = {}
        self._by_flow: dict[int, Transfer] = {}
        # source -> `(first_ns, end_ns, requests)` of its last step whose prompts leave layer by layer
        self._steps: dict[int, tuple[int, int, set[int]]] = {}
        self._numbers = 0
        # Instants that are on the agenda already: once each, or every look would call for another.
        self._awaited: set[int] = set()
        # `(at_ns, number, transfer, event)` of what is to happen
        self._news: list[tuple[int, int, Transfer, Any]] = []

    def pull(self, target: int, action: Pull) -> None:
        """A replica wants a request's keys and values: now, if they are there."""
        transfer = Transfer(target, action, handed_bytes(self._model, action.tokens))
        self._open[target, action.request] = transfer
        if action.source == HOST:
            self._from_host(transfer)
            return
        if self._cut(action.source, target):
            self._fail(transfer, f"the link from replica {action.source} is lost")
        elif self._there(action.source, action.request, action.epoch):
            self._begin(transfer)
        elif not action.waits:
            self._fail(transfer, f"replica {action.source}, its source, does not have it")
        else:
            self.waiting.setdefault(action.source, []).append(transfer)
            self._overlap(transfer)

    def _from_host(self, transfer: Transfer) -> None:
        """Back from the replica's own host memory, one after the other over its host link."""
        now_ns = self._clock.now_ns
        rate = self._host_rates[transfer.target]
        begin_ns = max(now_ns, self._host_free_ns.get(transfer.target, 0))
        end_ns = begin_ns + ceil(transfer.nbytes / rate)
        self._host_free_ns[transfer.target] = end_ns
        self._announce(transfer, Pulled(transfer.request, transfer.epoch, HOST, begin_ns, transfer.nbytes), end_ns)

    def drop(self, target: int, action: Drop) -> None:
        """A pull is not wanted any more."""
        transfer = self._open.get((target, action.request))
        if transfer is not None and transfer.epoch == action.epoch:
            self._forget(transfer)
            self._flows.drop(transfer.flow)
            self._promise()

    def computing(self, source: int, run: Run, end_ns: int) -> None:
        """A source has begun a step until `end_ns`: what leaves after it may go layer by layer already."""
        chunks = [chunk for chunk in run.plan.chunks if chunk.joins == AWAY]
        if not chunks or not layer_wise(self._spec, sum(chunk.tokens for chunk in run.plan.chunks)):
            return
        now_ns = self._clock.now_ns
        first_ns = now_ns + (end_ns - now_ns) // self._model.layers
        self._steps[source] = first_ns, end_ns, {chunk.request for chunk in chunks}
        for transfer in self.waiting.get(source, ()):
            self._overlap(transfer)

    def _overlap(self, transfer: Transfer) -> None:
        """If the source is at the step that ends its prompt, its layers leave as they are done; also if it is wanted late."""
        first_ns, end_ns, leaving = self._steps.get(transfer.source, (0, 0, set()))
        now_ns = self._clock.now_ns
        if transfer.request in leaving and now_ns < end_ns:
            transfer.ready_ns = end_ns
            self._announce(transfer, None, max(first_ns, now_ns))

    def computed(self, source: int) -> None:
        """A source has ended a step, or parked a request: what is there now can be fetched."""
        for transfer in list(self.waiting.get(source, ())):
            if self._there(source, transfer.request, transfer.epoch):
                self._begin(transfer)

    def _begin(self, transfer: Transfer, ready_ns: int | None = None) -> None:
        if transfer.flow >= 0:
            return
        self._wait_no_more(transfer)
        transfer.flow = flow = self._numbers
        self._numbers += 1
        self._by_flow[flow] = transfer
        transfer.began_ns = self._clock.now_ns
        transfer.after_ns = self._link.after_ns(ready_ns is not None)
        last = transfer.nbytes // self._model.layers if ready_ns is not None else 0
        self._flows.begin(flow, transfer.source, transfer.target, transfer.nbytes, ready_ns, last)
        self._promise()

    def _promise(self) -> None:
        """Have the pump look here when the next flow ends."""
        next_ns = self._flows.next_ns()
        if next_ns is not None:
            self._look(next_ns)

    def _look(self, at_ns: int) -> None:
        if at_ns not in self._awaited:
            self._awaited.add(at_ns)
            heappush(self._clock.agenda, (at_ns, self._order))

    def due(self) -> None:
        """Whatever has arrived by now is announced to its replica."""
        now_ns = self._clock.now_ns
        self._awaited.discard(now_ns)
        for flow in self._flows.ended():
            transfer = self._by_flow.pop(flow)
            event = Pulled(transfer.request, transfer.epoch, transfer.source, transfer.began_ns, transfer.nbytes)
            self._announce(transfer, event, now_ns + transfer.after_ns)
        self._promise()
        news = self._news
        while news and news[0][0] <= now_ns:
            _, _, transfer, event = heappop(news)
            if self._open.get((transfer.target, transfer.request)) is not transfer:
                continue
            if event is None:
                self._begin(transfer, transfer.ready_ns)
            else:
                self._forget(transfer)
                self._tell(transfer.target, event)

    def _announce(self, transfer: Transfer, event: Pulled | PullFailed | None, at_ns: int) -> None:
        """Have an event reach the replica that pulls, or (None) its layers begin to leave, at an instant."""
        self._numbers += 1
        heappush(self._news, (at_ns, self._numbers, transfer, event))
        self._look(at_ns)

    def preempted(self, source: int, requests: tuple[int, ...]) -> None:
        """A source has given up what it had of some requests that decoded."""
        for transfer in list(self._open.values()):
            if transfer.source == source and transfer.request in requests and transfer.began_ns >= 0:
                self._fail(transfer, f"replica {source}, its source, has preempted it")
        self._promise()

    def gone(self, replica: int) -> None:
        """A replica has died: what it sent is lost, what it fetched is not wanted."""
        self._steps.pop(replica, None)
        self._flows.drop_between(replica, None)
        self._flows.drop_between(None, replica)
        for transfer in list(self._open.values()):
            if transfer.target == replica:
                self._forget(transfer)
            elif transfer.source == replica:
                self._fail(transfer, f"replica {replica}, its source, is lost")
        self._promise()

    def cut(self, source: int | None, target: int | None, factor: float | None) -> None:
        """From now on a link is slower by `factor` (1: as it was), or lost (None)."""
        if factor is not None:
            self._lost.pop((source, target), None)
            self._flows.scale(source, target, factor)
        else:
            self._lost[source, target] = None
            self._flows.drop_between(source, target)
            for transfer in list(self._open.values()):
                # What comes back from host memory takes no link between replicas.
                if transfer.source != HOST and self._cut(transfer.source, transfer.target):
                    self._fail(transfer, f"the link from replica {transfer.source} is lost")
        self._promise()

    def _cut(self, source: int, target: int) -> bool:
        return any(a in (None, source) and b in (None, target) for a, b in self._lost)

    def _fail(self, transfer: Transfer, reason: str) -> None:
        self._flows.drop(transfer.flow)
        self._announce(transfer, PullFailed(transfer.request, transfer.epoch, reason), self._clock.now_ns)

    def _forget(self, transfer: Transfer) -> None:
        self._open.pop((transfer.target, transfer.request), None)
        self._by_flow.pop(transfer.flow, None)
        self._wait_no_more(transfer)

    def _wait_no_more(self, transfer: Transfer) -> None:
        waiting = self.waiting.get(transfer.source, [])
        if transfer in waiting:
            waiting.remove(transfer)
            if not waiting:
                del self.waiting[transfer.source]
