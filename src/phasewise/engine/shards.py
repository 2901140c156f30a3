"""The `*.safetensors` of a folder, one or many, mapped and not read: shapes by name, tensors on demand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from phasewise.core.errors import InputError

_FLOATS = ("F64", "F32", "F16", "BF16")


class Shards:
    """The tensors of a folder. Raises InputError for a shard that is missing, corrupt or cut short."""

    def __init__(self, folder: Path) -> None:
        self._home: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        index = folder / "model.safetensors.index.json"
        named = _weight_map(index) if index.is_file() else {}
        for path in _files(folder, sorted({*named.values()})):
            try:
                shard: Any = safe_open(path, framework="pt")
                names = [name for name in shard.keys() if named.get(name, path.name) == path.name]  # noqa: SIM118 (no mapping)
                for name in names:
                    self._add(path, name, shard)
            except (SafetensorError, OSError) as e:
                raise InputError(f"corrupt or cut short: {e}", str(path)) from e
        lost = [name for name in named if name not in self.shapes]
        if lost:
            raise InputError(f"tensor {lost[0]!r} is not in {named[lost[0]]}, where the index says it is", str(index))

    def pieces(self, name: str) -> Iterator[tuple[tuple[Any, ...], torch.Tensor]]:
        """The tensor, whole, with the index at which it belongs: that of everything."""
        yield (), self._home[name].get_tensor(name)

    def _add(self, path: Path, name: str, shard: Any) -> None:
        part = shard.get_slice(name)
        if name in self.shapes:
            raise InputError(f"tensor {name!r} is in another file of the folder too", str(path))
        if part.get_dtype() not in _FLOATS:
            what = f"tensor {name!r} is stored as {part.get_dtype()}; known: {', '.join(_FLOATS)}"
            raise InputError(f"{what} (quantised weights: take a GGUF file)", str(path))
        self._home[name], self.shapes[name] = shard, tuple(part.get_shape())


def _files(folder: Path, named: list[str]) -> list[Path]:
    missing = [name for name in named if not (folder / name).is_file()]
    if missing:
        listed = f"{missing[0]!r} is missing" + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
        raise InputError(f"{listed}: the index names {len(named)} files; download it again", str(folder))
    single = folder / "model.safetensors"
    found = [folder / name for name in named] or (
        [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    )
    if not found:
        other = next((p.name for p in sorted(folder.glob("*.bin"))), None)
        hint = f"; {other} is not read: save the model as safetensors" if other else ""
        raise InputError(f"no *.safetensors in the folder{hint}", str(folder))
    return found


def _weight_map(index: Path) -> dict[str, str]:
    try:
        named = msgspec.json.decode(index.read_bytes(), type=dict[str, Any]).get("weight_map")
        named = msgspec.convert(named, dict[str, str])
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as e:
        raise InputError(f"not an index of shards: {e}", str(index)) from e
    for name in named.values():
        if Path(name).name != name:
            raise InputError(f"shard {name!r} must be a file of the same folder", str(index))
    return named
