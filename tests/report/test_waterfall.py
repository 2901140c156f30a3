"""The bars of a life are its stages, as long as they took, and one picture says which requests they are."""

from __future__ import annotations

import pytest

from fleets import fleet
from phasewise.core.errors import InputError
from phasewise.core.fault import Dies, Scenario
from phasewise.core.spec import DECODE, PREFILL, LinkSpec
from phasewise.record.metrics import Scored
from phasewise.record.runlog import RunLog
from phasewise.record.stages import life
from watched import ran
from worlds import workload

pytest.importorskip("matplotlib")
from matplotlib.text import Text

from phasewise.report.waterfall import SLOWEST, chosen, waterfall

ROWS = [(i * 10_000, 20 + (37 * i) % 50, 5 + (11 * i) % 30) for i in range(40)]
SLOW = LinkSpec("free", gb_s=0.01, latency_us=1.0, transfer="serialised")


def ran_1p2d(scenario: Scenario | None = None) -> RunLog:
    return ran(fleet((PREFILL, DECODE, DECODE), link=SLOW), workload(ROWS), scenario)


def test_typical_ones_and_the_slowest() -> None:
    log = ran_1p2d()
    e2e = Scored(log.tables).e2e_s
    bars = chosen(log)
    lengths = [(bar.stages[-1].end_ns - bar.stages[0].begin_ns) / 1e9 for bar in bars]
    assert [bar.name.split()[0] for bar in bars[:3]] == ["p50", "p90", "p99"]
    ordered = sorted(e2e.tolist())
    assert lengths[:3] == pytest.approx([ordered[19], ordered[35], ordered[39]])
    assert lengths[3:] == pytest.approx(sorted(lengths[3:], reverse=True))
    assert len(bars) >= SLOWEST
    scored = Scored(log.tables)
    for bar in bars:
        number = int(bar.name.split("#")[1].split()[0])
        assert bar.first_token_s == pytest.approx(float(scored.ttft_s[number]))


def test_a_life_step_by_step() -> None:
    calm = ran_1p2d()
    decode = life(calm.tables, 5)[-1]
    log = ran_1p2d(Scenario((Dies(decode.begin_ns + 2_000, decode.replica),)))
    stages = life(log.tables, 5)
    figure = waterfall(log, 5)
    (axes,) = figure.axes
    bars = sorted((bar.get_x(), bar.get_width()) for bar in axes.patches if bar.get_hatch() is None)
    origin = stages[0].begin_ns
    assert [x for x, _ in bars] == pytest.approx([(stage.begin_ns - origin) / 1e6 for stage in stages])
    assert [width for _, width in bars] == pytest.approx([stage.length_s * 1e3 for stage in stages])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(names) == len(stages)
    assert "computed again, replica 0" in names
    said = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "Request #5" in said
    assert "first token" in said


def test_one_picture_of_many() -> None:
    log = ran_1p2d()
    figure = waterfall(log)
    said = " ".join(text.get_text() for text in figure.findobj(Text))
    for words in ("p99  #", "time since its arrival, ms", "waits for a hand-over", "on replica 2", "simulated times"):
        assert words in said


def test_nothing_to_draw() -> None:
    resolved = fleet((PREFILL, DECODE), blocks=4, max_context=30)
    log = ran(resolved, workload([(0, 5, 5), (10, 200, 5)]))
    with pytest.raises(InputError, match="request 1 was turned away"):
        waterfall(log, 1)
    with pytest.raises(InputError, match="there is no request 2"):
        waterfall(log, 2)
