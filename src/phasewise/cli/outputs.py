"""Output files: looked at before any work is done, written aside, and put in place all together or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from phasewise.core.errors import InputError

STDOUT = "-"


def check_outputs(outputs: Mapping[str, str | None], inputs: Iterable[str | Path | None]) -> None:
    """InputError, led by the flag, for a path that cannot be written, that two flags share, or that is an input."""
    taken: dict[Path, str] = {Path(name).resolve(): str(name) for name in inputs if name is not None}
    for flag, name in outputs.items():
        if name is None or (name == STDOUT and flag == "--json"):
            continue
        where = f"{flag} {name}"
        if name == STDOUT:
            raise InputError("only --json can go to standard output; name a file", flag)
        path = Path(name).resolve()
        if not name or path.is_dir():
            raise InputError("is a folder; name a file in it", where)
        if path.exists() and not path.is_file():
            raise InputError(
                "is not a plain file; name one" + (", or - for standard output" if flag == "--json" else ""), where
            )
        if not path.parent.is_dir():
            raise InputError(f"there is no folder {path.parent}; make it first", where)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise InputError(f"the folder {path.parent} cannot be written in; name another", where)
        if path in taken:
            raise InputError(f"would overwrite {taken[path]}; name another file", where)
        taken[path] = where


class Drafts:
    """Files in the making, each in a hidden folder beside its place. Leaving the block in peace puts them all in place;
    leaving it by any error or interrupt removes every trace."""

    def __init__(self) -> None:
        self._folders: dict[Path, Path] = {}
        self._places: list[tuple[Path, Path]] = []

    def path(self, name: str) -> Path:
        """Where to write what is to appear as `name`."""
        place = Path(name).resolve()
        if place.parent not in self._folders:
            self._folders[place.parent] = Path(tempfile.mkdtemp(prefix=".phasewise-", dir=place.parent))
        draft = self._folders[place.parent] / place.name
        self._places.append((draft, place))
        return draft

    def __enter__(self) -> Drafts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is KeyboardInterrupt:
            # An impatient second Ctrl-C must not stop the cleaning up.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            if kind is None:
                for draft, place in self._places:
                    draft.replace(place)
        finally:
            for folder in self._folders.values():
                shutil.rmtree(folder, ignore_errors=True)


def json_text(document: Any) -> str:
    """Indented JSON; what is not a number (nan, infinity) is null."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def write_out(text: str) -> None:
    """To standard output, whatever encoding the terminal has."""
    sys.stdout.write(text)
    sys.stdout.flush()
