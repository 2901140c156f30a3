"""`phasewise capacity`: read what is wanted, check all of it, search, then write everything or nothing."""

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
from phasewise.cli.outputs import STDOUT, Drafts, check_outputs, json_text, write_out
from phasewise.cli.progress import Bar
from phasewise.cli.screen import pairs, show
from phasewise.control.deployment import as_written
from phasewise.core.errors import InputError
from phasewise.core.spec import Slo
from phasewise.core.version import VERSION
from phasewise.perf.cost import devices, price_per_hour
from phasewise.planner.capacity import Capacity, Probe, capacities
from phasewise.planner.compare import Arm, over_rates
from phasewise.planner.objective import FORM, UNITLESS, Objective, Percentiles, check, limits, words
from phasewise.planner.source import Source
from phasewise.planner.workers import Workers, cores
from phasewise.report.rows import NONE, devices_text, duration, number, predictions, share

SCHEMA = "phasewise.capacity/1"
SEARCHED = "bound by"


def run(what: Described, objective: Objective | None, json: str | None, figure: str | None) -> None:
    """The whole command. InputError before anything is written if any of it makes no sense."""
    if objective is None:
        raise no_objective()
    check_outputs({"--json": json, "--figure": figure}, what.inputs)
    if figure is not None:
        from phasewise.report.figures import check_figure

        check_figure(figure)
    arms, requests = what.read()
    for arm in arms:
        check(objective, arm.deployment.deployment.slo)
    errors = Console(stderr=True, highlight=False)
    began = perf_counter()
    with Drafts() as drafts, Bar(errors) as bar, Workers(what.jobs or cores()) as workers:
        bar.stage("probing rates")
        resolved = [arm.deployment for arm in arms]
        found = capacities(resolved, requests, objective, what.tolerance, workers, bar.advance_to)
        text = json_text(document(arms, found, requests))
        if json is not None and json != STDOUT:
            drafts.path(json).write_text(text, encoding="utf-8")
        if figure is not None:
            from phasewise.planner.pictures import rates_picture
            from phasewise.report.figures import save

            bar.stage("drawing")
            probes = over_rates(resolved, requests, objective, workers, found)
            save(rates_picture(arms, found, probes, objective, requests.name), drafts.path(figure))
    warn(errors, arms, found)
    if json == STDOUT:
        write_out(text)
    else:
        rows = [*facts(arms, requests, objective, what.tolerance), ("took", took(found, perf_counter() - began))]
        show(Group(pairs(rows), Text(), table(arms, found, objective)))


def no_objective() -> InputError:
    """What to say to somebody who gave none."""
    return InputError(f"no objective; give --slo ({FORM}), --attainment or --token-deadlines")


def document(arms: Sequence[Arm], found: Sequence[Capacity], requests: Source) -> dict[str, Any]:
    """`phasewise.capacity/1`: what each key means is in `docs/guide/capacity.md`."""
    first = found[0]
    about = requests.at(1.0).describe()
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "workload": {key: about[key] for key in ("name", "requests", "sha256")},
        "seed": first.seed,
        "objective": msgspec.to_builtins(first.objective),
        "tolerance": first.tolerance,
        "arms": [one(arm, capacity) for arm, capacity in zip(arms, found, strict=True)],
    }


def one(arm: Arm, found: Capacity) -> dict[str, Any]:
    """One deployment's part of a document."""
    count, price = devices(arm.deployment.deployment), price_per_hour(arm.deployment)
    return {
        "name": arm.name,
        "basis": found.basis,
        "oracle": arm.deployment.deployment.oracle,
        "deployment": as_written(arm.deployment.deployment),
        "devices": count,
        "price_usd_per_hour": price,
        "rate_rps": found.rate,
        "rate_rps_per_device": None if found.rate is None else found.rate / count,
        "rate_rps_per_usd_per_hour": found.rate / price if found.rate is not None and price else None,
        "infeasible_rate_rps": found.high,
        "bound_by": list(found.bound_by),
        "saturation_rps": found.saturation,
        "notes": found.notes,
        "probes": [probe_document(p) for p in found.probes],
    }


