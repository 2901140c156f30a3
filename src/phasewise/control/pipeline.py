"""The room beside an engine of several stages: one queue and one book of blocks, and a pipe for each micro-batch in flight.

A pipe is an instance room of its own: it has residents, cohorts and a lane. So a batcher plans for one pipe at a time and sees
no other, and whatever is in flight is out of its reach. A request belongs to the pipe that first ran a chunk of it, until it
ends or is preempted. This room says which pipe is asked, and stamps lanes and names on what goes out. It does not know how long
a stage takes, or which stage a micro-batch has come to.

One rule is its own. Where nothing is in flight and a decode or a prompt finds no block, because those are held by the residents
of other pipes, no batcher may preempt these; then the room preempts the one that arrived last, until something can run.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from phasewise.control.apply import preempt
from phasewise.control.desk import Desk
from phasewise.control.instance import InstanceControl
from phasewise.control.ports import Handlers
from phasewise.control.reporter import Face
from phasewise.control.setup import Setup
from phasewise.core.action import Action, Enter, Perished, Regroup, Run, WakeAt
from phasewise.core.errors import PlanError
from phasewise.core.event import Began, Died, Killed, StepDone, Woken
from phasewise.core.message import Evict, Reserve, SetRole, Submit
from phasewise.core.resident import Resident
from phasewise.core.step import AWAY, Chunk, StepPlan
from phasewise.core.view import MOST_COHORTS, InstanceState


class Pipe(InstanceControl):
    """The room of one micro-batch at a time, on a lane that it takes for the only one. `desk` and `queue` are those of all.

    Its plans run once, because others spend the same blocks.
    """

    def __init__(self, setup: Setup, desk: Desk, queue: deque[Resident]) -> None:
        super().__init__(setup, 1, desk)
        self._alone = False
        self.state.waiting = queue

    def _ask(self, now_ns: int, out: list[Action]) -> list[Action]:
        """Nothing: the pipeline says who is asked, and in which order."""
        return out

    def ask(self, now_ns: int) -> list[Action]:
        """What the batcher plans for the lane, which is free; it is asked only if it has somebody to run."""
        busy = self.state.running or self.state.waiting or self._lobby.busy
        return super()._ask(now_ns, []) if busy else []

    def heed(self, event: Submit, now_ns: int) -> None:
        """A request has come to the queue that the pipes share."""
        self.state.arrived_ns = now_ns
        if not event.stays:
            self._leavers.expect()

    def expect_leaving(self) -> None:
        """Some of its requests may leave after their prompts."""
        self._leavers.expect()

    def knows(self, request: int) -> bool:
        """Whether a request is its own: it runs, is parked, or is on its way here."""
        return request in self.state.running or self._hand.knows(request)

    @property
    def load(self) -> int:
        """Requests that are its own, or will be."""
        return len(self.state.running) + self._lobby.coming()[0]

    @property
    def face(self) -> Face:
        """What a report is made of."""
        return self.state, self._lobby

    def put_back(self, resident: Resident) -> None:
        """Preempt one of its residents."""
        preempt(StepPlan(preempt=(resident.id,)), self.state, self._lobby)


class PipelineControl:
    """One replica of `pipes` stages; `handlers` as in `InstanceControl`."""

    def __init__(self, setup: Setup, pipes: int) -> None:
        # The desk has no lanes, because pipes are asked together, and no reporter: one reports of all.
        each = setup._replace(reporter=None, host_blocks=setup.host_blocks // pipes)
        desk, queue = Desk(each, {}), deque[Resident]()
        self.pipes = tuple(Pipe(each, desk, queue) for _ in range(pipes))
        self.handlers: Handlers = dict.fromkeys(self.pipes[0].handlers, self._about_request)
        self.handlers |= {StepDone: self._step_done, Submit: self._submit, Woken: self._woken}
        self.handlers |= {Reserve: self._reserve, Evict: self._evict, SetRole: self._set_role}
        self.handlers |= {Died: self._died, Killed: self._killed, Began: self._began}
        self._reporter = reporter = setup.reporter
        if reporter is not None:
            reporter.look([pipe.face for pipe in self.pipes], None)
        self._ledger = setup.ledger
        # The run in flight on each lane.
        self._flying: list[int | None] = [None] * pipes
        self._waking = False
        # Preempted by this room, to be told with the next run.
        self._put_back: tuple[int, ...] = ()
        self._names: dict[tuple[str, int], str] = {}

    @property
    def states(self) -> tuple[InstanceState, ...]:
        """What each pipe's batcher sees. The queue and the ledger are the same in all."""
        return tuple(pipe.state for pipe in self.pipes)

    def _submit(self, event: Submit, now_ns: int) -> list[Action]:
        pipe = next((pipe for pipe in self.pipes if pipe.knows(event.request.id)), self.pipes[0])
        out = pipe.handlers[Submit](event, now_ns)
        for pipe in self.pipes:
            pipe.heed(event, now_ns)
        return self._given(event.request.id, now_ns, out + self._nudge(now_ns))

    def _given(self, request: int, now_ns: int, out: list[Action]) -> list[Action]:
        """The cluster has given this replica a request, which is told with the next report."""
        if self._reporter is not None:
            self._reporter.taken = request
            self._reporter.dropped += 1
        return self._told(now_ns, out)

    def _told(self, now_ns: int, out: list[Action]) -> list[Action]:
        """The same actions, and a report if one is due. It tells of no progress: a pipeline's iterations overlap."""
        if self._reporter is not None and not self._reporter.alarmed:
            self._reporter.tell(now_ns, out)
        return out

    def _reserve(self, event: Reserve, now_ns: int) -> list[Action]:
        """A guest goes to the pipe that has the fewest requests."""
        known = [pipe for pipe in self.pipes if pipe.knows(event.request.id)]
        pipe = known[0] if known else min(self.pipes, key=lambda pipe: pipe.load)
        return self._given(event.request.id, now_ns, pipe.handlers[Reserve](event, now_ns) + self._nudge(now_ns))

    def _evict(self, event: Evict, now_ns: int) -> list[Action]:
        """Whichever pipe computes the prompt again, should it have to be, is one whose requests may leave."""
        for pipe in self.pipes:
            pipe.expect_leaving()
        return self._about_request(event, now_ns)

    def _set_role(self, event: SetRole, now_ns: int) -> list[Action]:
        for pipe in self.pipes:
            pipe.handlers[SetRole](event, now_ns)
        return []

    def _killed(self, event: Killed, now_ns: int) -> list[Action]:
        return []

    def _died(self, event: Died, now_ns: int) -> list[Action]:
        """As `InstanceControl`; no iteration of a pipeline is over before its run is."""
        last = [pipe.handlers[Died](Died(), now_ns)[0] for pipe in self.pipes]
        delivered = {pair[0]: pair for perished in last for pair in perished.delivered}  # type: ignore[union-attr]
        return [Perished(tuple(delivered.values()))]

    def _began(self, event: Began, now_ns: int) -> list[Action]:
        return self._told(now_ns, self.pipes[0].handlers[Began](event, now_ns))

    def _about_request(self, event: Any, now_ns: int) -> list[Action]:
        """Whatever else concerns a request is for the pipe that runs it, or for the first if none does."""
        pipe = next((pipe for pipe in self.pipes if pipe.knows(event.request)), self.pipes[0])
        return self._told(now_ns, pipe.handlers[type(event)](event, now_ns) + self._nudge(now_ns))

    def _nudge(self, now_ns: int) -> list[Action]:
        """Have the free pipes asked when everything that happens at this instant has."""
        if self._waking or None not in self._flying:
            return []
        self._waking = True
        return [WakeAt(now_ns)]

    def _woken(self, event: Woken, now_ns: int) -> list[Action]:
        self._waking = False
        if self._reporter is not None:
            self._reporter.rung(now_ns)
        return self._told(now_ns, self._fill(now_ns, [], None))

    def _step_done(self, event: StepDone, now_ns: int) -> list[Action]:
        lane, pipes = event.lane, len(self.pipes)
        if not 0 <= lane < pipes or self._flying[lane] != event.run:
            raise PlanError(f"run {event.run} is reported done on lane {lane}, which is not running it")
        self._flying[lane] = None
        done = StepDone(0, event.run // pipes, event.pieces, event.ended)
        return self._told(now_ns, self._fill(now_ns, self.pipes[lane].handlers[StepDone](done, now_ns), lane))

    def _fill(self, now_ns: int, out: list[Action], returned: int | None) -> list[Action]:
        """Ask the free pipes; where nothing can run, make room and ask again.

        Those with residents come first, for what has begun comes before what waits; and among them those that rested, for want
        of blocks, before the one that has just `returned`.
        """
        while True:
            free = [lane for lane, run in enumerate(self._flying) if run is None]
            for lane in sorted(free, key=lambda lane: (not self.pipes[lane].state.running, lane == returned)):
                out += self._said(lane, self.pipes[lane].ask(now_ns))
            if any(run is not None for run in self._flying) or not self._make_room():
                return out

    def _make_room(self) -> bool:
        """Preempt the resident that arrived last, if one pipe's residents hold the blocks that another's lack."""
        busy = [pipe for pipe in self.pipes if pipe.state.running]
        if len(busy) < 2 or not any(map(self._lacks, busy)):
            return False
        last = max(
            (resident.request.arrival_ns, resident.id, i)
            for i, pipe in enumerate(busy)
            for resident in pipe.state.running.values()
        )
        pipe = busy[last[2]]
        pipe.put_back(pipe.state.running[last[1]])
        self._put_back += (last[1],)
        return True

    def _lacks(self, pipe: Pipe) -> bool:
        """Whether a pipe at rest has a decode without a block, or a prompt in progress: no batcher leaves one without need."""
        state, free = pipe.state, self._ledger.free
        return bool(state.prefilling) or any(cohort.crossing(1) > free for cohort in state.cohorts.values())

    def _said(self, lane: int, actions: list[Action]) -> list[Action]:
        """A pipe's actions with its lane, and its cohorts under names that no other pipe has."""
        out: list[Action] = []
        for action in actions:
            if type(action) is Run:
                out.append(self._stamped(lane, action))
            elif type(action) is Enter:
                out.append(Enter(action.request, action.known, self._name(action.cohort, lane), action.tokens))
            elif type(action) is Regroup:
                out.append(Regroup(tuple((request, self._name(name, lane)) for request, name in action.moves)))
            else:
                out.append(action)
        return out

    def _stamped(self, lane: int, run: Run) -> Run:
        plan = run.plan
        chunks = tuple(
            c if c.joins in (None, AWAY) else Chunk(c.request, c.start, c.tokens, c.hold, self._name(c.joins, lane))
            for c in plan.chunks
        )
        cohorts = tuple(self._name(name, lane) for name in plan.cohorts)
        preempt, self._put_back = self._put_back + plan.preempt, ()
        stamped = StepPlan(chunks, cohorts, preempt, 1, plan.closed, lane, plan.forced)
        # A pipe counts its own runs; outside no two have the same number.
        self._flying[lane] = number = run.id * len(self.pipes) + lane
        return Run(number, stamped, run.repeat, run.decodes, run.context)

    def _name(self, cohort: str, lane: int) -> str:
        """What a pipe's cohort is called outside: "all/1". PlanError beyond as many as a replica keeps."""
        name = self._names.get((cohort, lane))
        if name is None:
            if len(self._names) == MOST_COHORTS:
                raise PlanError(f"cohort '{cohort}' of lane {lane} would be the {MOST_COHORTS + 1}th of its replica")
            name = self._names[cohort, lane] = f"{cohort}/{lane}"
        return name
