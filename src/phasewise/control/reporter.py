"""How a replica tells the cluster how it stands: at most every so often, and only of changes.

Progress is none, and neither is a new order: the cluster knows what it has sent, and reckons with it until a report says that
it has been taken. So the first report after an order is that of the step which begins it.

It says when the iteration in progress ends and how long the next ones take, by its own model of the step times, so that whoever
reads the report later can go on from there. A report is the same, and sent at the same instant, whether steps run one by one or
in a leap: so a change that comes too early for the next report is told when its alarm rings, and by no step that ends then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from phasewise.control.lane import Lane
from phasewise.core.action import Action, Run, WakeAt
from phasewise.core.message import Report
from phasewise.core.step import Piece, total_ns
from phasewise.core.view import InstanceState
from phasewise.perf.latency import LatencyModel


class Door(Protocol):
    """Who is on the way in: `guests` by request, and of all who will decode how many there are, and their tokens of context."""

    @property
    def guests(self) -> Mapping[int, Any]: ...

    def coming(self) -> tuple[int, int]: ...


Face = tuple[InstanceState, Door]
"""What is inside, and what is on its way in: one of a replica, or one of each pipe."""

_AHEAD = 64  # iterations that are looked ahead at first in a plan without an end; then eight times as many, and so on


class Reporter:
    """Reports of one `replica`, `every_ns` apart at least; `belief` is what it takes the step times to be.

    `taken` is the last request that the cluster gave the replica, in whatever order; `dropped` counts those that left without
    having run. While it is `alarmed`, a report is due, and nothing need be told.
    """

    __slots__ = (
        "_belief",
        "_books",
        "_every_ns",
        "_faces",
        "_lane",
        "_last",
        "_next_ns",
        "_replica",
        "alarmed",
        "dropped",
        "taken",
    )

    def __init__(self, replica: int, every_ns: int, belief: LatencyModel) -> None:
        self._replica = replica
        self._every_ns = every_ns
        self._belief = belief
        self._next_ns = 0
        self._last: tuple[int, ...] = ()
        self.look((), None)
        self.alarmed = False
        self.dropped = 0
        self.taken = -1

    def look(self, faces: Sequence[Face], lane: Lane | None) -> None:
        """Report of these faces, which share one queue and one ledger, and of how far a lane is (None: of no progress)."""
        self._faces, self._lane = faces, lane
        self._books = [
            (state.running, state.prefilling, state.parked, door.guests, state.landed) for state, door in faces
        ]

    def rung(self, now_ns: int) -> None:
        """An alarm rings, perhaps the one that was set for the next report."""
        if self.alarmed and now_ns >= self._next_ns:
            self.alarmed = False
            self._last = ()  # something has changed since, be it that all looks as before

    def tell(self, now_ns: int, out: list[Action]) -> None:
        """Report if anything has changed since the last time and it is time; otherwise set an alarm."""
        now: tuple[int, ...] = (self.dropped,)
        for running, prefilling, parked, guests, landed in self._books:
            latest = next(reversed(running), -1)
            now += (len(running), latest, len(prefilling), len(parked), len(guests), len(landed))
        if now == self._last:
            return
        if now_ns < self._next_ns:
            self.alarmed = True
            out.append(WakeAt(self._next_ns))
            return
        self._last = now
        self._next_ns = now_ns + self._every_ns
        out.append(self._report(now_ns))

    def _report(self, now_ns: int) -> Report:
        queued = decodes = context = chunk = done = moving = begun = guests = guest_tokens = 0
        faces, lane = self._faces, self._lane
        waiting, free = faces[0][0].waiting, faces[0][0].ledger.free
        for resident in waiting:
            queued += resident.known - resident.computed
        for state, door in faces:
            begun += len(state.prefilling)
            for resident in state.prefilling.values():
                queued += resident.known - resident.computed
            for cohort in state.cohorts.values():
                decodes += cohort.count
                context += cohort.context
            if door.guests or state.landed:
                more, tokens = door.coming()
                guests += more
                guest_tokens += tokens
        next_ns, step_ns, slope_ns = -1, 0.0, 0.0
        if lane is not None and (run := lane.run) is not None:
            moving, began_ns = run.decodes, lane.began_ns
            done, next_ns, step_ns, slope_ns = progress(self._belief, run, now_ns - began_ns)
            next_ns += began_ns
            for piece in run.plan.chunks:
                chunk += piece.tokens
            if run.repeat != 1:
                for cohort in lane.cohorts:
                    free -= cohort.growth(done + 1)
            queued -= done * chunk
            context += done * moving
        said = (self._replica, now_ns, self.taken, len(waiting), queued, decodes, context, free)
        return Report(*said, begun, guests, guest_tokens, chunk, moving, next_ns, step_ns, slope_ns)


def progress(belief: LatencyModel, run: Run, spent_ns: int) -> tuple[int, int, float, float]:
    """Of a run that began `spent_ns` ago: iterations done by now, when the one in progress ends (ns after the run began), how
    long the next takes, and by how much each takes longer than the one before.

    With chunks the next is taken to be like the one in progress: it need not be the same plan's.
    """
    chunks, decodes = run.plan.chunks, run.decodes
    ahead = _AHEAD if run.repeat is None else min(run.repeat, _AHEAD)
    while True:
        pieces = belief.pieces(chunks, decodes, run.context, ahead)
        done, end, step, slope, more = _reached(pieces, spent_ns)
        if end > spent_ns or ahead == run.repeat:
            break
        # All are over by the belief: it has not looked far enough, or the last iteration takes longer than was believed.
        ahead = ahead * 8 if run.repeat is None else min(run.repeat, ahead * 8)
    if chunks:
        return done, end, step, 0.0
    if more > 1:
        return done, end, step + slope, slope
    # Asked from there, so that the answer does not hang on where the run began or ends.
    following = belief.pieces((), decodes, run.context + (done + 1) * decodes, 2)
    first, slope, steps = following[0]
    return done, end, first, slope if steps > 1 else following[1][0] - first


def _reached(pieces: tuple[Piece, ...], spent_ns: int) -> tuple[int, int, float, float, int]:
    """Iterations of these pieces that end by `spent_ns`, all but the last at most; of the next one, when it ends, how long it
    takes, by how much it is longer than the one before, and how many more its piece has.

    Ends are rounded to whole nanoseconds, as the clock rounds them.
    """
    spent, done = 0.0, 0
    piece = pieces[-1]
    for before in pieces[:-1]:
        whole = total_ns(before, before[2])
        if spent + whole + 0.5 >= spent_ns + 1:
            piece = before
            break
        spent += whole
        done += before[2]
    first, slope, steps = piece
    # The root of a quadratic, in the form that also holds for a slope of 0; the boundaries themselves decide from there.
    n = 0
    x = spent_ns + 0.499 - spent
    if x > first:
        b = first - slope / 2
        square = b * b + 2 * slope * x
        n = min(int(2 * x / (b + square**0.5)), steps - 1) if square > 0 else steps - 1
    while True:
        end = int(spent + total_ns(piece, n + 1) + 0.5)
        if end > spent_ns or n == steps - 1:
            return done + n, end, first + slope * n, slope, steps - 1 - n
        n += 1
