"""A log in parts: what was torn is cut off, what a killed process could not write is told, and the whole is a log like any."""

from __future__ import annotations

from pathlib import Path

import pytest

from phasewise.control.replay import replay
from phasewise.core.errors import LogError
from phasewise.core.event import Killed, StepDone
from phasewise.record.columns import LOST, InstanceColumns
from phasewise.record.parts import Part, join, part_path, parts_of, rescue
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from worlds import ConstantLatency, toy_resolved, workload


def run() -> RunLog:
    """Two answers of 30 tokens, in steps of a microsecond."""
    return simulate(toy_resolved(), workload([(0, 8, 30), (0, 8, 30)]), physics=lambda i: ConstantLatency())


def write(log: RunLog, path: Path, room: int, records: int | None = None) -> None:
    """A part with so many records of a room, a segment for each."""
    part = Part(part_path(path, room), log.header, room)
    for record in list(log.records(room))[:records]:
        part.add(*record)
    part.close()


def test_parts_make_the_log_that_was_written(tmp_path: Path) -> None:
    log, path = run(), tmp_path / "log"
    for room in (1, 0):
        write(log, path, room)
    join(path)
    found = RunLog.read(path)
    assert found.tables.requests.tobytes() == log.tables.requests.tobytes()
    assert found.tables.steps[0].tobytes() == log.tables.steps[0].tobytes()
    assert found.tables.spans[0].tobytes() == log.tables.spans[0].tobytes()
    assert found.summary == {key: value for key, value in log.summary.items() if "wall_s" not in key}
    assert replay(found) == log.events
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize("torn", [1, 9, 40])
def test_what_was_torn_is_cut_off_and_written_on(torn: int, tmp_path: Path) -> None:
    log, path = run(), tmp_path / "log"
    write(log, path, 0)
    write(log, path, 1)
    name = part_path(path, 1)
    name.write_bytes(name.read_bytes()[:-torn])
    part = Part(name, log.header, 1)
    part.add(*list(log.records(1))[-1])
    part.close()
    assert replay(join(path)) == log.events


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_a_killed_replica_has_done_what_was_heard_of_it(steps: int, tmp_path: Path) -> None:
    """It is killed in its first leap, `steps` iterations of which were heard of; the next process begins anew."""
    log, path = run(), tmp_path / "log"
    records = list(log.records(1))
    ends = [i for i, (_, event, _) in enumerate(records) if isinstance(event, StepDone)]
    at_ns, event, actions = records[ends[0]]
    assert [piece[2] for piece in event.pieces] == [1]
    (leap,) = actions
    assert leap.repeat != 1
    write(log, path, 0)
    write(log, path, 1, ends[0] + 1)
    part = Part(part_path(path, 1), log.header, 1)
    killed = Killed(((0, leap.id, ((1_000.0, 0.0, 1),) * steps),))
    part.add(at_ns + 20_000, killed, [])
    for record in records:
        part.add(*record)
    part.close()
    found = join(path)
    assert replay(found) == found.events == log.events + ends[0] + 2
    spans = found.tables.spans[0]
    assert spans[spans["left"] == LOST]["tokens"].tolist() == [1 + steps] * 2
    assert found.summary["tokens_out"] == 60 + 2 * (1 + steps)


def test_a_death_between_two_runs_adds_no_steps() -> None:
    """The iterations heard of belong to a run whose end is written down already."""
    log = run()
    records = list(log.records(1))
    last = [event for _, event, _ in records if isinstance(event, StepDone)][-1]
    columns = InstanceColumns()
    columns.fold(records)
    columns.fold([(10**9, Killed(((0, last.run, last.pieces),)), [])])
    assert columns.tables()[0].tobytes() == log.tables.steps[0].tobytes()


def test_a_run_that_was_killed_is_rescued_under_a_name_that_is_free(tmp_path: Path) -> None:
    log, path = run(), tmp_path / "log"
    assert rescue(path) is None
    for name in ("log.1", "log.2"):
        write(log, path, 0)
        assert rescue(path) is not None
        found = RunLog.read(tmp_path / name)
        assert found.summary["requests"] == 2
        assert not parts_of(path)
    part = Part(part_path(path, 0), log.header, 0)
    with pytest.raises(LogError, match="another process writes it"):
        rescue(path)
    part.close()


def test_bad_places_are_told(tmp_path: Path) -> None:
    log = run()
    with pytest.raises(LogError, match="no parts of such a log"):
        join(tmp_path / "log")
    with pytest.raises(LogError, match="cannot be written"):
        Part(tmp_path / "nowhere" / "part", log.header, 0)
    (tmp_path / "other").write_bytes(b"something else, longer than a magic")
    with pytest.raises(LogError, match="not a run log"):
        Part(tmp_path / "other", log.header, 0)
