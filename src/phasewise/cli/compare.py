"""`phasewise compare`: read what is wanted, check all of it, run and search, then write everything or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from phasewise.cli.arms import Described
from phasewise.cli.capacity import facts, one, probe_document, score, warn
from phasewise.cli.outputs import STDOUT, Drafts, check_outputs, json_text, write_out
from phasewise.cli.progress import Bar
from phasewise.cli.screen import pairs, show
from phasewise.control.deployment import as_written
from phasewise.control.scenario import read_scenario
from phasewise.core.errors import InputError
from phasewise.core.version import VERSION
from phasewise.planner.compare import Arm, Comparison, compared
from phasewise.planner.objective import Objective, check, limits
from phasewise.planner.source import Source
from phasewise.planner.workers import Workers, cores
from phasewise.report.rows import NONE, duration, number, side_by_side
from phasewise.workload.workload import checked_rate

SCHEMA = "phasewise.compare/1"
_NAMES_WIDE, _CELL_WIDE = 28, 16


def run(
    what: Described,
    objective: Objective | None,
    rate: float | None,
    rates: str | None,
    json: str | None,
    figures: str | None,
    faults: Path | None = None,
) -> None:
    """The whole command. InputError before anything is written if any of it makes no sense."""
    check_outputs({"--json": json}, [*what.inputs, faults])
    _check_folder(figures)
    over = None if rates is None else parse_rates(rates)
    arms, requests = what.read()
    for arm in arms:
        if objective is not None:
            check(objective, arm.deployment.deployment.slo)
    if faults is not None:
        # Read for each anew: a line may name a role.
        arms = [_under(faults, arm) for arm in arms]
    errors = Console(stderr=True, highlight=False)
    began = perf_counter()
    with _folder(figures), Drafts() as drafts, Bar(errors) as bar, Workers(what.jobs or cores()) as workers:
        bar.stage("comparing")
        found = compared(
            arms,
            requests,
            workers,
            rate=rate,
            rates=over,
            objective=objective,
            tolerance=what.tolerance,
            progress=bar.advance_to,
        )
        text = json_text(document(found, objective is not None, requests))
        if json is not None and json != STDOUT:
            drafts.path(json).write_text(text, encoding="utf-8")
        drawn: list[str] = []
        if figures is not None:
            from phasewise.planner.pictures import draw

            bar.stage("drawing")
            drawn = draw(found, lambda name: drafts.path(str(Path(figures) / name)))
    warn(errors, arms, found.capacities)
    if json == STDOUT:
        write_out(text)
        return
    rows = facts(arms, requests, objective, what.tolerance)
    if faults is not None:
        rows.append(("what goes wrong", f"{faults}, in the runs side by side; capacities and rates are without"))
    rows.append(("took", duration(perf_counter() - began)))
    if drawn:
        rows.append(("figures", ", ".join(str(Path(str(figures)) / name) for name in drawn)))
    show(Group(pairs(rows), Text(), table(found, Console().width)))


def _under(faults: Path, arm: Arm) -> Arm:
    """A deployment under a scenario. InputError that names the deployment if the file does not suit it."""
    try:
        return msgspec.structs.replace(arm, scenario=read_scenario(faults, arm.deployment))
    except InputError as error:
        raise InputError(str(error), arm.name) from None


def parse_rates(text: str) -> list[float]:
    """ "1,2.5,4" as rates, each once, in order. InputError that names the one that is none."""
    found = set()
    for part in text.split(","):
        try:
            found.add(checked_rate(float(part)))
        except (ValueError, InputError):
            raise InputError(f"'{part.strip()}' is not a rate; write them as 1,2.5,4", "--rates") from None
    return sorted(found)


def document(found: Comparison, searched: bool, requests: Source) -> dict[str, Any]:
    """`phasewise.compare/1`: what each key means is in `docs/guide/capacity.md`."""
    arms = []
    for arm, log, capacity, probes in zip(found.arms, found.runs, found.capacities, found.probes, strict=True):
        written = as_written(arm.deployment.deployment)
        about: dict[str, Any] = {"name": arm.name, "basis": arm.deployment.basis, "deployment": written}
        about["summary"] = log.summary
        about["capacity"] = None if capacity is None else one(arm, capacity)
        arms.append({**about, "probes": [probe_document(p) for p in probes]})
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "workload": found.runs[0].header.workload,
        "seed": requests.seed,
        "faults": None if found.arms[0].scenario is None else found.arms[0].scenario.name,
        "objective": msgspec.to_builtins(found.objective) if searched else None,
        "arms": arms,
    }


def table(found: Comparison, width: int) -> RenderableType:
    """One column a deployment, one row a metric; the capacities below, if they were searched. As many tables, one under
    the other, as a screen of so many characters needs."""
    rows = side_by_side([(arm.name, log) for arm, log in zip(found.arms, found.runs, strict=True)])
    lines = [(row.name, row.cells, row.unit) for row in rows]
    capacities = [c for c in found.capacities if c is not None]
    if capacities:
        lines.append(("capacity", tuple(number(c.rate) for c in capacities), "requests/s"))
        lines.append(("bound by", tuple(", ".join(c.bound_by) or NONE for c in capacities), ""))
        for name in limits(found.objective):
            best = [next((p for p in c.probes if p.rate == c.rate), None) for c in capacities]
            lines.append((f"{name} there", tuple(score(name, p, found.objective) for p in best), ""))
    beside = max(1, (width - _NAMES_WIDE) // _CELL_WIDE)
    tables: list[RenderableType] = []
    for low in range(0, len(found.arms), beside):
        out = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        out.add_column("", style="bold", no_wrap=True)
        for arm in found.arms[low : low + beside]:
            out.add_column(arm.name, justify="right", overflow="fold", min_width=_CELL_WIDE - 2)
        out.add_column("", style="dim", no_wrap=True)
        for name, cells, unit in lines:
            out.add_row(name, *cells[low : low + beside], unit, end_section=name == rows[-1].name)
        tables += [out] if not low else [Text(), out]
    return Group(*tables)


def _check_folder(name: str | None) -> None:
    """InputError, before any work is done, if pictures cannot be drawn here or in this folder."""
    if name is None:
        return
    from phasewise.report.figures import check_figure

    path = Path(name)
    if path.exists() and not path.is_dir():
        raise InputError("is not a folder; name one", f"--figures {name}")
    check_outputs({"--figures": str(path / "rates.png") if path.exists() else name}, [])
    check_figure("rates.png")


@contextmanager
def _folder(name: str | None) -> Iterator[None]:
    """The folder is there inside, and gone again if it was made for nothing."""
    made = name is not None and not Path(name).exists()
    if name is not None and made:
        Path(name).mkdir()
    try:
        yield
    except BaseException:
        if name is not None and made:
            Path(name).rmdir()
        raise
