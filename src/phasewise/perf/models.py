"""The catalogue of models: a name in, a shape out. What a `config.json` means is in `config`; weights are never seen.

The package's own entries are in `data/models.json`: for each hub id the fields of its `config.json` that matter, or the id
that it shares its shape with. A user's file adds to them (`catalogue`).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from phasewise.core.errors import InputError, unknown
from phasewise.core.model import ModelSpec
from phasewise.perf.catalogue import BUILT_IN, Entry, user_entries
from phasewise.perf.config import from_config


@cache
def _built_in() -> dict[str, dict[str, Any] | str]:
    data = files("phasewise.perf").joinpath("data/models.json").read_bytes()
    return msgspec.json.decode(data, type=dict[str, dict[str, Any] | str])


def model_names() -> list[str]:
    """Names of the catalogue, hub ids and the user's, sorted, with those that share a shape."""
    return sorted({*_built_in(), *user_entries("models")})


def model_origin(name: str) -> str:
    """Where the catalogue's entry `name` is from: built in, or the user's file."""
    entry = user_entries("models").get(name)
    return str(entry.path) if entry else BUILT_IN


def model_named_after(name: str) -> str | None:
    """The catalogue name whose shape `name` shares; None for an entry of its own."""
    shared = None if name in user_entries("models") else _built_in().get(name)
    return shared if isinstance(shared, str) else None


def find_model(name: str) -> str | None:
    """The catalogue's spelling of `name`, a name or its last component in any case; None if it has none or several."""
    names, asked = model_names(), name.lower()
    found = [n for n in names if n.lower() == asked] or [n for n in names if n.lower().split("/")[-1] == asked]
    return found[0] if len(found) == 1 else None


def model(name: str, where: str | None = None) -> ModelSpec:
    """The shape of the model `name`: a hub id, its last component, a `config.json`, or a folder that holds one.

    Case does not matter in names. Raises InputError for an unknown name, or a file that is missing or not a known
    decoder; `where` says which file or flag asked.
    """
    found = find_model(name)
    if found is not None:
        own = user_entries("models").get(found)
        return _of_user(found, own) if own else from_config(_config(found), found, found)
    path = Path(name)
    if name.lower().endswith(".json"):
        return _read(path)
    if path.is_dir():
        return _read(path / "config.json")
    names = model_names()
    raise unknown("model", name, names if "/" in name else [n.split("/")[-1] for n in names], where)


def _config(name: str) -> dict[str, Any]:
    entry = _built_in()[name]
    return _config(entry) if isinstance(entry, str) else entry


def _of_user(name: str, entry: Entry) -> ModelSpec:
    if "config" not in entry.values:
        return from_config(entry.values, name, entry.where)
    path = entry.values["config"]
    if not isinstance(path, str) or len(entry.values) > 1:
        raise InputError("'config' is the path of a config.json and stands alone", entry.where)
    return msgspec.structs.replace(_read(entry.path.parent / path), name=name)


def _read(path: Path) -> ModelSpec:
    where = str(path)
    try:
        config = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read the file ({error.strerror})", where) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid JSON ({error})", where) from None
    if not isinstance(config, dict):
        raise InputError("not a model configuration: expected a JSON object", where)
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    return from_config(config, name or path.stem, where)
