"""Scripts of flows, played through `Flows` and through a naive fluid that moves in small steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from phasewise.sim.clock import VirtualClock
from phasewise.sim.links import Flows


class Begun(NamedTuple):
    at_ns: int
    source: int
    target: int
    nbytes: int
    ready_in_ns: int | None = None
    last_bytes: int = 0


class Slowed(NamedTuple):
    at_ns: int
    source: int | None
    target: int | None
    factor: float


def world(out: list[float], into: list[float], now_ns: int = 0) -> tuple[VirtualClock, Flows]:
    clock = VirtualClock(now_ns)
    return clock, Flows(clock, out, into)


def begin(flows: Flows, flow: int, begun: Begun) -> None:
    ready = None if begun.ready_in_ns is None else begun.at_ns + begun.ready_in_ns
    flows.begin(flow, begun.source, begun.target, begun.nbytes, ready, begun.last_bytes)


def ends(clock: VirtualClock, flows: Flows) -> dict[int, int]:
    """Look whenever asked to, until nothing is under way: when each flow ended."""
    found = {}
    while (next_ns := flows.next_ns()) is not None:
        clock.now_ns = next_ns
        found |= dict.fromkeys(flows.ended(), next_ns)
    return found


def run(out: list[float], into: list[float], script: list[Begun | Slowed], looks: Sequence[int] = ()) -> dict[int, int]:
    """When each flow of a script in order of time ended; `looks` are instants at which somebody looks in vain."""
    clock, flows = world(out, into)
    found: dict[int, int] = {}
    begun = 0
    for i, at_ns in sorted(
        [(i, s.at_ns) for i, s in enumerate(script)] + [(-1, at) for at in looks], key=lambda x: x[1]
    ):
        while (next_ns := flows.next_ns()) is not None and next_ns <= at_ns:
            clock.now_ns = next_ns
            found |= dict.fromkeys(flows.ended(), next_ns)
        clock.now_ns = at_ns
        step = script[i]
        if i < 0:
            assert flows.ended() == []
        elif isinstance(step, Slowed):
            flows.scale(step.source, step.target, step.factor)
        else:
            begin(flows, begun, step)
            begun += 1
    return found | ends(clock, flows)


class Naive:
    """A fluid in small steps. Rates grow by small amounts in turn, as long as nothing that bounds them is full."""

    PER_NS = 4
    GROWTH = 1 / 240

    def __init__(self, out: list[float], into: list[float]) -> None:
        self.out, self.into = out, into
        self.factors: dict[tuple[int | None, int | None], float] = {}
        self.left: dict[int, float] = {}
        self.begun: dict[int, Begun] = {}
        self.known: dict[tuple[int, ...], dict[int, float]] = {}

    def bounds(self, flow: int) -> list[tuple[str, float]]:
        source, target = self.begun[flow].source, self.begun[flow].target
        slow = self.factors.get((None, None), 1.0)
        out = self.out[source] / slow / self.factors.get((source, None), 1.0)
        into = self.into[target] / slow / self.factors.get((None, target), 1.0)
        pair = min(out, into) / self.factors.get((source, target), 1.0)
        return [(f"out {source}", out), (f"in {target}", into), (f"{source} to {target}", pair)]

    def rates(self, flows: tuple[int, ...]) -> dict[int, float]:
        if flows not in self.known:
            rates = dict.fromkeys(flows, 0.0)
            used: dict[str, float] = {}
            growing = list(flows)
            while growing:
                for flow in list(growing):
                    bounds = self.bounds(flow)
                    if any(used.get(name, 0.0) + self.GROWTH > bound + 1e-9 for name, bound in bounds):
                        growing.remove(flow)
                        continue
                    rates[flow] += self.GROWTH
                    for name, _ in bounds:
                        used[name] = used.get(name, 0.0) + self.GROWTH
            self.known[flows] = rates
        return self.known[flows]

    def run(self, script: list[Begun | Slowed]) -> dict[int, float]:
        todo, found, tick = list(script), {}, 0
        while todo or self.left:
            now = tick / self.PER_NS
            while todo and todo[0].at_ns <= now:
                step = todo.pop(0)
                if isinstance(step, Slowed):
                    self.factors[step.source, step.target] = step.factor
                    self.known.clear()
                else:
                    self.left[len(self.begun)] = step.nbytes
                    self.begun[len(self.begun)] = step
            may = {}
            for flow, left in self.left.items():
                begun = self.begun[flow]
                early = begun.ready_in_ns is not None and now < begun.at_ns + begun.ready_in_ns
                may[flow] = left - (min(begun.last_bytes, begun.nbytes) if early else 0)
                if left <= 1e-9 and not early:
                    found[flow] = now
            for flow in found:
                self.left.pop(flow, None)
            going = tuple(flow for flow in self.left if may[flow] > 1e-9)
            for flow, rate in self.rates(going).items():
                self.left[flow] -= min(may[flow], rate / self.PER_NS)
            tick += 1
        return found
