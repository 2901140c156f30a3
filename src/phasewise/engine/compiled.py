"""The kernels of `kernels.cpp`: built on first use by the machine's own C++ compiler, kept, and called by address.

Built for this processor and kept under its name, in `$XDG_CACHE_HOME/phasewise/kernels` or `~/.cache/...`; it takes two
seconds, once. Where there is no compiler, or it fails, `kernels` says why and the engine does without. Calls keep Python's
lock: each is as short as one of torch's, and giving it up and taking it again costs more than most of them.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch

from phasewise.core.errors import PhasewiseError
from phasewise.engine.attention import HeadNorms, TorchAttention
from phasewise.engine.batch import Batch, Chunk
from phasewise.engine.cache import PagedCache

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-fno-math-errno", "-Wno-psabi")
COMPILE_S = 60
FACES: dict[str, str] = {
    "norm": "ppppnnfi",
    "gate": "ppnni",
    "write": "pniiipppippfppni",
    "decode": "pnniiipnipppifpi",
    "prompt": "pnniiipnipiifpi",
}
"""The functions' arguments in order: pointers, counts (64 bits), ints, floats."""
KINDS = {"p": c_void_p, "n": c_int64, "i": c_int, "f": c_float}
UNBOUNDED = 2**30
"""A window that no context reaches."""
WIDEST = 256
"""Of a head, in numbers: what the attention kernel has room for."""


class NoKernels(PhasewiseError):
    """There are no compiled kernels here; the text says why."""


class Kernels:
    """The functions for one dtype."""

    def __init__(self, library: ctypes.PyDLL, dtype: torch.dtype) -> None:
        for name, arguments in FACES.items():
            function = getattr(library, f"{name}_{str(dtype).removeprefix('torch.')}")
            function.argtypes, function.restype = [KINDS[kind] for kind in arguments], None
            setattr(self, name, function)

    norm: Any
    gate: Any
    write: Any
    decode: Any
    prompt: Any


def kernels(dtype: torch.dtype) -> Kernels:
    """The kernels for numbers of this dtype, built if need be. NoKernels says why there are none."""
    if dtype not in (torch.float32, torch.bfloat16):
        raise NoKernels(f"there are no kernels for {dtype}")
    return Kernels(_library(), dtype)


@functools.cache
def _library() -> ctypes.PyDLL:
    try:
        path = _kept()
        if not path.exists():
            _build(path)
        return ctypes.PyDLL(str(path))
    except OSError as e:
        raise NoKernels(f"kernels cannot be kept or loaded: {e}") from e


def _kept() -> Path:
    """Where the library of this source, for this processor, is kept."""
    try:
        processor = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        traits = [
            line for line in processor.splitlines() if line.startswith(("model name", "flags", "Features", "CPU part"))
        ]
    except OSError:
        traits = [platform.processor()]
    parts = [SOURCE.read_text(), *FLAGS, platform.machine(), *platform.libc_ver(), *traits]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    told = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        home = told if told.is_absolute() else Path.home() / ".cache"
    except RuntimeError as e:
        raise NoKernels("no home directory to keep kernels in; set XDG_CACHE_HOME") from e
    return home / "phasewise" / "kernels" / f"{key}.so"


def _build(path: Path) -> None:
    """Compile beside its place and move it there whole: another process may be doing the same."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if not compiler:
        raise NoKernels("no C++ compiler (g++) is installed")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [*compiler.split(), *FLAGS, "-o", str(made), str(SOURCE)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=COMPILE_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise NoKernels(f"the compiler {compiler} took more than {COMPILE_S} s") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            said = next(
                (line for line in lines if "error" in line), lines[-1] if lines else f"status {done.returncode}"
            )
            raise NoKernels(f"the compiler {compiler} fails: {said}")
        made.replace(path)


class CompiledPointwise:
    """Norms and gates by the kernels."""

    def __init__(self, kernels: Kernels) -> None:
        self._norm, self._gate = kernels.norm, kernels.gate

    def norm(self, x: torch.Tensor, change: torch.Tensor | None, weight: torch.Tensor, eps: float) -> torch.Tensor:
        out = torch.empty_like(x, dtype=weight.dtype)
        rows, width = x.shape
        by = change.data_ptr() if change is not None else None
        self._norm(x.data_ptr(), by, weight.data_ptr(), out.data_ptr(), rows, width, eps, torch.get_num_threads())
        return out

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        rows, width = gate_up.shape
        out = gate_up.new_empty(rows, width // 2)
        self._gate(gate_up.data_ptr(), out.data_ptr(), rows, width // 2, torch.get_num_threads())
        return out


class CompiledAttention(TorchAttention):
    """Keys and values are read where they lie, by each token no further than it may look."""

    def __init__(self, kernels: Kernels, cache: PagedCache, heads: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        if cache.head_dim > WIDEST:
            raise NoKernels(f"the kernels know heads of at most {WIDEST} numbers, not {cache.head_dim}")
        super().__init__(cache, heads, cos, sin)
        self._write, self._decode, self._prompt = kernels.write, kernels.decode, kernels.prompt
        self._slots = cache.pages * cache.block_tokens
        self._layers = [layer.data_ptr() for layer in cache.data]
        self._turned = cos.shape[1]

    def write(self, layer: int, heads: torch.Tensor, batch: Batch, norms: HeadNorms | None) -> None:
        self._write(
            heads.data_ptr(),
            len(heads),
            self.heads,
            self.kv_heads,
            self.head_dim,
            batch.positions.data_ptr(),
            self.cos.data_ptr(),
            self.sin.data_ptr(),
            self._turned,
            norms.q.data_ptr() if norms is not None else None,
            norms.k.data_ptr() if norms is not None else None,
            norms.eps if norms is not None else 0.0,
            self._layers[layer],
            batch.slots.data_ptr(),
            self._slots,
            torch.get_num_threads(),
        )

    def _read(self, layer: int, heads: torch.Tensor) -> tuple[int, ...]:
        """What both kernels read: the tokens' heads, and where a layer's keys and values lie."""
        place = self._layers[layer], self._slots, self.cache.block_tokens
        return heads.data_ptr(), len(heads), heads.shape[1], self.heads, self.kv_heads, self.head_dim, *place

    def prompt(self, layer: int, heads: torch.Tensor, chunk: Chunk, window: int | None) -> torch.Tensor:
        out = heads.new_empty(len(heads), self.heads * self.head_dim)
        self._prompt(
            *self._read(layer, heads),
            chunk.pages.data_ptr(),
            chunk.start,
            window if window is not None else UNBOUNDED,
            self.scale,
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out

    def decode(self, layer: int, heads: torch.Tensor, batch: Batch, window: int | None) -> torch.Tensor:
        out = heads.new_empty(len(heads), self.heads * self.head_dim)
        tables, begins, lengths = batch.flat_tables
        self._decode(
            *self._read(layer, heads),
            tables.data_ptr(),
            begins.data_ptr(),
            lengths.data_ptr(),
            window if window is not None else UNBOUNDED,
            self.scale,
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out
