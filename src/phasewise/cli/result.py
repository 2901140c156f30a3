"""The table of a finished simulation: it lays out the rows that `report` words, and computes nothing."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from phasewise.cli.screen import pairs
from phasewise.record.runlog import RunLog
from phasewise.report.fleetrows import fleet_rows, mishaps, tells_more
from phasewise.report.rows import STATISTICS, class_rows, counts, duration, facts, latency_rows, number


def simulation(log: RunLog) -> RenderableType:
    """What ran, what came of it, and how long requests took: one screen."""
    summary = log.summary
    took = f"{duration(summary['wall_s'])} · {number(summary['requests_per_wall_s'])} requests simulated per second"
    ran = pairs(facts(log.header, summary["requests"]))
    parts: list[RenderableType] = [
        ran,
        Text(),
        pairs([*counts(log), *mishaps(log), ("took", took)]),
        Text(),
        _latencies(summary),
    ]
    if tells_more(summary):
        parts += [Text(), _fleet(summary)]
    if "classes" in summary:
        parts += [Text(), _classes(summary)]
    return Group(*parts)


def _classes(summary: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("class", style="bold", overflow="fold")
    for name in ("completed", "TTFT p50", "TPOT p50", "E2E p50", "in time"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in class_rows(summary):
        table.add_row(row.name, *row.cells)
    return table


def _fleet(summary: dict[str, Any]) -> Table:
    """A column a group, so that a screen holds every number."""
    rows, groups = fleet_rows(summary)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("", style="dim", overflow="fold")
    for name in groups:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        table.add_row(row.name, row.note, *row.cells)
    return table


def _latencies(summary: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True, style="bold")
    table.add_column("", no_wrap=True, style="dim")
    for name in STATISTICS:
        table.add_column(name, justify="right", no_wrap=True, min_width=6)
    table.add_column("", no_wrap=True)
    for row in latency_rows(summary):
        table.add_row(row.name, row.note, *row.cells, row.unit)
    return table
