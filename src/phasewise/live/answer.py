"""One answer on its way to a client: each token once and in order, whatever becomes of the attempts behind it."""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections.abc import Callable, Sequence

from phasewise.core.action import Outcome
from phasewise.core.request import Request
from phasewise.core.stream import Emitted, Work
from phasewise.core.units import to_s
from phasewise.live.service import Wanted


class Answer:
    """A `live.service.Stream`. The fleet tells it what comes; `leave` is called once if its client leaves before the end.

    `replica` serves the current attempt (-1: none), number `epoch`. `deaths` counts the processes that died with it inside.
    """

    def __init__(self, request: Request, wanted: Wanted, leave: Callable[[Answer], None]) -> None:
        self._request = request
        self.wanted = wanted
        self.replica, self.epoch = -1, -1
        self.deaths = 0
        self.outcome = Outcome.INSIDE
        self.reason = ""
        self.begun_ns = self.first_ns = self.last_ns = -1
        self.left = False
        self._tokens: list[int] = []
        self._fresh: list[Emitted] = []
        self._waiter: Future[None] | None = None
        self._leave = leave

    @property
    def request(self) -> int:
        return self._request.id

    @property
    def delivered(self) -> int:
        """How many tokens have come."""
        return len(self._tokens)

    @property
    def over(self) -> bool:
        return self.outcome != Outcome.INSIDE

    @property
    def queue_s(self) -> float | None:
        """From its arrival to its first chunk."""
        return None if self.begun_ns < 0 else to_s(self.begun_ns - self._request.arrival_ns)

    @property
    def prefill_s(self) -> float | None:
        """From there to its first token."""
        return None if self.first_ns < 0 else to_s(self.first_ns - self.begun_ns)

    @property
    def decode_s(self) -> float | None:
        """From its first token to its last."""
        return None if not self.over or self.first_ns < 0 else to_s(self.last_ns - self.first_ns)

    async def more(self) -> Sequence[Emitted]:
        while not self._fresh:
            if self.over:
                return ()
            self._waiter = get_running_loop().create_future()
            await self._waiter
        fresh, self._fresh = self._fresh, []
        return fresh

    def cancel(self) -> None:
        if not self.over:
            self.close(Outcome.CANCELLED, "its client left")
            self._leave(self)

    def work(self) -> Work:
        """What the current attempt is to be computed from."""
        wanted = self.wanted
        prompt = (*wanted.prompt, *self._tokens) if self._tokens else wanted.prompt
        return Work(
            self.request,
            self.epoch,
            prompt,
            wanted.max_tokens,
            len(self._tokens),
            wanted.sampling,
            wanted.stop,
            wanted.stop_ids,
            wanted.ignore_end,
            wanted.min_tokens,
            wanted.schema,
        )

    def began(self, epoch: int, at_ns: int) -> None:
        """The first chunk of an attempt runs."""
        if self.begun_ns < 0 and epoch == self.epoch:
            self.begun_ns = at_ns

    def take(self, token: Emitted, at_ns: int) -> None:
        """A token has come; one of another attempt, or that was there before, is dropped."""
        if token.epoch != self.epoch or token.index != len(self._tokens) or self.over:
            return
        if self.first_ns < 0:
            self.first_ns = at_ns
        self.last_ns = at_ns
        self._tokens.append(token.token)
        if token.end == "fault":
            self.close(Outcome.FAILED, "the schema could not be followed to the answer's end")
            return
        self._fresh.append(token)
        if token.end is not None:
            self.close(Outcome.FINISHED)
        else:
            self._wake()

    def close(self, outcome: Outcome, reason: str = "") -> None:
        """It is over; the first word on how stands."""
        if not self.over:
            self.outcome, self.reason = outcome, reason
            self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
