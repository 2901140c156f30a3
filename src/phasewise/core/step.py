"""One forward pass on one lane of a replica: what a batcher plans, and how long its executor says it took."""

from __future__ import annotations

import msgspec

ALL = "all"
"""The cohort of batchers that keep every decoding resident in one group."""

AWAY = "away"
"""In place of a cohort: the request leaves after this chunk, to decode elsewhere."""

Piece = tuple[float, float, int]
"""An affine run of steps: `(first_ns, slope_ns, steps)`; step i of it (from 0) takes `first_ns + i * slope_ns`."""


class Chunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`tokens` prompt tokens of `request`, after the `start` that are already computed.

    `hold` is how many tokens of context the request's blocks must cover from this step on (at least all that the plan
    computes; the whole prompt for a policy that allocates at admission, the context limit for one that reserves). `joins`
    names the cohort that the request decodes in from the next step, and is None unless this chunk is its last.
    """

    request: int
    start: int
    tokens: int
    hold: int
    joins: str | None = None


class StepPlan(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What runs next on `lane`: prompt chunks, and the cohorts that take a decode step.

    `preempt` lists residents to evict first, in the order in which they leave (the last one evicted ends up at the very
    front of the queue). `repeat` is how many identical iterations may run without asking again (None: until a resident
    ends or the blocks are full). In each of them every chunk moves on by its `tokens`; a plan with a prompt's last chunk
    runs once. `closed` promises that no arrival can change this plan before a resident ends or the plan does, so that
    none need interrupt it. `forced` marks a plan that the policy's published rule would not have made yet: an addition of ours
    (a longest wait) did, and the summary counts their iterations.
    """

    chunks: tuple[Chunk, ...] = ()
    cohorts: tuple[str, ...] = ()
    preempt: tuple[int, ...] = ()
    repeat: int | None = 1
    closed: bool = False
    lane: int = 0
    forced: bool = False


def sent_away(chunk: Chunk) -> Chunk:
    """A last chunk after which its request leaves."""
    return Chunk(chunk.request, chunk.start, chunk.tokens, chunk.hold, AWAY)


def moved_on(chunk: Chunk, steps: int) -> Chunk:
    """The chunk as it stands after `steps` iterations of its plan."""
    return Chunk(chunk.request, chunk.start + steps * chunk.tokens, chunk.tokens, chunk.hold, chunk.joins)


def total_ns(piece: Piece, steps: int) -> float:
    """Nanoseconds that the first `steps` steps of an affine piece take together."""
    return steps * piece[0] + piece[1] * (steps * (steps - 1) // 2)
