"""`phasewise capacity --sweep`: read what is wanted, check all of it, run every point, then write everything or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import msgspec
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from phasewise.cli.arms import Described
from phasewise.cli.capacity import SEARCHED, no_objective, probe_document
from phasewise.cli.outputs import STDOUT, Drafts, check_outputs, json_text, write_out
from phasewise.cli.progress import Bar
from phasewise.cli.screen import pairs, show
from phasewise.control.deployment import as_written
from phasewise.core.errors import InputError
from phasewise.core.version import VERSION
from phasewise.perf.cost import price_per_hour
from phasewise.planner.grid import Axis, Size, parse_axes, parse_size
from phasewise.planner.objective import Objective, check, words
from phasewise.planner.source import Source
from phasewise.planner.sweep import Sweep, Swept, swept
from phasewise.planner.workers import Workers, cores
from phasewise.report.rows import NONE, duration, number, predictions, share
from phasewise.workload.workload import checked_rate

SCHEMA = "phasewise.sweep/1"
SHOWN = 20


class Asked(msgspec.Struct, frozen=True):
    """What the flags of a sweep say: its axes, how many devices a point may have, the one rate (None: search)."""

    axes: tuple[Axis, ...]
    size: Size | None
    at: float | None


def asked(sweeps: Sequence[str], devices: str | None, at: float | None) -> Asked | None:
    """The sweep that the flags describe, None if they describe none. InputError for whatever makes no sense."""
    if not sweeps:
        for flag, value in (("--devices", devices), ("--at", at)):
            if value is not None:
                raise InputError("is about the points of a sweep; give --sweep KEY=VALUES, or leave it out", flag)
        return None
    size = None if devices is None else parse_size(devices)
    try:
        rate = None if at is None else checked_rate(at)
    except InputError as error:
        raise InputError(str(error), "--at") from None
    return Asked(parse_axes(sweeps), size, rate)


def run(what: Described, over: Asked, objective: Objective | None, json: str | None, figure: str | None) -> None:
    """The whole command. InputError before anything is written if any of it makes no sense."""
    if objective is None:
        raise no_objective()
    check_outputs({"--json": json, "--figure": figure}, what.inputs)
    if figure is not None:
        from phasewise.report.figures import check_figure

        check_figure(figure)
    points, left_out, requests = what.read_points(over.axes, over.size)
    for point in points:
        if point.resolved is not None:
            check(objective, point.resolved.deployment.slo)
    errors = Console(stderr=True, highlight=False)
    began = perf_counter()
    with Drafts() as drafts, Bar(errors) as bar, Workers(what.jobs or cores()) as workers:
        if over.at is None:
            bar.stage(f"probing rates, {len(points)} points")
        else:
            bar.stage("simulating points", sum(point.resolved is not None for point in points))
        asked_for = {"at": over.at, "tolerance": what.tolerance, "progress": bar.advance_to}
        found = swept(over.axes, points, left_out, requests, objective, workers, **asked_for)  # type: ignore[arg-type]
        text = json_text(document(found, over.size, requests))
        if json is not None and json != STDOUT:
            drafts.path(json).write_text(text, encoding="utf-8")
        if figure is not None:
            from phasewise.planner.pictures import sweep_picture
            from phasewise.report.figures import save

            bar.stage("drawing")
            save(sweep_picture(found, requests.name), drafts.path(figure))
    warn(errors, found)
    if json == STDOUT:
        write_out(text)
    else:
        rows = [*facts(found, requests), ("took", took(found, perf_counter() - began))]
        show(Group(pairs(rows), Text(), *tables(found)))


def document(found: Sweep, size: Size | None, requests: Source) -> dict[str, Any]:
    """`phasewise.sweep/1`: what each key means is in `docs/guide/capacity.md`."""
    about = requests.at(1.0).describe()
    best = None if found.best is None else found.found[found.best]
    deployment = None if best is None or best.point.resolved is None else best.point.resolved.deployment
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "workload": {key: about[key] for key in ("name", "requests", "sha256")},
        "seed": found.seed,
        "objective": msgspec.to_builtins(found.objective),
        "tolerance": found.tolerance if found.at is None else None,
        "at_rps": found.at,
        "sweeps": [{"key": axis.key, "values": [_plain(value) for value in axis.values]} for axis in found.axes],
        "devices": msgspec.to_builtins(size),
        "left_out": found.left_out,
        "best": None if deployment is None else {"point": found.best, "deployment": as_written(deployment)},
        "points": [_point(found, one) for one in found.found],
    }


def _point(found: Sweep, one: Swept) -> dict[str, Any]:
    keys = [axis.key for axis in found.axes]
    resolved, margin = one.point.resolved, found.margin(one)
    return {
        "settings": {key: _plain(value) for key, value in zip(keys, one.point.values, strict=True)},
        "devices": one.point.devices,
        "price_usd_per_hour": None if resolved is None else price_per_hour(resolved),
        "basis": None if resolved is None else resolved.basis,
        "oracle": None if resolved is None else resolved.deployment.oracle,
        "error": one.error,
        "rate_rps": one.rate,
        "rate_rps_per_device": one.per_device,
        "rate_rps_per_usd_per_hour": one.per_dollar,
        "infeasible_rate_rps": one.infeasible,
        "bound_by": list(one.bound_by),
        "worst": None if margin is None else {"score": margin[0], "of_limit": margin[1]},
        "saturation_rps": one.saturation,
        "notes": list(one.notes),
        "probes": [probe_document(p) for p in one.probes],
    }


def _plain(value: str) -> Any:
    """A value as JSON has it: a number if it reads as one, else text."""
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value


def facts(found: Sweep, requests: Source) -> list[tuple[str, str]]:
    """What was asked, as (name, text)."""
    arms = [one.point.resolved for one in found.found if one.point.resolved is not None]
    slos = {arm.deployment.slo for arm in arms}
    sizes = [one.point.devices for one in found.found]
    kinds = dict.fromkeys(replica.device.name for arm in arms for replica in arm.replicas)
    many = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    out = f" · {found.left_out:,} left out for their number of devices" if found.left_out else ""
    scored = "the middle 80 % of the arrivals"
    return [
        ("model", " · ".join(dict.fromkeys(arm.model.name for arm in arms))),
        ("devices", f"{many} × {' and '.join(kinds)}"),
        ("points", f"{len(found.found):,}{out}"),
        ("workload", f"{requests.name} · {requests.requests:,} requests · seed {requests.seed}"),
        ("objective", words(found.objective, slos.pop() if len(slos) == 1 else None)),
        ("scored", f"{scored} · rate to within {share(found.tolerance)}" if found.at is None else scored),
        *([] if found.at is None else [("rate", f"{number(found.at)} requests/s at every point")]),
        *predictions([arm.deployment for arm in arms]),
        ("times rest on", " · ".join(dict.fromkeys(arm.basis for arm in arms))),
    ]


def took(found: Sweep, wall_s: float) -> str:
    """How many simulations were asked for, and how long the whole took."""
    count = sum(len(one.probes) + (one.saturation is not None) for one in found.found)
    return f"{duration(wall_s)} · {count:,} simulations"


def warn(errors: Console, found: Sweep) -> None:
    """What could not be run, and what a reader must know before trusting the rest: a line for each, with an example."""
    failed = [one for one in found.found if one.error is not None]
    # That nothing holds is a result, and stands in the table; at one rate a run that is too short may be the whole reason.
    nothing = found.at is not None and found.best is None
    doubted = [one for one in found.found if one.notes and (nothing or one.rate is not None or len(one.notes) > 1)]
    said = []
    for what, those in (("cannot be run", failed), ("are to be doubted", doubted)):
        if those:
            why = those[0].error or those[0].notes[-1]
            said.append(
                f"{len(those):,} of {len(found.found):,} points {what}; the first, {those[0].point.name}: {why}"
            )
    for line in said:
        errors.print(f"phasewise: warning: {line}", markup=False, soft_wrap=True)


def tables(found: Sweep) -> list[Table | Text]:
    """The points by goodput per device, the best marked, and how many more there are."""
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    out.add_column("requests/s", style="bold", no_wrap=True)
    for axis in found.axes:
        out.add_column("\n".join(axis.key.rsplit(".", 1)), justify="right", overflow="fold")
    searched = ("capacity", "per device")
    for name in ("devices", *(searched if found.at is None else ("per device", "worst\nof limit"))):
        out.add_column(name, justify="right", no_wrap=True)
    out.add_column(SEARCHED if found.at is None else "worst", overflow="fold", min_width=12)
    for index in found.ranked[:SHOWN]:
        mark = "best" if index == found.best else ""
        one = found.found[index]
        out.add_row(mark, *one.point.values, str(one.point.devices), *_cells(found, one))
    more = len(found.found) - SHOWN
    return [out, Text(f"{more:,} more points, all of them with --json", style="dim")] if more > 0 else [out]


def _cells(found: Sweep, one: Swept) -> list[str]:
    """What became of a point, as many cells as the table has columns for it."""
    margin = found.margin(one)
    if found.at is None:
        numbers = [number(one.rate), number(one.per_device)]
    else:
        numbers = [number(one.per_device), number(None if margin is None else margin[1])]
    if one.error is not None:
        return [*numbers, "cannot be run"]
    first = (margin[0],) if found.at is not None and margin is not None else ()
    names = list(dict.fromkeys((*first, *one.bound_by)))
    if len(names) > 2:
        names = [names[0], f"{len(names) - 1} more"]
    return [*numbers, ", ".join(names) or NONE]
