"""The pictures of deployments side by side, from what a search found to what `report` draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from phasewise.perf.links import sends
from phasewise.planner.capacity import BACKLOG, Capacity, Probe
from phasewise.planner.compare import Arm, Comparison
from phasewise.planner.objective import UNITLESS, Objective, Percentiles, limits, words
from phasewise.planner.sweep import Sweep, Swept
from phasewise.record.fleet import is_fleet
from phasewise.report.curves import Line, Panel, Point, distributions, rate_curves
from phasewise.report.figures import compare_timelines, save
from phasewise.report.fleetfigure import fleet_timeline
from phasewise.report.heat import BLANK, FAILED, HELD, MISSED, Cell, Setting, Words, heat_map, lines
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
    "slowdown_ttft": "TTFT slowdown",
    "slowdown_tbt": "TBT slowdown, mean of a request",
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
    drawn = []
    for arm, capacity, own in zip(arms, found, probes, strict=True):
        points = tuple(
            tuple(Point(p.rate, p.scores[name], BACKLOG not in p.missed) for p in own if name in p.scores)
            for name in names
        )
        drawn.append(Line(arm.name, points, None if capacity is None else capacity.rate))
    what = "Latency" if isinstance(objective, Percentiles) else "Requests within their objectives"
    text = f"{what} against rate{', capacities marked' if any(found) else ''}\n{_ran(arms, workload)}"
    return rate_curves([_panel(name, objective) for name in names], drawn, text)


def _ran(arms: Sequence[Arm], workload: str) -> str:
    """What all of them ran, in one line."""
    first = arms[0].deployment
    where = " and ".join(dict.fromkeys(devices_text(arm.deployment) for arm in arms))
    return f"{first.model.name} on {where} · {workload} · simulated times: {first.basis}"


def draw(found: Comparison, place: Callable[[str], str | Path]) -> list[str]:
    """Draw `distributions.png`; `phases.png` of all single replicas, `fleet-N.png` of each fleet, the N-th deployment; and, if
    rates were looked at, `rates.png`, each where `place` says; the names."""
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
    drawn.append("distributions.png")
    fleets = [is_fleet(log.header.resolved) for _, log in runs]
    if not all(fleets):
        save(compare_timelines(runs, only=[i for i in range(len(runs)) if not fleets[i]]), place("phases.png"))
        drawn.append("phases.png")
    for i, (name, log) in enumerate(runs):
        if fleets[i]:
            drawn.append(f"fleet-{i + 1}.png")
            save(fleet_timeline(log, sends=sends(log.header.resolved), name=name), place(drawn[-1]))
    return drawn


def sweep_picture(found: Sweep, workload: str) -> Figure:
    """Two settings: a heat map of the goodput per device (at one rate: of the worst score over its limit). One: a line of
    each, and of the capacity."""
    settings = [Setting(axis.key, axis.values) for axis in found.axes]
    about = _sweep_words(found, workload)
    if len(settings) == 2:
        # The first setting goes up, the second across, as they stand in the product.
        up, across = settings
        by_values = {one.point.values: _sweep_cell(found, i) for i, one in enumerate(found.found)}
        places = product(up.values, across.values)
        every = [by_values.get(values) for values in places]
        width = len(across.values)
        return heat_map(across, up, [every[i : i + width] for i in range(0, len(every), width)], about)
    (over,) = settings
    there = [one.point.values[0] for one in found.found]
    cells = [_sweep_cell(found, i) for i in range(len(there))]
    quantities = [(about.quantity, cells)]
    if found.at is None:
        rates = [Cell(cell.state, one.rate, best=cell.best) for cell, one in zip(cells, found.found, strict=True)]
        quantities.append(("capacity, requests/s", rates))
    return lines(Setting(over.name, tuple(there)), quantities, about)


def _sweep_cell(found: Sweep, index: int) -> Cell:
    one: Swept = found.found[index]
    state = FAILED if one.error is not None else HELD if one.rate is not None else MISSED
    best = index == found.best
    margin = found.margin(one)
    if found.at is None or margin is None:
        return Cell(state, one.per_device, "" if one.rate is None else number(one.rate), best)
    name, ratio = margin
    return Cell(state, ratio if math.isfinite(ratio) else None, BACKLOG if BACKLOG in one.bound_by else name, best)


def _sweep_words(found: Sweep, workload: str) -> Words:
    keys = " and ".join(axis.key for axis in found.axes)
    arms = [one.point.resolved for one in found.found if one.point.resolved is not None]
    where = " and ".join(dict.fromkeys(replica.device.name for arm in arms for replica in arm.replicas))
    models = " and ".join(dict.fromkeys(arm.model.name for arm in arms))
    basis = "; ".join(dict.fromkeys(arm.basis for arm in arms))
    ran = f"{models} on {where} · {workload} · simulated times: {basis}"
    slos = {arm.deployment.slo for arm in arms}
    goal = fill(f"objective: {words(found.objective, slos.pop() if len(slos) == 1 else None)}", 150)
    others = {FAILED: "cannot be run", BLANK: "another number of devices"}
    if found.at is None:
        small = "small figures: capacity, requests/s"
        title = f"Goodput per device over {keys}\n{ran}\n{goal}"
        states = {MISSED: "not within the objective at any rate tried", **others}
        return Words(title, "goodput per device, requests/s", states, "most goodput per device", under=small)
    small = "small letters: which score is the worst"
    title = f"At {number(found.at)} requests/s, over {keys}: the worst score over its limit\n{ran}\n{goal}"
    states = {MISSED: "beyond the objective, or the backlog grows", **others}
    best = "fewest devices within the objective"
    return Words(title, "worst score / its limit", states, best, limit=1.0, low_is_good=True, under=small)


def _panel(name: str, objective: Objective) -> Panel:
    metric, _, percentile = name.partition("@")
    limit = limits(objective)[name]
    times = isinstance(objective, Percentiles)
    text = f"{_NAMES[metric]}\n{percentile}" if percentile else _NAMES[metric]
    return Panel(text, limit if limit < 1e12 else None, times and metric not in UNITLESS, not times)
