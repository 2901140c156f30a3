"""Run logs on disk: whole or not at all, the same as in memory, readable while they grow, and clear about what is wrong."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasewise.core.errors import LogError
from phasewise.record.columns import REQUESTS, SPANS, STEPS, ClusterColumns, InstanceColumns
from phasewise.record.header import Header, Tables
from phasewise.record.roomlog import RoomLog, read_segment
from phasewise.record.runlog import END, EVENTS, HEADER, MAGIC, Recorder, RunLog, frames
from phasewise.sim.simulate import simulate
from worlds import ToyLatency, random_gone, random_rows, toy_resolved, workload

ROWS = [(0, 50, 40), (0, 60, 30), (10, 100, 60), (1000, 30, 1), (90_000, 20, 60), (95_000, 2000, 3)]
GONE = {2: 200_000}


def toy(log: Path | None = None, replicas: int = 2, name: str = "sarathi", **more: Any) -> RunLog:
    params = {"token_budget": 32, "max_seqs": 8} if name != "static" else {}
    resolved = toy_resolved(name, params, blocks=16, replicas=replicas)
    return simulate(resolved, workload(ROWS, GONE), physics=lambda i: ToyLatency(**more), log=log)


def same_tables(a: Tables, b: Tables) -> None:
    assert a.requests.tobytes() == b.requests.tobytes()
    assert [s.tobytes() for s in a.steps] == [s.tobytes() for s in b.steps]
    assert [s.tobytes() for s in a.spans] == [s.tobytes() for s in b.spans]


def same(a: RunLog, b: RunLog) -> None:
    assert a.rooms == b.rooms
    for room in range(a.rooms):
        assert list(a.records(room)) == list(b.records(room))
    same_tables(a.tables, b.tables)
    assert a.header == b.header


def rebuilt(log: RunLog) -> Tables:
    """The columns again, from the events and actions alone."""
    cluster = ClusterColumns()
    cluster.fold(log.records(0))
    tables = []
    for room in range(1, log.rooms):
        columns = InstanceColumns()
        columns.fold(log.records(room))
        tables.append((*columns.tables(), columns.transfers()))
    steps, spans, transfers = zip(*tables, strict=True)
    return Tables(cluster.table(), steps, spans, transfers, cluster.changes())


# There and back ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sarathi", "static", "vllm-v1"])
def test_written_and_read_it_is_the_same(tmp_path: Path, name: str) -> None:
    run = toy(name=name)
    run.write(tmp_path / "run.log")
    same(RunLog.read(tmp_path / "run.log"), run)
    assert [p.name for p in tmp_path.iterdir()] == ["run.log"]


def test_streamed_and_in_memory_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    streamed, held = toy(path), toy()
    same(streamed, held)
    same(RunLog.read(path), held)
    assert {k: v for k, v in streamed.summary.items() if "wall_s" not in k} == {
        k: v for k, v in held.summary.items() if "wall_s" not in k
    }
    held.write(tmp_path / "again.log")
    assert path.read_bytes() == (tmp_path / "again.log").read_bytes()


def test_a_streamed_log_can_be_written_elsewhere_and_over_itself(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    run = toy(path)
    before = path.read_bytes()
    run.write(tmp_path / "copy.log")
    run.write(path)
    assert path.read_bytes() == before == (tmp_path / "copy.log").read_bytes()


def test_long_runs_have_many_segments_in_order(tmp_path: Path) -> None:
    rows = [(i * 20_000, 20, 5) for i in range(700)]
    path = tmp_path / "run.log"
    run = simulate(toy_resolved(), workload(rows), physics=lambda i: ToyLatency(), log=path)
    kinds = [(kind, room) for _, kind, room, _ in frames(path)]
    assert kinds[0] == (HEADER, 0)
    assert kinds[-1][0] == END
    assert sum(kind == EVENTS for kind, _ in kinds) > 4
    for room in range(run.rooms):
        times = [at_ns for at_ns, _, _ in run.records(room)]
        assert times == sorted(times)
    same_tables(rebuilt(RunLog.read(path)), run.tables)


@pytest.mark.parametrize("full", [1, 15, 16, 300])
def test_what_a_room_writes_does_not_hang_on_how_many_records_wait(full: int) -> None:
    rows = [(i * 20_000, 20, 5) for i in range(700)]
    run = simulate(toy_resolved(), workload(rows), physics=lambda i: ToyLatency())
    written = list(run.records(1))
    segments: list[bytes] = []
    log = RoomLog(InstanceColumns(), segments.append, full)
    for record in written:
        log.batch.append(record)
        if len(log.batch) == log.full:
            log.flush()
    assert len(segments) > 2, "what waits is bounded"
    log.flush()
    assert [record for segment in segments for record in read_segment(segment)] == written
    assert log.events == len(written)
    steps, spans = log.columns.tables()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(steps, run.tables.steps[0])
    np.testing.assert_array_equal(spans, run.tables.spans[0])


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_columns_rebuilt_from_the_bytes_are_the_recorded_ones(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rows = data.draw(random_rows(most=10, prompt=60, output=25))
    gone = data.draw(random_gone(rows))
    resolved = toy_resolved(
        data.draw(st.sampled_from(["sarathi", "static", "vllm-v1"])),
        {"max_seqs": 4},
        blocks=data.draw(st.integers(90, 150)),
        block_tokens=1,
        replicas=data.draw(st.integers(1, 2)),
        wire_s=data.draw(st.sampled_from([0.0, 3e-6])),
    )
    latency = ToyLatency(whole=data.draw(st.booleans()), split=data.draw(st.sampled_from([None, 4])))
    run = simulate(resolved, workload(rows, gone), physics=lambda i: latency)
    path = tmp_path_factory.mktemp("log") / "run.log"
    run.write(path)
    read = RunLog.read(path)
    same_tables(read.tables, run.tables)
    same_tables(rebuilt(read), run.tables)


def test_tables_are_told_while_requests_are_inside() -> None:
    """Half of a log folded: those that are not over yet are inside, with the tokens that they have so far."""
    run = toy(replicas=1)
    records = list(run.records(1))
    columns, cluster = InstanceColumns(), ClusterColumns()
    columns.fold(records[: len(records) // 2])
    cluster.fold(list(run.records(0))[:2])
    rows, spans = columns.tables()
    whole = run.tables.steps[0]
    assert rows.tobytes() == whole[: len(rows)].tobytes()
    assert 0 < len(spans) <= len(run.tables.spans[0])
    table = cluster.table()
    assert [int(r) for r in table["request"]] == [0, 1]
    assert set(table["outcome"]) == {0}
    assert set(table["end_ns"]) == {-1}
    # Asking changes nothing: the rest folded in, the tables are the whole run's.
    columns.fold(records[len(records) // 2 :])
    assert columns.tables()[1].tobytes() == run.tables.spans[0].tobytes()


# Read on while it grows -----------------------------------------------------------------------------------------------------


def test_reading_on_from_an_offset_while_the_file_grows(tmp_path: Path) -> None:
    whole_path, growing = tmp_path / "whole.log", tmp_path / "growing.log"
    toy(whole_path)
    data = whole_path.read_bytes()
    wanted = [frame[1:] for frame in frames(whole_path)]
    got: list[Any] = []
    offset = 0
    growing.write_bytes(data[: len(MAGIC)])
    for end in [*range(len(MAGIC), len(data), 97), len(data)]:
        growing.write_bytes(data[:end])
        for after, *frame in frames(growing, offset):
            assert after <= end
            offset = after
            got.append(tuple(frame))
    assert got == wanted
    assert offset == len(data)
    assert list(frames(growing, offset)) == []


# What is wrong ----------------------------------------------------------------------------------------------------------------


def complaint(path: Path) -> str:
    """The one line that reading the log, events and all, ends with."""
    with pytest.raises(LogError) as error:
        read_all(path)
    text = str(error.value)
    assert "\n" not in text
    assert path.name in text
    return text


def read_all(path: Path) -> None:
    log = RunLog.read(path)
    for room in range(log.rooms):
        list(log.records(room))


def test_no_file_and_no_log(tmp_path: Path) -> None:
    assert "No such file" in complaint(tmp_path / "none.log")
    assert "directory" in complaint(tmp_path)
    path = tmp_path / "x.log"
    for data in (b"", b"PHASEWISE", b"arrival_s,input_tokens\n1,2\n", MAGIC.replace(b"2", b"9")):
        path.write_bytes(data)
        assert "not a run log of this version" in complaint(path)


def test_cut_short_anywhere_it_is_a_log_error(tmp_path: Path) -> None:
    toy(tmp_path / "whole.log")
    data = (tmp_path / "whole.log").read_bytes()
    path = tmp_path / "cut.log"
    for end in [*range(len(MAGIC), len(data), 61), len(data) - 1]:
        path.write_bytes(data[:end])
        assert "cut short" in complaint(path)


def put(path: Path, *found: tuple[int, int, bytes]) -> None:
    path.write_bytes(MAGIC + b"".join(struct.pack("<IBH", len(p), kind, room) + p for kind, room, p in found))


def test_an_end_without_a_beginning(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    put(path, (END, 0, b""))
    complaint(path)


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4])
def test_a_frame_of_garbage_is_a_log_error(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "x.log"
    toy(path)
    found = [(k, room, b"garbage!!" if k == kind else payload) for _, k, room, payload in frames(path)]
    put(path, *found)
    complaint(path)


@pytest.mark.parametrize("kind", [0, 2, 3, 4])
def test_a_missing_frame_is_a_log_error(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "x.log"
    toy(path)
    put(path, *[(k, room, payload) for _, k, room, payload in frames(path) if k != kind])
    complaint(path)


def test_a_flipped_byte_is_never_a_traceback(tmp_path: Path) -> None:
    toy(tmp_path / "intact.log")
    intact = (tmp_path / "intact.log").read_bytes()
    path = tmp_path / "flipped.log"
    for at in range(len(MAGIC), len(intact), 23):
        for flip in (1, 0x80, 0xFF):
            data = bytearray(intact)
            data[at] ^= flip
            path.write_bytes(data)
            try:
                read_all(path)
            except LogError as error:
                assert "\n" not in str(error)  # noqa: PT017


# Whole or not at all ----------------------------------------------------------------------------------------------------------


class Broken(ToyLatency):
    """A model that fails in the middle of a run."""

    def pieces(self, chunks: Any, decodes: int, context: int, steps: int) -> Any:
        if context > 100:
            raise KeyboardInterrupt
        return super().pieces(chunks, decodes, context, steps)


def test_a_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.log").write_text("keep me")
    for name in ("new.log", "old.log"):
        with pytest.raises(KeyboardInterrupt):
            simulate(toy_resolved(), workload(ROWS), physics=lambda i: Broken(), log=tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["old.log"]
    assert (tmp_path / "old.log").read_text() == "keep me"


def test_a_run_whose_summary_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> None:
        raise KeyboardInterrupt

    # The module's name is that of its function.
    monkeypatch.setattr(sys.modules["phasewise.record.runlog"], "summary", fails)
    with pytest.raises(KeyboardInterrupt):
        toy(tmp_path / "new.log")
    assert list(tmp_path.iterdir()) == []


def test_abandon_leaves_nothing_and_can_be_said_twice(tmp_path: Path) -> None:
    header = toy().header
    recorder = Recorder(header, tmp_path / "run.log")
    assert len(list(tmp_path.iterdir())) == 1
    recorder.abandon()
    recorder.abandon()
    assert list(tmp_path.iterdir()) == []
    Recorder(header).abandon()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot be written"):
        toy(tmp_path / "no such folder" / "run.log")
    run = toy()
    with pytest.raises(LogError, match="cannot be written"):
        run.write(tmp_path / "no such folder" / "run.log")


def test_a_folder_in_the_place_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "run.log").mkdir()
    with pytest.raises(LogError):
        toy(tmp_path / "run.log")
    assert [p.name for p in tmp_path.iterdir()] == ["run.log"]


def test_a_header_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    run = toy()
    header = Header("1", run.header.resolved, {"odd": object()}, 0)
    with pytest.raises((TypeError, LogError)):
        Recorder(header, tmp_path / "run.log")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_run_has_empty_tables(tmp_path: Path) -> None:
    header = toy().header
    recorder = Recorder(header, tmp_path / "run.log")
    run = recorder.close()
    recorder.keep()
    assert (len(run.tables.requests), run.rooms) == (0, 3)
    read = RunLog.read(tmp_path / "run.log")
    same(read, run)
    assert read.tables.requests.dtype == REQUESTS
    assert [t.dtype for t in (*read.tables.steps, *read.tables.spans)] == [np.dtype(STEPS)] * 2 + [np.dtype(SPANS)] * 2
