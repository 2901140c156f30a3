"""Reads a deployment as a person writes it, in YAML, and lets settings override single values.

```yaml
model: meta-llama/Llama-3.1-8B     # or the path of a config.json, seen from this file
replicas:
  - {device: h100, count: 1, tp: 1}
batcher: {name: sarathi, token_budget: 512}     # or just a name
router: round-robin
slo: {ttft_s: 1.0, tpot_s: 0.05}
```

It checks keys and types, and names the place of whatever is wrong; whether the values make sense together is for
`resolve` to say.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from phasewise.core.errors import InputError, unknown
from phasewise.core.spec import MIXED, ROLES, Deployment, LinkSpec, PolicySpec, ReplicaSpec, Slo
from phasewise.perf.hardware import find_device
from phasewise.perf.models import find_model
from phasewise.policy import catalog
from phasewise.workload.yamltext import one_line, plain_yaml, yaml_file

T = TypeVar("T", bound=msgspec.Struct)
_ROLES = ("batcher", "router", "predictor")
_TEXT = {"model", "device", "name", "latency", "role", "transfer", "link", *_ROLES}
_WORDS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "null": "nothing"}
_SPECIAL: dict[str, bool | None] = {"true": True, "false": False, "null": None, "none": None, "": None}


def read_deployment(path: str | Path, settings: Sequence[str] = ()) -> Deployment:
    """The deployment that a YAML file describes, with `settings` over it. InputError as the functions below."""
    written = read_mapping(path)
    deployment_from(written, str(path))
    return deployment_from(with_settings(written, settings), str(path))


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The keys and values of a deployment file, not looked into yet but for paths (model, device, latency file), made whole.

    InputError if the file cannot be read or is not YAML (with the line), or holds anything but keys and values.
    """
    where = str(path)
    data = plain_yaml(yaml_file(path, "a deployment"), where)
    if not isinstance(data, dict):
        raise InputError(
            f"holds {_shown(data)}; a deployment has keys and values: {', '.join(_names(Deployment))}", where
        )
    folder = Path(path).parent
    if isinstance(data.get("replicas"), list):
        data = {**data, "replicas": [_device_seen_from(folder, group) for group in data["replicas"]]}
    seen = {"model": _seen_from, "latency": _file_seen_from}
    return {**data, **{key: see(folder, data[key]) for key, see in seen.items() if key in data}}


def deployment_from(data: dict[str, Any], where: str | None = None) -> Deployment:
    """The deployment that plain values describe. InputError, led by `where` and the key, for an unknown key or parameter
    (with the nearest known one), a missing key, or a value of the wrong type: nothing is converted."""
    data = dict(data)
    for role in _ROLES:
        if role in data:
            data[role] = _policy(role, data[role], where)
    if "slo" in data:
        data["slo"] = struct_from(data["slo"], Slo, _at(where, "slo"))
    if "replicas" in data:
        groups = data["replicas"]
        if not isinstance(groups, list) or not groups:
            raise InputError(
                f"expected a list of groups such as {{device: h100}}, got {_shown(groups)}", _at(where, "replicas")
            )
        data["replicas"] = tuple(_group(group, _at(where, f"replicas[{i}]")) for i, group in enumerate(groups))
    if "link" in data:
        link = data["link"]
        data["link"] = struct_from({"name": link} if isinstance(link, str) else link, LinkSpec, _at(where, "link"))
    return struct_from(data, Deployment, where)


def _group(data: Any, where: str) -> ReplicaSpec:
    """A group of replicas, with a batcher of its own or none."""
    if isinstance(data, dict) and data.get("batcher") is not None:
        data = {**data, "batcher": _policy("batcher", data["batcher"], where)}
    return struct_from(data, ReplicaSpec, where)


