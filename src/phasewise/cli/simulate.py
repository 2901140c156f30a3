"""`phasewise simulate`: read what is wanted, check all of it, run, then write everything or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from phasewise.cli.document import document
from phasewise.cli.outputs import STDOUT, Drafts, check_outputs, json_text, write_out
from phasewise.cli.progress import Bar
from phasewise.cli.result import simulation
from phasewise.cli.screen import show
from phasewise.control.deployment import deployment_from, read_mapping, with_settings
from phasewise.control.resolve import resolve
from phasewise.control.scenario import read_scenario
from phasewise.core.action import Outcome
from phasewise.core.errors import InputError
from phasewise.core.spec import Resolved
from phasewise.core.units import NS_PER_S
from phasewise.perf.links import sends
from phasewise.record.fleet import is_fleet
from phasewise.record.runlog import RunLog
from phasewise.report.rows import duration
from phasewise.sim.simulate import check_fit, simulate
from phasewise.workload.source import builtin_names, load
from phasewise.workload.workload import Workload

# Where each flag's value stands in a deployment, to say how a file's is overridden.
_KEYS = {"device": "replicas.0.device", "tp": "replicas.0.tp", "pp": "replicas.0.pp", "replicas": "replicas.0.count"}
MAX_SEED = (1 << 63) - 1  # what a log's header holds


@dataclass(frozen=True)
class Drawn:
    """The pictures that are wanted; `request` is the one whose life is drawn (None: typical ones and the slowest)."""

    figure: str | None = None
    waterfall: str | None = None
    request: int | None = None

    @property
    def files(self) -> dict[str, str | None]:
        return {"--figure": self.figure, "--waterfall": self.waterfall}


@dataclass(frozen=True)
class Wanted:
    """What the command line asked for. `flags` holds those that describe a deployment, and only those given."""

    deployment: Path | None
    flags: dict[str, Any]
    settings: list[str]
    workload: str
    rate: float | None
    requests: int | None
    seed: int
    json: str | None
    log: str | None
    drawn: Drawn = Drawn()
    faults: Path | None = None


def run(wanted: Wanted) -> None:
    """The whole command. InputError before anything is written if any of it makes no sense."""
    if wanted.seed > MAX_SEED:
        raise InputError(f"{wanted.seed} is too large; give 0 to {MAX_SEED}", "--seed")
    _check_outputs(wanted)
    resolved = resolved_deployment(wanted)
    scenario = None if wanted.faults is None else read_scenario(wanted.faults, resolved)
    errors = Console(stderr=True, highlight=False)
    with Drafts() as drafts, Bar(errors) as bar:
        workload = load(wanted.workload, rate=wanted.rate, requests=wanted.requests, seed=wanted.seed)
        check_fit(resolved, workload)
        check_request(wanted.drawn, workload)
        bar.stage("simulating", len(workload))
        path = None if wanted.log is None else drafts.path(wanted.log)
        log = simulate(resolved, workload, wanted.seed, log=path, scenario=scenario, progress=bar.advance_to)
        warnings = [*workload.notes, *_rejections(log, workload), *_failures(log)]
        text = json_text(document(log, warnings))
        if wanted.json is not None and wanted.json != STDOUT:
            drafts.path(wanted.json).write_text(text, encoding="utf-8")
        if any(wanted.drawn.files.values()):
            bar.stage("drawing")
            draw(wanted.drawn, log, drafts)
    for warning in warnings:
        errors.print(f"phasewise: warning: {warning}", markup=False, soft_wrap=True)
    if wanted.json == STDOUT:
        write_out(text)
    else:
        show(simulation(log))


def draw(drawn: Drawn, log: RunLog, drafts: Drafts) -> None:
    """The pictures that are wanted of a finished run."""
    from phasewise.report.figures import save, timeline
    from phasewise.report.fleetfigure import fleet_timeline
    from phasewise.report.waterfall import waterfall

    if drawn.figure is not None:
        resolved = log.header.resolved
        picture = fleet_timeline(log, sends=sends(resolved)) if is_fleet(resolved) else timeline(log)
        save(picture, drafts.path(drawn.figure))
    if drawn.waterfall is not None:
        save(waterfall(log, drawn.request), drafts.path(drawn.waterfall))


def check_request(drawn: Drawn, workload: Workload) -> None:
    """InputError, before anything runs, for a request that there will not be."""
    if drawn.request is not None and drawn.waterfall is None:
        raise InputError("is about a waterfall; give --waterfall FILE as well, or leave it out", "--request")
    if drawn.request is not None and drawn.request >= len(workload):
        raise InputError(f"there is no request {drawn.request}; give 0 to {len(workload) - 1:,}", "--request")


def resolved_deployment(wanted: Wanted) -> Resolved:
    """The deployment that a file or flags describe, with settings over it, and every name looked up."""
    data, where = described(wanted.deployment, wanted.flags, wanted.settings)
    return resolve(deployment_from(data, where), where)


def described(file: Path | None, flags: dict[str, Any], settings: list[str]) -> tuple[dict[str, Any], str | None]:
    """The plain values of a deployment from a file or flags, with settings over them, and what to call their place."""
    if file is not None:
        if flags:
            name, value = next(iter(flags.items()))
            instead = f"--set {_KEYS.get(name, name)}={value}"
            raise InputError(f"{file} says it already; override it with {instead}", f"--{name.replace('_', '-')}")
        data = read_mapping(file)
    else:
        if missing := [f"--{name}" for name in ("model", "device") if name not in flags]:
            raise InputError(f"no deployment; name a deployment file, or give {' and '.join(missing)}")
        data = _from_flags(flags)
    where = None if file is None else str(file)
    deployment_from(data, where)
    if settings:
        data = with_settings(data, settings)
        where = None if file is None else f"{file} with --set"
    return data, where


def _from_flags(flags: dict[str, Any]) -> dict[str, Any]:
    group = {"device": flags["device"], "count": flags.get("replicas", 1)}
    group |= {name: flags[name] for name in ("tp", "pp") if name in flags}
    data: dict[str, Any] = {"model": flags["model"], "replicas": [group]}
    return data | {name: flags[name] for name in ("batcher", "router", "max_context", "latency") if name in flags}


def _check_outputs(wanted: Wanted) -> None:
    outputs = {"--json": wanted.json, "--log": wanted.log, **wanted.drawn.files}
    source = None if wanted.workload in builtin_names() else wanted.workload
    own = [wanted.flags.get(name) for name in ("model", "latency")]
    check_outputs(outputs, [wanted.deployment, source, wanted.faults, *own])
    for path in wanted.drawn.files.values():
        if path is not None:
            from phasewise.report.figures import check_figure

            check_figure(path)


def _rejections(log: RunLog, workload: Workload) -> list[str]:
    """One line for all the requests that no replica could ever serve, naming the first; nothing if there are none."""
    requests = log.tables.requests
    rejected = np.flatnonzero(requests["outcome"] == Outcome.REJECTED)
    if not len(rejected):
        return []
    first = requests[rejected[0]]
    limit = max(replica.max_context for replica in log.header.resolved.replicas)
    place = workload.where(int(first["request"]))
    why = f"its prompt of {int(first['prompt']):,} tokens leaves no room for output in a context of {limit:,}"
    return [f"{len(rejected):,} of {len(requests):,} requests rejected; the first is {place}: {why}"]


def _failures(log: RunLog) -> list[str]:
    """One line for all the requests that were given up; nothing if there are none. The log has the phase of each."""
    requests = log.tables.requests
    failed = requests[requests["outcome"] == Outcome.FAILED]
    if not len(failed):
        return []
    first = duration(int(failed["end_ns"].min()) / NS_PER_S)
    why = "no replica was left, or to come, for their prompts or their answers"
    return [f"{len(failed):,} of {len(requests):,} requests failed, the first at {first}: {why}"]
