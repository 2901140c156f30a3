"""From flags to deployments side by side: every file with every batcher, and the objective that they are held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phasewise.cli.simulate import MAX_SEED, described
from phasewise.control.deployment import deployment_from, with_settings
from phasewise.control.resolve import resolve
from phasewise.core.errors import InputError
from phasewise.core.spec import PolicySpec
from phasewise.planner.capacity import check_tolerance
from phasewise.planner.compare import Arm
from phasewise.planner.grid import Axis, Point, Size, points
from phasewise.planner.objective import Attainment, Objective, TokenDeadlines, percentiles
from phasewise.planner.source import Source, source
from phasewise.planner.sweep import most_replicas
from phasewise.report.rows import policy_text


@dataclass(frozen=True)
class Described:
    """What the command line says of the deployments, the workload and the search. `flags` holds those given."""

    files: list[Path]
    flags: dict[str, Any]
    settings: list[str]
    batchers: list[str]
    workload: str
    requests: int | None
    seed: int
    tolerance: float
    jobs: int | None

    @property
    def inputs(self) -> list[str | Path | None]:
        """Files that no output may overwrite."""
        return [*self.files, self.workload, self.flags.get("model"), self.flags.get("latency")]

    def read(self) -> tuple[list[Arm], Source]:
        """The deployments by name, in order, and the workload at any rate. InputError for whatever makes no sense."""
        self._check()
        found = arms(self.files, self.flags, self.settings, self.batchers)
        most = max(len(arm.deployment.replicas) for arm in found)
        return found, source(self.workload, self.requests, self.seed, most)

    def read_points(self, axes: Sequence[Axis], size: Size | None) -> tuple[list[Point], int, Source]:
        """The points of a sweep over the one deployment, how many were left out for their size, and the workload at any
        rate. InputError for whatever makes no sense."""
        self._check()
        for flag, given, instead in (("--batcher", self.batchers, "batcher"), ("", self.files, "model")):
            if len(given) > 1:
                what = f"a sweep is over one deployment; leave all but one out, or sweep over {instead}=A,B"
                raise InputError(what, flag or str(given[1]))
        _check_settings(self.settings, self.batchers)
        data, where = described(self.files[0] if self.files else None, self.flags, self.settings)
        data = _with_batcher(data, self.batchers[0]) if self.batchers else data
        found, left_out = points(data, axes, size, where)
        return found, left_out, source(self.workload, self.requests, self.seed, most_replicas(found))

    def _check(self) -> None:
        if self.seed > MAX_SEED:
            raise InputError(f"{self.seed} is too large; give 0 to {MAX_SEED}", "--seed")
        check_tolerance(self.tolerance, "--tolerance")


def objective(slos: Sequence[str], attainment: float | None, token_deadlines: float | None) -> Objective | None:
    """The one objective that the flags describe, None if they describe none. InputError if they mix two kinds."""
    kinds = {
        "--slo": bool(slos),
        "--attainment": attainment is not None,
        "--token-deadlines": token_deadlines is not None,
    }
    given = [flag for flag, there in kinds.items() if there]
    if len(given) > 1:
        raise InputError(f"these are different questions; leave out {' or '.join(given[:-1])}", given[-1])
    if attainment is not None:
        return Attainment(attainment)
    if token_deadlines is not None:
        return TokenDeadlines(token_deadlines)
    return percentiles(slos) if slos else None


def arms(files: Sequence[Path], flags: dict[str, Any], settings: list[str], batchers: Sequence[str]) -> list[Arm]:
    """Every deployment with every batcher (its own if none is given), named by what differs."""
    _check_settings(settings, batchers)
    found: dict[str, Arm] = {}
    own_files: Sequence[Path | None] = files or [None]
    texts: Sequence[str | None] = batchers or [None]
    for file in own_files:
        data, where = described(file, flags, settings)
        for text in texts:
            own = data if text is None else _with_batcher(data, text)
            deployment = deployment_from(own, where)
            parts = [file.stem] if file is not None and (len(files) > 1 or text is None) else []
            if text is not None or file is None:
                parts.append(policy_text(_written(own.get("batcher", deployment.batcher.name))))
            name = ", ".join(parts)
            if name in found:
                place = str(file) if text is None else f"--batcher {text}"
                raise InputError(f"{name} stands twice; leave one of them out, or rename a file", place)
            found[name] = Arm(name, resolve(deployment, where))
    return list(found.values())


def _check_settings(settings: Sequence[str], batchers: Sequence[str]) -> None:
    """InputError for a setting of a batcher that a flag replaces."""
    for setting in settings if batchers else ():
        if setting.split("=")[0].split(".")[0].strip() == "batcher":
            raise InputError("write it with the batcher that it is for: --batcher NAME:KEY=VALUE", f"--set {setting}")


def _with_batcher(data: dict[str, Any], text: str) -> dict[str, Any]:
    """ "sarathi:token_budget=512,max_seqs=64" over a deployment's own batcher. InputError led by the flag."""
    where = f"--batcher {text}"
    name, colon, rest = text.partition(":")
    pairs = [pair.strip() for pair in rest.split(",")] if colon else []
    if not name.strip() or not all("=" in pair for pair in pairs):
        raise InputError("not a batcher; write NAME, or NAME:KEY=VALUE,KEY=VALUE", where)
    if all(group.get("batcher") for group in data["replicas"]):
        what = "would change nothing, for each group of replicas has a batcher of its own"
        raise InputError(f"{what}; take another for one with --set replicas.0.batcher={name.strip()}", where)
    settings = [f"batcher={name.strip()}", *(f"batcher.{pair}" for pair in pairs)]
    for setting in settings:
        try:
            data = with_settings(data, [setting])
        except InputError as error:
            raise InputError(str(error).removeprefix(f"--set {setting}: "), where) from None
    return data


def _written(batcher: str | dict[str, Any]) -> PolicySpec:
    """The batcher with only the parameters that somebody wrote."""
    if isinstance(batcher, str):
        return PolicySpec(batcher)
    return PolicySpec(batcher["name"], {key: value for key, value in batcher.items() if key != "name"})
