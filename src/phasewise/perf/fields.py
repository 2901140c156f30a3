"""The fields of a decoded `config.json`, each checked as it is read. It knows no family: names in, counts and flags out."""

from __future__ import annotations

from typing import Any

from phasewise.core.errors import InputError
from phasewise.core.model import DTYPE_BYTES

_ABSURD = 100_000_000


class Fields:
    """A decoded file and the place that errors lead with."""

    def __init__(self, config: dict[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def error(self, what: str) -> InputError:
        return InputError(what, self.where)

    def count(self, *names: str, default: int | None = None) -> int:
        """The first of `names` that is there, a whole number above 0; else the default; without one, an error."""
        for name in names:
            value = self.config.get(name)
            if value is None:
                continue
            if type(value) is not int or not 0 < value <= _ABSURD:
                raise self.error(f"field {name} must be a whole number from 1 to {_ABSURD}, not {value!r}")
            return value
        if default is None:
            raise self.error(f"no field {names[0]}, which is needed")
        return default

    def none_or_count(self, name: str) -> int:
        """As `count`, 0 for a field that is missing, null or 0."""
        return self.count(name) if self.config.get(name) else 0

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.config.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(f"field {name} must be true or false, not {value!r}")
        return default if value is None else value

    def dtype(self) -> str:
        value = self.config.get("torch_dtype") or self.config.get("dtype") or "bfloat16"
        name = value.removeprefix("torch.") if isinstance(value, str) else value
        if not isinstance(name, str) or name not in DTYPE_BYTES:
            raise self.error(f"field torch_dtype is {value!r}; known: {', '.join(DTYPE_BYTES)}")
        return name
