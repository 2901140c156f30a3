"""Reads the tables that a description may name: a curve of rates, clients, a histogram or a column of lengths.

Each is CSV text with a header; columns that are not asked for are left alone. It knows no trace and no distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phasewise.core.errors import InputError, unknown
from phasewise.workload.readers.text import number, read_text, shown, tokens

SIDES = ("input", "output")
Read = Callable[[str, str], Any]


def read_curve(path: Path) -> list[tuple[float, float]]:
    """Points (t_s from the first row, requests/s) from the columns `t_s` and `rate_rps`, as ServeGen's rates are kept."""
    rows = _rows(path, {"t_s": _real, "rate_rps": _real}, "a curve of rates")
    return [(t_s - rows[0][0], rate) for t_s, rate in rows]


def read_clients(path: Path) -> list[tuple[float, float]]:
    """(requests/s, cv of the gaps) of each client: columns `mean_rate_rps` and `interarrival_cv`, as ServeGen's are kept."""
    return _rows(path, {"mean_rate_rps": _real, "interarrival_cv": _real}, "a table of clients")


def read_histogram(path: Path, side: str) -> list[tuple[int, int, float]]:
    """Bins (tokens from, tokens below, probability) of one side, `input` or `output`.

    Columns `side, tokens_from, tokens_below, probability`, as ServeGen's histograms are kept.
    """
    if side not in SIDES:
        raise unknown("side", side, SIDES, str(path))
    columns: dict[str, Read] = {"side": _text, "tokens_from": tokens, "tokens_below": tokens, "probability": _real}
    rows = _rows(path, columns, "a histogram of lengths")
    bins = [(low, below, p) for of, low, below, p in rows if of == side]
    if not bins:
        raise InputError(f"no row of side '{side}'; give at least one", str(path))
    return bins


def read_column(path: Path, column: str) -> list[int]:
    """One column of whole lengths."""
    return [value for (value,) in _rows(path, {column: tokens}, "a table of lengths")]


def _rows(path: Path, columns: dict[str, Read], what: str) -> list[tuple[Any, ...]]:
    """The wanted columns, row by row. InputError names the file, and the row if one is to blame."""
    place = str(path)
    text = read_text(path, f"{what} is CSV text with the columns {', '.join(columns)}")
    header, *lines = text.split("\n")
    names = [name.strip() for name in header.split(",")]
    for name in columns:
        if name not in names:
            raise unknown("column", name, names, f"{place}:1")
    at = [(name, names.index(name), read) for name, read in columns.items()]
    found = []
    for row, line in enumerate(lines, start=2):
        fields = [field.strip() for field in line.split(",")]
        try:
            if len(fields) != len(names):
                raise InputError(f"{len(fields)} fields in {shown(line)}; the header names {len(names)}")
            found.append(tuple(read(name, fields[i]) for name, i, read in at))
        except InputError as error:
            raise InputError(str(error), f"{place}:{row}") from None
    if not found:
        raise InputError("a header and no rows; give at least one", place)
    return found


def _real(column: str, field: str) -> float:
    value = number(column, field, "give 0 or more")
    if not 0 <= value < math.inf:
        raise InputError(f"{column} {shown(field)} is out of range; give 0 or more")
    return value


def _text(column: str, field: str) -> str:
    return field
