"""Reads a scenario as a person writes it, in YAML and seconds: what goes wrong in a run, and what an operator does.

```yaml
seed: 7                                              # for what happens by chance
faults:
  - {replica: 2, dies_at_s: 30, back_after_s: 60}
  - {replica: decode, mean_time_to_failure_s: 3600, back_after_s: 120, until_s: 7200}
  - {link: [0, any], slows_at_s: 5, factor: 10, for_s: 10}
  - {message: submit, lost: 0.01}
```

`faultlines` has every form of line, the guide's page on faults what they mean. What is random is drawn here, once (`chance`),
so that a run is a function of the scenario's value. It does not know how faults are brought about.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phasewise.control.chance import Chance, drawn
from phasewise.control.deployment import struct_from
from phasewise.control.faultlines import LINES, MAX_FAULTS, Line
from phasewise.core.errors import InputError, unknown
from phasewise.core.fault import Dies, Drains, Fault, Scenario, Starts, Switches
from phasewise.core.spec import MIXED, Resolved
from phasewise.core.units import to_s
from phasewise.workload.yamltext import one_line, plain_yaml, yaml_file

_KEYS = ("name", "seed", "faults")
_HAPPENS = {key for forms in LINES.values() for key in forms}
_KNOWN = tuple(
    dict.fromkeys(key for forms in LINES.values() for form in forms.values() for key in form.__struct_fields__)
)
_SUCH_AS = "such as {replica: 2, dies_at_s: 30}"


def read_scenario(path: str | Path, replicas: int | Resolved) -> Scenario:
    """The scenario that a YAML file describes, for a fleet: the resolved deployment, or a count of replicas of no role.

    Its name is the file's, unless it says otherwise. InputError, led by the file and the line's number in the list of
    faults, for anything unknown, missing, of the wrong type or out of range, and for a written line that acts on a replica
    that is not there at that time.
    """
    roles = [r.role for r in replicas.replicas] if isinstance(replicas, Resolved) else [MIXED] * replicas
    where = str(path)
    return scenario_from(plain_yaml(yaml_file(path, "a scenario"), where), roles, where, Path(path).stem)


def scenario_from(data: Any, roles: Sequence[str], where: str, name: str = "") -> Scenario:
    """The scenario that plain values describe, for replicas of these roles: first the written faults, line by line, then
    the random ones. InputError as above."""
    if not isinstance(data, dict):
        raise InputError(f"a scenario has keys and values: {', '.join(_KEYS)}", where)
    for key in data:
        if key not in _KEYS:
            raise unknown("key", one_line(str(key)), _KEYS, where)
    name, seed, lines = data.get("name", name), data.get("seed", 0), data.get("faults")
    if not isinstance(name, str):
        raise InputError(f"name is {one_line(str(name))}; give text", where)
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise InputError(f"seed is {one_line(str(seed))}; give a whole number, 0 or more and below 2^63", where)
    if not isinstance(lines, list):
        raise InputError(f"no list of 'faults', which is needed; give lines {_SUCH_AS}, or [] for none", where)
    written: list[tuple[Fault, str]] = []
    chances: list[Chance] = []
    for i, line in enumerate(lines):
        place = f"{where}: faults[{i}]"
        found = _line(line, place).faults(roles, place)
        if isinstance(found, Chance):
            chances.append(found)
        else:
            written += [(fault, place) for fault in found]
    _check_there(written)
    expected = sum(chance.expected for chance in chances)
    if (count := len(written) + expected) > MAX_FAULTS:
        raise InputError(
            f"about {count:,.0f} faults; at most {MAX_FAULTS:,}: give longer mean times or fewer lines", where
        )
    faults = [fault for fault, _ in written]
    return Scenario((*faults, *drawn(chances, seed, faults)), seed, one_line(name))


def _line(data: Any, where: str) -> Line:
    """A line as the form that it is written in: told by what it is about, and by the key that says what happens."""
    if not isinstance(data, dict):
        raise InputError(f"expected a fault {_SUCH_AS}, got {one_line(str(data))}", where)
    for key in data:
        if key not in _KNOWN:
            raise unknown("key", one_line(str(key)), _KNOWN, where)
    about = [key for key in LINES if key in data]
    if len(about) != 1:
        said = " and ".join(f"'{key}'" for key in about) or "nothing that it is about"
        raise InputError(f"a fault with {said}; give one of {', '.join(LINES)}", where)
    forms = LINES[about[0]]
    happens = [key for key in data if key in _HAPPENS]
    if len(happens) != 1 or happens[0] not in forms:
        said = " and ".join(f"'{key}'" for key in happens) or "nothing that happens to it"
        each = ", each on a line of its own" if len(happens) > 1 else ""
        raise InputError(f"a {about[0]} with {said}; give one of {', '.join(forms)}{each}", where)
    return struct_from(data, forms[happens[0]], where)


def _check_there(written: Sequence[tuple[Fault, str]]) -> None:
    """InputError for a replica that starts twice, and for one that dies, drains or becomes something while it is not there."""
    starts: dict[int, int] = {}
    for fault, where in written:
        if isinstance(fault, Starts):
            if fault.replica in starts:
                raise InputError(f"replica {fault.replica} starts at {_seconds(starts[fault.replica])} already", where)
            starts[fault.replica] = fault.at_ns
    down: dict[int, Dies] = {}
    for fault, where in sorted(written, key=lambda item: item[0].at_ns):
        if not isinstance(fault, Dies | Drains | Switches):
            continue
        begin = starts.get(fault.replica)
        if begin is not None and fault.at_ns <= begin:
            raise InputError(
                f"replica {fault.replica} is not there before it starts; give more than {_seconds(begin)}", where
            )
        last = down.get(fault.replica)
        if last is not None and (last.back_ns is None or fault.at_ns <= last.back_ns):
            back = "for good" if last.back_ns is None else f"until {_seconds(last.back_ns)}"
            raise InputError(
                f"replica {fault.replica} is down from {_seconds(last.at_ns)} {back}; give another time", where
            )
        if isinstance(fault, Dies):
            down[fault.replica] = fault


def _seconds(ns: int) -> str:
    return f"{to_s(ns):.12g} s"
