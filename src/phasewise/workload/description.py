"""Reads a workload description (YAML) into a `Synthetic`. It does not know where the text lies or how it is used.

```yaml
name: chat                    # optional; the file's name otherwise
arrivals: {kind: gamma, rate: 5, cv: 2}
prompt: {kind: lognormal, median: 800, sigma: 1, max: 8000}
output: {kind: quantiles, probabilities: [0, 0.5, 1], values: [1, 100, 900]}
correlation: 0.2              # optional; Spearman's, of prompt and output
max_tokens: 1024              # optional; the cap on outputs
```
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from phasewise.core.errors import InputError, unknown
from phasewise.workload.synth import (
    FixedGaps,
    FixedLength,
    Gamma,
    LogNormal,
    Poisson,
    QuantileTable,
    Synthetic,
)
from phasewise.workload.yamltext import one_line, plain_yaml

T = TypeVar("T")
_ARRIVALS: dict[str, type[msgspec.Struct]] = {"poisson": Poisson, "gamma": Gamma, "fixed": FixedGaps}
_LENGTHS: dict[str, type[msgspec.Struct]] = {
    "fixed": FixedLength,
    "lognormal": LogNormal,
    "quantiles": QuantileTable,
}
_SECTIONS = {"arrivals": _ARRIVALS, "prompt": _LENGTHS, "output": _LENGTHS}


def parse_description(text: str, name: str, where: str) -> Synthetic:
    """The workload that `text` describes, called `name` unless it says otherwise.

    InputError led by `where` (and the line, if the YAML itself is broken; else the section) for anything unknown,
    missing or out of range.
    """
    data = _mapping(plain_yaml(text, where), where, f"give {', '.join(_SECTIONS)}")
    _check_keys(data, Synthetic.__struct_fields__, where)
    for section in _SECTIONS:
        if section not in data:
            raise InputError(f"no '{section}'; a workload needs {', '.join(_SECTIONS)}", where)
    parts = {section: _part(data[section], kinds, f"{where}: {section}") for section, kinds in _SECTIONS.items()}
    spec = _convert({"name": name, **data, **parts}, Synthetic, where)
    return msgspec.structs.replace(spec, name=one_line(spec.name))


def _mapping(data: Any, where: str, right: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"{type(data).__name__} {one_line(repr(data))}"
        raise InputError(f"{found} where keys and values belong; {right}", where)
    return data


def _check_keys(data: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            raise unknown("field", one_line(str(key)), known, where)


def _part(data: Any, kinds: dict[str, type[msgspec.Struct]], where: str) -> msgspec.Struct:
    """One section as the distribution that its `kind` names."""
    choice = f"give a kind ({', '.join(kinds)}) and its fields"
    data = _mapping(data, where, choice)
    if "kind" not in data:
        raise InputError(f"no 'kind'; {choice}", where)
    kind = data["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        raise unknown("kind", one_line(str(kind)), kinds, where)
    part = kinds[kind]
    _check_keys(data, ("kind", *part.__struct_fields__), where)
    return _convert(data, part, where)


def _convert(data: dict[str, Any], kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(data, type=kind, strict=False)
    except msgspec.ValidationError as error:
        what = one_line(str(error).replace("`", "'").replace("$.", "").replace(" - at ", " at "))
        raise InputError(f"{what[0].lower()}{what[1:]}", where) from None
    except InputError as error:
        raise InputError(str(error), where) from None
