"""The progress bar: only on a terminal, only after a while, and gone without a trace."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from phasewise.cli.progress import Bar


class Clock:
    """A timer that a test winds by hand."""

    def __init__(self, after_s: float, call: object) -> None:
        self.after_s, self.call, self.cancelled = after_s, call, False

    def start(self) -> None:
        Clock.started = self

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr("phasewise.cli.progress.Timer", Clock)
    return Clock


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def test_a_short_run_shows_nothing(clock: type[Clock]) -> None:
    screen = console(True)
    with Bar(screen) as bar:
        bar.stage("simulating", 10)
        bar.advance_to(5)
    assert screen.file.getvalue() == ""
    assert clock.started.cancelled
    assert clock.started.after_s == 2.0
    # A timer that fires at the last moment finds the bar closed.
    clock.started.call()
    assert screen.file.getvalue() == ""


def test_a_long_run_shows_how_far_it_is(clock: type[Clock]) -> None:
    screen = console(True)
    with Bar(screen) as bar:
        bar.stage("simulating", 10)
        bar.advance_to(5)
        clock.started.call()
        shown = screen.file.getvalue()
        assert "simulating" in shown
        assert "5/10" in shown
    # Cursor up, line erased: transient.
    assert "\x1b[2K" in screen.file.getvalue()


def test_no_terminal_no_bar(clock: type[Clock]) -> None:
    clock.started = None
    screen = console(False)
    with Bar(screen) as bar:
        bar.stage("simulating", 10)
    assert clock.started is None
    assert screen.file.getvalue() == ""
