"""The pictures of deployments side by side, from what a search found to what `report` draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phasewise.cli.arms import devices
from phasewise.planner.capacity import BACKLOG, Capacity, Probe
from phasewise.planner.compare import Arm, Comparison
from phasewise.planner.objective import UNITLESS, Objective, Percentiles, limits
from phasewise.planner.source import Source
from phasewise.report.curves import Line, Panel, Point, distributions, rate_curves
from phasewise.report.figures import compare_timelines, save
from phasewise.report.rows import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = {
    "ttft": "time to first token",
    "tbt": "time between tokens",
    "tpot": "time per output token",
    "e2e": "whole request",
    "delay": "until first scheduled",
    "slowdown": "E2E slowdown",
    "attainment": "share within objectives",
    "token_deadlines": "share with all tokens in time",
}


def rates_picture(
    arms: Sequence[Arm],
    found: Sequence[Capacity | None],
    probes: Sequence[Sequence[Probe]],
    objective: Objective,
    requests: Source,
) -> Figure:
    """The objective's scores against the rate, one line a deployment, its capacity marked."""
    names = list(limits(objective))
    lines = []
    for arm, capacity, own in zip(arms, found, probes, strict=True):
        points = tuple(
            tuple(Point(p.rate, p.scores[name], BACKLOG not in p.missed) for p in own if name in p.scores)
            for name in names
        )
        lines.append(Line(arm.name, points, None if capacity is None else capacity.rate))
    text = f"Latency against rate{', capacities marked' if any(found) else ''}\n{ran(arms, requests)}"
    return rate_curves([_panel(name, objective) for name in names], lines, text)


def ran(arms: Sequence[Arm], requests: Source) -> str:
    """What all of them ran, in one line."""
    first = arms[0].deployment
    where = " and ".join(dict.fromkeys(devices(arm) for arm in arms))
    return f"{first.model.name} on {where} · {requests.name} · simulated times: {first.basis}"


def write_all(found: Comparison, requests: Source, place: Callable[[str], Path]) -> list[str]:
    """Draw every picture that there is something to draw for; their names."""
    runs = [(arm.name, log) for arm, log in zip(found.arms, found.runs, strict=True)]
    rate = found.runs[0].header.workload["mean_rate_rps"]
    at = "all at once" if rate is None else f"{number(rate)} requests/s"
    about = f"How long it takes, at {at}\n{ran(found.arms, requests)}"
    drawn = []
    if any(found.probes):
        save(rates_picture(found.arms, found.capacities, found.probes, found.objective, requests), place("rates.png"))
        drawn.append("rates.png")
    save(distributions(runs, about), place("distributions.png"))
    save(compare_timelines(runs), place("phases.png"))
    return [*drawn, "distributions.png", "phases.png"]


def _panel(name: str, objective: Objective) -> Panel:
    metric, _, percentile = name.partition("@")
    limit = limits(objective)[name]
    times = isinstance(objective, Percentiles)
    text = f"{_NAMES[metric]}\n{percentile}" if percentile else _NAMES[metric]
    return Panel(text, limit if limit < 1e12 else None, times and metric not in UNITLESS, not times)
