"""The terminal: pairs of names and texts in two columns. It knows no run and no policy."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text


def show(what: RenderableType) -> None:
    """Print to standard output."""
    Console(highlight=False).print(what)


def pairs(rows: Sequence[tuple[str, str]]) -> Table:
    """Names to the left, texts beside them, wrapped to the width there is."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, min_width=13)
    grid.add_column(overflow="fold")
    for name, text in rows:
        grid.add_row(name, Text(text))
    return grid
