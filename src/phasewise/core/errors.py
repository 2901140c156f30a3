"""Errors that a person can act on: one line that says what, where, and what would be right.

The command line prints the line and exits with status 2; a library caller catches `PhasewiseError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PhasewiseError(Exception):
    """Base of everything that is the caller's to mend; its text is one line."""


class InputError(PhasewiseError):
    """A file, flag or parameter is wrong. `where` names the file and row, flag or field, and leads the text."""

    def __init__(self, what: str, where: str | None = None) -> None:
        super().__init__(f"{where}: {what}" if where else what)


class PlanError(PhasewiseError):
    """A batcher's plan breaks the rules of the mechanism (a block spent twice, a request in two lanes)."""


class LogError(PhasewiseError):
    """A run log cannot be read: not a log, cut short, or of another version."""


def unknown(kind: str, name: str, known: Iterable[str], where: str | None = None) -> InputError:
    """The error for an unknown name of some `kind` (a model, a device, a parameter); names the nearest known one."""
    names = sorted(known)
    by_case = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), list(by_case), n=1, cutoff=0.5)
    hint = f"did you mean '{by_case[close[0]]}'?" if close else f"known: {', '.join(names)}"
    return InputError(f"unknown {kind} '{name}'; {hint}", where)
