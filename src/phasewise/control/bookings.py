"""What is booked on each replica, request by request: for a router that `books`. Kept by `cluster`.

It follows a request from the placing of an attempt to its end, and writes the columns of `ClusterView.booked`. All of a request
that is over is gone again. It does not know why a request goes where it goes.
"""

from __future__ import annotations

from phasewise.control.life import NOWHERE
from phasewise.policy.fleet import Booked


class Booking:
    """One attempt: its prompt's home and its answer's (NOWHERE: not there, or not yet), how many tokens each has, and whether
    the prompt is still to be computed."""

    __slots__ = ("answer", "decode", "prefill", "prompt", "waits")

    def __init__(self, prefill: int, prompt: int, answer: int) -> None:
        self.prefill = prefill
        self.decode = NOWHERE
        self.prompt = prompt
        self.answer = answer
        self.waits = True


class Bookings:
    """The books. An order about a request that is not in them changes nothing."""

    def __init__(self, booked: Booked) -> None:
        self._booked = booked
        self._open: dict[int, Booking] = {}

    def place(self, request: int, prefill: int, decode: int, prompt: int, answer: int | None) -> None:
        """An attempt begins: a prompt of so many tokens, and an answer of so many (decode NOWHERE: it has no home yet)."""
        self.over(request)
        self._open[request] = booking = Booking(prefill, prompt, answer or 0)
        booked = self._booked
        booked.prompts[prefill] += 1
        booked.pending[prefill] += prompt
        booked.memory[prefill] += prompt + 1
        self._seat(booking, decode)

    def computed(self, request: int) -> None:
        """The prompt is computed."""
        booking = self._open.get(request)
        if booking is not None and booking.waits:
            booking.waits = False
            self._booked.prompts[booking.prefill] -= 1
            self._booked.pending[booking.prefill] -= booking.prompt

    def rehome(self, request: int, decode: int) -> None:
        """The answer goes elsewhere than booked (NOWHERE: it is not decided any more)."""
        booking = self._open.get(request)
        if booking is not None and booking.decode != decode:
            self._seat(booking, decode)

    def moved(self, request: int) -> None:
        """The answer's home has all, or the prompt's home is lost: nothing is left there."""
        booking = self._open.get(request)
        if booking is not None and booking.prefill != NOWHERE:
            self._clear(booking)

    def over(self, request: int) -> None:
        """Nothing of the request is anywhere."""
        booking = self._open.pop(request, None)
        if booking is not None:
            self._seat(booking, NOWHERE)
            if booking.prefill != NOWHERE:
                self._clear(booking)

    def _clear(self, booking: Booking) -> None:
        """Take the prompt off its home; where the answer stays it is the answer's from now on."""
        booked, home = self._booked, booking.prefill
        if booking.waits:
            booking.waits = False
            booked.prompts[home] -= 1
            booked.pending[home] -= booking.prompt
        booked.memory[home] -= booking.prompt + 1
        booking.prefill = NOWHERE
        if booking.decode == home:
            booked.memory[home] += booking.prompt + 1

    def _seat(self, booking: Booking, decode: int) -> None:
        """Take the answer off its home and book it at another; with the prompt's keys and values, where they are not booked."""
        for home, sign in ((booking.decode, -1), (decode, 1)):
            if home != NOWHERE:
                prompt = booking.prompt + 1 if home != booking.prefill else 0
                self._booked.answers[home] += sign
                self._booked.pending[home] += sign
                self._booked.memory[home] += sign * (prompt + booking.answer)
        booking.decode = decode


class Unbooked:
    """The books of a router that wants none."""

    def place(self, request: int, prefill: int, decode: int, prompt: int, answer: int | None) -> None:
        """Nothing."""

    def computed(self, request: int) -> None:
        """Nothing."""

    def rehome(self, request: int, decode: int) -> None:
        """Nothing."""

    def moved(self, request: int) -> None:
        """Nothing."""

    def over(self, request: int) -> None:
        """Nothing."""
