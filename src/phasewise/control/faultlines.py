"""The lines of a scenario file, one struct for each form of line: its keys, and the faults that it stands for.

Seconds become nanoseconds here, names of replicas become numbers. It does not know the file, nor the other lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from phasewise.control.chance import Chance
from phasewise.core.errors import InputError, unknown
from phasewise.core.fault import MESSAGES, Cuts, Dies, Drains, Fault, Mangles, Slows, Starts, Switches
from phasewise.core.spec import ROLES
from phasewise.core.units import to_ns
from phasewise.workload.yamltext import one_line

ANY = "any"
MAX_FAULTS = 100_000
_MAX_S = 1e9


class DiesLine(msgspec.Struct, frozen=True):
    """A process dies, and may come back."""

    replica: int | str
    dies_at_s: float
    back_after_s: float | None = None

    def faults(self, roles: Sequence[str], where: str) -> list[Fault]:
        at = _instant(self, "dies_at_s", where)
        back = _instant_or_none(self, "back_after_s", where, at)
        return [Dies(at, replica, back) for replica in _replicas(self.replica, roles, where)]


class RandomDiesLine(msgspec.Struct, frozen=True):
    """Processes that die at random."""

    replica: int | str
    mean_time_to_failure_s: float
    until_s: float
    from_s: float = 0.0
    back_after_s: float | None = None

    def faults(self, roles: Sequence[str], where: str) -> Chance:
        replicas = _replicas(self.replica, roles, where)
        begin, end = _drawn_window(self, where)
        lasts = _instant_or_none(self, "back_after_s", where)
        return Chance(replicas, _above_0(self, "mean_time_to_failure_s", where), begin, end, lasts)


class SlowsLine(msgspec.Struct, frozen=True):
    """Slow steps for a time."""

    replica: int | str
    slows_at_s: float
    factor: float
    for_s: float | None = None

    def faults(self, roles: Sequence[str], where: str) -> list[Fault]:
        at, until = _window(self, "slows_at_s", where)
        factor = _above_0(self, "factor", where)
        return [Slows(at, replica, factor, until) for replica in _replicas(self.replica, roles, where)]


class RandomSlowsLine(msgspec.Struct, frozen=True):
    """Slow steps at random times."""

    replica: int | str
    mean_time_to_slow_s: float
    factor: float
    until_s: float
    from_s: float = 0.0
    for_s: float | None = None

    def faults(self, roles: Sequence[str], where: str) -> Chance:
        replicas = _replicas(self.replica, roles, where)
        begin, end = _drawn_window(self, where)
        lasts = None if self.for_s is None else to_ns(_above_0(self, "for_s", where))
        factor = _above_0(self, "factor", where)
        return Chance(replicas, _above_0(self, "mean_time_to_slow_s", where), begin, end, lasts, factor)


class DrainsLine(msgspec.Struct, frozen=True):
    """No new work from an instant on."""

    replica: int | str
    drains_at_s: float
    moves: bool = False

    def faults(self, roles: Sequence[str], where: str) -> list[Fault]:
        at = _instant(self, "drains_at_s", where)
        return [Drains(at, replica, self.moves) for replica in _replicas(self.replica, roles, where)]


class StartsLine(msgspec.Struct, frozen=True):
    """Absent until an instant."""

    replica: int | str
    starts_at_s: float

    def faults(self, roles: Sequence[str], where: str) -> list[Fault]:
        at = _instant(self, "starts_at_s", where)
        return [Starts(at, replica) for replica in _replicas(self.replica, roles, where)]


class BecomesLine(msgspec.Struct, frozen=True):
    """Another role from an instant on."""

    replica: int | str
    becomes: str
    at_s: float

    def faults(self, roles: Sequence[str], where: str) -> list[Fault]:
        if self.becomes not in ROLES:
            raise unknown("role", one_line(self.becomes), ROLES, where)
        at = _instant(self, "at_s", where)
        return [Switches(at, replica, self.becomes) for replica in _replicas(self.replica, roles, where)]


class LostLinkLine(msgspec.Struct, frozen=True):
    """A link that carries nothing for a time."""

    link: Any
    lost_at_s: float
    for_s: float | None = None

    def faults(self, roles: Sequence[str], where: str) -> list[Fault]:
        at, until = _window(self, "lost_at_s", where)
        return [Cuts(at, source, target, None, until) for source, target in _links(self.link, roles, where)]


class SlowLinkLine(msgspec.Struct, frozen=True):
    """A link that is slow for a time."""

    link: Any
    slows_at_s: float
    factor: float
    for_s: float | None = None

    def faults(self, roles: Sequence[str], where: str) -> list[Fault]:
        at, until = _window(self, "slows_at_s", where)
        factor = _above_0(self, "factor", where)
        return [Cuts(at, source, target, factor, until) for source, target in _links(self.link, roles, where)]


class LostMessageLine(msgspec.Struct, frozen=True):
    """A share of messages that never come."""

    message: str
    lost: float
    from_s: float = 0.0
    until_s: float | None = None

    def faults(self, roles: Sequence[str], where: str) -> list[Fault]:
        begin, end = _sent_window(self, where)
        return [Mangles(_message(self.message, where), _share(self, "lost", where), None, begin, end)]


class DelayedMessageLine(msgspec.Struct, frozen=True):
    """A share of messages that come late."""

    message: str
    delayed_s: float
    share: float = 1.0
    from_s: float = 0.0
    until_s: float | None = None

    def faults(self, roles: Sequence[str], where: str) -> list[Fault]:
        begin, end = _sent_window(self, where)
        delay = to_ns(_above_0(self, "delayed_s", where))
        return [Mangles(_message(self.message, where), _share(self, "share", where), delay, begin, end)]


Line = (
    DiesLine
    | RandomDiesLine
    | SlowsLine
    | RandomSlowsLine
    | DrainsLine
    | StartsLine
    | BecomesLine
    | LostLinkLine
    | SlowLinkLine
    | LostMessageLine
    | DelayedMessageLine
)
LINES: dict[str, dict[str, type[Line]]] = {
    "replica": {
        "dies_at_s": DiesLine,
        "mean_time_to_failure_s": RandomDiesLine,
        "slows_at_s": SlowsLine,
        "mean_time_to_slow_s": RandomSlowsLine,
        "drains_at_s": DrainsLine,
        "starts_at_s": StartsLine,
        "becomes": BecomesLine,
    },
    "link": {"lost_at_s": LostLinkLine, "slows_at_s": SlowLinkLine},
    "message": {"lost": LostMessageLine, "delayed_s": DelayedMessageLine},
}
"""The forms of a line by what it is about, and by the key that says what happens to that."""


def _replicas(name: int | str, roles: Sequence[str], where: str) -> tuple[int, ...]:
    """The replicas that a number, a role or `any` means."""
    n = len(roles)
    if isinstance(name, int):
        if not 0 <= name < n:
            raise InputError(f"replica is {name}; give {f'0 to {n - 1}' if n > 1 else '0, the only one'}", where)
        return (name,)
    if name == ANY:
        return tuple(range(n))
    if name.isdecimal():
        raise InputError(f"replica is text '{one_line(name)}'; write {int(name)}", where)
    if name not in ROLES:
        said = f"replica is text '{one_line(name)}'"
        raise InputError(f"{said}; give a number, {ANY}, or a role ({', '.join(ROLES)})", where)
    found = tuple(i for i in range(n) if roles[i] == name)
    if not found:
        there = ", ".join(f"{roles.count(role)} {role}" for role in dict.fromkeys(roles))
        raise InputError(f"no replica is for {name}; there are {there}", where)
    return found


def _links(link: Any, roles: Sequence[str], where: str) -> list[tuple[int | None, int | None]]:
    """Pairs of source and target; `any` stays one None."""
    if not isinstance(link, list) or len(link) != 2 or not all(type(end) in (int, str) for end in link):
        raise InputError(
            f"link is {one_line(str(link))}; give two replicas, from and to, such as [0, 3] or [any, 2]", where
        )
    sources, targets = ((None,) if end == ANY else _replicas(end, roles, where) for end in link)
    if len(sources) * len(targets) > MAX_FAULTS:
        raise InputError(f"{len(sources) * len(targets):,} links; say 'any' for one of the ends", where)
    links = [(source, target) for source in sources for target in targets if source is None or source != target]
    if not links:
        raise InputError(f"a link from replica {sources[0]} to itself; give two replicas", where)
    return links


def _message(name: str, where: str) -> str | None:
    if name != ANY and name not in MESSAGES:
        raise unknown("message", one_line(name), (ANY, *MESSAGES), where)
    return None if name == ANY else name


def _instant(line: Line, key: str, where: str, after_ns: int = 0) -> int:
    """A time of 0 or more seconds after an instant, in nanoseconds."""
    seconds = getattr(line, key)
    if not 0 <= seconds <= _MAX_S:
        raise InputError(f"{key} is {seconds}; give seconds, 0 or more{_far(seconds)}", where)
    return after_ns + to_ns(seconds)


def _instant_or_none(line: Line, key: str, where: str, after_ns: int = 0) -> int | None:
    return None if getattr(line, key) is None else _instant(line, key, where, after_ns)


def _above_0(line: Line, key: str, where: str) -> float:
    """A number, or seconds, above 0."""
    value = getattr(line, key)
    if not 1e-9 <= value <= _MAX_S:
        what = "seconds" if key.endswith("_s") else "a number"
        raise InputError(f"{key} is {value}; give {what} above 0{_far(value)}", where)
    return float(value)


def _far(value: float) -> str:
    return f", at most {_MAX_S:.0f}" if value > _MAX_S else ""


def _share(line: Line, key: str, where: str) -> float:
    value = getattr(line, key)
    if not 0 < value <= 1:
        raise InputError(f"{key} is {value}; give the share of messages, above 0 and at most 1", where)
    return float(value)


def _window(line: SlowsLine | LostLinkLine | SlowLinkLine, key: str, where: str) -> tuple[int, int | None]:
    """From an instant on, for as long as `for_s` says."""
    at = _instant(line, key, where)
    return at, None if line.for_s is None else at + to_ns(_above_0(line, "for_s", where))


def _drawn_window(line: RandomDiesLine | RandomSlowsLine, where: str) -> tuple[int, int]:
    begin, end = _instant(line, "from_s", where), _instant(line, "until_s", where)
    if line.until_s <= line.from_s:
        raise InputError(f"until_s is {line.until_s}; give seconds above from_s, which is {line.from_s}", where)
    return begin, end


def _sent_window(line: LostMessageLine | DelayedMessageLine, where: str) -> tuple[int, int | None]:
    begin, end = _instant(line, "from_s", where), _instant_or_none(line, "until_s", where)
    if line.until_s is not None and line.until_s <= line.from_s:
        raise InputError(f"until_s is {line.until_s}; give seconds above from_s, which is {line.from_s}", where)
    return begin, end
