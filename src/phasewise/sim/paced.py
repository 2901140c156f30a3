"""The modelled executor in real time: a step takes as long on the wall clock as the latency model says, and tokens come of it.

For a server with no model behind it. Answers are words of a small vocabulary, chosen by request and index, so that an attempt
goes on where the one before it broke off; their lengths are drawn, unless clients say how long. It does not look for stop
texts, and knows no socket and no process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from phasewise.control.ports import Place
from phasewise.core.action import Enter, Forget, Interrupt, Regroup, Run
from phasewise.core.event import StepDone
from phasewise.core.step import Piece, total_ns
from phasewise.core.stream import Emitted, Work
from phasewise.core.units import NS_PER_S
from phasewise.perf.latency import LatencyModel
from phasewise.perf.physics import latency_model
from phasewise.sim.clock import VirtualClock
from phasewise.sim.executor import ModelledExecutor

# fmt: off
WORDS = (
    "the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he",
    "his", "but", "at", "are", "this", "have", "from", "or", "had", "an", "they", "which", "one", "you", "were",
    "her", "all", "she", "there", "would", "their", "we", "him", "been", "has", "when", "who", "will", "more", "no",
    "if", "out", "so", "said", "what", "up", "its", "about", "into", "than", "them", "can", "only", "other", "new",
    "some", "could", "time", "these", "two", "may", "then", "do", "first", "any", "my", "now", "such", "like", "our",
    "over", "man", "me",
)
# fmt: on
"""The vocabulary: a token is the number of a word, its text the word after a space."""

BEHIND_NS = NS_PER_S // 10
"""A run that follows a late one at once begins where that one should have ended, if it is no later than so much."""

_MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Paced:
    """What brings a `PacedExecutor` into a process: a `control.ports.EngineFactory`.

    `latency` None is what the deployment says. Answers are geometric in length, `mean_tokens` on average, by `seed`; None: as
    long as their clients allow.
    """

    latency: LatencyModel | None = None
    mean_tokens: float | None = 128.0
    seed: int = 0

    def __call__(self, place: Place) -> PacedExecutor:
        resolved = place.resolved
        spec = resolved.replicas[place.replica]
        latency = self.latency or latency_model(resolved.deployment, resolved.model, spec)
        return PacedExecutor(place, latency, self.mean_tokens, self.seed)


class PacedExecutor:
    """One replica's device, on the clock of its place; a `control.ports.Engine`.

    Inside there is a `ModelledExecutor`, whose own clock stands at the last step boundary. Steps are due when it says, so that
    they keep their pace however late each is looked at; how long they took is measured.
    """

    def __init__(self, place: Place, latency: LatencyModel, mean_tokens: float | None, seed: int) -> None:
        self._clock = place.clock
        self._emit = place.emit
        self._mean = mean_tokens
        self._seed = seed
        self._works: dict[int, Work] = {}
        # How many output tokens of each request are out.
        self._out: dict[int, int] = {}
        self._max_context = place.resolved.replicas[place.replica].max_context
        self._time = VirtualClock()
        self._model = ModelledExecutor(self._time, latency, self, self._max_context)
        self._ends: Iterator[int] = iter(())
        self._steps = 0
        self._due_ns: int | None = None
        self._since_ns = 0
        self._measured: list[Piece] = []
        # Whether a run has only just ended: one that is asked when it is due, and runs nothing, is idle.
        self._warm = False

    def accept(self, work: Work) -> None:
        """A request will come."""
        self._works[work.request] = work
        self._out[work.request] = work.from_token
        if work.from_token:
            self._model.resume(work.request, work.from_token)

    def output_tokens(self, request_id: int) -> int:
        """How long an answer will be, all attempts together: the model's stop rule."""
        work = self._works[request_id]
        if self._mean is None or work.ignore_end:
            return work.max_tokens
        share = (_mixed(self._seed, request_id, 0) + 0.5) / (1 << 64)
        drawn = 1 + int(math.log(share) / math.log1p(-1 / self._mean)) if self._mean > 1 else 1
        return min(max(drawn, work.min_tokens), work.max_tokens)

    def due_ns(self) -> int | None:
        """When the step in progress ends."""
        self._warm = False
        return self._due_ns

    def run(self, action: Run) -> None:
        """Start a run, at the end of the last one if that has only just been seen to."""
        now_ns, model = self._clock.now_ns, self._model
        lane = model.lanes[0]
        follows = self._warm and now_ns <= lane.end_ns + BEHIND_NS
        self._time.now_ns = lane.end_ns if follows else now_ns
        model.run(action)
        self._ends = _ends(lane.start_ns, lane.carry, lane.pieces)
        self._steps, self._measured, self._since_ns = 0, [], now_ns
        self._go_on()

    def interrupt(self, action: Interrupt) -> None:
        """Let the step in progress be the last of its run."""
        if self._due_ns is not None:
            self._model.interrupt(action)
            self._time.agenda.clear()

    def advance(self) -> StepDone | None:
        """The step in progress is over: its tokens, and the run's end if it was the last."""
        model, due_ns = self._model, self._due_ns
        assert due_ns is not None, "an executor is to go on that runs nothing"
        now_ns = self._clock.now_ns
        self._measured.append((float(max(now_ns - self._since_ns, 1)), 0.0, 1))
        self._since_ns, self._time.now_ns = now_ns, due_ns
        self._steps += 1
        lane = model.lanes[0]
        run = lane.run
        assert run is not None
        decoding = model.decoding(run.plan.cohorts)
        if self._steps < lane.steps:
            for request in decoding:
                self._say(request, False)
            self._go_on()
            return None
        self._due_ns, self._warm = None, True
        done = model.done(0)
        for request in decoding:
            self._say(request, request in done.ended)
        for chunk in run.plan.chunks if run.repeat == 1 else ():
            if chunk.joins is not None:
                self._say(chunk.request, chunk.request in done.ended)
        for request in done.ended:
            self._drop(request)
        return StepDone(0, run.id, tuple(self._measured), done.ended)

    def regroup(self, action: Regroup) -> None:
        """As the model."""
        self._model.regroup(action)

    def enter(self, action: Enter) -> None:
        """As the model."""
        self._model.enter(action)

    def forget(self, action: Forget) -> None:
        """Strike a request from all books, whether or not it has begun."""
        self._model.forget(action)
        self._drop(action.request)

    def _go_on(self) -> None:
        self._time.agenda.clear()
        self._due_ns = next(self._ends)

    def _drop(self, request: int) -> None:
        self._works.pop(request, None)
        self._out.pop(request, None)

    def _say(self, request: int, last: bool) -> None:
        """Emit the next token of a request."""
        work, index = self._works[request], self._out[request]
        self._out[request] = index + 1
        token = _mixed(self._seed, request, index + 1) % len(WORDS)
        end = None
        if last:
            full = len(work.prompt) - work.from_token + index + 1 >= self._max_context
            end = "length" if full or index + 1 == work.max_tokens else "stop"
        logprobs = () if work.sampling.logprobs is None else ((token, 0.0, f" {WORDS[token]}"),)
        self._emit(Emitted(request, work.epoch, index, token, f" {WORDS[token]}", logprobs, end))


def _ends(start_ns: int, carry: float, pieces: tuple[Piece, ...]) -> Iterator[int]:
    """When each step of a run ends, in whole nanoseconds, as the model rounds."""
    spent = carry
    for piece in pieces:
        for n in range(1, piece[2] + 1):
            yield start_ns + int(spent + total_ns(piece, n) + 0.5)
        spent += total_ns(piece, piece[2])


def _mixed(seed: int, request: int, index: int) -> int:
    """64 bits that look drawn by chance, counted by seed, request and index (SplitMix64's finisher over their sum)."""
    x = (seed * _MIX[2] + request * _MIX[1] + index * _MIX[0]) & _MASK
    x = ((x ^ (x >> 30)) * _MIX[1]) & _MASK
    x = ((x ^ (x >> 27)) * _MIX[2]) & _MASK
    return x ^ (x >> 31)
