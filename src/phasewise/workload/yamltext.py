"""Reads YAML text into plain values, and says which line is broken. It does not know what the values mean.

Stricter than YAML itself in two ways: a key may stand only once in its mapping, and nothing nests deeper than any
file of ours would.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from phasewise.core.errors import InputError
from phasewise.workload.readers.text import read_bytes

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_DEPTH = 10


def yaml_file(path: str | Path, what: str) -> str:
    """The text of a YAML file that holds `what`. InputError, led by the file, if it cannot be read or is binary."""
    try:
        return read_bytes(Path(path)).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"is binary; {what} is YAML text", str(path)) from None


def plain_yaml(text: str, where: str) -> Any:
    """The value of a YAML text. InputError led by `where`, with the line if one is to blame."""
    try:
        _check_shape(text, where)
        return yaml.load(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        last = text.rstrip().count("\n")
        row = f":{min(error.problem_mark.line, last) + 1}" if error.problem_mark else ""
        raise InputError(f"not YAML ({error.problem}); mend the line", where + row) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"not YAML ({one_line(str(error))}); give plain keys and values", where) from None


def one_line(text: str) -> str:
    """`text` without line ends, tabs or unprintable characters, and not long: fit to stand in a message."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= 120 else line[:117] + "..."


def _check_shape(text: str, where: str) -> None:
    """InputError for a key that stands twice, and for too deep a nest: libyaml's loader would overflow the C stack."""
    # One entry a collection that is open: its keys so far and whether a key comes next, or None for a list.
    nest: list[tuple[set[str], bool] | None] = []
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionEndEvent):
            nest.pop()
        elif isinstance(event, yaml.NodeEvent):
            if nest and (top := nest[-1]) is not None:
                keys, is_key = top
                nest[-1] = (keys, not is_key)
                if is_key and isinstance(event, yaml.ScalarEvent):
                    if event.value in keys:
                        place = f"{where}:{event.start_mark.line + 1}" if event.start_mark else where
                        raise InputError(f"key '{one_line(event.value)}' stands here twice; keep one", place)
                    keys.add(event.value)
            if isinstance(event, yaml.CollectionStartEvent):
                nest.append((set(), True) if isinstance(event, yaml.MappingStartEvent) else None)
                if len(nest) > _MAX_DEPTH:
                    raise InputError(f"nested more than {_MAX_DEPTH} deep; give plain keys and values", where)
