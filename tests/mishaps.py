"""What may go wrong with small fleets, drawn at random: faults of every kind, moves among them, or deaths and drains alone."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from phasewise.core.fault import MESSAGES, Cuts, Dies, Drains, Fault, Mangles, Scenario, Slows, Starts, Switches
from phasewise.core.spec import MIXED, ROLES
from worlds import Row, random_gone

US = 1_000

MOVES = (
    "evict",
    "evicted",
    "reserve",
    "reserved",
    "adopt",
    "adopted",
    "release",
    "released",
    "declined",
    "submit",
    "cancelled",
)
"""Messages on which a move hangs, as `Mangles` names them."""


@st.composite
def random_faults(draw: st.DrawFn, replicas: int, *, lossy: bool, until_ns: int = 600_000, tick: int = 1) -> Scenario:
    """Up to four things that go wrong; `lossy`: messages may be late or lost, for a while."""

    def at(low: int = 0) -> int:
        return draw(st.integers(low // tick, until_ns // tick)) * tick

    who = st.integers(0, replicas - 1)
    faults: list[Fault] = []
    kinds = ["dies", "slows", "cuts", "drains", "starts", "switches"] + ["mangles"] * 2 * lossy
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4)):
        at_ns = at()
        later = draw(st.one_of(st.none(), st.integers(1, 200_000 // tick)))
        until = None if later is None else at_ns + later * tick
        if kind == "dies":
            faults.append(Dies(at_ns, draw(who), until))
        elif kind == "slows":
            faults.append(Slows(at_ns, draw(who), draw(st.sampled_from([0.5, 2.0, 3.0])), until))
        elif kind == "cuts":
            end = st.one_of(st.none(), who)
            factor = draw(st.sampled_from([None, 2.0, 10.0]))
            faults.append(Cuts(at_ns, draw(end), draw(end), factor, until or at_ns + 100_000))
        elif kind == "drains":
            faults.append(Drains(at_ns, draw(who), draw(st.booleans())))
        elif kind == "starts":
            faults.append(Starts(at_ns, draw(who)))
        elif kind == "switches":
            faults.append(Switches(at_ns, draw(who), draw(st.sampled_from(ROLES))))
        else:
            delay = draw(st.one_of(st.none(), st.integers(1, 50)))
            name = draw(st.one_of(st.none(), st.sampled_from(MESSAGES)))
            share = draw(st.sampled_from([0.1, 0.5, 1.0]))
            late = None if delay is None else delay * US
            faults.append(Mangles(name, share, late, at_ns, until or at_ns + 100_000))
    return Scenario(tuple(faults), draw(st.integers(0, 9)))


@st.composite
def random_moves(draw: st.DrawFn, replicas: int, *, lossy: bool, until_ns: int = 600_000, tick: int = 1) -> Scenario:
    """Drains that move, early in the run, among other things that go wrong; `lossy`: orders of moves may be late or lost."""

    def at(until: int) -> int:
        return draw(st.integers(1, until // tick)) * tick

    others = draw(st.one_of(st.just(Scenario()), random_faults(replicas, lossy=lossy, until_ns=until_ns, tick=tick)))
    faults = [*others.faults]
    for _ in range(draw(st.integers(1, 3))):
        faults.append(Drains(at(until_ns // 3), draw(st.integers(0, replicas - 1)), True))
    for _ in range(draw(st.integers(1, 3)) if lossy else 0):
        late = draw(st.one_of(st.none(), st.integers(1, 90)))
        at_ns = at(until_ns // 4)
        share, name = draw(st.sampled_from([0.2, 0.5, 1.0])), draw(st.sampled_from([None, *MOVES]))
        faults.append(Mangles(name, share, None if late is None else late * US, at_ns, at_ns + 100 * US))
    return Scenario(tuple(faults), others.seed)


@st.composite
def random_mishaps(draw: st.DrawFn, replicas: int, within_ns: int = 900_000, moves: bool = False) -> Scenario | None:
    """Some replicas die, and may come back; one may be drained, perhaps with all that it has, one may start late."""
    faults: list[Fault] = []
    for replica in range(replicas):
        what = draw(st.sampled_from(["", "", "dies", "returns", "drains", "starts"]))
        at_ns = draw(st.integers(1, within_ns))
        if what == "dies":
            faults.append(Dies(at_ns, replica))
        elif what == "returns":
            faults.append(Dies(at_ns, replica, at_ns + draw(st.integers(1, 100_000))))
        elif what == "drains":
            faults.append(Drains(at_ns, replica, moves and draw(st.booleans())))
        elif what == "starts":
            faults.append(Starts(at_ns, replica))
    return Scenario(tuple(faults)) if faults else None


def clients_who_leave(data: st.DataObject, rows: Sequence[Row], roles: Sequence[str]) -> dict[int, int]:
    """`random_gone`, of fleets that hand nothing over: a client who leaves while its prompt is parked is not taken yet."""
    return data.draw(random_gone(rows)) if set(roles) == {MIXED} else {}
