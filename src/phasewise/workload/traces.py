"""Reads a request trace from plain CSV into a `Workload`. It does not know rates, models or any other format.

Columns, in any order: `arrival_s` (seconds from the trace's start, never falling), `input_tokens`, `output_tokens`, and
optionally `gone_s` (on the same axis: when the client hangs up; blank for never). A file is parsed twice only if it is
odd: numpy's reader takes the usual one whole, and whatever it or a check refuses goes row by row, where the first
offending row is named. The row-by-row pass is the authority on what is accepted.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phasewise.core.errors import InputError, unknown
from phasewise.core.units import NS_PER_S, to_ns
from phasewise.workload.truth import Truth
from phasewise.workload.workload import MAX_ARRIVAL_S, MAX_TOKENS, Workload

NEEDED = ("arrival_s", "input_tokens", "output_tokens")
OPTIONAL = ("gone_s",)
_EXPECTED = f"a trace is CSV text whose first line names the columns {', '.join(NEEDED)}"
_FIRST_ROW = 2
Table = NDArray[np.float64]


def read_trace(path: str | Path) -> Workload:
    """The requests of a .csv or .csv.gz file, in its order, named after the file.

    InputError, with the file and where there is one the line, if it cannot be read, has no rows, lacks a column or has
    one too many, or a row is not what the columns promise (lengths are whole, from 1 to 10,000,000 tokens).
    """
    place = str(path)
    header, _, body = _read_text(Path(path)).partition("\n")
    columns = _columns(header, place)
    if not body:
        raise InputError("a header and no rows; give at least one request", place)
    gone: dict[int, float] = {}
    table = _fast(body, columns) if len(columns) == len(NEEDED) else None
    if table is None:
        table, gone = _row_by_row(body, columns, place)
    return Workload(
        name=Path(path).name.removesuffix(".gz").removesuffix(".csv"),
        arrival_ns=np.rint(table[:, 0] * NS_PER_S).astype(np.int64),
        prompt_tokens=table[:, 1].astype(np.int64),
        truth=Truth(table[:, 2].astype(np.int64)),
        gone_ns={i: to_ns(at_s) for i, at_s in gone.items()},
        source=place,
        first_row=_FIRST_ROW,
    )


def read_bytes(path: Path) -> bytes:
    """A whole file's bytes. InputError says in one line why there are none."""
    try:
        return path.read_bytes()
    except IsADirectoryError:
        raise InputError("is a directory; name a file in it", str(path)) from None
    except FileNotFoundError:
        raise InputError("no such file; check the path", str(path)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot be read ({reason}); name a file that can", str(path)) from None


def shown(text: str) -> str:
    """A piece of input, fit to stand in a one-line message."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _read_text(path: Path) -> str:
    """The file's text with \\n for every line end, without a byte-order mark or blank lines at its end."""
    place = str(path)
    data = read_bytes(path)
    if path.name.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"not a whole gzip file ({error}); compress the CSV again", place) from None
    elif data.startswith(b"\x1f\x8b"):
        raise InputError("is compressed; name it .csv.gz, or unpack it", place)
    if b"\0" in data:
        raise InputError(f"is binary; {_EXPECTED}", place)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"byte 0x{data[error.start]:02x} is not UTF-8; {_EXPECTED}", f"{place}:{row}") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip()
    if not text:
        raise InputError(f"is empty; {_EXPECTED}", place)
    return text


def _columns(header: str, place: str) -> dict[str, int]:
    """Position of each column by name. InputError if one is missing, unknown or there twice."""
    names = [name.strip() for name in header.split(",")]
    place = f"{place}:1"
    for name in names:
        if names.count(name) > 1 and name in NEEDED + OPTIONAL:
            raise InputError(f"two columns named {name!r}; keep one", place)
    for name in NEEDED:
        if name not in names:
            raise InputError(f"no column {name!r} in {shown(header)}; {_EXPECTED}", place)
    for name in names:
        if name not in NEEDED + OPTIONAL:
            raise unknown("column", shown(name)[1:-1], NEEDED + OPTIONAL, place)
    return {name: names.index(name) for name in names}


def _fast(body: str, columns: dict[str, int]) -> Table | None:
    """The whole table in one go (columns as in NEEDED), or None if anything at all is amiss."""
    rows = body.count("\n") + 1
    try:
        table = np.loadtxt(io.StringIO(body), dtype=np.float64, delimiter=",", comments=None, ndmin=2)
    except ValueError:
        return None
    if table.shape != (rows, len(NEEDED)):
        return None
    table = table[:, [columns[name] for name in NEEDED]]
    arrival, lengths = table[:, 0], table[:, 1:]
    if not np.isfinite(table).all() or arrival[0] < 0 or arrival[-1] > MAX_ARRIVAL_S or (np.diff(arrival) < 0).any():
        return None
    if (lengths < 1).any() or (lengths > MAX_TOKENS).any() or (lengths != np.rint(lengths)).any():
        return None
    return table


def _row_by_row(body: str, columns: dict[str, int], place: str) -> tuple[Table, dict[int, float]]:
    """The table (columns as in NEEDED) and each hang-up in seconds by request. InputError names the first bad row."""
    table: list[tuple[float, int, int]] = []
    gone: dict[int, float] = {}
    before = 0.0
    gone_at = columns.get("gone_s")
    for row, line in enumerate(body.split("\n"), start=_FIRST_ROW):
        try:
            fields = _fields(line, len(columns))
            arrival, prompt, output = (fields[columns[name]] for name in NEEDED)
            arrival_s = _seconds("arrival_s", arrival)
            if arrival_s < before:
                raise InputError(f"arrival_s {arrival} comes before the row above ({before!r}); sort rows by arrival_s")
            if gone_at is not None and fields[gone_at]:
                gone[row - _FIRST_ROW] = gone_s = _seconds("gone_s", fields[gone_at])
                if gone_s < arrival_s:
                    raise InputError(f"gone_s {fields[gone_at]} is before arrival_s {arrival}; give a later one")
            table.append((arrival_s, _tokens("input_tokens", prompt), _tokens("output_tokens", output)))
        except InputError as error:
            raise InputError(str(error), f"{place}:{row}") from None
        before = arrival_s
    return np.array(table, dtype=np.float64), gone


def _fields(line: str, width: int) -> list[str]:
    if not line.strip():
        raise InputError("blank row; remove it")
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != width:
        raise InputError(f"{len(fields)} fields in {shown(line)}; the header names {width}")
    return fields


def _number(column: str, field: str, right: str) -> float:
    try:
        if not field.isascii() or "_" in field:
            raise ValueError
        return float(field)
    except ValueError:
        raise InputError(f"{column} {shown(field)} is not a number; {right}") from None


def _seconds(column: str, field: str) -> float:
    right = f"give seconds from the trace's start, 0 to {MAX_ARRIVAL_S:,}"
    value = _number(column, field, right)
    if not math.isfinite(value) or not 0 <= value <= MAX_ARRIVAL_S:
        raise InputError(f"{column} {shown(field)} is not a time; {right}")
    return value


def _tokens(column: str, field: str) -> int:
    right = f"give a whole number of tokens, 1 to {MAX_TOKENS:,}"
    value = _number(column, field, right)
    if not math.isfinite(value) or not value.is_integer() or not 1 <= value <= MAX_TOKENS:
        raise InputError(f"{column} {shown(field)} is not a length; {right}")
    return int(value)
