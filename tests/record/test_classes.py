"""Classes in the log and in the scores, against each request looked at by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoded import requests
from phasewise.core.action import Outcome
from phasewise.core.spec import RequestClass, Slo
from phasewise.record.columns import ClusterColumns
from phasewise.record.metrics import Scored, distribution, joint_attainment, token_deadlines
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from worlds import ToyLatency, random_gone, random_rows, toy_resolved, workload

TIMES = st.sampled_from([None, 20e-6, 60e-6, 200e-6])
GAPS = st.sampled_from([None, 5.2e-6, 6e-6, 9e-6])


@given(st.data())
def test_each_request_is_held_to_its_own_objectives(data: st.DataObject) -> None:
    rows = data.draw(random_rows(prompt=70, output=20))
    gone = data.draw(random_gone(rows))
    kinds = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    slos = [Slo(data.draw(TIMES), data.draw(GAPS)) for _ in range(4)]
    classes = tuple(RequestClass(name, slo) for name, slo in zip("abc", slos[1:], strict=True))
    resolved = toy_resolved("sarathi", {"max_seqs": 4, "token_budget": 16}, 30, 8, max_context=60, slo=slos[0])
    run = replace(workload(rows, gone), kind=np.array(kinds), classes=classes)
    log = simulate(resolved, run, physics=lambda i: ToyLatency())
    told = requests(log)
    held = {}
    for i, r in told.items():
        slo = slos[kinds[i]] if kinds[i] else Slo()
        ttft_s = slos[0].ttft_s if slo.ttft_s is None else slo.ttft_s
        tpot_s = slos[0].tpot_s if slo.tpot_s is None else slo.tpot_s
        if r.outcome is Outcome.CANCELLED:
            continue
        done = r.outcome is Outcome.FINISHED
        t = [at - r.arrival_ns for at in r.token_ns]
        first = done and (ttft_s is None or t[0] <= ttft_s * 1e9)
        gap = (t[-1] - t[0]) / (len(t) - 1) if len(t) > 1 else 0.0
        smooth = done and (tpot_s is None or gap <= tpot_s * 1e9)
        due = None
        if ttft_s is not None and tpot_s is not None:
            due = done and all(at <= (ttft_s + k * tpot_s) * 1e9 + 1e-3 for k, at in enumerate(t))
        held[i] = (first, smooth, due)
    scored = Scored(log.tables)
    score = joint_attainment(scored, slos[0], classes)
    assert score == share(list(held.values()))
    dues = [due for _, _, due in held.values() if due is not None]
    wanted = sum(dues) / len(dues) if dues else None
    assert token_deadlines(scored, slos[0], classes)["attained"] == pytest.approx(wanted)
    for k, label in enumerate(classes, start=1):
        found = log.summary["classes"][label.name]
        mine = {i: r for i, r in told.items() if kinds[i] == k}
        done = [r for r in mine.values() if r.outcome is Outcome.FINISHED]
        assert (found["requests"], found["completed"]) == (len(mine), len(done))
        assert found["attainment"] == share([held[i] for i in mine if i in held])
        first = np.array([(r.token_ns[0] - r.arrival_ns) / 1e9 for r in done])
        assert found["ttft_s"] == pytest.approx(distribution(first))


def share(held: list[tuple[bool, bool, bool | None]]) -> dict[str, float | None]:
    if not held:
        return {"ttft": None, "tpot": None, "joint": None}
    n = len(held)
    joint = sum(a and b for a, b, _ in held) / n
    return {"ttft": sum(a for a, _, _ in held) / n, "tpot": sum(b for _, b, _ in held) / n, "joint": joint}


def test_classes_stand_in_the_log(tmp_path: Path) -> None:
    classes = (RequestClass("a", Slo(1.0)), RequestClass("b", max_tokens=2))
    run = replace(workload([(0, 5, 3), (5, 5, 3), (9, 5, 3)]), kind=np.array([2, 0, 1]), classes=classes)
    simulate(toy_resolved(), run, physics=lambda i: ToyLatency(), log=tmp_path / "run.log")
    log = RunLog.read(tmp_path / "run.log")
    assert log.header.classes == classes
    assert log.tables.requests["kind"].tolist() == [2, 0, 1]
    assert log.tables.requests["tokens"].tolist() == [2, 3, 3]
    nameless = ClusterColumns()  # a log read without its header: nobody is in a class
    nameless.fold(log.records(0))
    assert nameless.table()["kind"].tolist() == [0, 0, 0]


def test_without_classes_nothing_is_said_of_them() -> None:
    log = simulate(toy_resolved(), workload([(0, 5, 3)]), physics=lambda i: ToyLatency())
    assert "classes" not in log.summary
    assert log.tables.requests["kind"].tolist() == [0]
