"""The executor that runs a real model: what the room plans, one forward pass after the other.

It has the face of the simulator's executor and one more, `advance`, by which whoever holds it lets it compute one iteration;
so messages are looked at between the steps of a leap. It keeps the texts of who is inside and who decodes in which cohort,
asks the room's ledger for pages, and knows no policy and no queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from phasewise.control.ports import Place
from phasewise.core.action import Enter, Forget, Interrupt, Regroup, Run
from phasewise.core.errors import PlanError
from phasewise.core.event import StepDone
from phasewise.core.step import AWAY, Piece
from phasewise.core.stream import Emitted, Work
from phasewise.engine.batch import Rows


class Model(Protocol):
    """What computes."""

    def step(self, rows: Sequence[Rows]) -> Any:
        """The logits of those rows that emit, in order."""
        ...


class Voices(Protocol):
    """What chooses tokens, and puts them into words."""

    def of(self, work: Work) -> Any:
        """The voice of one attempt, which remembers what it has said. InputError for a schema that makes no sense."""
        ...

    def speak(self, logits: Any, voices: Sequence[Any]) -> Sequence[Emitted]:
        """The next token of each, and what the client is told of it."""
        ...


class Seat:
    """An attempt that is inside: all its tokens so far, and what says them."""

    __slots__ = ("cohort", "request", "tokens", "voice")

    def __init__(self, work: Work, voice: Any) -> None:
        self.request = work.request
        self.tokens = list(work.prompt)
        self.voice = voice
        self.cohort: str | None = None


class TorchExecutor:
    """One replica's model, put in its `place`. A token is handed out in the iteration that it comes of.

    One lane. A run is a burst of iterations, each a piece of its own in `StepDone`, as long as it was from the end of the one
    before.
    """

    def __init__(self, model: Model, voices: Voices, place: Place) -> None:
        self._model = model
        self._voices = voices
        self._state = place.state
        self._clock = place.clock
        self._emit = place.emit
        self._seats: dict[int, Seat] = {}
        self._cohorts: dict[str, dict[int, Seat]] = {}
        self._run: Run | None = None
        self._pieces: list[Piece] = []
        self._since_ns = 0
        self._interrupted = False

    # --- what the room asks for

    def accept(self, work: Work) -> None:
        """What an attempt is computed from; one of an earlier epoch is gone by now. InputError for a schema without sense."""
        self.forget(Forget(work.request))
        self._seats[work.request] = Seat(work, self._voices.of(work))

    def run(self, action: Run) -> None:
        """Begin a run; it goes on whenever `advance` is called."""
        assert self._run is None, "one lane, and it is taken"
        for request in action.plan.preempt:
            self._leave(self._seats[request])
        self._run, self._pieces, self._interrupted = action, [], False
        self._since_ns = self._clock.now_ns

    def interrupt(self, action: Interrupt) -> None:
        """End the run at its next step boundary: at once if it stands at one."""
        self._interrupted = True

    def forget(self, action: Forget) -> None:
        """Let go of an attempt, be it here or not."""
        seat = self._seats.pop(action.request, None)
        if seat is not None:
            self._leave(seat)

    def regroup(self, action: Regroup) -> None:
        """Move decoding requests to other cohorts."""
        for request, cohort in action.moves:
            seat = self._seats[request]
            self._leave(seat)
            self._join(seat, cohort)

    def enter(self, action: Enter) -> None:
        """PlanError: nothing is handed over between real replicas, and such deployments are refused before they start."""
        raise PlanError(f"request {action.request} is handed over, and keys and values do not travel between processes")

    # --- what it does

    def due_ns(self) -> int | None:
        """Now, while a run is on."""
        return None if self._run is None else self._clock.now_ns

    def advance(self) -> StepDone | None:
        """One iteration of the run, if it has not been interrupted; its end, if that was the last."""
        run = self._run
        if run is None:
            return None
        ended: tuple[int, ...] = ()
        if not (self._interrupted and self._pieces):
            ended = self._iterate(run, len(self._pieces))
            now_ns = self._clock.now_ns
            self._pieces.append((float(now_ns - self._since_ns), 0.0, 1))
            self._since_ns = now_ns
        if not (ended or self._interrupted or len(self._pieces) == run.repeat):
            return None
        self._run = None
        return StepDone(run.plan.lane, run.id, tuple(self._pieces), ended)

    def _iterate(self, run: Run, done: int) -> tuple[int, ...]:
        """Compute iteration number `done` of a run; who ends with it."""
        rows, speakers, joins = self._rows(run, done)
        logits = self._model.step(rows)
        said = self._voices.speak(logits, [seat.voice for seat in speakers])
        ended = []
        for seat, one, cohort in zip(speakers, said, joins, strict=True):
            seat.tokens.append(one.token)
            self._emit(one)
            if one.end is not None:
                ended.append(seat.request)
            elif cohort is not None:
                self._join(seat, cohort)
        for request in ended:
            self.forget(Forget(request))
        return tuple(ended)

    def _rows(self, run: Run, done: int) -> tuple[list[Rows], list[Seat], list[str | None]]:
        """Every sequence's share of an iteration; who emits a token by it, and the cohort which it joins then if it is new."""
        rows: list[Rows] = []
        speakers: list[Seat] = []
        joins: list[str | None] = []
        for chunk in run.plan.chunks:
            seat = self._seats[chunk.request]
            assert chunk.joins != AWAY, "nobody is handed over by a replica that is alone"
            start = chunk.start + done * chunk.tokens
            end = start + chunk.tokens
            emits = chunk.joins is not None
            rows.append(Rows(seat.tokens[start:end], start, self._pages(chunk.request, end), emits))
            if emits:
                speakers.append(seat)
                joins.append(chunk.joins)
        for name in run.plan.cohorts:
            for seat in self._cohorts[name].values():
                known = len(seat.tokens)
                rows.append(Rows(seat.tokens[-1:], known - 1, self._pages(seat.request, known), True))
                speakers.append(seat)
                joins.append(None)
        return rows, speakers, joins

    def _pages(self, request: int, tokens: int) -> tuple[int, ...]:
        """Where the first `tokens` tokens of its context are, or are to be."""
        state = self._state
        return state.ledger.page_ahead(state.running[request], tokens)

    def _join(self, seat: Seat, cohort: str) -> None:
        seat.cohort = cohort
        self._cohorts.setdefault(cohort, {})[seat.request] = seat

    def _leave(self, seat: Seat) -> None:
        if seat.cohort is not None:
            del self._cohorts[seat.cohort][seat.request]
            seat.cohort = None
