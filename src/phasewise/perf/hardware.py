"""The catalogue of devices: a name in, a data sheet out. What a device achieves is in `efficiency`.

The package's own entries are in `data/devices.toml`, each with its source. A user's file adds to them (`catalogue`), and a
TOML file that holds one device stands for itself.
"""

from __future__ import annotations

import math
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from phasewise.core.errors import InputError, unknown
from phasewise.core.spec import DeviceSpec
from phasewise.perf.catalogue import BUILT_IN, read_toml, user_entries

_FITTED = ("a100", "h100")
_POSITIVE = ("memory_gib", "memory_gb_s", "bf16_tflops")


@cache
def _built_in() -> dict[str, Any]:
    return tomllib.loads(files("phasewise.perf").joinpath("data/devices.toml").read_text(encoding="utf-8"))


def device_names() -> list[str]:
    """Names of the catalogue, the user's among them, sorted, without the aliases."""
    return sorted({*_built_in()["devices"], *user_entries("devices")})


def device_origin(name: str) -> str:
    """Where the catalogue's entry `name` is from: built in, or the user's file."""
    entry = user_entries("devices").get(name)
    return str(entry.path) if entry else BUILT_IN


def device_aliases(name: str) -> list[str]:
    """Other names that the catalogue takes for the device `name`."""
    return sorted(alias for alias, meant in _built_in()["aliases"].items() if meant == name)


def find_device(name: str) -> str | None:
    """The catalogue's spelling of `name` (an alias stands for its device; case does not matter); None if it has none."""
    asked = name.strip().lower()
    asked = _built_in()["aliases"].get(asked, asked)
    return next((n for n in device_names() if n.lower() == asked), None)


def device(name: str, where: str | None = None) -> DeviceSpec:
    """The data sheet of `name`: a name of the catalogue, or the path of a TOML file with one device.

    Raises InputError for an unknown name, a file that cannot be read, and a key or value that is wrong; `where` says
    which file or flag asked.
    """
    found = find_device(name)
    if found is not None:
        own = user_entries("devices").get(found)
        return _sheet(found, own.values, own.where) if own else _sheet(found, _built_in()["devices"][found], found)
    if name.lower().endswith(".toml"):
        path = Path(name)
        return _sheet(path.stem, read_toml(path), str(path))
    raise unknown("device", name, [*device_names(), *_built_in()["aliases"]], where)


def _sheet(name: str, values: dict[str, Any], where: str) -> DeviceSpec:
    """One device from plain values: `link_gb_s` is 0 (no link) and `source` must be said."""
    known = DeviceSpec.__struct_fields__
    for key in values:
        if key not in known:
            raise unknown("key", key, known, where)
    try:
        spec = msgspec.convert({"name": name, "link_gb_s": 0.0, **values}, DeviceSpec)
    except msgspec.ValidationError as error:
        raise InputError(
            str(error).replace("`", "'").replace("Object missing required field", "needs"), where
        ) from None
    for key, value in msgspec.structs.asdict(spec).items():
        if isinstance(value, float) and not (math.isfinite(value) and value >= 0 and (value or key not in _POSITIVE)):
            raise InputError(f"{key} is {value}; give a number above 0", where)
    if spec.efficiency is not None and spec.efficiency not in _FITTED:
        raise unknown("efficiency", spec.efficiency, _FITTED, where)
    return spec
