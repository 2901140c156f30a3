"""A progress bar that stays away from short runs: it appears after two seconds, on a terminal only, and leaves no trace."""

from __future__ import annotations

from threading import Lock, Timer
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PATIENCE_S = 2.0


class Bar:
    """The bar of one command. A clock of its own shows it, so that a long wait without news has one too."""

    def __init__(self, console: Console, patience_s: float = PATIENCE_S) -> None:
        self._lock = Lock()
        self._closed = not console.is_terminal
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, refresh_per_second=5)
        self._task = self._progress.add_task("reading", total=None)
        self._timer = Timer(patience_s, self._show)
        self._timer.daemon = True

    def stage(self, name: str, total: int | None = None) -> None:
        """What is being done now, and of how many."""
        self._progress.reset(self._task, description=name, total=total, start=True)

    def advance_to(self, done: int) -> None:
        """How many of them are done."""
        self._progress.update(self._task, completed=done)

    def _show(self) -> None:
        with self._lock:
            if not self._closed:
                self._progress.start()

    def __enter__(self) -> Bar:
        if not self._closed:
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._progress.stop()
