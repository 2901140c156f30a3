"""What a verb needs beyond the plain installation, said in one line where it is not there."""

from __future__ import annotations

from importlib.util import find_spec

from phasewise.core.errors import InputError


def needed(extra: str, *modules: str) -> None:
    """InputError, with the command that helps, if any of these is not installed."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise InputError(
            f"{missing[0]} is not installed; run: pip install 'phasewise[{extra}]' (in a clone: make serve)"
        )
