"""Reads a comma-separated trace whose columns a `Format` names. It does not know what the columns mean.

A file is parsed twice only if it is odd: whole columns at once take the usual one, and whatever they refuse goes row by
row, where the first offending row is named. The row-by-row pass is the authority on what is accepted.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from phasewise.core.errors import InputError, unknown
from phasewise.workload.prefixes import Prefixes
from phasewise.workload.readers.text import NEVER_NS, shown

FIRST_ROW = 2
ARRIVAL, PROMPT, OUTPUT, GONE, LABEL, MORE_LABEL, IDS, NOTHING = range(8)
"""What a column is for. Arrivals and hang-ups are nanoseconds; two columns may make a class's name together."""


class Column(NamedTuple):
    """What a column is for, and how one field (`one(name, field)`, or InputError) and all (or ValueError) are read."""

    role: int
    one: Callable[[str, str], Any]
    all: Callable[[Sequence[str]], Any]


@dataclass(frozen=True)
class Format:
    """A kind of trace: the columns that it must have, those that it may, and what it is called in a message.

    `numbers`: the columns that it must have are plain numbers. `drops`: rows with an empty prompt or output are of failed
    requests, and left out. `dated`: arrivals are dates, counted from the first row's. `block_tokens`: what a block id stands
    for.
    """

    what: str
    needed: dict[str, Column]
    optional: dict[str, Column]
    numbers: bool = False
    drops: bool = False
    dated: bool = False
    block_tokens: int = 512


Columns = dict[int, Any]
"""By role: arrays, lists of names, or prefixes."""


def read_csv(header: str, body: str, form: Format, place: str) -> Columns:
    """All columns of a table. InputError names the first bad row, or the header."""
    order = _columns(header, form, place)
    if not body:
        raise InputError("a header and no rows; give at least one request", place)
    found = fast(body, order, form)
    return careful(body, order, form, place) if found is None else found


def _columns(header: str, form: Format, place: str) -> list[tuple[str, Column]]:
    """Name and column at each position. InputError if one is missing, unknown or there twice."""
    names = [name.strip() for name in header.split(",")]
    known = form.needed | form.optional
    place = f"{place}:1"
    for name in names:
        if names.count(name) > 1 and name in known:
            raise InputError(f"two columns named {name!r}; keep one", place)
    for name in form.needed:
        if name not in names:
            raise InputError(f"no column {name!r} in {shown(header)}; {form.what} {', '.join(form.needed)}", place)
    for name in names:
        if name not in known:
            raise unknown("column", shown(name)[1:-1], known, place)
    return [(name, known[name]) for name in names]


def fast(body: str, order: list[tuple[str, Column]], form: Format) -> Columns | None:
    """The whole table column by column, or None if anything at all is amiss."""
    try:
        fields = (
            _numbers(body, len(order)) if form.numbers and len(order) == len(form.needed) else _split(body, len(order))
        )
        found = {column.role: column.all(values) for (_, column), values in zip(order, fields, strict=True)}
    except (ValueError, InputError):
        return None
    arrival, prompt = found[ARRIVAL], found[PROMPT]
    if (np.diff(arrival) < 0).any():
        return None
    gone = found.get(GONE)
    if gone is not None and ((gone != NEVER_NS) & (gone < arrival)).any():
        return None
    ids = found.get(IDS)
    if ids is not None and (np.diff(ids.offsets) > -(-prompt // form.block_tokens)).any():
        return None
    return found


def _numbers(body: str, width: int) -> Sequence[Any]:
    """The columns of a table of numbers. ValueError if it is none."""
    table = np.loadtxt(io.StringIO(body), dtype=np.float64, delimiter=",", comments=None, ndmin=2)
    # A blank row is nothing to numpy.
    if table.shape != (body.count("\n") + 1, width):
        raise ValueError
    return list(table.T)


def _split(body: str, width: int) -> Sequence[Any]:
    """The columns of a table as text. ValueError if a row is longer or shorter."""
    rows = [line.split(",") for line in body.split("\n")]
    if set(map(len, rows)) != {width}:
        raise ValueError
    return list(zip(*rows, strict=True))


def careful(body: str, order: list[tuple[str, Column]], form: Format, place: str) -> Columns:
    """The same, row by row. InputError names the first bad row."""
    found: dict[int, list[Any]] = {column.role: [] for _, column in order}
    names = {column.role: name for name, column in order}
    at = {column.role: i for i, (_, column) in enumerate(order)}
    # The arrival first: it is what a person looks at first.
    by_role = sorted(order, key=lambda named: named[1].role)
    before, before_ns = "", -(1 << 63)
    for row, line in enumerate(body.split("\n"), start=FIRST_ROW):
        try:
            fields = _fields(line, len(order))
            values = {column.role: column.one(name, fields[at[column.role]]) for name, column in by_role}
            arrival, arrival_ns = fields[at[ARRIVAL]], values[ARRIVAL]
            if arrival_ns < before_ns:
                late = f"{names[ARRIVAL]} {arrival} comes before the row above ({before})"
                raise InputError(f"{late}; sort rows by {names[ARRIVAL]}")
            if values.get(GONE, NEVER_NS) != NEVER_NS and values[GONE] < arrival_ns:
                gone = fields[at[GONE]]
                raise InputError(f"gone_s {gone} is before {names[ARRIVAL]} {arrival}; give a later one")
            check_blocks(len(values.get(IDS, ())), values[PROMPT], form.block_tokens)
        except InputError as error:
            raise InputError(str(error), f"{place}:{row}") from None
        before, before_ns = arrival, arrival_ns
        for role, value in values.items():
            found[role].append(value)
    done: Columns = dict(found)
    for role in (ARRIVAL, PROMPT, OUTPUT, GONE):
        if role in done:
            done[role] = np.array(done[role], np.int64)
    if IDS in done:
        done[IDS] = Prefixes.of(done[IDS], form.block_tokens)
    return done


def check_blocks(blocks: int, prompt: int, block_tokens: int) -> None:
    """InputError if there are more blocks than the prompt has."""
    if blocks > -(-prompt // block_tokens):
        most = -(-prompt // block_tokens)
        raise InputError(f"{blocks} block ids for {prompt} tokens; at most {most} blocks of {block_tokens}")


def _fields(line: str, width: int) -> list[str]:
    if not line.strip():
        raise InputError("blank row; remove it")
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != width:
        raise InputError(f"{len(fields)} fields in {shown(line)}; the header names {width}")
    return fields