def probe_document(found: Probe) -> dict[str, Any]:
    """One probe, its rate with its unit."""
    plain = msgspec.to_builtins(found)
    return {"rate_rps": plain.pop("rate"), **plain}


def facts(
    arms: Sequence[Arm], requests: Source, objective: Objective | None, tolerance: float
) -> list[tuple[str, str]]:
    """What was asked, as (name, text)."""
    slos = {arm.deployment.deployment.slo for arm in arms}
    about = requests.at(1.0)
    rows = [
        ("model", " · ".join(dict.fromkeys(arm.deployment.model.name for arm in arms))),
        ("devices", " · ".join(dict.fromkeys(devices_text(arm.deployment) for arm in arms))),
        ("workload", f"{about.name} · {len(about):,} requests at every rate · seed {requests.seed}"),
    ]
    if objective is not None:
        rows.append(("objective", words(objective, slos.pop() if len(slos) == 1 else Slo())))
        rows.append(("scored", f"the middle 80 % of the arrivals · rate to within {share(tolerance)}"))
    rows += predictions([arm.deployment.deployment for arm in arms])
    rows.append(("times rest on", " · ".join(dict.fromkeys(arm.deployment.basis for arm in arms))))
    return rows


def took(found: Sequence[Capacity], wall_s: float) -> str:
    """How many simulations the searches asked for, and how long the whole took."""
    return f"{duration(wall_s)} · {sum(len(c.probes) + 1 for c in found)} simulations"


def warn(errors: Console, arms: Sequence[Arm], found: Sequence[Capacity | None]) -> None:
    """What a reader must know before trusting a figure, one line each, and once if it is so for several."""
    names: dict[str, list[str]] = {}
    for arm, capacity in zip(arms, found, strict=True):
        for note in capacity.notes if capacity is not None else ():
            names.setdefault(note, []).append(arm.name)
    for note, own in names.items():
        who = "" if len(own) == len(arms) else f"{', '.join(own)}: "
        errors.print(f"phasewise: warning: {who}{note}", markup=False, soft_wrap=True)


def table(arms: Sequence[Arm], found: Sequence[Capacity], objective: Objective) -> Table:
    """One row a deployment: its capacity, what bound it, and its scores there; rates in requests/s."""
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    sizes = [devices(arm.deployment.deployment) for arm in arms]
    # Of one device it is the capacity, and the screen is narrow.
    each = max(sizes) > 1
    out.add_column("requests/s", style="bold", overflow="fold", min_width=11 if each else 14)
    for name in ("capacity", *(["per\ndevice"] if each else []), "fails at", "offline"):
        out.add_column(name, justify="right", no_wrap=True)
    out.add_column(SEARCHED, overflow="fold", min_width=9)
    for name in limits(objective):
        out.add_column(name.replace("@", "\n"), justify="right", no_wrap=True)
    for arm, size, capacity in zip(arms, sizes, found, strict=True):
        best = next((p for p in capacity.probes if p.rate == capacity.rate), None)
        scores = [score(name, best, objective) for name in limits(objective)]
        per_device = None if capacity.rate is None else capacity.rate / size
        rates = (capacity.rate, *([per_device] if each else []), capacity.high, capacity.saturation)
        out.add_row(arm.name, *map(number, rates), ", ".join(capacity.bound_by) or NONE, *scores)
    return out


def score(name: str, found: Probe | None, objective: Objective) -> str:
    """One score with its unit."""
    value = None if found is None else found.scores.get(name)
    if value is None or not isinstance(objective, Percentiles):
        return share(value)
    return f"{number(value)} x" if name.split("@")[0] in UNITLESS else duration(value)
