"""Which latency model a deployment names, and latency files: YAML (or JSON) in, `StepTimes` out, and back again.

```yaml
kind: linear                     # or table, with by_tokens, by_batch or by_context: {at: [1, 8], times_us: [9000.0, 9400.0]}
model: meta-llama/Llama-3.1-8B   # what was measured; a deployment of anything else is refused. Left out: fits anything
device: h100
tp: 1
source: who measured what, with which software
prefill: {step_us: 8000.0, token_us: 25.0, pair_us: 0.001}
decode: {step_us: 8000.0, sequence_us: 30.0, context_us: 0.06}
```

`core.steptimes` says what each key means. It does not know how a file comes about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from phasewise.control.deployment import is_latency_file, struct_from
from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, DeviceSpec, ModelSpec
from phasewise.core.steptimes import DecodeTimes, FitError, PrefillTimes, StepTimes, Table
from phasewise.perf.fitted import check
from phasewise.perf.hardware import device as device_named
from phasewise.perf.published import ROOFLINE, published, same_model
from phasewise.workload.yamltext import plain_yaml, yaml_file


def step_times(
    deployment: Deployment, model: ModelSpec, device: DeviceSpec, tp: int, where: str | None = None
) -> StepTimes | None:
    """The step times that a deployment names for one of its replicas; None: the roofline's.

    InputError for an unknown name, a bad file, times of something else than this replica, and for a setting of the roofline
    beside another model.
    """
    name = deployment.latency
    if name is None or name == ROOFLINE:
        return None
    for key, unset in (("host_s", None), ("tile", 0)):
        if getattr(deployment, key) != unset:
            raise InputError(f"{key} belongs to the roofline, and latency is '{name}'; leave one out", where)
    if not is_latency_file(name):
        return published(name, model, device, tp, where)
    times = read_latency(name)
    of_model = times.model is None or same_model(times.model, model.name)
    of_device = times.device is None or device_named(times.device, name).name == device.name
    if not of_model or not of_device or times.tp not in (None, tp):
        said = f"{times.model or 'any model'} on {times.device or 'any device'}, tp {times.tp or 'any'}"
        raise InputError(f"holds times of {said}; this replica is {model.name} on {device.name}, tp {tp}", name)
    return times


def in_words(deployment: Deployment, times: StepTimes) -> str:
    """What the step times rest on: the source, led by the file's name if there is one."""
    name = deployment.latency or ""
    return f"{Path(name).name}: {times.source}" if is_latency_file(name) else times.source


def read_latency(path: str | Path) -> StepTimes:
    """The step times in a latency file. InputError, led by the file and the key, for whatever is not as it should be."""
    where = str(path)
    data = plain_yaml(yaml_file(path, "a latency file"), where)
    if not isinstance(data, dict):
        raise InputError(f"has no keys and values; give {', '.join(StepTimes.__struct_fields__)}", where)
    data = dict(data)
    if hasattr(data.get("date"), "isoformat"):  # YAML reads an unquoted date as one
        data["date"] = str(data["date"])
    if "prefill" in data:
        data["prefill"] = _part(data["prefill"], PrefillTimes, f"{where}: prefill")
    if "decode" in data:
        parts = data["decode"]
        many = isinstance(parts, list)
        named = (
            [(f"{where}: decode[{i}]", part) for i, part in enumerate(parts)] if many else [(f"{where}: decode", parts)]
        )
        data["decode"] = tuple(_part(part, DecodeTimes, place) for place, part in named)
    if data.get("error") is not None:
        data["error"] = struct_from(data["error"], FitError, f"{where}: error")
    times = struct_from(data, StepTimes, where)
    check(times, where)
    return times


def write_latency(times: StepTimes, path: str | Path) -> None:
    """Write a latency file that `read_latency` reads back to the same numbers. InputError if it cannot be written, or would
    not be read."""
    check(times, str(path))
    data = _without_defaults(times)
    data["decode"] = [_without_defaults(part) for part in times.decode]
    if len(times.decode) == 1:
        (data["decode"],) = data["decode"]
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", str(path)) from None


def _part(data: Any, kind: type[PrefillTimes] | type[DecodeTimes], where: str) -> PrefillTimes | DecodeTimes:
    """A part of a step from its plain values, with its tables made into such."""
    if isinstance(data, dict):
        data = dict(data)
        for key in ("by_tokens", "by_batch", "by_context"):
            if data.get(key) is not None:
                table = struct_from(data[key], Table, f"{where}.{key}")
                data[key] = Table(tuple(table.at), tuple(table.times_us))
    return struct_from(data, kind, where)


def _without_defaults(struct: msgspec.Struct) -> dict[str, Any]:
    """The plain values of a struct, without those that nobody needs to write."""
    fields = msgspec.structs.fields(struct)
    kept = {
        f.encode_name: getattr(struct, f.name) for f in fields if f.required or getattr(struct, f.name) != f.default
    }
    return {key: _without_defaults(v) if isinstance(v, msgspec.Struct) else _plain(v) for key, v in kept.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
