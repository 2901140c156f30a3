"""A user's own catalogue: models and devices in one TOML file, beside those that come with the package.

```toml
[models."my/model-7b"]
config = "my-model/config.json"        # seen from this file; or the keys of a config.json themselves

[devices.my-gpu]
memory_gib = 48.0
memory_gb_s = 864.0
bf16_tflops = 180.0
source = "its data sheet"
```

The environment variable PHASEWISE_CATALOGUE names the file (empty: none); without it, `phasewise/catalogue.toml` in the
user's configuration folder (XDG_CONFIG_HOME, else ~/.config) is read if it is there. A name that is in both is the user's.
"""

from __future__ import annotations

import os
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from phasewise.core.errors import InputError, unknown

VARIABLE = "PHASEWISE_CATALOGUE"
BUILT_IN = "built in"
_SECTIONS = ("models", "devices")


class Entry(NamedTuple):
    """One table of a user's file: the plain values, and the place that errors lead with."""

    values: dict[str, Any]
    where: str
    path: Path


def user_entries(section: str) -> dict[str, Entry]:
    """What the user's file says of `models` or `devices`, by name; nothing without a file.

    Raises InputError if the file is named but missing, cannot be read, is not TOML, or holds something else.
    """
    path = user_path()
    if path is None:
        return {}
    stamp = path.stat() if path.is_file() else None
    found = _read(path, stamp.st_mtime_ns if stamp else 0, stamp.st_size if stamp else 0)[section]
    return {name: Entry(values, f"{path}: {section}.{name}", path) for name, values in found.items()}


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's values. Raises InputError, led by its path, if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the file ({error.strerror})", str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid TOML ({error})", str(path)) from None


def user_path() -> Path | None:
    """The user's file, if one is named or lies in its place."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named).expanduser() if named else None
    folder = os.environ.get("XDG_CONFIG_HOME")
    path = (Path(folder) if folder else Path.home() / ".config") / "phasewise" / "catalogue.toml"
    return path if path.is_file() else None


@lru_cache(maxsize=4)
def _read(path: Path, changed_ns: int, size: int) -> dict[str, dict[str, dict[str, Any]]]:
    """The sections of the file; the file's time and size only key the memory."""
    data = read_toml(path)
    for section, entries in data.items():
        if section not in _SECTIONS:
            raise unknown("section", section, _SECTIONS, str(path))
        if not isinstance(entries, dict):
            raise InputError(f"expected tables such as [{section}.NAME]", f"{path}: {section}")
        for name, values in entries.items():
            if not isinstance(values, dict):
                raise InputError(f"expected a table of keys and values, got {values!r}", f"{path}: {section}.{name}")
    return {section: data.get(section, {}) for section in _SECTIONS}
