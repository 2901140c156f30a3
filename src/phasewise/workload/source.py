"""From a name or a file to a `Workload`: the one way in. It does not know what will run it."""

from __future__ import annotations

import math
import os.path
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np

from phasewise.core.errors import InputError, unknown
from phasewise.core.units import NS_PER_S
from phasewise.workload.description import Described, Joined, PartSpec, parse_description
from phasewise.workload.merge import merge
from phasewise.workload.readers.trace import ENDINGS as _TRACE
from phasewise.workload.readers.trace import read_trace
from phasewise.workload.synth import Mixture, Synthetic, generate
from phasewise.workload.workload import Workload, checked_rate, checked_requests
from phasewise.workload.yamltext import yaml_file

DEFAULT_REQUESTS = 2_000  # of a described workload, which has no end of its own
_DESCRIPTION = (".yaml", ".yml")
_ENDINGS = ", ".join(_TRACE + _DESCRIPTION)


def load(
    name_or_path: str | Path, *, rate: float | None = None, requests: int | None = None, seed: int = 0
) -> Workload:
    """A built-in workload by name, a trace (.csv, .jsonl, .gz of either) or a description (.yaml) by path.

    `rate` is the total mean rate in requests/s (None: the source's own). For a trace it stretches the time axis: the
    mean is the whole file's, taken before `requests` cuts it to its first rows (None: all). A described or built-in
    workload draws `requests` of them from `seed` (None: 2,000); a trace has no chance in it and ignores `seed`.
    InputError, in one line that names the place, for whatever cannot be read or makes no sense.
    """
    source = str(name_or_path)
    if rate is not None:
        checked_rate(rate, source)
    if requests is not None:
        checked_requests(requests, source)
    if _is_trace(source):
        trace = read_trace(source)
        if rate is not None:
            trace = trace.at_rate(rate)
        return trace if requests is None else trace.head(requests)
    spec = read_description(source)
    if isinstance(spec, Joined):
        return _joined(spec, rate, requests, seed, source)
    return generate(spec, DEFAULT_REQUESTS if requests is None else requests, seed, rate)


def _joined(spec: Joined, rate: float | None, requests: int | None, seed: int, place: str) -> Workload:
    """The parts of a description at their rates, all scaled alike to a total of `rate`, on one axis.

    What has no end of its own is drawn until the last trace ends; if there is no trace, until there are enough requests.
    """
    parts = [_trace(part) if _is_trace(part.source) else _described(part, place) for part in spec.parts]
    own = [
        part.mean_rate if isinstance(part, Workload) else float(wanted.rate or part.rate or 0)
        for part, wanted in zip(parts, spec.parts, strict=True)
    ]
    factor = 1.0
    if rate is not None:
        if math.isinf(sum(own)):
            raise InputError(
                "a part has all its arrivals at one instant, so no rate to change; leave the rate out", place
            )
        factor = rate / math.fsum(own)
    found: dict[int, Workload] = {}
    for i, part in enumerate(parts):
        if isinstance(part, Workload):
            found[i] = part if rate is None else part.at_rate(own[i] * factor)
    end_ns = max((int(trace.arrival_ns[-1]) for trace in found.values()), default=None)
    if requests is None and end_ns is None:
        requests = DEFAULT_REQUESTS
    for i, part in enumerate(parts):
        if not isinstance(part, Workload):
            # A seed of its own for each part, so that two parts with one description are not twins.
            child = int(np.random.SeedSequence(seed, spawn_key=(i,)).generate_state(1, np.uint64)[0])
            found[i] = _drawn(part, own[i] * factor, requests, child, end_ns)
    labels = [part.label for part in spec.parts]
    whole = merge(
        spec.name, [found[i] if label is None else found[i].labelled(label) for i, label in enumerate(labels)]
    )
    return whole if requests is None else whole.head(requests)


def _trace(part: PartSpec) -> Workload:
    """A trace that is a part: cut, then at its own rate."""
    found = read_trace(part.source)
    if part.from_s or part.to_s is not None:
        found = found.between(part.from_s, math.inf if part.to_s is None else part.to_s)
    return found if part.rate is None else found.at_rate(part.rate)


def _described(part: PartSpec, place: str) -> Synthetic | Mixture:
    """A description that is a part. InputError for one that has none, is made of parts, or is cut."""
    spec = read_description(part.source)
    if isinstance(spec, Joined):
        raise InputError(f"{part.source} is made of parts itself; name those here", place)
    if spec.rate is None:
        raise InputError(f"{part.source} is a closed loop, which has no time axis; name an open workload", place)
    if part.from_s or part.to_s is not None:
        raise InputError(f"{part.source} is drawn, not read: from_s and to_s cut traces", place)
    if part.rate is not None:
        checked_rate(part.rate, place)
    return spec


def _drawn(spec: Synthetic | Mixture, rate: float, requests: int | None, seed: int, end_ns: int | None) -> Workload:
    """A described part: as many requests as are asked for in all, else those that arrive until `end_ns`."""
    if requests is not None:
        return generate(spec, requests, seed, rate)
    assert end_ns is not None
    n = 64 + math.ceil(1.2 * rate * end_ns / NS_PER_S)
    while True:
        found = generate(spec, n, seed, rate)
        if int(found.arrival_ns[-1]) > end_ns:
            return found.rows(0, max(1, int(np.searchsorted(found.arrival_ns, end_ns, side="right"))))
        n *= 2


def _is_trace(source: str) -> bool:
    return source not in builtin_names() and source.endswith(_TRACE)


def read_description(name_or_path: str | Path) -> Described:
    """The description of a built-in or of a .yaml file, before anything is drawn from it. InputError as `load`."""
    source = str(name_or_path)
    if source in builtin_names():
        text = (_data() / f"{source}.yaml").read_text(encoding="utf-8")
        return parse_description(text, source, source)
    if source.endswith(_DESCRIPTION):
        text = yaml_file(source, "a workload description")
        return parse_description(text, Path(source).stem, source, Path(source).parent)
    if os.path.exists(source):
        raise InputError(f"not a kind of file that holds a workload; its name must end in {_ENDINGS}", source)
    if "/" in source or "\\" in source:
        raise InputError("no such file; check the path", source)
    raise unknown("workload", " ".join(source.split()), builtin_names())


def builtin_names() -> tuple[str, ...]:
    """Names of the workloads that come with the package, sorted."""
    names = (entry.name for entry in _data().iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def _data() -> Traversable:
    return resources.files("phasewise.workload") / "data"
