"""The modelled executor of a pipeline: every micro-batch passes through its stages in order, every stage takes one at a time.

Stage s begins micro-batch i when stage s - 1 has finished i and i has arrived, and when s has finished micro-batch i - 1:

    start(i, s) = max(finish(i, s - 1) + send(i), finish(i - 1, s)),  finish(i, s) = start(i, s) + time(i, s)

with the instant of its `Run` in place of the first term at the first stage. Its run is over when the last stage is. Nothing
overtakes, so all of this is known as soon as a micro-batch is planned: one event for each, as without a pipeline.

A stage that has already worked in this busy period and stands idle before micro-batch i has a bubble. A busy period ends when
nothing is in flight and nothing follows at that very instant.
"""

from __future__ import annotations

from heapq import heappush

from phasewise.core.action import Run
from phasewise.core.event import StepDone
from phasewise.perf.pipeline import StagedModel
from phasewise.sim.clock import VirtualClock
from phasewise.sim.executor import ModelledExecutor
from phasewise.workload.truth import Truth


class PipelinedExecutor(ModelledExecutor):
    """The devices of one replica with `lanes` stages, and as many micro-batches in flight. `order` is the first lane's place
    among simultaneous step ends; the others follow."""

    __slots__ = ("_bubbles", "_factor", "_flying", "_free_ns", "_last_ns", "_stages")

    def __init__(
        self, clock: VirtualClock, latency: StagedModel, truth: Truth, max_context: int, order: int = 0, lanes: int = 2
    ) -> None:
        super().__init__(clock, latency, truth, max_context, order, lanes)
        self._stages = latency
        self._factor = 1.0
        self._flying = 0
        # By stage, when it was last done; how long it took then lies between whole nanoseconds, as a float holds it.
        self._free_ns = [0.0] * lanes
        self._last_ns = -1
        self._bubbles = [0] * lanes

    def slow(self, factor: float) -> None:
        """Stages take `factor` times as long from the next micro-batch on."""
        self._factor = factor

    def run(self, action: Run) -> None:
        """Work out when each stage takes the micro-batch, and promise its end."""
        plan = action.plan
        assert action.repeat == 1, "a leap in a pipeline"
        if plan.preempt:
            self._put_off(plan.preempt)
        now = self._clock.now_ns
        lane = self.lanes[plan.lane]
        fresh = not self._flying and now != self._last_ns
        begin = now + (lane.rest if lane.end_ns == now else 0.0)
        finish, bubble = self._pass_through(action, begin, fresh)
        lane.run = action
        lane.steps = 1
        lane.start_ns = now
        lane.carry = begin - now
        lane.pieces = ((finish - begin, 0.0, 1),)
        lane.end_ns = self._last_ns = end_ns = int(finish + 0.5)
        lane.rest = finish - end_ns
        self._bubbles[plan.lane] = int(bubble + 0.5)
        self._flying += 1
        heappush(self._agenda, (end_ns, self._order + plan.lane))

    def _pass_through(self, action: Run, begin: float, fresh: bool) -> tuple[float, float]:
        """Take a micro-batch through the stages: when the last is done, and how long all of them stood idle for it."""
        plan, free = action.plan, self._free_ns
        times = self._stages.stages_ns(plan.chunks, action.decodes, action.context)
        send = self._stages.send_ns(action.decodes + sum(chunk.tokens for chunk in plan.chunks))
        ready, bubble = begin, 0.0
        for stage, time in enumerate(times):
            start = free[stage]
            if ready > start:
                if not fresh:
                    bubble += ready - start
                start = ready
            free[stage] = finish = start + time * self._factor
            ready = finish + send
        return finish, bubble

    def done(self, lane_id: int) -> StepDone:
        """The event that ends the run on a lane, now that its promised instant has come."""
        event = super().done(lane_id)
        self._flying -= 1
        return StepDone(event.lane, event.run, event.pieces, event.ended, self._bubbles[lane_id])
