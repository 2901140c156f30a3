"""The wire between the two rooms: an action of one is an event of the other.

Every message about a request carries its epoch (the attempt it belongs to), so that word of an abandoned attempt can be
told from word of the current one. `Request` ids are unique in a run.
"""

from __future__ import annotations

import msgspec

from phasewise.core.request import Request


class Submit(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Down: serve this attempt of `request` on `replica`."""

    replica: int
    request: Request
    epoch: int


class Cancel(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Down: the client has left; free what the request holds at the next step boundary."""

    replica: int
    request: int
    epoch: int


class Refused(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Up: this replica can never serve the request, for `reason`."""

    request: int
    epoch: int
    reason: str


class Finished(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Up: the request ended by itself after `tokens` output tokens."""

    request: int
    epoch: int
    tokens: int


class Cancelled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Up: the request was cancelled after `tokens` output tokens; it holds nothing any more."""

    request: int
    epoch: int
    tokens: int
