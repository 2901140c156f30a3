"""A fleet's picture shows what the columns say, in a row for each replica, and says when one was not there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import decoded
from fleets import LINKS, fleet
from mishaps import random_mishaps
from phasewise.core.errors import InputError
from phasewise.core.fault import Dies, Scenario
from phasewise.core.spec import DECODE, MIXED, PREFILL, LinkSpec
from phasewise.record.runlog import RunLog
from phasewise.record.stages import KINDS, life
from phasewise.report.slots import WAITS, fleet_series
from watched import ran
from worlds import Row, random_rows, workload

pytest.importorskip("matplotlib")
from matplotlib.text import Text

from phasewise.report import save
from phasewise.report.fleetfigure import MOST_ROWS, fleet_timeline

ROWS = [(i * 10_000, 20 + (37 * i) % 50, 5 + (11 * i) % 30) for i in range(40)]
SLOW = LinkSpec("free", gb_s=0.01, latency_us=1.0, transfer="serialised")


def ran_2p2d(scenario: Scenario | None = None) -> RunLog:
    return ran(fleet((PREFILL, PREFILL, DECODE, DECODE), link=SLOW), workload(ROWS), scenario)


@given(random_rows(most=10, output=20), st.sampled_from(LINKS), st.data())
@settings(max_examples=settings.default.max_examples // 2)
def test_series_are_what_the_events_come_to(rows: list[Row], link: LinkSpec, data: st.DataObject) -> None:
    roles = (PREFILL, DECODE, MIXED)
    scenario = data.draw(st.one_of(st.none(), random_mishaps(3)))
    log = ran(fleet(roles, params={"token_budget": 24}, link=link), workload(rows), scenario)
    series = fleet_series(log, slots=7)
    width_s = np.diff(series.edges_s)
    assert series.edges_s[0] == 0
    for i in range(3):
        assert (series.work[i] >= -1e-12).all()
        assert (series.work[i].sum(0) <= 1 + 1e-9).all()
        if scenario is None:
            spent = [0.0, 0.0, 0.0]
            for step in decoded.steps(log, i):
                spent[1 if step.chunks and step.decodes else 0 if step.chunks else 2] += step.end_ns - step.start_ns
            assert (series.work[i] @ width_s * 1e9).tolist() == pytest.approx(spent, abs=1e-3)
    for name, kinds in WAITS:
        waited = sum(
            stage.length_s
            for row in log.tables.requests
            for stage in life(log.tables, int(row["request"]))
            if stage.kind in {KINDS[kind] for kind in kinds}
        )
        # A request may wait on after the last step.
        total = float(series.waits[name] @ width_s)
        assert total <= waited + 1e-12
        if scenario is None:
            assert total == pytest.approx(waited, abs=1e-12)
    for source, rate in series.sent.items():
        nbytes = sum(int(t["nbytes"][t["source"] == source].sum()) for t in log.tables.transfers)
        assert float(rate @ width_s) == pytest.approx(nbytes, rel=1e-6)


def test_a_window_is_the_same_series_cut_out() -> None:
    log = ran_2p2d()
    whole = fleet_series(log, slots=10)
    low, high = float(whole.edges_s[2]), float(whole.edges_s[6])
    part = fleet_series(log, (low, high), slots=4)
    assert part.edges_s == pytest.approx(whole.edges_s[2:7])
    for i in range(4):
        assert part.work[i] == pytest.approx(whole.work[i][:, 2:6])
    for name in whole.waits:
        assert part.waits[name] == pytest.approx(whole.waits[name][2:6])
    for one, other in zip(part.memory, whole.memory, strict=True):
        assert one.running == pytest.approx(other.running[2:6])
        assert one.arriving == pytest.approx(other.arriving[2:6])
    with pytest.raises(InputError, match="give two instants of the run"):
        fleet_series(log, (1.0, 2.0))


def test_the_picture_says_who_did_what(tmp_path: Any) -> None:
    log = ran_2p2d(Scenario((Dies(150_000, 2, 200_000),), name="bad-night"))
    figure = fleet_timeline(log)
    rows, *memory, waits, links = figure.axes
    assert [label.get_text() for label in rows.get_yticklabels()] == ["decode 3", "decode 2", "prefill 1", "prefill 0"]
    named = [text.get_text() for text in rows.get_legend().get_texts()]
    assert named == ["decode", "both in one step", "prefill", "idle", "booting", "absent"]
    assert len(memory) == 2
    assert [axes.get_ylabel() for axes in memory] == ["KV memory,\nprefill", "KV memory,\ndecode"]
    assert "GB/s" in links.get_ylabel()
    assert {line.get_label() for line in waits.lines} >= {"for the first chunk", "to begin again"}
    said = " ".join(text.get_text() for text in figure.findobj(Text))
    for words in ("faults: bad-night", "2 × toy for prefill + 2 × toy for decode", "time since the first arrival, s"):
        assert words in said
    assert "night shift: " in fleet_timeline(log, name="night shift").get_suptitle()
    save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_a_fleet_of_one_role_has_no_links() -> None:
    figure = fleet_timeline(ran(fleet((MIXED, MIXED)), workload(ROWS)))
    assert [axes.get_ylabel() for axes in figure.axes] == ["replicas", "KV memory,\nmixed", "requests\nthat wait"]


def test_many_replicas_share_a_row() -> None:
    roles = (PREFILL,) * 3 + (DECODE,) * MOST_ROWS
    rows = fleet_timeline(ran(fleet(roles, link=SLOW), workload(ROWS), Scenario((Dies(100_000, 5),)))).axes[0]
    assert [label.get_text() for label in rows.get_yticklabels()] == [f"{MOST_ROWS} × decode", "3 × prefill"]
    assert "absent" in [text.get_text() for text in rows.get_legend().get_texts()]


def test_the_picture_stays_small_however_many_steps() -> None:
    long = [(i * 10_000, 20, 30) for i in range(400)]
    short = fleet_timeline(ran(fleet((PREFILL, DECODE), link=SLOW), workload(ROWS)))
    points = [
        sum(len(path.vertices) for axes in figure.axes for shape in axes.collections for path in shape.get_paths())
        for figure in (short, fleet_timeline(ran(fleet((PREFILL, DECODE), link=SLOW), workload(long))))
    ]
    assert points[1] <= 1.2 * points[0]
