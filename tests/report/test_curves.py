"""Pictures of deployments side by side: every number is where it belongs, and every line keeps its colour."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from phasewise.core.errors import InputError
from phasewise.record.metrics import Scored
from phasewise.record.runlog import RunLog
from phasewise.report.curves import Line, Panel, Point, distributions, rate_curves
from phasewise.report.figures import COLOURS, colour
from phasewise.sim.simulate import simulate
from worlds import ToyLatency, toy_resolved, workload

pytest.importorskip("matplotlib")
from matplotlib.colors import to_hex

PANELS = [Panel("time between tokens\np99", 0.05, seconds=True), Panel("share in time", 0.9, share=True)]


def line(name: str, scale: float, capacity: float | None) -> Line:
    rates = (1.0, 2.0, 3.0, 4.0)
    latency = tuple(Point(r, 0.01 * scale * r, r < 3.5) for r in rates)
    share = tuple(Point(r, 1 - 0.05 * r / scale, r < 3.5) for r in rates)
    return Line(name, (latency, share), capacity)


LINES = [line("first", 1.0, 3.0), line("second", 2.5, 2.0), line("third", 0.5, None)]


def with_data(axes: Any, x: list[float], y: list[float]) -> list[Any]:
    """The drawn lines that go through just these points."""
    return [
        drawn
        for drawn in axes.lines
        if len(drawn.get_xdata()) == len(x)
        and np.allclose(drawn.get_xdata(), x)
        and np.allclose(np.asarray(drawn.get_ydata(), float), y)
    ]


def test_points_limits_and_capacities_are_drawn_where_they_are() -> None:
    figure = rate_curves(PANELS, LINES, "title")
    latency, share, bars = figure.axes
    for index, own in enumerate(LINES):
        steady = [p for p in own.points[0] if p.steady]
        found = with_data(latency, [p.rate for p in steady], [p.value for p in steady])
        assert found
        assert {to_hex(drawn.get_color()).upper() for drawn in found} == {colour(index)}
        # The last steady point and the first that is not are joined faintly.
        tail = with_data(latency, [3.0, 4.0], [p.value for p in own.points[0][2:]])
        assert [drawn.get_alpha() for drawn in tail] == [0.45]
        if own.capacity is not None:
            at = next(p.value for p in own.points[0] if p.rate == own.capacity)
            (marker,) = with_data(latency, [own.capacity], [at])
            assert marker.get_marker() == "D"
    for axes, panel in ((latency, PANELS[0]), (share, PANELS[1])):
        (limit,) = [d for d in axes.lines if d.get_linestyle() == "--"]
        assert set(limit.get_ydata()) == {panel.limit}
    assert [t.get_text() for t in latency.texts] == ["objective 50 ms"]
    assert [t.get_text() for t in share.texts] == ["objective 90.0 %"]
    assert [bar.get_width() for bar in bars.patches] == [3.0, 2.0, 0.0]
    assert [t.get_text() for t in bars.texts] == ["3.00", "2.00", "no capacity found"]
    assert [t.get_text() for t in bars.get_yticklabels()] == ["first", "second", "third"]
    assert bars.get_xlabel() == "rate, requests/s"
    assert "backlog grows" in latency.get_title(loc="right")
    assert figure.get_suptitle() == "title"


def test_axes_say_their_unit() -> None:
    figure = rate_curves([Panel("delay", 2.0, seconds=True)], [line("one", 400.0, 3.0)], "t")
    ticks = figure.axes[0].yaxis.get_major_formatter()
    assert ticks(4.0, 0) == "4 s"
    assert ticks(0.02, 0) == "20 ms"
    assert rate_curves(PANELS, LINES, "t").axes[1].yaxis.get_major_formatter()(0.5, 0) == "50.0 %"


def test_a_scale_is_logarithmic_only_where_it_must_be() -> None:
    near = Line("near", ((Point(1.0, 0.02, True), Point(2.0, 0.04, True)),), 1.0)
    far = Line("far", ((Point(1.0, 0.001, True), Point(2.0, 4.0, True)),), 1.0)
    assert rate_curves(PANELS[:1], [near], "t").axes[0].get_yscale() == "linear"
    assert rate_curves(PANELS[:1], [near, far], "t").axes[0].get_yscale() == "log"


def test_more_lines_than_colours_are_told_apart_by_dashes() -> None:
    many = [line(str(i), 1 + i / 10, None) for i in range(len(COLOURS) + 2)]
    axes = rate_curves(PANELS, many, "t").axes[0]
    steady = [d for d in axes.lines if len(d.get_xdata()) == 3 and d.get_linestyle() != "None"]
    looks = {(to_hex(d.get_color()), d._unscaled_dash_pattern) for d in steady}  # type: ignore[attr-defined]
    assert len(looks) == len(many)


def test_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="no rates to draw"):
        rate_curves(PANELS, [Line("none", ((), ()), None)], "t")
    with pytest.raises(InputError, match="no runs to compare"):
        distributions([], "t")


def ran(batcher: str, output: int = 20) -> RunLog:
    rows = [(i * 40_000, 20 + (37 * i) % 50, 1 + (11 * i) % output) for i in range(80)]
    resolved = toy_resolved(batcher, {"max_seqs": 6}, blocks=60, max_context=128)
    return simulate(resolved, workload(rows), physics=lambda replica: ToyLatency(whole=False))


def test_a_distribution_says_which_share_is_slower() -> None:
    runs = [(name, ran(name)) for name in ("static", "sarathi")]
    figure = distributions(runs, "t")
    ttft, tbt, key, _ = figure.axes
    for index, (name, log) in enumerate(runs):
        samples = np.sort(Scored(log.tables).ttft_s)
        drawn = next(d for d in ttft.lines if len(d.get_xdata()) == len(samples))
        own = [d for d in ttft.lines if to_hex(d.get_color()).upper() == colour(index)]
        assert drawn is not None
        x, y = np.asarray(own[0].get_xdata(), float), np.asarray(own[0].get_ydata(), float)
        for at, above in zip(x, y, strict=True):
            assert above == pytest.approx(np.mean(samples > at), abs=1e-9)
        summary = log.summary["ttft_s"]
        assert list(own[1].get_xdata()) == [summary["p50"], summary["p90"], summary["p99"]]
        assert name in [t.get_text() for t in key.texts]
        gaps = [d for d in tbt.lines if to_hex(d.get_color()).upper() == colour(index)]
        tokens = log.summary["tbt_s"]
        assert list(gaps[1].get_xdata()) == [tokens["p50"], tokens["p90"], tokens["p99"]]
        values = np.asarray(gaps[0].get_xdata(), float)
        assert (np.diff(values) >= 0).all()
    assert ttft.get_xscale() == tbt.get_yscale() == "log"


def test_a_run_without_gaps_has_a_distribution_of_its_first_tokens() -> None:
    figure = distributions([("one token each", ran("sarathi", output=1))], "t")
    assert len(figure.axes[1].lines[0].get_xdata()) == 0
    assert [t.get_text() for t in figure.axes[3].texts][-3:] == ["–", "–", "–"]
