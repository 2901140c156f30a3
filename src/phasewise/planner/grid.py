"""The points of a sweep: settings and their values read as written, multiplied out, each made into a deployment.

It does not know what is done with them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import product
from typing import Any

import msgspec

from phasewise.control.deployment import deployment_from, with_settings
from phasewise.control.resolve import resolve
from phasewise.core.errors import InputError
from phasewise.core.spec import Resolved
from phasewise.perf.cost import devices

FORM = "write KEY=VALUES, such as replicas.0.count=1..8, batcher.token_budget=128,256,512, or replicas.0.tp=2..8..2"
MOST_POINTS, MOST_AXES = 10_000, 2
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_SIZE = re.compile(r"(?:(\d+)|(\d+)?\.\.(\d+))")


class Axis(msgspec.Struct, frozen=True):
    """What is varied: a key as `--set` takes it, and its values as one would write them there."""

    key: str
    values: tuple[str, ...]


class Size(msgspec.Struct, frozen=True):
    """How many devices a point may have, both ends included."""

    least: int
    most: int


class Point(msgspec.Struct, frozen=True):
    """One value of every axis, and what comes of them: how many devices, and the deployment, or why there is none."""

    values: tuple[str, ...]
    name: str
    devices: int
    resolved: Resolved | None
    error: str | None = None


def parse_axis(text: str) -> Axis:
    """ "replicas.0.count=1..8", "batcher.token_budget=128,256", "tile=0,64..256..64" or "batcher=sarathi,vllm-v1" as an axis.

    A range holds both its ends, if its step (1 unless given) meets the upper one. InputError that shows the right form.
    """
    where = f"--sweep {text}"
    key, equals, rest = (part.strip() for part in text.partition("="))
    parts = [part.strip() for part in rest.split(",")]
    if not equals or not key or not all(parts):
        raise InputError(f"not a sweep; {FORM}", where)
    values = [value for part in parts for value in _values(part, where)]
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise InputError(f"{twice} stands twice; leave one of them out", where)
    return Axis(key, tuple(values))


def _values(part: str, where: str) -> list[str]:
    found = _RANGE.fullmatch(part)
    if found is None:
        if ".." in part:
            raise InputError(f"'{part}' is not a range of whole numbers; write LOW..HIGH, or LOW..HIGH..STEP", where)
        return [part]
    low, high, step = (int(number) for number in (found[1], found[2], found[3] or "1"))
    if step < 1 or high < low:
        raise InputError(f"'{part}' is empty; write LOW..HIGH, or LOW..HIGH..STEP with a step above 0", where)
    if (high - low) // step >= MOST_POINTS:
        raise InputError(f"'{part}' holds more than {MOST_POINTS:,} values; give a larger step", where)
    return [str(value) for value in range(low, high + 1, step)]


def parse_axes(texts: Sequence[str]) -> tuple[Axis, ...]:
    """One or two axes. InputError for more, for one key twice, or for too many points."""
    axes = tuple(parse_axis(text) for text in texts)
    check_axes(axes)
    return axes


def check_axes(axes: Sequence[Axis]) -> None:
    """InputError unless these can be multiplied out."""
    if len(axes) > MOST_AXES:
        raise InputError(f"{len(axes)} sweeps; give one or two", "--sweep")
    if len({axis.key for axis in axes}) < len(axes):
        raise InputError(f"{axes[0].key} is swept twice; give all its values at once", "--sweep")
    count = math.prod(len(axis.values) for axis in axes)
    if not axes or not count:
        raise InputError(f"nothing to sweep over; {FORM}", "--sweep")
    if count > MOST_POINTS:
        raise InputError(f"{count:,} points; {MOST_POINTS:,} is the most, so give fewer values", "--sweep")


def parse_size(text: str) -> Size:
    """ "40" (just so many devices), "..40" (at most) or "32..40". InputError that shows the right form."""
    found = _SIZE.fullmatch(text.strip())
    least, most = (int(found[1] or found[2] or 1), int(found[1] or found[3])) if found is not None else (1, 0)
    if not 1 <= least <= most:
        raise InputError("not a number of devices; write 40, ..40 for at most so many, or 32..40", f"--devices {text}")
    return Size(least, most)


def points(
    data: dict[str, Any], axes: Sequence[Axis], size: Size | None = None, where: str | None = None
) -> tuple[list[Point], int]:
    """Every combination of values over a deployment's plain values, the last axis varying fastest, and how many were left
    out because their devices are not as `size` wants them.

    A point that makes no sense on its machines says why. InputError for a key or a type that is wrong wherever it stands, and
    if `size` leaves no point.
    """
    check_axes(axes)
    found: list[Point] = []
    sizes: set[int] = set()
    left_out = 0
    for values in product(*(axis.values for axis in axes)):
        named = list(zip((axis.key for axis in axes), values, strict=True))
        deployment = deployment_from(_set(data, named), where)
        count = devices(deployment)
        sizes.add(count)
        if size is not None and not size.least <= count <= size.most:
            left_out += 1
            continue
        name = ", ".join(f"{key}={value}" for key, value in named)
        try:
            found.append(Point(values, name, count, resolve(deployment, where)))
        except InputError as error:
            found.append(Point(values, name, count, None, str(error)))
    if not found and size is not None:
        wanted = f"{size.least}" if size.least == size.most else f"{size.least} to {size.most}"
        raise InputError(f"no point has {wanted} devices; they have {min(sizes)} to {max(sizes)}", "--devices")
    return found, left_out


def _set(data: dict[str, Any], named: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """With a value for every key. A whole section comes before its parts, whose values it would drop."""
    for key, value in sorted(named, key=lambda one: one[0].count(".")):
        setting = f"{key}={value}"
        try:
            data = with_settings(data, [setting])
        except InputError as error:
            raise InputError(str(error).removeprefix(f"--set {setting}: "), f"--sweep {setting}") from None
    return data
