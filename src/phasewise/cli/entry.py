"""The way in and out of every command: one line for whatever goes wrong, an exit status, and no traceback for bad input.

Status 0: done; 2: the input is wrong, and nothing was written; 130 and 143: interrupted or terminated, and nothing was
left behind; 1: the reader of standard output went away.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import typer

from phasewise.cli.app import app
from phasewise.core.errors import PhasewiseError

# Typer carries its own copy of click since 0.26 and used the real one before: the base of its errors is either's.
_UsageError: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]
INPUT, INTERRUPTED, TERMINATED = 2, 130, 143


class _Terminated(SystemExit):
    """Somebody asked the process to end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character gets a question mark for it, not a traceback.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        with _terminable():
            status = app(given or ["--help"], prog_name="phasewise", standalone_mode=False)
            # What is still in the buffer may find its reader gone: better here than at the interpreter's end.
            sys.stdout.flush()
        # Typer answers an interrupt that reached it with a status instead of raising it.
        return _say("interrupted; nothing was written", INTERRUPTED) if status == INTERRUPTED else int(status or 0)
    except PhasewiseError as error:
        return _say(f"error: {error}", INPUT)
    except _UsageError as error:
        return _say(f"error: {_usage(error)}", INPUT)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted; nothing was written", INTERRUPTED)
    except _Terminated:
        return _say("terminated; nothing was written", TERMINATED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _say(f"error: {place}{error.strerror or error}", INPUT)


def _say(text: str, status: int) -> int:
    print(f"phasewise: {' '.join(text.split())}", file=sys.stderr)
    return status


def _usage(error: Exception) -> str:
    """What is wrong with the command line itself, and which help page says more."""
    text = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    joint = "" if text.endswith(("?", ")")) else ";"
    return f"{text}{joint} see '{context.command_path} --help'" if context is not None else text


@contextmanager
def _terminable() -> Iterator[None]:
    """A polite kill unwinds as an interrupt does, so that it leaves nothing behind either."""
    try:
        before = signal.signal(signal.SIGTERM, _terminate)
    except ValueError:  # not the main thread: signals are its affair
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: object) -> NoReturn:
    raise _Terminated(TERMINATED)
