"""The wire between the two rooms: an action of one is an event of the other.

Every message about a request carries its epoch (the attempt it belongs to), so that word of an abandoned attempt can be
told from word of the current one. `Request` ids are unique in a run. An order may be repeated, and is answered again with
what is then true: so a message that was lost costs time and nothing else.

A hand-over: `Reserve` at the target, which takes blocks and begins to pull as soon as they are free (`Reserved`); `Adopt` once
the prompt is done (`PromptDone`), which the target answers when it has all (`Adopted`); `Release` at the source. Until `Adopt`
the source owns the request, from then on the target, unless it says `Declined`.

A live migration: `Evict` at the source, which says how far the request is and decodes on (`Evicted`); `Reserve` at the target,
which copies so much; `Evict` again, once that is there (`Reserved`), and the source keeps the request at its next step boundary
(`Evicted`); from there on as above, the target fetching the rest.
"""

from __future__ import annotations

import msgspec

from phasewise.core.request import Request


class Submit(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Down: serve this attempt of `request` on `replica`.

    `from_token` output tokens were delivered by earlier attempts and count as part of the prompt. One that does not `stay`
    leaves after its first token: the replica keeps its keys and values until they are adopted elsewhere.
    """

    replica: int
    request: Request
    epoch: int
    from_token: int = 0
    stays: bool = True


class Cancel(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Down: free what the request holds at the next step boundary; its client has left, or it goes elsewhere."""

    replica: int
    request: int
    epoch: int


class Refused(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Up: this replica can never serve the request, for `reason`."""

    request: int
    epoch: int
    reason: str


class Finished(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Up: the request ended by itself after `tokens` output tokens, those of earlier attempts included."""

    request: int
    epoch: int
    tokens: int


class Cancelled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Up: the request was cancelled after `tokens` output tokens; it holds nothing any more."""

    request: int
    epoch: int
    tokens: int
    replica: int = -1


class Reserve(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=30):
    """Down: take blocks for a request whose prompt `source` computes, and pull its keys and values from there.

    `from_token` output tokens count as part of the prompt: earlier attempts', or all but the last that the source has emitted.
    A `live` one decodes there meanwhile, and more will come of it.
    """

    replica: int
    request: Request
    epoch: int
    from_token: int
    source: int
    live: bool = False


class Reserved(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=31):
    """Up: the blocks are there, and held. Of a `live` request it is said again once what was asked for has been `copied`."""

    replica: int
    request: int
    epoch: int
    copied: bool = True


class Adopt(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=32):
    """Down: the request is yours as soon as all of it is there.

    `tokens` output tokens are out by now (0: as many as were reserved for); what came since then is still to be fetched.
    To the source itself (`back`): it is yours again, go on.
    """

    replica: int
    request: int
    epoch: int
    tokens: int = 0
    back: bool = False


class Adopted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=33):
    """Up: all keys and values are here; the source may forget them."""

    replica: int
    request: int
    epoch: int


class Declined(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=34):
    """Up: the hand-over to this replica has failed, for `reason`; it holds nothing of the request."""

    replica: int
    request: int
    epoch: int
    reason: str


class Release(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=35):
    """Down: forget the keys and values of a request that another replica has adopted."""

    replica: int
    request: int
    epoch: int


class Released(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=36):
    """Up: they are forgotten."""

    replica: int
    request: int
    epoch: int


class PromptDone(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=37):
    """Up: the prompt is computed and `tokens` output tokens are out; the request waits to be adopted."""

    replica: int
    request: int
    epoch: int
    tokens: int


class Prefilled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=42):
    """Up, where the router keeps books: the prompt of a request that stays is computed."""

    request: int
    epoch: int


class Accepted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=38):
    """Up, to an order that was repeated: the request is here, and there is nothing new to tell."""

    request: int
    epoch: int


class Evict(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=43):
    """Down: the request is to leave `replica`, and will be adopted elsewhere.

    One that waits to be computed, or in host memory, is let go at once (`Cancelled`); one whose prompt is being computed leaves
    after it (`PromptDone`); one that decodes goes on, and the answer says how far it is (`Evicted`). Once so much of it has
    been `copied`, it is kept for the other replica at the next step boundary, and runs no more.
    """

    replica: int
    request: int
    epoch: int
    copied: bool = False


class Evicted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=44):
    """Up: `tokens` output tokens of a request that is to leave are out. Once `parked` there will be no more; it waits to be
    adopted."""

    replica: int
    request: int
    epoch: int
    tokens: int
    parked: bool


class SetRole(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=39):
    """Down: this replica serves another phase from now on; what is inside ends as it began."""

    replica: int
    role: str


class Ready(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=40):
    """Up: the replica has started, empty, and can serve."""

    replica: int


class Report(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=41):
    """Up: how the replica stands, as of when it was sent; `taken` is the last request that it had been given by then.

    `queued` prompt tokens are still to be computed, of `waiting` requests not begun yet and `begun` ones. `decodes`
    residents have `context` tokens; `free` blocks are held by nobody; `guests` will decode here and do not yet, with
    `guest_tokens` of context. The iteration in progress ends at `next_ns` (-1: it idles), computes `chunk` prompt tokens and
    a token for `moving` of the decodes; the one after it will take `step_ns` if nothing changes, and each one `slope_ns` more
    than the one before: by the replica's own model of its step times.
    """

    replica: int
    at_ns: int
    taken: int
    waiting: int
    queued: int
    decodes: int
    context: int
    free: int
    begun: int = 0
    guests: int = 0
    guest_tokens: int = 0
    chunk: int = 0
    moving: int = 0
    next_ns: int = -1
    step_ns: float = 0.0
    slope_ns: float = 0.0


Down = Submit | Cancel | Reserve | Adopt | Release | Evict | SetRole
Up = (
    Refused
    | Finished
    | Cancelled
    | Reserved
    | Adopted
    | Declined
    | Released
    | PromptDone
    | Evicted
    | Prefilled
    | Accepted
    | Ready
    | Report
)
DOWN: tuple[type, ...] = (Submit, Cancel, Reserve, Adopt, Release, Evict, SetRole)
UP: tuple[type, ...] = (
    Refused,
    Finished,
    Cancelled,
    Reserved,
    Adopted,
    Declined,
    Released,
    PromptDone,
    Evicted,
    Prefilled,
    Accepted,
    Ready,
    Report,
)
