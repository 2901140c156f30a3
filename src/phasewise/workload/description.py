"""Reads a workload description (YAML) into what it describes. It does not know how that is drawn or used.

One of three shapes; the guide's page on workloads has all fields:

```yaml
arrivals: {kind: gamma, rate: 5, cv: 2}                           # made up: one kind of request
prompt: {kind: lognormal, median: 800, sigma: 1, max: 8000}
output: {kind: fixed, tokens: 200}
---
arrivals: {kind: closed, users: 32, think_s: 5}                   # a mixture of classes
classes:
  - {name: chat, share: 3, prompt: {...}, output: {...}, slo: {ttft_s: 1}}
---
merge:                                                            # other workloads, cut and laid over one another
  - {source: trace.csv, from_s: 600, to_s: 1200, class: chat}
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

import phasewise.workload.arrivals as a
import phasewise.workload.closed as c
import phasewise.workload.lengths as n
from phasewise.core.errors import InputError, unknown
from phasewise.core.spec import RequestClass, Slo
from phasewise.workload.synth import ClassSpec, Mixture, Synthetic, checked_slo
from phasewise.workload.tables import read_clients, read_column, read_curve, read_histogram
from phasewise.workload.yamltext import one_line, plain_yaml

T = TypeVar("T")
Kinds = dict[str, type[msgspec.Struct]]
_OPEN: Kinds = {
    "poisson": a.Poisson,
    "gamma": a.Gamma,
    "weibull": a.Weibull,
    "fixed": a.FixedGaps,
    "onoff": a.OnOff,
    "curve": a.Curve,
    "clients": a.Clients,
}
_ARRIVALS: Kinds = {**_OPEN, "closed": c.Closed}
_THINK: Kinds = {"fixed": c.FixedThink, "exponential": c.ExponentialThink, "lognormal": c.LogNormalThink}
_LENGTHS: Kinds = {
    "fixed": n.FixedLength,
    "lognormal": n.LogNormal,
    "quantiles": n.QuantileTable,
    "histogram": n.Histogram,
    "empirical": n.Empirical,
}
# Kinds whose data may stand in a file: the keys that say where, instead of the field that holds it.
_FILES: dict[type[msgspec.Struct], tuple[str, ...]] = {
    a.Curve: ("file",),
    a.Clients: ("file",),
    n.Histogram: ("file", "side"),
    n.Empirical: ("file", "column"),
}
_SECTIONS: dict[str, Kinds] = {"arrivals": _ARRIVALS, "prompt": _LENGTHS, "output": _LENGTHS}
_OF_CLASS = {**_SECTIONS, "arrivals": _OPEN}  # a class has no closed loop of its own
_PART = ("source", "from_s", "to_s", "rate", "class", "slo", "max_tokens")


class PartSpec(msgspec.Struct, frozen=True):
    """A workload by name or path, cut to `from_s`..`to_s` of a trace, at a mean of `rate`, labelled as one class."""

    source: str
    from_s: float = 0.0
    to_s: float | None = None
    rate: float | None = None
    label: RequestClass | None = None


class Joined(msgspec.Struct, frozen=True):
    """Several workloads on one time axis."""

    name: str
    parts: tuple[PartSpec, ...]


Described = Synthetic | Mixture | Joined


def parse_description(text: str, name: str, where: str, folder: Path | None = None) -> Described:
    """The workload that `text` describes, called `name` unless it says otherwise; files are seen from `folder`.

    InputError led by `where` (and the line, if the YAML itself is broken; else the section) for anything unknown,
    missing or out of range.
    """
    folder = folder or Path()
    data = _mapping(plain_yaml(text, where), where, f"give {', '.join(_SECTIONS)}")
    if "merge" in data or "source" in data:
        spec: Described = _joined(data, name, where, folder)
    elif "classes" in data:
        spec = _mixture(data, name, where, folder)
    else:
        _check_keys(data, Synthetic.__struct_fields__, where)
        for section in _SECTIONS:
            if section not in data:
                raise InputError(f"no '{section}'; a workload needs {', '.join(_SECTIONS)}", where)
        spec = _convert({"name": name, **data, **_sections(data, where, folder)}, Synthetic, where)
    return msgspec.structs.replace(spec, name=one_line(spec.name))


def _mixture(data: dict[str, Any], name: str, where: str, folder: Path) -> Mixture:
    _check_keys(data, Mixture.__struct_fields__, where)
    classes = []
    for i, item in enumerate(_list(data["classes"], f"{where}: classes")):
        place = f"{where}: classes[{i}]"
        item = _mapping(item, place, "give name, share, prompt, output")
        _check_keys(item, ClassSpec.__struct_fields__, place)
        for key in ("name", "prompt", "output"):
            if key not in item:
                raise InputError(f"no '{key}'; a class needs name, prompt, output", place)
        slo = {"slo": _slo(item["slo"], f"{place}: slo")} if "slo" in item else {}
        one = _convert({**item, **_sections(item, place, folder, _OF_CLASS), **slo}, ClassSpec, place)
        classes.append(msgspec.structs.replace(one, name=one_line(one.name)))
    rest = {key: value for key, value in data.items() if key != "classes"}
    return _convert({"name": name, **rest, "classes": classes, **_sections(data, where, folder)}, Mixture, where)


def _joined(data: dict[str, Any], name: str, where: str, folder: Path) -> Joined:
    if "merge" in data:
        _check_keys(data, ("name", "merge"), where)
        items = [(item, f"{where}: merge[{i}]") for i, item in enumerate(_list(data["merge"], f"{where}: merge"))]
    else:
        _check_keys(data, ("name", *_PART), where)
        items = [({key: value for key, value in data.items() if key != "name"}, where)]
    parts = tuple(_joined_part(item, place, folder) for item, place in items)
    return _convert({"name": data.get("name", name), "parts": parts}, Joined, where)


def _joined_part(item: Any, place: str, folder: Path) -> PartSpec:
    item = _mapping(item, place, "give a source")
    _check_keys(item, _PART, place)
    if not isinstance(item.get("source"), str):
        raise InputError("no 'source'; name a built-in workload, a trace or a description", place)
    label = None
    if "class" in item:
        slo = _slo(item.get("slo", {}), f"{place}: slo")
        cap = item.get("max_tokens")
        label = _convert({"name": item["class"], "slo": slo, "max_tokens": cap}, RequestClass, place)
        if label.max_tokens is not None and label.max_tokens < 1:
            raise InputError(f"max_tokens {cap}; give 1 or more, or leave it out", place)
    elif extra := [key for key in ("slo", "max_tokens") if key in item]:
        raise InputError(f"'{extra[0]}' without a class; name one with class", place)
    source = item["source"]
    # A name without an ending is a built-in's; anything else is a path, seen from the description.
    seen = str(folder / source) if "." in source else source
    found = {key: value for key, value in item.items() if key in ("from_s", "to_s", "rate")}
    return _convert({**found, "source": seen, "label": label}, PartSpec, place)


def _sections(
    data: dict[str, Any], where: str, folder: Path, sections: dict[str, Kinds] = _SECTIONS
) -> dict[str, msgspec.Struct]:
    """Those of arrivals, prompt and output that are there, as the distributions that they name."""
    return {
        section: _part(data[section], kinds, f"{where}: {section}", folder)
        for section, kinds in sections.items()
        if section in data
    }


def _slo(data: Any, where: str) -> Slo:
    data = _mapping(data, where, f"give {', '.join(Slo.__struct_fields__)}")
    _check_keys(data, Slo.__struct_fields__, where)
    slo = _convert(data, Slo, where)
    try:
        checked_slo(slo)
    except InputError as error:
        raise InputError(str(error), where) from None
    return slo


def _list(data: Any, where: str) -> list[Any]:
    if not isinstance(data, list) or not data:
        raise InputError(f"{one_line(repr(data))} where a list belongs; give at least one entry", where)
    return data


def _mapping(data: Any, where: str, right: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"{type(data).__name__} {one_line(repr(data))}"
        raise InputError(f"{found} where keys and values belong; {right}", where)
    return data


def _check_keys(data: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            raise unknown("field", one_line(str(key)), known, where)


def _part(data: Any, kinds: Kinds, where: str, folder: Path) -> msgspec.Struct:
    """One section as the distribution that its `kind` names."""
    choice = f"give a kind ({', '.join(kinds)}) and its fields"
    data = _mapping(data, where, choice)
    if "kind" not in data:
        raise InputError(f"no 'kind'; {choice}", where)
    kind = data["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        raise unknown("kind", one_line(str(kind)), kinds, where)
    part = kinds[kind]
    files = _FILES.get(part, ())
    _check_keys(data, ("kind", *part.__struct_fields__, *files), where)
    if part is c.Closed and "think_s" in data:
        think = data["think_s"]
        if isinstance(think, int | float) and not isinstance(think, bool):
            think = {"kind": "fixed", "seconds": think}
        data = {**data, "think_s": _part(think, _THINK, f"{where}: think_s", folder)}
    if any(key in data for key in files):
        data = _from_file(part, data, where, folder)
    return _convert(data, part, where)


def _from_file(part: type[msgspec.Struct], data: dict[str, Any], where: str, folder: Path) -> dict[str, Any]:
    """The same section with what its file holds in place of the file's name."""
    field = part.__struct_fields__[0]
    for key in _FILES[part]:
        if not isinstance(data.get(key), str):
            raise InputError(f"no '{key}'; data from a file needs {', '.join(_FILES[part])}", where)
    if field in data:
        raise InputError(f"both 'file' and '{field}'; give one of them", where)
    path = folder / data["file"]
    rest = {key: value for key, value in data.items() if key not in _FILES[part]}
    if part is a.Curve:
        return {"shape": "steps", **rest, field: read_curve(path)}
    if part is a.Clients:
        return {**rest, field: read_clients(path)}
    if part is n.Histogram:
        return {**rest, field: read_histogram(path, data["side"])}
    return {**rest, field: read_column(path, data["column"])}


def _convert(data: dict[str, Any], kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(data, type=kind, strict=False)
    except msgspec.ValidationError as error:
        what = one_line(str(error).replace("`", "'").replace("$.", "").replace(" - at ", " at "))
        raise InputError(f"{what[0].lower()}{what[1:]}", where) from None
    except InputError as error:
        raise InputError(str(error), where) from None
