"""How a replica tells the cluster how it stands: at most every so often, and only of changes; progress is none.

It says when the iteration in progress ends and how long the next ones take, by its own model of the step times, so that whoever
reads the report later can go on from there. A report is the same whether steps run one by one or in a leap.
"""

from __future__ import annotations

from collections.abc import Sequence

from phasewise.control.lane import Lane
from phasewise.core.action import Action, Run, WakeAt
from phasewise.core.message import Report
from phasewise.core.step import total_ns
from phasewise.core.view import InstanceState
from phasewise.perf.latency import LatencyModel

_AHEAD = 1 << 20  # iterations looked ahead in a plan without an end


class Reporter:
    """Reports of one `replica`, `every_ns` apart at least; `belief` is what it takes the step times to be."""

    __slots__ = ("_armed", "_belief", "_every_ns", "_last", "_next_ns", "_replica", "taken")

    def __init__(self, replica: int, every_ns: int, belief: LatencyModel) -> None:
        self._replica = replica
        self._every_ns = every_ns
        self._belief = belief
        self._next_ns = 0
        self._armed = False
        self._last: tuple[int, ...] = ()
        self.taken = 0

    def tell(self, states: Sequence[InstanceState], lane: Lane | None, now_ns: int, out: list[Action]) -> None:
        """Report if anything has changed since the last time and it is time; otherwise when it is.

        `states` share one queue and one ledger; `lane` is what is in flight, None where no progress is told of.
        """
        now: tuple[int, ...] = (self.taken, len(states[0].waiting))
        for state in states:
            now += (len(state.running), len(state.prefilling), len(state.parked), len(state.landed))
        if now_ns >= self._next_ns:
            self._armed = False
        if now == self._last or self._armed:
            return
        if now_ns < self._next_ns:
            self._armed = True
            out.append(WakeAt(self._next_ns))
            return
        self._last = now
        self._next_ns = now_ns + self._every_ns
        out.append(self._report(states, lane, now_ns))

    def _report(self, states: Sequence[InstanceState], lane: Lane | None, now_ns: int) -> Report:
        waiting, free = states[0].waiting, states[0].ledger.free
        queued = sum(r.remaining for r in waiting)
        decodes = context = 0
        for state in states:
            queued += sum(r.remaining for r in state.prefilling.values())
            decodes += sum(cohort.count for cohort in state.cohorts.values())
            context += sum(cohort.context for cohort in state.cohorts.values())
        run = None if lane is None else lane.run
        if lane is None or run is None:
            return Report(self._replica, now_ns, self.taken, len(waiting), queued, decodes, context, free)
        done, next_ns, step_ns, slope_ns = progress(self._belief, run, lane.began_ns, now_ns)
        chunk = sum(chunk.tokens for chunk in run.plan.chunks)
        if run.repeat != 1:
            free -= sum(cohort.growth(done + 1) for cohort in lane.cohorts)
        return Report(
            replica=self._replica,
            at_ns=now_ns,
            taken=self.taken,
            waiting=len(waiting),
            queued=queued - done * chunk,
            decodes=decodes,
            context=context + done * run.decodes,
            free=free,
            chunk=chunk,
            next_ns=next_ns,
            step_ns=step_ns,
            slope_ns=slope_ns,
        )


def progress(belief: LatencyModel, run: Run, began_ns: int, now_ns: int) -> tuple[int, int, float, float]:
    """Of a run since `began_ns`: iterations done by now, when the one in progress ends, how long the next takes, and by how
    much each takes longer than the one before.

    With chunks the next is taken to be like the one in progress: it need not be the same plan's.
    """
    chunks = run.plan.chunks
    ahead = run.repeat or _AHEAD
    if not chunks:
        ahead += 1
    spent, done = 0.0, 0
    wanted = now_ns - began_ns
    pieces = belief.pieces(chunks, run.decodes, run.context, ahead)
    for first, slope, steps in pieces:
        whole = total_ns((first, slope, steps), steps)
        if spent + whole + 0.5 >= wanted + 1 or (first, slope, steps) == pieces[-1]:
            n = _over(first, slope, steps, spent, wanted)
            end = spent + total_ns((first, slope, steps), n + 1)
            next_ns = began_ns + int(end + 0.5)
            if chunks:
                return done + n, next_ns, first + slope * n, 0.0
            return done + n, next_ns, first + slope * (n + 1), slope
        spent += whole
        done += steps
    raise AssertionError("a run without pieces")


def _over(first: float, slope: float, steps: int, spent: float, wanted: int) -> int:
    """How many steps of a piece, short of all, have ended by `wanted`, rounded as the clock rounds; `spent` went before."""
    low, high = 0, steps - 1
    while low < high:
        middle = (low + high + 1) // 2
        if int(spent + total_ns((first, slope, steps), middle) + 0.5) <= wanted:
            low = middle
        else:
            high = middle - 1
    return low
