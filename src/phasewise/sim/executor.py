"""The modelled executor: a latency model says how long a step takes, the truth says when an answer ends.

It answers a `Run` by promising one `StepDone` at an instant that it works out in closed form; an `Interrupt` brings that
instant forward to the next step boundary. It keeps its own small book of who decodes, and knows no policy and no queue.
"""

from __future__ import annotations

from heapq import heappop, heappush

from phasewise.core.action import Forget, Interrupt, Run
from phasewise.core.event import StepDone
from phasewise.core.step import Piece, total_ns
from phasewise.perf.latency import LatencyModel
from phasewise.sim.clock import VirtualClock
from phasewise.workload.truth import Truth


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
    """Decode steps that a cohort has taken, and at which of them its members end."""

    __slots__ = ("clock", "ends")

    def __init__(self) -> None:
        self.clock = 0
        self.ends: list[End] = []


End = tuple[int, int, CohortBook]
"""`(step, request, book)`: at which step of its cohort a request ends."""


class ModelledExecutor:
    """One replica's device. `max_context` is where an answer ends at the latest.

    The end of a run goes onto the clock's agenda, with `order` for its place among simultaneous ones; one that no longer
    agrees with its lane's `end_ns` has been superseded.
    """

    __slots__ = (
        "_agenda",
        "_clock",
        "_cohorts",
        "_end",
        "_left",
        "_max_context",
        "_order",
        "_output_tokens",
        "_pieces",
        "lanes",
    )

    def __init__(
        self, clock: VirtualClock, latency: LatencyModel, truth: Truth, max_context: int, order: int = 0, lanes: int = 1
    ) -> None:
        self._clock = clock
        self._agenda = clock.agenda
        self._order = order
        self._pieces = latency.pieces
        self._output_tokens = truth.output_tokens
        self._max_context = max_context
        self.lanes = [Lane() for _ in range(lanes)]
        self._cohorts: dict[str, CohortBook] = {}
        # request -> its entry in the book of its cohort, while it decodes; tokens left, once it has been preempted.
        self._end: dict[int, End] = {}
        self._left: dict[int, int] = {}

    def run(self, action: Run) -> None:
        """Start a run on its lane."""
        plan = action.plan
        if plan.preempt:
            self._put_off(plan.preempt)
        steps = action.repeat
        if steps != 1 and plan.cohorts:
            first = self._first_end(plan.cohorts)
            if steps is None or first < steps:
                steps = first
        assert steps is not None, "a plan without end in which nobody decodes"
        pieces = self._pieces(plan.chunks, action.decodes, action.context, steps)
        spent, slope_ns, n = pieces[0]
        if n > 1:
            spent = n * spent + slope_ns * (n * (n - 1) // 2)
        if n != steps:
            spent = sum(total_ns(piece, piece[2]) for piece in pieces)
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
            if request in self._end:
                end, _, book = self._end.pop(request)
                self._left[request] = end - book.clock

    def interrupt(self, action: Interrupt) -> None:
        """End the run on a lane at its first step boundary after now: one at this very instant is past already."""
        lane = self.lanes[action.lane]
        wanted = self._clock.now_ns - lane.start_ns
        spent = lane.carry
        steps = 0
        for i, piece in enumerate(lane.pieces):
            first, slope, _ = piece
            n = _steps_beyond(piece, spent, wanted)
            steps += n
            spent += n * first + slope * (n * (n - 1) // 2)
            whole = int(spent + 0.5)
            if whole > wanted:
                if steps < lane.steps:
                    lane.pieces = (*lane.pieces[:i], (first, slope, n))
                    lane.steps = steps
                    lane.rest = spent - whole
                    lane.end_ns = end_ns = lane.start_ns + whole
                    heappush(self._agenda, (end_ns, self._order))
                return

    def forget(self, action: Forget) -> None:
        """Strike a cancelled request from the book."""
        self._end.pop(action.request, None)
        self._left.pop(action.request, None)

    def done(self, lane_id: int) -> StepDone:
        """The event that ends the run on a lane, now that its promised instant has come."""
        lane = self.lanes[lane_id]
        run = lane.run
        assert run is not None
        lane.run = None
        plan = run.plan
        ended: list[int] = []
        for name in plan.cohorts:
            book = self._cohorts[name]
            book.clock += lane.steps
            if book.ends[0][0] <= book.clock:
                self._collect(book, ended)
        for chunk in plan.chunks:
            if chunk.joins is not None:
                self._join(chunk.request, chunk.start + chunk.tokens, chunk.joins, ended)
        return StepDone(lane_id, run.id, lane.pieces, tuple(ended) if ended else ())

    def _join(self, request: int, known: int, cohort: str, ended: list[int]) -> None:
        """The prompt is computed and its first token out: note at which step of its cohort the last one will be."""
        left = self._left.pop(request, None)
        if left is None:
            left = min(self._output_tokens(request), self._max_context - known)
        if left <= 1:
            ended.append(request)
            return
        book = self._cohorts.get(cohort)
        if book is None:
            book = self._cohorts[cohort] = CohortBook()
        self._end[request] = end = (book.clock + left - 1, request, book)
        heappush(book.ends, end)

    def _first_end(self, cohorts: tuple[str, ...]) -> int:
        """Steps until the first member of these cohorts ends."""
        first = -1
        for name in cohorts:
            book = self._cohorts.get(name)
            if book is None:
                continue
            ends = book.ends
            # Entries of those preempted or cancelled since are struck when they come up.
            while ends and self._end.get(ends[0][1]) is not ends[0]:
                heappop(ends)
            if ends and (first < 0 or ends[0][0] - book.clock < first):
                first = ends[0][0] - book.clock
        assert first > 0, "a leap of cohorts in which nobody decodes"
        return first

    def _collect(self, book: CohortBook, ended: list[int]) -> None:
        ends = book.ends
        while ends and ends[0][0] <= book.clock:
            end = heappop(ends)
            request = end[1]
            if self._end.get(request) is end:
                del self._end[request]
                ended.append(request)


def _steps_beyond(piece: Piece, spent: float, wanted: int) -> int:
    """The fewest steps of a piece after which, `spent` included, the clock stands beyond `wanted`; at most all of them."""
    first, slope, steps = piece
    x = wanted - spent
    if slope > 0:
        b = first - slope / 2
        n = int(((b * b + 2 * slope * x) ** 0.5 - b) / slope) if x > 0 else 0
    else:
        n = int(x / first)
    # That is how many are over by then, give or take one; the boundaries themselves decide.
    n = 1 if n < 0 else steps if n >= steps else n + 1
    while n > 1 and int(spent + (n - 1) * first + slope * ((n - 1) * (n - 2) // 2) + 0.5) > wanted:
        n -= 1
    while n < steps and int(spent + n * first + slope * (n * (n - 1) // 2) + 0.5) <= wanted:
        n += 1
    return n
