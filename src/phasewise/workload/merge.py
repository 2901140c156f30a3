"""Several workloads laid over one another on one time axis. It does not know where they came from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from phasewise.core.errors import InputError
from phasewise.core.spec import RequestClass
from phasewise.workload.prefixes import Prefixes
from phasewise.workload.truth import Truth
from phasewise.workload.workload import Workload


def merge(name: str, parts: Sequence[Workload]) -> Workload:
    """All requests of `parts` in order of arrival (at one instant: in the order of the parts), called `name`.

    The parts' time axes lie over one another at their zero. Classes of the same name must be the same; prompts share
    blocks only within one source. InputError for a closed loop, and for caps that differ between parts: a class can have one.
    """
    if not parts:
        raise InputError("nothing to merge; give at least one workload", name)
    if any(part.closed is not None for part in parts):
        raise InputError("a closed loop cannot be merged: it has no time axis", name)
    if len({part.max_tokens for part in parts}) > 1:
        caps = ", ".join(str(part.max_tokens or "none") for part in parts)
        raise InputError(f"max_tokens differ ({caps}); give each part a class with its own", name)
    arrival_ns = np.concatenate([part.arrival_ns for part in parts])
    order = np.argsort(arrival_ns, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    begins = np.cumsum([0, *(len(part) for part in parts)])
    classes, kind = _kinds(name, parts)
    sources = {part.source for part in parts}
    source = parts[0].source if len(sources) == 1 else None
    lines = [2 + np.arange(len(part)) if part.lines is None else part.lines for part in parts]
    return Workload(
        name=name,
        arrival_ns=arrival_ns[order],
        prompt_tokens=np.concatenate([part.prompt_tokens for part in parts])[order],
        truth=Truth(np.concatenate([part.truth.column() for part in parts])[order]),
        max_tokens=parts[0].max_tokens,
        gone_ns={
            int(place[begin + i]): at_ns
            for begin, part in zip(begins[:-1], parts, strict=True)
            for i, at_ns in part.gone_ns.items()
        },
        source=source,
        lines=None if source is None else np.concatenate(lines)[order],
        kind=kind[order] if classes else None,
        classes=classes,
        prefixes=_prefixes(name, parts, order),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _kinds(name: str, parts: Sequence[Workload]) -> tuple[tuple[RequestClass, ...], NDArray[np.int64]]:
    """The classes of all parts, and every request's, part after part."""
    known: dict[str, RequestClass] = {}
    kinds = []
    for part in parts:
        for label in part.classes:
            if known.setdefault(label.name, label) != label:
                raise InputError(f"class {label.name!r} has two sets of objectives; give it one, or two names", name)
        index = np.array([0, *(1 + list(known).index(label.name) for label in part.classes)])
        kinds.append(np.zeros(len(part), np.int64) if part.kind is None else index[part.kind])
    return tuple(known.values()), np.concatenate(kinds)


def _prefixes(name: str, parts: Sequence[Workload], order: NDArray[np.int64]) -> Prefixes | None:
    """Block ids of all parts. Those of different sources name different content: they are moved apart."""
    blocks = {part.prefixes.block_tokens for part in parts if part.prefixes is not None}
    if not blocks:
        return None
    if len(blocks) > 1:
        raise InputError(f"prefix blocks of {sorted(blocks)} tokens; merge traces of one block size", name)
    tops: dict[str, int] = {}
    keys = [part.source or f"part {i}" for i, part in enumerate(parts)]
    for key, part in zip(keys, parts, strict=True):
        if part.prefixes is not None:
            tops[key] = max(tops.get(key, 0), int(part.prefixes.ids.max(initial=-1)) + 1)
    shifts = dict(zip(tops, np.cumsum([0, *tops.values()]).tolist(), strict=False))
    ids, lengths = [], []
    for key, part in zip(keys, parts, strict=True):
        own = part.prefixes
        lengths.append(np.zeros(len(part), np.int64) if own is None else np.diff(own.offsets))
        if own is not None:
            ids.append(own.ids + shifts[key])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    return Prefixes(offsets, np.concatenate(ids), blocks.pop()).taken(order)
