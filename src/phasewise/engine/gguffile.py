"""The reader of a GGUF file: its key-value table, where its tensors lie, and their numbers a piece at a time.

The format is described in the ggml project (docs/gguf.md, versions 2 and 3, little-endian). The table is read here rather than
by the `gguf` package's GGUFReader: that takes two seconds for a vocabulary of 50,000 (this a tenth), and a corrupt length
sends it round a loop of 2^60. Every length is held against the end of the file. Unpacking the numbers is the package's.
It knows nothing of models: what keys and tensors mean is in `llamacpp`.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from phasewise.core.errors import InputError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PIECE = (1 << 15) - 1
"""Numbers unpacked at once: they stay in the processor's cache, and are fewer than torch would split among threads, whose
waiting for each other costs more than the work on a machine that is shared."""


class Stored(NamedTuple):
    """Where a tensor lies: its shape (rows of the file last, as torch says it), ggml type, first byte, bytes in all."""

    shape: tuple[int, ...]
    kind: int
    offset: int
    size: int


class GgufFile:
    """An open GGUF file, mapped, not read: `metadata` by key, `tensors` by name. InputError where it is corrupt or short."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as e:
            raise InputError(
                f"cannot be read: {'it is empty' if isinstance(e, ValueError) else e.strerror}", self.where
            ) from e
        if self._bytes[:4] != b"GGUF":
            raise InputError("not a GGUF file: it does not begin with 'GGUF'", self.where)
        self._at = 4
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, Stored] = {}
        try:
            self._read_tables()
        except (struct.error, ValueError, OverflowError, MemoryError) as e:
            raise InputError(
                f"corrupt or cut short near byte {self._at} of {len(self._bytes)}; copy it again", self.where
            ) from e

    def pieces(self, name: str) -> Iterator[tuple[tuple[Any, ...], torch.Tensor]]:
        """The numbers of a tensor in float32, piece by piece, each with the index at which it belongs."""
        from gguf import GGMLQuantizationType, dequantize

        shape, kind, offset, size = self.tensors[name]
        *outer, rows, width = (1, *shape) if len(shape) == 1 else shape
        row_bytes = size // (math.prod(outer) * rows)
        step = max(1, _PIECE // width)
        data = np.frombuffer(self._bytes, np.uint8, size, offset).reshape(*outer, rows, row_bytes)
        for index in np.ndindex(*outer):
            for start in range(0, rows, step):
                part = slice(start, start + step)
                try:
                    numbers = dequantize(data[index][part], GGMLQuantizationType(kind))
                except NotImplementedError as e:
                    what = f"tensor {name!r} is stored as {GGMLQuantizationType(kind).name}, which cannot be unpacked"
                    raise InputError(f"{what}; take another quantisation, Q4_K_M or Q8_0 say", self.where) from e
                # A copy where nothing was unpacked: torch does not like what it may not write to.
                numbers = numbers if numbers.flags.writeable else numbers.copy()
                piece = torch.from_numpy(numbers)
                yield ((), piece[0]) if len(shape) == 1 else ((*index, part), piece)

    def _read_tables(self) -> None:
        version = self._scalar("I")
        if version not in (2, 3):
            what = f"GGUF version {version} is not known (2 and 3 are)"
            raise InputError(what if version & 0xFFFF else "a big-endian GGUF file is not supported", self.where)
        tensors, entries = self._scalar("Q"), self._scalar("Q")
        for _ in range(entries):
            key = self._string()
            if key in self.metadata:
                raise ValueError
            self.metadata[key] = self._value(self._scalar("I"))
        places = [self._place() for _ in range(tensors)]
        align = self.metadata.get("general.alignment", 32)
        if type(align) is not int or align <= 0:
            raise ValueError
        data = -(-self._at // align) * align
        for name, shape, kind, offset in places:
            if name in self.tensors:
                raise InputError(f"tensor {name!r} is there twice", self.where)
            self.tensors[name] = self._stored(name, shape, kind, data + offset)

    def _stored(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> Stored:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            raise InputError(f"tensor {name!r} is of the ggml type {kind}, which is not known", self.where) from None
        if not shape or 0 in shape or shape[-1] % block:
            raise InputError(f"tensor {name!r} has the impossible shape {list(shape)}", self.where)
        size = math.prod(shape) // block * block_bytes
        if offset + size > len(self._bytes):
            what = f"tensor {name!r} would end at byte {offset + size} of a file of {len(self._bytes)}"
            raise InputError(f"{what}: it is cut short; copy it again", self.where)
        return Stored(shape, kind, offset, size)

    def _place(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self._string(), self._scalar("I")
        if dimensions > 4:
            raise ValueError
        shape = tuple(self._scalar("Q") for _ in range(dimensions))[::-1]
        return name, shape, self._scalar("I"), self._scalar("Q")

    def _scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._bytes, self._at)
        self._at += struct.calcsize(f"<{code}")
        return value

    def _string(self) -> str:
        length = self._scalar("Q")
        if length > len(self._bytes) - self._at:
            raise ValueError
        self._at += length
        return self._bytes[self._at - length : self._at].decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind != _ARRAY:
            raise ValueError
        of, length = self._scalar("I"), self._scalar("Q")
        if of == _STRING:
            return [self._string() for _ in range(length)]
        if of not in _SCALARS:
            raise ValueError
        numbers = np.frombuffer(self._bytes, f"<{'u1' if _SCALARS[of] == '?' else _SCALARS[of]}", length, self._at)
        self._at += numbers.nbytes
        return numbers.tolist()
