"""The pictures of deployments side by side, from what a search found to what `report` draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phasewise.planner.capacity import BACKLOG, Capacity, Probe
from phasewise.planner.compare import Arm, Comparison
from phasewise.planner.objective import UNITLESS, Objective, Percentiles, limits
from phasewise.report.curves import Line, Panel, Point, distributions, rate_curves
from phasewise.report.figures import compare_timelines, save
from phasewise.report.rows import devices_text, number

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
    workload: str,
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
    what = "Latency" if isinstance(objective, Percentiles) else "Requests within their objectives"
    text = f"{what} against rate{', capacities marked' if any(found) else ''}\n{_ran(arms, workload)}"
    return rate_curves([_panel(name, objective) for name in names], lines, text)


def _ran(arms: Sequence[Arm], workload: str) -> str:
    """What all of them ran, in one line."""
    first = arms[0].deployment
    where = " and ".join(dict.fromkeys(devices_text(arm.deployment) for arm in arms))
    return f"{first.model.name} on {where} · {workload} · simulated times: {first.basis}"


def draw(found: Comparison, place: Callable[[str], str | Path]) -> list[str]:
    """Draw `distributions.png`, `phases.png` and, if rates were looked at, `rates.png`, each where `place` says; the names."""
    runs = [(arm.name, log) for arm, log in zip(found.arms, found.runs, strict=True)]
    workload = found.runs[0].header.workload
    rate = workload["mean_rate_rps"]
    at = "all at once" if rate is None else f"{number(rate)} requests/s"
    about = f"How long it takes, at {at}\n{_ran(found.arms, workload['name'])}"
    drawn = []
    if any(found.probes):
        asked = (found.objective, workload["name"])
        save(rates_picture(found.arms, found.capacities, found.probes, *asked), place("rates.png"))
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
