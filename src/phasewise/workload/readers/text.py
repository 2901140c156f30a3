"""Text out of files, and values out of text: what all readers share. It knows no format.

Every kind of column has two readers that must agree: of one field, which says what is wrong with it, and of a whole column
at once, which is fast and raises ValueError for anything odd.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phasewise.core.errors import InputError
from phasewise.core.units import NS_PER_S, to_ns
from phasewise.workload.prefixes import Prefixes
from phasewise.workload.workload import MAX_ARRIVAL_S, MAX_TOKENS

Ints = NDArray[np.int64]
NEVER_NS = -1
_STAMP = re.compile(r"((?:19[7-9]\d|2[01]\d\d)-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?)(Z|[+-]\d\d:?\d\d)?", re.ASCII)
_ZONE = re.compile(r"(?:Z|[+-]\d\d:?\d\d)$", re.ASCII)
_MAX_ID = (1 << 62) - 1
_UNIX_S = 1 << 32  # a trace may count from 1970, if all of it does


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


def read_text(path: Path, expected: str) -> str:
    """The file's text with \\n for every line end, without a byte-order mark or blank lines at its end.

    `expected` says what kind of file is, in an InputError for one that holds no text.
    """
    place = str(path)
    data = read_bytes(path)
    if path.name.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"not a whole gzip file ({error}); compress it again", place) from None
    elif data.startswith(b"\x1f\x8b"):
        raise InputError(f"is compressed; name it {path.suffix or '.csv'}.gz, or unpack it", place)
    if b"\0" in data:
        raise InputError(f"is binary; {expected}", place)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"byte 0x{data[error.start]:02x} is not UTF-8; {expected}", f"{place}:{row}") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip()
    if not text:
        raise InputError(f"is empty; {expected}", place)
    return text


def shown(text: str) -> str:
    """A piece of input, fit to stand in a one-line message."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def number(column: str, field: str, right: str) -> float:
    """A field as a number, maybe not a finite one. InputError says what would be `right`."""
    try:
        if not field.isascii() or "_" in field:
            raise ValueError
        return float(field)
    except ValueError:
        raise InputError(f"{column} {shown(field)} is not a number; {right}") from None


def _floats(fields: Sequence[str] | NDArray[np.float64]) -> NDArray[np.float64]:
    """A whole column of numbers: those that `number` takes, and no other. An array is one already."""
    if isinstance(fields, np.ndarray):
        return fields
    text = "".join(fields)
    if not text.isascii() or "_" in text:
        raise ValueError
    return np.asarray(fields, np.float64)


def seconds(column: str, field: str) -> int:
    """Seconds from the trace's start, as nanoseconds."""
    return _time(column, field, "seconds", 1.0)


def all_seconds(fields: Sequence[str]) -> Ints:
    """A whole column of `seconds`."""
    return _all_times(fields, 1.0)


def milliseconds(column: str, field: str) -> int:
    """Milliseconds from the trace's start, as nanoseconds."""
    return _time(column, field, "milliseconds", 1e3)


def all_milliseconds(fields: Sequence[str]) -> Ints:
    """A whole column of `milliseconds`."""
    return _all_times(fields, 1e3)


def _time(column: str, field: str, unit: str, per_s: float) -> int:
    right = f"give {unit} from the trace's start, 0 to {MAX_ARRIVAL_S * per_s:,.0f}"
    value = number(column, field, right)
    if not math.isfinite(value) or not 0 <= value <= _UNIX_S * per_s:
        raise InputError(f"{column} {shown(field)} is not a time; {right}")
    return round(value * (NS_PER_S / per_s))


def _all_times(fields: Sequence[str], per_s: float) -> Ints:
    values = _floats(fields)
    if not ((values >= 0) & (values <= _UNIX_S * per_s)).all():
        raise ValueError
    return np.rint(values * (NS_PER_S / per_s)).astype(np.int64)


def leaving(column: str, field: str) -> int:
    """`seconds`, or NEVER_NS if blank."""
    return seconds(column, field) if field else NEVER_NS


def all_leaving(fields: Sequence[str]) -> Ints:
    """A whole column of `leaving`."""
    blank = np.array([not field or field.isspace() for field in fields])
    return np.where(blank, NEVER_NS, all_seconds(["0" if none else f for f, none in zip(fields, blank, strict=True)]))


