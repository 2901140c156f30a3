"""Reads request traces of several formats into a `Workload`, told apart by their first line. It knows no rate and no model.

The house's own is CSV with the columns `arrival_s` (seconds from the trace's start, never falling; or `arrival_ms`),
`input_tokens`, `output_tokens`, and optionally `gone_s` (on the same axis: when the client hangs up; blank for never), `class`
(a name) and `prefix_block_ids` (what the prompt holds, in blocks of 512 tokens). The others are read as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phasewise.core.errors import InputError
from phasewise.core.spec import RequestClass
from phasewise.core.units import NS_PER_S
from phasewise.workload.prefixes import Prefixes
from phasewise.workload.readers.csv import (
    ARRIVAL,
    FIRST_ROW,
    GONE,
    IDS,
    LABEL,
    MORE_LABEL,
    OUTPUT,
    PROMPT,
    Columns,
    read_csv,
)
from phasewise.workload.readers.formats import PLAIN, recognised
from phasewise.workload.readers.mooncake import read_mooncake
from phasewise.workload.readers.text import NEVER_NS, Ints, read_text
from phasewise.workload.truth import Truth
from phasewise.workload.workload import MAX_ARRIVAL_S, Workload

ENDINGS = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz")
_EXPECTED = "a trace is CSV text whose first line names the columns " + ", ".join(PLAIN.needed)
_FEW, _SPARSE_RPS = 100, 0.01


def read_trace(path: str | Path) -> Workload:
    """The requests of a .csv, .jsonl or .gz of either, in its order, named after the file.

    InputError, with the file and where there is one the line, if it cannot be read, has no rows, lacks a column or has
    one too many, or a row is not what the columns promise (lengths are whole, up to 10,000,000 tokens). What is odd and
    yet can be read stands in the workload's `notes`.
    """
    place, path = str(path), Path(path)
    text = read_text(path, _EXPECTED)
    if text.startswith("{"):
        return _workload(read_mooncake(text, place), path, first_row=1, drops=True, dated=False)
    header, _, body = text.partition("\n")
    form = recognised(header, f"{place}:1")
    found = read_csv(header, body, form, place)
    return _workload(found, path, FIRST_ROW, form.drops, form.dated, in_seconds=form is PLAIN)


def _workload(
    found: Columns, path: Path, first_row: int, drops: bool, dated: bool, in_seconds: bool = False
) -> Workload:
    """The requests of the columns. `in_seconds`: the arrivals could be in another unit than their column says."""
    place = str(path)
    arrival_ns: Ints = found[ARRIVAL]
    notes = [f"{place}: {_MILLISECONDS}"] if in_seconds and _looks_like_milliseconds(arrival_ns) else []
    lines: Ints = first_row + np.arange(len(arrival_ns))
    prompt, output = found[PROMPT], found[OUTPUT]
    start_ns = _start_ns(arrival_ns, dated, place, first_row)
    if start_ns and not dated:
        notes.append(f"{place}: arrivals begin at {start_ns // NS_PER_S} s, a Unix time; counted from the first row's")
    kind, classes = _kinds(found)
    prefixes: Prefixes | None = found.get(IDS)
    if prefixes is not None and not len(prefixes.ids):
        prefixes = None
    served = (prompt > 0) & (output > 0)
    if drops and not served.all():
        lost = int(len(served) - served.sum())
        if lost == len(served):
            raise InputError("no row has both a prompt and an answer; there is nothing to run", place)
        notes.append(f"{place}: {lost:,} of {len(served):,} rows have no prompt or no answer (failed): left out")
        keep = np.flatnonzero(served)
        arrival_ns, lines, prompt, output = arrival_ns[keep], lines[keep], prompt[keep], output[keep]
        kind = None if kind is None else kind[keep]
        prefixes = None if prefixes is None else prefixes.taken(keep)
    # A failed request that came first leaves the start to the next: a date says nothing else about it.
    start_ns = int(arrival_ns[0]) if dated else start_ns
    gone_ns = found.get(GONE)
    leavers = [] if gone_ns is None else np.flatnonzero(gone_ns != NEVER_NS).tolist()
    return Workload(
        name=_stem(path.name),
        arrival_ns=arrival_ns - start_ns if start_ns else arrival_ns,
        prompt_tokens=prompt,
        truth=Truth(output),
        gone_ns={} if gone_ns is None else {i: int(gone_ns[i]) - start_ns for i in leavers},
        source=place,
        lines=None if first_row == FIRST_ROW and int(lines[-1]) == FIRST_ROW + len(lines) - 1 else lines,
        kind=kind,
        classes=classes,
        prefixes=prefixes,
        notes=tuple(notes),
    )


def _start_ns(arrival_ns: Ints, dated: bool, place: str, first_row: int) -> int:
    """Where the time axis begins: at 0, or at the first row if that is a date or a Unix time."""
    first_ns, most_ns = int(arrival_ns[0]), MAX_ARRIVAL_S * NS_PER_S
    start_ns = first_ns if dated or first_ns > most_ns else 0
    late = arrival_ns - start_ns > most_ns
    if late.any():
        where = f"{place}:{first_row + int(np.argmax(late))}"
        raise InputError("arrives more than 10^9 s after the start; count from there", where)
    return start_ns


def _kinds(found: Columns) -> tuple[Ints | None, tuple[RequestClass, ...]]:
    """The classes in the order of their names, and who is in which; two columns of labels make one name."""
    labels: Sequence[str] | None = found.get(LABEL)
    if labels is None:
        return None, ()
    if MORE_LABEL in found:
        labels = [f"{a}, {b}" for a, b in zip(labels, found[MORE_LABEL], strict=True)]
    names = sorted(set(labels) - {""})
    index = {name: i for i, name in enumerate(names, start=1)} | {"": 0}
    if not names:
        return None, ()
    kind = np.fromiter(map(index.__getitem__, labels), np.int64, len(labels))
    return kind, tuple(RequestClass(name) for name in names)


def _stem(name: str) -> str:
    name = name.removesuffix(".gz")
    return name.removesuffix(".csv").removesuffix(".jsonl")


_MILLISECONDS = (
    "arrival_s holds whole numbers at less than one request in 100 s, read as seconds; if they are milliseconds, name the "
    "column arrival_ms"
)


def _looks_like_milliseconds(arrival_ns: Ints) -> bool:
    """A hundred requests or more at whole numbers, so far apart as to be hardly any load: read all the same.

    Honest traces this sparse come on a schedule (whole minutes); a large first arrival says nothing.
    """
    span_ns = int(arrival_ns[-1]) - int(arrival_ns[0])
    if len(arrival_ns) < _FEW or (len(arrival_ns) - 1) * NS_PER_S >= _SPARSE_RPS * span_ns:
        return False
    step_ns = int(np.gcd.reduce(np.diff(arrival_ns)))
    return step_ns % NS_PER_S == 0 and (step_ns % (60 * NS_PER_S) != 0 or step_ns % (1000 * NS_PER_S) == 0)
