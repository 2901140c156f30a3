"""Mooncake's traces: JSON lines with a prompt's content as block ids. It knows no other format.

    {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, ...]}

Milliseconds from the trace's start; a block id stands for 512 tokens, and equal ids at the start of two prompts for an equal
prefix (Qin et al., Mooncake, FAST 2025; kvcache-ai/Mooncake).
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from phasewise.core.errors import InputError
from phasewise.core.units import NS_PER_S
from phasewise.workload.prefixes import Prefixes
from phasewise.workload.readers.csv import ARRIVAL, IDS, OUTPUT, PROMPT, Columns, check_blocks
from phasewise.workload.readers.text import shown
from phasewise.workload.workload import MAX_ARRIVAL_S, MAX_TOKENS

BLOCK_TOKENS = 512
_NS_PER_MS = 1_000_000
_MAX_ID = (1 << 62) - 1


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int] = []


def read_mooncake(body: str, place: str) -> Columns:
    """The columns of JSON lines. InputError names the first bad row."""
    try:
        rows = msgspec.json.Decoder(_Row).decode_lines(body)
    except (msgspec.MsgspecError, RecursionError):
        rows = None
    # A blank line is nothing to the decoder, and would put the numbers of lines out.
    if rows is None or len(rows) != body.count("\n") + 1 or not _sound(rows):
        rows = _careful(body, place)
    return {
        ARRIVAL: np.array([round(row.timestamp * _NS_PER_MS) for row in rows], np.int64),
        PROMPT: np.array([row.input_length for row in rows], np.int64),
        OUTPUT: np.array([row.output_length for row in rows], np.int64),
        IDS: Prefixes.of([row.hash_ids for row in rows], BLOCK_TOKENS),
    }


def _sound(rows: list[_Row]) -> bool:
    before = 0.0
    for row in rows:
        try:
            _check(row, before)
        except InputError:
            return False
        before = row.timestamp
    return True


def _careful(body: str, place: str) -> list[_Row]:
    """Line by line. InputError names the first that is not right."""
    decoder = msgspec.json.Decoder(_Row)
    rows: list[_Row] = []
    for number, line in enumerate(body.split("\n"), start=1):
        where = f"{place}:{number}"
        try:
            if not line.strip():
                raise InputError("blank row; remove it")
            row = decoder.decode(line)
            _check(row, rows[-1].timestamp if rows else 0.0)
        except msgspec.MsgspecError as error:
            what = " ".join(str(error).replace("`", "'").replace("$.", "").split())
            right = "a row is {timestamp, input_length, output_length, hash_ids}"
            raise InputError(f"{shown(line)}: {what[:120]}; {right}", where) from None
        except (InputError, RecursionError) as error:
            raise InputError(str(error), where) from None
        rows.append(row)
    return rows


def _check(row: _Row, before: float) -> None:
    most = MAX_ARRIVAL_S * NS_PER_S / _NS_PER_MS
    if not math.isfinite(row.timestamp) or not 0 <= row.timestamp <= most:
        raise InputError(f"timestamp {row.timestamp:g} is not a time; give milliseconds, 0 to {most:,.0f}")
    if row.timestamp < before:
        raise InputError(f"timestamp {row.timestamp:g} comes before the row above ({before:g}); sort rows by timestamp")
    for name, length in (("input_length", row.input_length), ("output_length", row.output_length)):
        if not 0 <= length <= MAX_TOKENS:
            raise InputError(f"{name} {length} is not a length; give 0 to {MAX_TOKENS:,} tokens")
    if row.hash_ids and not (min(row.hash_ids) >= 0 and max(row.hash_ids) <= _MAX_ID):
        raise InputError("hash_ids below 0 or above 2^62; give whole numbers of 0 or more")
    check_blocks(len(row.hash_ids), row.input_length, BLOCK_TOKENS)
