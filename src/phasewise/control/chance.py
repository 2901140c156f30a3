"""Draws the random failures of a scenario, once, before a run. It does not know files, nor what comes of a failure.

Each line of random faults is a Poisson process for each of its replicas. What falls into a time in which the replica is down
(or slow by the same line) already is left out, so that the times in between are exponential, with the mean that was asked
for, whatever the repair takes.

Every process has a stream of its own, known by what happens, the replica, and how many such lines name that replica
before. So the failures of one replica do not hang on how many others there are, nor on any other kind of fault; another
mean stretches their times, and a later end begins with the shorter draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from phasewise.core.fault import Dies, Fault, Slows, Starts
from phasewise.core.units import NS_PER_S

Window = tuple[int, float]
"""From an instant to another in ns, both included; infinity: to the end."""


class Chance(msgspec.Struct, frozen=True):
    """Each of `replicas` fails at random after `from_ns` and before `until_ns`, every `mean_s` seconds on average.

    It then takes `factor` times as long a step, or dies (None), for `lasts_ns` (None: for good).
    """

    replicas: tuple[int, ...]
    mean_s: float
    from_ns: int
    until_ns: int
    lasts_ns: int | None
    factor: float | None = None

    @property
    def expected(self) -> float:
        """How many failures are drawn, on average."""
        return len(self.replicas) * (self.until_ns - self.from_ns) / NS_PER_S / self.mean_s


def drawn(chances: Sequence[Chance], seed: int, written: Iterable[Fault]) -> list[Fault]:
    """The failures, by replica; of each replica first the deaths by time, then the slow times line by line.

    A death that would overlap one of those `written` down, or the time before the replica starts, is left out.
    """
    lines: dict[int, list[Chance]] = {}
    for chance in chances:
        for replica in chance.replicas:
            lines.setdefault(replica, []).append(chance)
    down = _down(written)
    found: list[Fault] = []
    for replica in sorted(lines):
        deaths = [chance for chance in lines[replica] if chance.factor is None]
        slows = [(chance, chance.factor) for chance in lines[replica] if chance.factor is not None]
        times = [_windows(chance, _stream(seed, 0, replica, i)) for i, chance in enumerate(deaths)]
        apart = _apart(sorted(window for line in times for window in line), down.get(replica, []))
        found += [Dies(at, replica, _until(end)) for at, end in apart]
        for i, (chance, factor) in enumerate(slows):
            apart = _apart(_windows(chance, _stream(seed, 1, replica, i)), [])
            found += [Slows(at, replica, factor, _until(end)) for at, end in apart]
    return found


def _down(faults: Iterable[Fault]) -> dict[int, list[Window]]:
    """When each replica is not there."""
    down: dict[int, list[Window]] = {}
    for fault in faults:
        if isinstance(fault, Starts):
            down.setdefault(fault.replica, []).append((0, fault.at_ns))
        elif isinstance(fault, Dies):
            end = math.inf if fault.back_ns is None else fault.back_ns
            down.setdefault(fault.replica, []).append((fault.at_ns, end))
    return down


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _windows(chance: Chance, stream: np.random.Generator) -> list[Window]:
    """The points of a Poisson process, each with the end of what begins there; they may overlap."""
    mean_ns = chance.mean_s * NS_PER_S
    windows: list[Window] = []
    passed = stream.standard_exponential()
    while (at := chance.from_ns + round(passed * mean_ns)) < chance.until_ns:
        windows.append((at, math.inf if chance.lasts_ns is None else at + chance.lasts_ns))
        passed += stream.standard_exponential()
    return windows


def _apart(windows: Iterable[Window], taken: Sequence[Window]) -> list[Window]:
    """Of the windows, sorted by their begin, those that touch neither one of `taken` nor one kept before."""
    kept: list[Window] = []
    last = -math.inf
    for at, end in windows:
        if at > last and all(end < begins or at > ends for begins, ends in taken):
            kept.append((at, end))
            last = end
    return kept


def _until(end: float) -> int | None:
    return None if end == math.inf else int(end)
