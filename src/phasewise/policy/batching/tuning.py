"""Choosing a token budget from step times, as Sarathi-Serve does it (OSDI'24, section 4.3).

The paper profiles iterations of different token counts and takes the largest that stays within the objective on the time
between tokens. What stands beside the chunk in a profile is not said; here it is the reference batch of the paper's
objectives, 32 decodes of 4,096 tokens, and a chunk that comes after 4,096 tokens of its own prompt.
"""

from __future__ import annotations

from phasewise.core.errors import InputError
from phasewise.core.step import Chunk
from phasewise.core.units import NS_PER_S
from phasewise.perf.latency import LatencyModel

DECODES, CONTEXT, GRAIN, MOST = 32, 4096, 32, 16_384


def iteration_s(latency: LatencyModel, tokens: int) -> float:
    """Seconds of an iteration of `tokens` tokens in all: the reference decodes, and a chunk of the rest."""
    start, size = CONTEXT, tokens - DECODES
    chunks = (Chunk(0, start, size, start + size + 1),) if size > 0 else ()
    return sum(first for first, _, _ in latency.pieces(chunks, DECODES, DECODES * CONTEXT, 1)) / NS_PER_S


def token_budget(latency: LatencyModel, tbt_s: float) -> int:
    """The largest budget, in multiples of 32 tokens up to 16,384, whose iteration stays within `tbt_s` seconds.

    InputError if not even the reference decodes with one grain of prompt do.
    """
    low = DECODES + GRAIN
    if (least_s := iteration_s(latency, low)) > tbt_s:
        raise InputError(f"tbt_s {tbt_s:g} is less than an iteration of {low} tokens takes, {least_s:.3g} s; give more")
    high = MOST
    if iteration_s(latency, high) <= tbt_s:
        return high
    # Step times rise with tokens but for small dents; the budget found has its own iteration within, and the next has not.
    while high - low > GRAIN:
        middle = (low + high) // 2 // GRAIN * GRAIN
        low, high = (middle, high) if iteration_s(latency, middle) <= tbt_s else (low, middle)
    return low
