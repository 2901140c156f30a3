"""The modelled executor: a latency model says how long a step takes, the truth says when an answer ends.

It answers a `Run` by promising one `StepDone` at an instant that it works out in closed form; an `Interrupt` brings that
instant forward to the next step boundary. It keeps its own small book of who decodes, and knows no policy and no queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from phasewise.core.action import Enter, Forget, Interrupt, Regroup, Run
from phasewise.core.event import StepDone
from phasewise.core.step import AWAY, Chunk, Piece, total_ns
from phasewise.perf.latency import LatencyModel
from phasewise.sim.clock import VirtualClock
from phasewise.workload.truth import Lengths


class Lane:
    """The run in progress, or the last one.

    Steps end between whole nanoseconds. `carry` is by how much the run's start lies after `start_ns`, `rest` by how much its
    end lies after `end_ns`: a run that follows at once carries it on, so that time does not drift with the number of runs that
    a busy period is cut into.
    """

    __slots__ = ("carry", "end_ns", "pieces", "rest", "run", "start_ns", "steps")

    def __init__(self) -> None:
        self.run: Run | None = None
        self.pieces: tuple[Piece, ...] = ()
        self.steps = 0
        self.start_ns = 0
        self.end_ns = -1
        self.carry = 0.0
        self.rest = 0.0


class CohortBook:
    """Decode steps that a cohort has taken, and a heap of `(step, request)`: at which of them its members end."""

    __slots__ = ("clock", "ends")

    def __init__(self) -> None:
        self.clock = 0
        self.ends: list[tuple[int, int]] = []


class ModelledExecutor:
    """One replica's device. `max_context` is where an answer ends at the latest.

    The end of a run goes onto the clock's agenda, with `order` for its place among simultaneous ones; one that no longer
    agrees with its lane's `end_ns` has been superseded.
    """

    __slots__ = (
        "_agenda",
        "_books",
        "_clock",
        "_earlier",
        "_latency",
        "_left",
        "_max_context",
        "_order",
        "_output_tokens",
        "_pieces",
        "lanes",
    )

    def __init__(
        self,
        clock: VirtualClock,
        latency: LatencyModel,
        truth: Lengths,
        max_context: int,
        order: int = 0,
        lanes: int = 1,
    ) -> None:
        self._clock = clock
        self._agenda = clock.agenda
        self._order = order
        self._latency = latency
        self._pieces = latency.pieces
        self._output_tokens = truth.output_tokens
        self._max_context = max_context
        self.lanes = [Lane() for _ in range(lanes)]
        self._books: dict[str, CohortBook] = {}
        # request -> tokens still to come, of those that were preempted while they decoded.
        self._left: dict[int, int] = {}
        # request -> tokens that came from earlier attempts, for those whose prompt holds some.
        self._earlier: dict[int, int] = {}

    def resume(self, request: int, from_token: int) -> None:
        """A request will come that has had so many tokens already; its prompt holds them."""
        self._earlier[request] = from_token

    def enter(self, action: Enter) -> None:
        """One that was handed over, or comes back, decodes in a cohort from now on; no token comes of it by itself."""
        if action.request in self._left:
            self._left[action.request] += 1
        elif action.tokens > 1:
            self._earlier[action.request] = action.tokens - 1
        self._join(action.request, action.known, action.cohort)

    def decoding(self, cohorts: Sequence[str]) -> list[int]:
        """Who takes a decode step when these cohorts do."""
        return [request for name in cohorts for _, request in self._books[name].ends]

    def slow(self, factor: float) -> None:
        """Steps that begin from now on take `factor` times as long; those of a leap that have not begun, too."""
        self._pieces = self._latency.pieces if factor == 1 else Slowed(self._latency, factor).pieces
        for number in range(len(self.lanes)):
            if self.lanes[number].run is not None:
                self.interrupt(Interrupt(number))

    def cut(self) -> tuple[tuple[int, tuple[Piece, ...]], ...]:
        """What the runs in progress have done by now, for each lane: the pieces of the iterations that have ended."""
        return tuple((i, self._done(lane)) for i, lane in enumerate(self.lanes) if lane.run is not None)

    def _done(self, lane: Lane) -> tuple[Piece, ...]:
        wanted = self._clock.now_ns - lane.start_ns
        spent, done = lane.carry, []
        for piece in lane.pieces:
            n, end = _beyond(piece, spent, wanted)
            if int(end + 0.5) > wanted:
                n -= 1
            if n:
                done.append((piece[0], piece[1], n))
            if n < piece[2]:
                break
            spent = end
        return tuple(done)

    def run(self, action: Run) -> None:
        """Start a run on its lane."""
        plan = action.plan
        steps = action.repeat
        if plan.preempt:
            self._put_off(plan.preempt)
        if steps != 1:
            for name in plan.cohorts:
                book = self._books[name]
                first = book.ends[0][0] - book.clock
                if steps is None or first < steps:
                    steps = first
            assert steps is not None, "a plan without end in which nobody decodes"
        time = self._pieces
        pieces = time(plan.chunks, action.decodes, action.context, steps)
        try:
            ((spent, slope_ns, n),) = pieces
        except ValueError:
            spent = sum(total_ns(piece, piece[2]) for piece in pieces)
        else:
            if n > 1:
                spent = n * spent + slope_ns * (n * (n - 1) // 2)
        now = self._clock.now_ns
        lane = self.lanes[plan.lane]
        lane.carry = carry = lane.rest if lane.end_ns == now else 0.0
        lane.run = action
        lane.pieces = pieces
        lane.steps = steps
        lane.start_ns = now
        spent += carry
        whole = int(spent + 0.5)
        lane.rest = spent - whole
        lane.end_ns = end_ns = now + whole
        heappush(self._agenda, (end_ns, self._order))

    def _put_off(self, preempted: tuple[int, ...]) -> None:
        """Note how many tokens are still to come of each that was decoding."""
        for request in preempted:
            left = self._strike(request)
            if left is not None:
                self._left[request] = left

    def _strike(self, request: int) -> int | None:
        """Take a request off the book of its cohort: the tokens that it had still to emit (None: it was not decoding).

        A search: preemptions and cancellations are rare beside steps, which so find their books clean.
        """
        for book in self._books.values():
            for i, (end, member) in enumerate(book.ends):
                if member == request:
                    del book.ends[i]
                    heapify(book.ends)
                    return end - book.clock
        return None

    def interrupt(self, action: Interrupt) -> None:
        """End the run on a lane at its first step boundary after now: one at this very instant is past already."""
        lane = self.lanes[action.lane]
        wanted = self._clock.now_ns - lane.start_ns
        spent = lane.carry
        steps = 0
        for i, piece in enumerate(lane.pieces):
            n, spent = _beyond(piece, spent, wanted)
            steps += n
            whole = int(spent + 0.5)
            if whole > wanted:
                if steps < lane.steps:
                    lane.pieces = (*lane.pieces[:i], (piece[0], piece[1], n))
                    lane.steps = steps
                    lane.rest = spent - whole
                    lane.end_ns = end_ns = lane.start_ns + whole
                    heappush(self._agenda, (end_ns, self._order))
                return

    def forget(self, action: Forget) -> None:
        """Strike a cancelled request from the book."""
        if self._strike(action.request) is None:
            self._left.pop(action.request, None)
            self._earlier.pop(action.request, None)

    def regroup(self, action: Regroup) -> None:
        """Move decoding requests to the books of other cohorts."""
        for request, cohort in action.moves:
            left = self._strike(request)
            assert left is not None, "a request is regrouped that does not decode"
            book = self._book(cohort)
            heappush(book.ends, (book.clock + left, request))

    def _book(self, cohort: str) -> CohortBook:
        book = self._books.get(cohort)
        if book is None:
            book = self._books[cohort] = CohortBook()
        return book

    def done(self, lane_id: int) -> StepDone:
        """The event that ends the run on a lane, now that its promised instant has come."""
        lane = self.lanes[lane_id]
        run = lane.run
        assert run is not None
        lane.run = None
        plan = run.plan
        ended: tuple[int, ...] = ()
        for name in plan.cohorts:
            book = self._books[name]
            book.clock = clock = book.clock + lane.steps
            ends = book.ends
            while ends and ends[0][0] <= clock:
                ended += (heappop(ends)[1],)
        if run.repeat == 1:
            for chunk in plan.chunks:
                if chunk.joins == AWAY:
                    ended += self._part(chunk.request, chunk.start + chunk.tokens)
                elif chunk.joins is not None:
                    ended += self._join(chunk.request, chunk.start + chunk.tokens, chunk.joins)
        return StepDone(lane_id, run.id, lane.pieces, ended)

    def _part(self, request: int, known: int) -> tuple[int, ...]:
        """The first token of one that leaves is out. The request itself if that was all."""
        left = self._left.pop(request, None)
        if left is None:
            left = self._output_tokens(request) - self._earlier.get(request, 0)
        return (request,) if left <= 1 or known + 1 >= self._max_context else ()

    def _join(self, request: int, known: int, cohort: str) -> tuple[int, ...]:
        """The prompt is computed and its first token out: note at which step of its cohort the last one will be.

        The request itself if that was all.
        """
        left = self._left.pop(request, None) if self._left else None
        if left is None:
            left = self._output_tokens(request) - (self._earlier.pop(request, 0) if self._earlier else 0)
            if left > self._max_context - known:
                left = self._max_context - known
        if left <= 1:
            return (request,)
        book = self._books.get(cohort) or self._book(cohort)
        heappush(book.ends, (book.clock + left - 1, request))
        return ()


class Slowed:
    """A latency model with every step `factor` times as long."""

    def __init__(self, latency: LatencyModel, factor: float) -> None:
        self._latency = latency
        self._factor = factor

    @property
    def basis(self) -> str:
        return self._latency.basis

    def pieces(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        """As the model behind it."""
        found = self._latency.pieces(chunks, decodes, context, steps)
        return tuple((first * self._factor, slope * self._factor, n) for first, slope, n in found)


def _beyond(piece: Piece, spent: float, wanted: int) -> tuple[int, float]:
    """The fewest steps of a piece after which the clock stands beyond `wanted` (at most all), and where it stands then.

    `spent` is where it stands before the first of them.
    """
    first, slope, steps = piece
    # Steps that end short of half a nanosecond beyond `wanted`, hence are over: the root of a quadratic, in the form that
    # also holds for a slope of 0. The boundaries themselves, rounded as ever, decide from there.
    x = wanted + 0.499 - spent
    n = 1
    if x > 0:
        b = first - slope / 2
        square = b * b + 2 * slope * x
        n += int(2 * x / (b + square**0.5)) if square > 0 else steps
    while True:
        if n > steps:
            n = steps
        end = spent + n * first + slope * (n * (n - 1) // 2)
        if n == steps or end + 0.5 >= wanted + 1:
            return n, end
        n += 1
