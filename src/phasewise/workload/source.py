"""From a name or a file to a `Workload`: the one way in. It does not know what will run it."""

from __future__ import annotations

import os.path
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from phasewise.core.errors import InputError, unknown
from phasewise.workload.description import parse_description
from phasewise.workload.synth import Synthetic, generate
from phasewise.workload.traces import read_bytes, read_trace
from phasewise.workload.workload import Workload, checked_rate, checked_requests

DEFAULT_REQUESTS = 2_000  # of a described workload, which has no end of its own
_TRACE = (".csv", ".csv.gz")
_DESCRIPTION = (".yaml", ".yml")
_ENDINGS = ", ".join(_TRACE + _DESCRIPTION)


def load(
    name_or_path: str | Path, *, rate: float | None = None, requests: int | None = None, seed: int = 0
) -> Workload:
    """A built-in workload by name, a trace (.csv, .csv.gz) or a description (.yaml) by path.

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
    if source not in builtin_names() and source.endswith(_TRACE):
        trace = read_trace(source)
        if rate is not None:
            trace = trace.at_rate(rate)
        return trace if requests is None else trace.head(requests)
    return generate(read_description(source), DEFAULT_REQUESTS if requests is None else requests, seed, rate)


def read_description(name_or_path: str | Path) -> Synthetic:
    """The description of a built-in or of a .yaml file, before anything is drawn from it. InputError as `load`."""
    source = str(name_or_path)
    if source in builtin_names():
        text = (_data() / f"{source}.yaml").read_text(encoding="utf-8")
        return parse_description(text, source, source)
    if source.endswith(_DESCRIPTION):
        try:
            text = read_bytes(Path(source)).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError("is binary; a workload description is YAML text", source) from None
        return parse_description(text, Path(source).stem, source)
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