def with_settings(data: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of a deployment's plain values with each `key.key=value` set, in order; later ones win.

    Numbers, true, false and null are read as such; the groups of replicas are numbered from 0 (`replicas.0.tp=2`), and the only
    one with a role answers to that too, its `count` left unsaid (`replicas.prefill.tp=2`, `replicas.prefill=3`). A new
    `batcher` drops the old one's parameters. `data` must be sound, so that what is wrong after a setting is its fault.
    """
    data = copy.deepcopy(data)
    for setting in settings:
        where = f"--set {one_line(setting)}"
        key, equals, text = setting.partition("=")
        path = key.strip().replace("[", ".").replace("]", "").split(".")
        if not equals or not all(path):
            raise InputError("not a setting; write KEY=VALUE, such as batcher.token_budget=512", where)
        _place(data, path, text.strip() if path[-1] in _TEXT else _value(text.strip()), where)
        deployment_from(data, where)
    return data


def as_written(deployment: Deployment) -> dict[str, Any]:
    """The plain values of a deployment: what a file that describes it holds."""
    data: dict[str, Any] = msgspec.to_builtins(deployment)
    data["replicas"] = [
        {**group, "batcher": group["batcher"] and _flat(group["batcher"])} for group in data["replicas"]
    ]
    return {**data, **{role: _flat(data[role]) for role in _ROLES}}


def _flat(policy: dict[str, Any]) -> dict[str, Any]:
    return {"name": policy["name"], **policy["params"]}


def _names(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    return kind.__struct_fields__


def _at(where: str | None, key: str) -> str:
    return f"{where}: {key}" if where else key


def struct_from(data: Any, kind: type[T], where: str | None) -> T:
    """A struct from a mapping, its parts made into structs already. InputError, led by `where` and the key, for an unknown
    key (with the nearest known one), a missing key, or a value of the wrong type."""
    if not isinstance(data, dict):
        raise InputError(f"expected keys and values ({', '.join(_names(kind))}), got {_shown(data)}", where)
    for key in data:
        if key not in _names(kind):
            raise unknown("key", one_line(str(key)), _names(kind), where)
    for field in msgspec.structs.fields(kind):
        if field.name in data:
            _check(data[field.name], field.type, _at(where, field.name))
        elif field.required:
            raise InputError(f"no '{field.name}', which is needed", where)
    return kind(**data)


def _policy(role: str, data: Any, where: str | None) -> PolicySpec:
    place = _at(where, role)
    if isinstance(data, str):
        data = {"name": data}
    if not isinstance(data, dict):
        raise InputError(f"expected a name, or keys and values with a name, got {_shown(data)}", place)
    if "name" not in data:
        raise InputError("no 'name', which is needed", place)
    _check(data["name"], str, _at(place, "name"))
    params = {key: value for key, value in data.items() if key != "name"}
    catalog.find(role, data["name"], where)
    for key, value in params.items():
        kind = catalog.parameter_type(role, data["name"], one_line(str(key)), where)
        _check(value, kind, f"{place}.{key}")
    return PolicySpec(data["name"], params)


def _check(value: Any, kind: Any, where: str) -> None:
    if isinstance(value, msgspec.Struct | tuple):
        return
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        expected = str(error).split(" - at ")[0].split(", got ")[0]
        expected = re.sub(r"`([^`]*)`", lambda m: " or ".join(_WORDS.get(w, w) for w in m[1].split(" | ")), expected)
        raise InputError(
            f"{expected[0].lower()}{expected[1:]}, got {_shown(value)}{_hint(value, kind)}", where
        ) from None
    if value == "":
        raise InputError("is empty; give a name", where)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"expected a finite number, got {value}", where)


def _shown(value: Any) -> str:
    """A value in a message, by what it is in YAML."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"text '{one_line(value)}'"
    if isinstance(value, dict):
        return "keys and values"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return one_line(str(value))


def _hint(value: Any, kind: Any) -> str:
    """YAML takes 1e-3 and '512' for text; say how the number is written."""
    if not isinstance(value, str) or kind is str:
        return ""
    try:
        number = Decimal(value)
    except InvalidOperation:
        return ""
    return f"; write {number:f}" if number.is_finite() and abs(number.adjusted()) < 20 else ""


def _seen_from(folder: Path, model: Any) -> Any:
    """The path of a `config.json` (or of its folder) is seen from the file that names it; a catalogue name stays."""
    if not isinstance(model, str) or not model:
        return model
    if find_model(model):
        return model
    return str(folder / model) if model.lower().endswith(".json") or (folder / model).is_dir() else model


def is_latency_file(latency: str) -> bool:
    """Whether a deployment's `latency` is the path of a file; otherwise it is a name."""
    return latency.lower().endswith((".yaml", ".yml", ".json"))


def _file_seen_from(folder: Path, latency: Any) -> Any:
    """The path of a latency file is seen from the file that names it; a name stays."""
    return str(folder / latency) if isinstance(latency, str) and is_latency_file(latency) else latency


def _device_seen_from(folder: Path, group: Any) -> Any:
    """Likewise the TOML file of a device."""
    device = group.get("device") if isinstance(group, dict) else None
    if not isinstance(device, str) or not device.lower().endswith(".toml") or find_device(device):
        return group
    return {**group, "device": str(folder / device)}


def _value(text: str) -> Any:
    """A setting's value: a number if it reads as one, true, false or null; else text."""
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _place(data: dict[str, Any], path: list[str], value: Any, where: str) -> None:
    """Set one value in a deployment's plain values, making the section that it belongs to if there is none."""
    head, *rest = path
    if head not in _names(Deployment):
        raise unknown("key", head, _names(Deployment), where)
    if not rest:
        if head in ("replicas", "slo"):
            example = "replicas.0.tp=2" if head == "replicas" else "slo.ttft_s=1"
            raise InputError(f"'{head}' holds several values; set one of them, such as {example}", where)
        data[head] = value
        return
    section, keys = data, path
    if head == "replicas":
        section, keys = _group_named(data["replicas"], rest, where)
    *parts, last = keys
    for i, key in enumerate(parts):
        section = _part_of(section, key, ".".join(path[: len(path) - len(keys) + i + 1]), where)
    section[last] = value


def _group_named(groups: list[dict[str, Any]], keys: list[str], where: str) -> tuple[dict[str, Any], list[str]]:
    """The group of replicas that the first key names, by number or by a role that no other has; and the keys left."""
    name, *rest = keys
    named = [group for group in groups if group.get("role", MIXED) == name]
    if name in ROLES and len(named) == 1:
        return named[0], rest or ["count"]
    if name in ROLES and named:
        raise InputError(f"{len(named)} groups have the role {name}; name one by its number, such as replicas.0", where)
    if not name.isdecimal() or int(name) >= len(groups) or not rest:
        most = f"0 to {len(groups) - 1}" if len(groups) > 1 else "0"
        raise InputError(f"name a group of replicas ({most}) and one of its keys, such as replicas.0.tp=2", where)
    return groups[int(name)], rest


def _part_of(section: dict[str, Any], key: str, name: str, where: str) -> dict[str, Any]:
    """The part of a section that has keys of its own, made if it is not there; a name alone becomes one."""
    if key not in (*_ROLES, "slo", "link"):
        raise InputError(f"'{name}' holds one value; write {name}=VALUE", where)
    part = section.get(key) or ({"name": getattr(Deployment("", ()), key).name} if key in _ROLES else {})
    made: dict[str, Any] = {"name": part} if isinstance(part, str) else part
    section[key] = made
    return made
