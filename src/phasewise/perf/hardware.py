"""The catalogue of devices: a name in, a data sheet out. What a device achieves is in `efficiency`."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from phasewise.core.errors import unknown
from phasewise.core.spec import DeviceSpec


@cache
def _catalogue() -> dict[str, Any]:
    return tomllib.loads(files("phasewise.perf").joinpath("data/devices.toml").read_text(encoding="utf-8"))


def device_names() -> list[str]:
    """Names of the catalogue, sorted, without the aliases."""
    return sorted(_catalogue()["devices"])


def device(name: str, where: str | None = None) -> DeviceSpec:
    """The data sheet of `name` (or of the device that it is another name for; case does not matter).

    Raises InputError for an unknown name; `where` says which file or flag asked.
    """
    catalogue = _catalogue()
    key = name.strip().lower()
    key = catalogue["aliases"].get(key, key)
    if key not in catalogue["devices"]:
        raise unknown("device", name, [*catalogue["devices"], *catalogue["aliases"]], where)
    row = {k: v for k, v in catalogue["devices"][key].items() if k != "efficiency"}
    return msgspec.convert({"name": key, **row}, DeviceSpec)


def borrowed_efficiency(name: str) -> str | None:
    """Whose fitted efficiency the catalogue lends to the device `name`; None for a device that is not in it."""
    row = _catalogue()["devices"].get(name)
    return None if row is None else str(row["efficiency"])
