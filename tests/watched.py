"""Small fleets for tests: replicas with roles, a link, mishaps, and books that are read after every event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from phasewise.control.instance import InstanceControl
from phasewise.core.fault import Dies, Drains, Fault, Scenario, Starts
from phasewise.core.spec import DECODE, MIXED, PREFILL, LinkSpec, ReplicaSpec, Resolved, ResolvedReplica
from phasewise.record.header import Header
from phasewise.record.runlog import Recorder, RunLog
from phasewise.sim.world import World
from phasewise.workload.workload import Workload
from worlds import Row, ToyLatency, random_gone, toy_resolved

Watch = Callable[[int, int, InstanceControl, Any], None]
"""Told `(at_ns, replica, room, event)` after each event that a replica has taken."""


def fleet(
    roles: Sequence[str],
    batcher: str = "sarathi",
    params: dict[str, Any] | None = None,
    link: LinkSpec | None = None,
    cold_start_s: float = 20e-6,
    **more: Any,
) -> Resolved:
    """A toy deployment whose replicas have these roles; `more` as `toy_resolved` takes it."""
    resolved = toy_resolved(batcher, params, replicas=len(roles), **more)
    groups = tuple(ReplicaSpec("toy", list(roles).count(role), role=role) for role in dict.fromkeys(roles))
    own = {"replicas": groups, "link": link or LinkSpec("free"), "cold_start_s": cold_start_s}
    deployment = msgspec.structs.replace(resolved.deployment, **own)
    return msgspec.structs.replace(resolved, deployment=deployment, replicas=_with_roles(resolved, roles))


def _with_roles(resolved: Resolved, roles: Sequence[str]) -> tuple[ResolvedReplica, ...]:
    """Each role is a group of its own."""
    order = list(dict.fromkeys(roles))
    pairs = zip(resolved.replicas, roles, strict=True)
    return tuple(msgspec.structs.replace(replica, role=role, group=order.index(role)) for replica, role in pairs)


def ran(resolved: Resolved, load: Workload, scenario: Scenario | None = None, watch: Watch | None = None) -> RunLog:
    """The log of a run, each replica's room shown to `watch` after every event."""
    recorder = Recorder(Header("test", resolved, load.describe(), 0, scenario=scenario))
    world = World(resolved, load, recorder, lambda i: ToyLatency(), scenario=scenario)
    if watch is not None:
        reborn = world.reborn

        def again(i: int) -> None:
            reborn(i)
            _watched(world, i, watch)

        world.reborn = again  # type: ignore[method-assign]
        for i in range(len(resolved.replicas)):
            _watched(world, i, watch)
    world.run()
    return recorder.close()


def _watched(world: World, replica: int, watch: Watch) -> None:
    loop = world.instances[replica]
    room = loop.room
    assert isinstance(room, InstanceControl)

    def told(handler: Any) -> Any:
        def handle(event: Any, now_ns: int) -> Any:
            actions = handler(event, now_ns)
            watch(now_ns, replica, room, event)
            return actions

        return handle

    loop._handlers = {kind: told(handler) for kind, handler in room.handlers.items()}


ROLES = [
    (PREFILL, DECODE),
    (PREFILL, PREFILL, DECODE),
    (PREFILL, DECODE, DECODE),
    (MIXED, MIXED),
    (MIXED, DECODE, PREFILL),
]
LINKS = [
    LinkSpec("free"),
    LinkSpec("free", gb_s=0.01, latency_us=2.0, transfer="serialised"),
    LinkSpec("free", gb_s=0.002, latency_us=1.0, transfer="layer-wise"),
    LinkSpec("free", gb_s=0.02, transfer="by-size", layer_wise_from=30),
]


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