def stamp(column: str, field: str) -> int:
    """A date and time, as nanoseconds since 1970: up to 9 fractional digits, none lost; with no zone, UTC."""
    right = "give one such as 2023-11-16 18:15:46.6805900"
    found = _STAMP.fullmatch(field)
    try:
        if found is None:
            raise ValueError
        at_ns = int(np.datetime64(found[1], "ns").astype(np.int64))
    except ValueError:
        raise InputError(f"{column} {shown(field)} is not a time stamp; {right}") from None
    zone = found[2]
    if zone is None or zone == "Z":
        return at_ns
    ahead_s = int(zone[1:3]) * 3600 + int(zone[-2:]) * 60
    return at_ns - to_ns(ahead_s if zone[0] == "+" else -ahead_s)


def all_stamps(fields: Sequence[str]) -> Ints:
    """A whole column of `stamp`, if all its zones are one."""
    fields = [field.strip() for field in fields]
    zone = _ZONE.search(fields[0], 19)
    suffix = zone[0] if zone else ""
    bare = [field.removesuffix(suffix) for field in fields] if suffix else fields
    if not all(19 <= len(field) <= 29 and field[0] in "12" and field[4] == "-" for field in bare):
        raise ValueError
    if suffix and any(len(a) == len(b) for a, b in zip(fields, bare, strict=True)):
        raise ValueError
    at_ns = np.array(bare, "datetime64[ns]").astype(np.int64)
    # Beyond these years nanoseconds would wrap; not-a-time is the smallest integer.
    if not all("1970" <= year < "2200" for year in {field[:4] for field in bare}) or int(at_ns.min()) < 0:
        raise ValueError
    ahead_ns = int(at_ns[0]) - stamp("", fields[0])
    return at_ns - ahead_ns


def tokens(column: str, field: str) -> int:
    """A length of at least 1 token."""
    return _count(column, field, 1)


def all_tokens(fields: Sequence[str]) -> Ints:
    """A whole column of `tokens`."""
    return _all_counts(fields, 1)


def maybe_tokens(column: str, field: str) -> int:
    """A length that may be 0: of a request that failed."""
    return _count(column, field, 0)


def all_maybe_tokens(fields: Sequence[str]) -> Ints:
    """A whole column of `maybe_tokens`."""
    return _all_counts(fields, 0)


def _count(column: str, field: str, least: int) -> int:
    right = f"give a whole number of tokens, {least} to {MAX_TOKENS:,}"
    value = number(column, field, right)
    if not math.isfinite(value) or not value.is_integer() or not least <= value <= MAX_TOKENS:
        raise InputError(f"{column} {shown(field)} is not a length; {right}")
    return int(value)


def _all_counts(fields: Sequence[str], least: int) -> Ints:
    values = _floats(fields)
    if not ((values >= least) & (values <= MAX_TOKENS) & (values == np.rint(values))).all():
        raise ValueError
    return values.astype(np.int64)


def label(column: str, field: str) -> str:
    """The name of a class; blank for none."""
    if not field.isprintable() or len(field) > 60:
        raise InputError(f"{column} {shown(field)} is not a name; give up to 60 printable characters")
    return field


def all_labels(fields: Sequence[str]) -> list[str]:
    """A whole column of `label`."""
    fields = [field.strip() for field in fields]
    if not all(name.isprintable() and len(name) <= 60 for name in set(fields)):
        raise ValueError
    return fields


def block_ids(column: str, field: str) -> list[int]:
    """Block ids separated by spaces; blank for none."""
    found = []
    for word in field.split():
        if not (word.isascii() and word.isdecimal()) or int(word) > _MAX_ID:
            raise InputError(f"{column} holds {shown(word)}; give ids as whole numbers of 0 or more, between spaces")
        found.append(int(word))
    return found


def all_block_ids(fields: Sequence[str], block_tokens: int = 512) -> Prefixes:
    """A whole column of `block_ids`."""
    words = " ".join(fields).split()
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise ValueError
    offsets = np.concatenate([[0], np.cumsum([len(field.split()) for field in fields])]).astype(np.int64)
    try:
        ids = np.array(words, np.int64) if words else np.empty(0, np.int64)
    except OverflowError:
        raise ValueError from None
    if (ids > _MAX_ID).any():
        raise ValueError
    return Prefixes(offsets, ids, block_tokens)


def ignored(column: str, field: str) -> None:
    """A column that says nothing of use."""


def all_ignored(fields: Sequence[str]) -> None:
    """A whole column of `ignored`."""
