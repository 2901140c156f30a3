"""A latency model from a fit or a table of step times. It knows neither who measured them nor what a device is.

The three parts of a step, and why each is exact over a leap:

- chunks: the tokens of a step stay the same from step to step, while a chunk's pairs grow by q * q and what it reads by q:
  affine;
- decodes: the batch stays the same while the context grows by one token a sequence: affine, and where a table over the context
  has a point, the leap is cut there;
- both: their sum less a constant, so cut where the decodes are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from math import inf, isfinite

import msgspec

from phasewise.core.errors import InputError
from phasewise.core.step import Chunk, Piece
from phasewise.core.steptimes import DecodeTimes, PrefillTimes, StepTimes, Table

NS_PER_US = 1e3
LEAST_US = 0.001
"""No step takes less than a nanosecond."""
KINDS = ("linear", "table")


class Line:
    """A table made ready to look up: the time at a count, how it grows from there, and up to where."""

    def __init__(self, table: Table) -> None:
        self._at = table.at
        self._ns = [time * NS_PER_US for time in table.times_us]
        pairs = zip(pairwise(self._at), pairwise(self._ns), strict=True)
        slopes = [(later - sooner) / (right - left) for (left, right), (sooner, later) in pairs]
        # Flat before the first point; after the last as between the last two, but never falling.
        self._slopes = [0.0, *slopes, max(0.0, slopes[-1]) if slopes else 0.0]

    @property
    def first_ns(self) -> float:
        return self._ns[0]

    def find(self, count: int) -> tuple[float, float, int | None]:
        """Nanoseconds at `count`, nanoseconds more for each one more, and the next point (None: there is none)."""
        i = bisect_right(self._at, count)
        base = max(i - 1, 0)
        time = self._ns[base] + self._slopes[i] * (count - self._at[base])
        return time, self._slopes[i], self._at[i] if i < len(self._at) else None


class Fitted:
    """Step times as `times` states them; a `LatencyModel`. Raises InputError, with the key, for times that are none."""

    def __init__(self, times: StepTimes) -> None:
        check(times)
        self.basis = times.source
        """What the times rest on, in words that every output repeats."""
        self._mixed_factor = times.mixed_factor
        self._mixed_sequence_ns = times.mixed_sequence_us * NS_PER_US
        self._mixed_context_ns = times.mixed_context_us * NS_PER_US
        self._prefill = _Prefill(times.prefill)
        self._decodes = [(part.below_batch or inf, _Decode(part)) for part in times.decode]

    def pieces(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        """Times of `steps` identical iterations, nanoseconds; see `LatencyModel`."""
        if not chunks:
            return tuple(self._decode(decodes).pieces(decodes, context, steps))
        if not decodes:
            return ((*self._prefill.line(chunks, 0), steps),)
        if self._mixed_factor is not None:
            first, slope = self._prefill.line(chunks, decodes)
            return ((self._mixed_factor * first, self._mixed_factor * slope, steps),)
        part = self._decode(decodes)
        first, slope = self._prefill.line(chunks, 0)
        first += self._mixed_sequence_ns * decodes + self._mixed_context_ns * (context + decodes)
        first -= min(self._prefill.fixed_ns, part.fixed_ns)
        slope += self._mixed_context_ns * decodes
        out: list[Piece] = []
        done = 0
        for also, more, n in part.pieces(decodes, context, steps):
            out.append((also + first + slope * done, more + slope, n))
            done += n
        return tuple(out)

    def _decode(self, decodes: int) -> _Decode:
        return next(part for below, part in self._decodes if decodes < below)


class _Prefill:
    """`PrefillTimes` in nanoseconds."""

    def __init__(self, times: PrefillTimes) -> None:
        self._step_ns, self._chunk_ns = times.step_us * NS_PER_US, times.chunk_us * NS_PER_US
        self._token_ns, self._pair_ns = times.token_us * NS_PER_US, times.pair_us * NS_PER_US
        self._context_ns = times.context_us * NS_PER_US
        self._table = None if times.by_tokens is None else Line(times.by_tokens)
        self.fixed_ns = self._step_ns + (self._table.first_ns if self._table else 0.0)

    def line(self, chunks: Sequence[Chunk], decodes: int) -> tuple[float, float]:
        """The first of several steps of these chunks, and how much longer each next one takes."""
        tokens, reads, pairs, more_pairs = 0, 0, 0.0, 0
        for chunk in chunks:
            q = chunk.tokens
            tokens += q
            reads += chunk.start + q
            pairs += q * (chunk.start + (q + 1) / 2)
            more_pairs += q * q
        first = self._step_ns + self._chunk_ns * len(chunks) + self._token_ns * (tokens + decodes)
        first += self._pair_ns * pairs + self._context_ns * reads
        if self._table is not None:
            first += self._table.find(tokens + decodes)[0]
        return first, self._pair_ns * more_pairs + self._context_ns * tokens


class _Decode:
    """`DecodeTimes` in nanoseconds."""

    def __init__(self, times: DecodeTimes) -> None:
        self._step_ns, self._sequence_ns = times.step_us * NS_PER_US, times.sequence_us * NS_PER_US
        self._context_ns = times.context_us * NS_PER_US
        self._batch = None if times.by_batch is None else Line(times.by_batch)
        self._context = None if times.by_context is None else Line(times.by_context)
        self.fixed_ns = self._step_ns + sum(line.first_ns for line in (self._batch, self._context) if line)

    def pieces(self, decodes: int, context: int, steps: int) -> list[Piece]:
        """Times of `steps` steps of these decodes alone."""
        reads = context + decodes
        fixed = self._step_ns + self._sequence_ns * decodes
        if self._batch is not None:
            fixed += self._batch.find(decodes)[0]
        if self._context is None:
            return [(fixed + self._context_ns * reads, self._context_ns * decodes, steps)]
        out: list[Piece] = []
        while steps:
            time, slope, until = self._context.find(reads)
            # The first step that reads `until` tokens or more belongs to the next stretch.
            n = steps if until is None else min(steps, -(-(until - reads) // decodes))
            out.append((fixed + self._context_ns * reads + time, (self._context_ns + slope) * decodes, n))
            reads += n * decodes
            steps -= n
        return out


def check(times: StepTimes, where: str | None = None) -> None:
    """InputError, led by `where` and the key, unless every step has a finite time of at least a nanosecond."""
    if times.kind not in KINDS:
        raise InputError(f"kind is '{times.kind}'; known: {', '.join(KINDS)}", where)
    if not times.source:
        raise InputError("source is empty; say who measured what", where)
    parts: list[tuple[str, PrefillTimes | DecodeTimes]] = [("prefill", times.prefill)]
    if not times.decode:
        raise InputError("decode is empty; give its times", where)
    parts += [(f"decode[{i}]" if len(times.decode) > 1 else "decode", part) for i, part in enumerate(times.decode)]
    tables = sum(_check_part(part, _at(where, name)) for name, part in parts)
    if bool(tables) != (times.kind == "table"):
        what = (
            "a linear model has no table" if tables else "a table model needs a table (by_tokens, by_batch, by_context)"
        )
        raise InputError(f"kind is '{times.kind}', and {what}", where)
    bounds = [part.below_batch for part in times.decode]
    whole = [bound for bound in bounds[:-1] if bound is not None]
    if bounds[-1] is not None or len(whole) < len(bounds) - 1 or whole != sorted({b for b in whole if b > 1}):
        raise InputError(
            "below_batch must rise from part to part, from 2 on, and the last part has none", _at(where, "decode")
        )
    if times.mixed_factor is not None and not 1 <= times.mixed_factor < inf:
        raise InputError(f"mixed_factor is {times.mixed_factor}; give a number of at least 1", where)
    for name in ("mixed_sequence_us", "mixed_context_us"):
        value = getattr(times, name)
        if not 0 <= value < inf or (value and times.mixed_factor is not None):
            raise InputError(f"{name} is {value}; give microseconds, 0 or more, and none beside a mixed_factor", where)
    for name in ("stage_us", "first_us", "first_context_us"):
        if not 0 <= getattr(times, name) < inf:
            raise InputError(f"{name} is {getattr(times, name)}; give microseconds, 0 or more", where)
    if times.tp is not None and times.tp < 1:
        raise InputError(f"tp is {times.tp}; give a number of devices", where)


def _at(where: str | None, key: str) -> str:
    return f"{where}: {key}" if where else key


def _check_part(part: PrefillTimes | DecodeTimes, where: str) -> int:
    """How many tables a part has; InputError for a number in it that cannot be."""
    fixed, tables = part.step_us, 0
    for name, value in msgspec.structs.asdict(part).items():
        if isinstance(value, Table):
            tables += 1
            fixed += _check_table(value, f"{where}.{name}")
        elif name.endswith("_us") and not 0 <= value < inf:
            raise InputError(f"is {value}; give microseconds, 0 or more", f"{where}.{name}")
    if tables > 1:
        raise InputError("has two tables; give one", where)
    if fixed < LEAST_US:
        raise InputError(f"step_us is {part.step_us}; a step takes at least {LEAST_US} us, whatever is in it", where)
    return tables


def _check_table(table: Table, where: str) -> float:
    """The first time of a table; InputError unless its counts rise and its times are times."""
    if not table.at or len(table.at) != len(table.times_us):
        raise InputError(f"has {len(table.at)} counts and {len(table.times_us)} times; give as many of each", where)
    if table.at[0] < 1 or any(left >= right for left, right in pairwise(table.at)):
        raise InputError("at must rise from count to count, from 1 on", where)
    for time in table.times_us:
        if not (isfinite(time) and time >= LEAST_US):
            raise InputError(f"times_us holds {time}; give microseconds, {LEAST_US} or more", where)
    return table.times_us[0]
