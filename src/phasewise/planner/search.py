"""Where a yes turns into a no: doubling and bisection over rates, as a pure function of the answers so far.

Because the next rate follows from the answers alone, a search can be run ahead on guesses, by as many processes as there are,
and still ends with the same probes. It takes for granted that rates above one that is infeasible are infeasible too.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

GROW, SHRINK = 1.25, 0.5
MOST, LEAST = 16.0, 1 / 256
DEPTH = 3


class Bracket(msgspec.Struct, frozen=True):
    """The highest rate found feasible and the lowest found infeasible; None: there was none within the bounds."""

    low: float | None
    high: float | None


def path(start: float, known: Mapping[float, bool], tolerance: float) -> tuple[list[float], Bracket | float]:
    """The rates that a search from `start` has asked for, in order, and what comes next: one more rate, or the end.

    It grows or shrinks by a constant factor until it has one answer of each kind, up to 16 times the start and down to a
    256th, and halves the bracket until its width is at most `tolerance` of its upper end. Rates have six digits.
    """
    asked: list[float] = []
    low: float | None = None
    high: float | None = None
    rate = start
    while True:
        if rate not in known:
            return asked, rate
        asked.append(rate)
        if known[rate]:
            low = rate
        else:
            high = rate
        if high is None:
            rate *= GROW
        elif low is None:
            rate *= SHRINK
        elif high - low <= tolerance * high:
            return asked, Bracket(low, high)
        else:
            rate = (low + high) / 2
        rate = float(f"{rate:.6g}")
        if not start * LEAST <= rate <= start * MOST:
            return asked, Bracket(low, high)


def ahead(start: float, known: Mapping[float, bool], tolerance: float) -> list[float]:
    """The next rate, then those that either answer may lead to, the nearest first; nothing if the search is over.

    Three answers deep, which is at most seven rates: beyond that a guess is too seldom right to be worth its time.
    """
    layer = [dict(known)]
    found: list[float] = []
    for _ in range(DEPTH):
        following = []
        for guess in layer:
            rate = path(start, guess, tolerance)[1]
            if isinstance(rate, Bracket):
                continue
            if rate not in found:
                found.append(rate)
            following += [{**guess, rate: True}, {**guess, rate: False}]
        layer = following
    return found
