"""What is drawn is what the columns say; where it is drawn to is whole or not there."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phasewise.core.errors import InputError
from phasewise.core.spec import Slo
from phasewise.record.runlog import RunLog
from phasewise.report import compare_timelines, save, timeline
from phasewise.report.figures import check_figure, colour
from phasewise.report.phases import phases
from phasewise.sim.simulate import simulate
from worlds import ToyLatency, toy_resolved, workload

pytest.importorskip("matplotlib")
from matplotlib.text import Text

ROWS = [(i * 40_000, 20 + (37 * i) % 50, 5 + (11 * i) % 30) for i in range(60)]
BATCHERS: dict[str, dict[str, Any]] = {
    "static": {"max_seqs": 6},
    "vllm-v1": {"token_budget": 64, "max_seqs": 8},
    "sarathi": {"token_budget": 24},
}


def ran(batcher: str, slo: Slo | None = None, blocks: int = 40) -> RunLog:
    resolved = toy_resolved(batcher, BATCHERS[batcher], blocks=blocks, max_context=128, slo=slo)
    return simulate(resolved, workload(ROWS), physics=lambda replica: ToyLatency(whole=False))


def corners(axes: Any) -> set[tuple[float, float]]:
    """The corner points of the one filled shape of a panel."""
    (shape,) = axes.collections
    return {(x, y) for path in shape.get_paths() for x, y in path.vertices.tolist()}


@pytest.mark.parametrize("batcher", BATCHERS)
def test_what_is_drawn_is_what_the_columns_say(batcher: str) -> None:
    log = ran(batcher)
    steps = log.tables.steps[0]
    origin = log.tables.requests["arrival_ns"].min()
    start, end = ((steps[at] - origin) / 1e9 for at in ("start_ns", "end_ns"))
    _, prefill, requests, gaps = timeline(log, window=(0.0, float(end.max()))).axes
    some = steps["prefill"] > 0
    blocks = {
        (a, float(n))
        for at in (start, end)
        for a, n in zip(at[some].tolist(), steps["prefill"][some].tolist(), strict=True)
    }
    assert blocks <= corners(prefill)
    assert {y for _, y in corners(prefill)} == {0.0} | {n for _, n in blocks}
    batch = {(a, float(n)) for at in (start, end) for a, n in zip(at.tolist(), steps["decodes"].tolist(), strict=True)}
    assert batch <= corners(requests)
    series = phases(log)
    (waiting,) = requests.lines
    assert waiting.get_drawstyle() == "steps-post"
    assert waiting.get_xdata().tolist() == [*series.waiting_at_s.tolist(), end.max()]
    assert waiting.get_ydata().tolist() == [*series.waiting.tolist(), 0]
    (line,) = gaps.lines
    drawn = line.get_ydata()
    assert np.nanmax(drawn) == pytest.approx(np.nanmax(np.maximum(series.first_gap_s, series.last_gap_s)) * 1e3)
    # Iterations on their own: the gap between tokens is the time of the step for whoever was decoding throughout.
    alone = (steps["steps"] == 1) & (steps["decodes"] > 0) & (steps["decodes"] == np.roll(steps["decodes"], 1)) & ~some
    alone &= np.roll(steps["end_ns"], 1) == steps["start_ns"]
    for at, spent in zip(start[alone], (end - start)[alone] * 1e3, strict=True):
        assert np.isclose(drawn[np.isclose(line.get_xdata(), at, atol=1e-12)], spent, atol=2e-6).any()


def test_only_the_window_is_drawn() -> None:
    log = ran("sarathi")
    series = phases(log)
    low, high = 0.3 * series.length_s, 0.6 * series.length_s
    strip, *panels = timeline(log, window=(low, high)).axes
    for axes in panels:
        assert axes.get_xlim() == (low, high)
    assert strip.get_xlim()[1] == pytest.approx(series.length_s)
    xs = [x for x, _ in corners(panels[1])]
    assert len(xs) < 4 * len(series.start_s)
    assert min(xs) <= low
    assert max(xs) >= high


def test_labels_say_units_and_what_ran() -> None:
    figure = timeline(ran("sarathi", Slo(tpot_s=0.00001)))
    title = figure.get_suptitle()
    for text in ("sarathi (token_budget 24", "toy on toy", "requests/s", "simulated times: toy"):
        assert text in title
    strip, prefill, requests, gaps = figure.axes
    assert strip.get_ylabel() == "requests\ninside"
    assert prefill.get_ylabel() == "prompt tokens\nper iteration"
    assert requests.get_ylabel() == "requests"
    assert gaps.get_ylabel() == "ms"
    assert gaps.get_xlabel().endswith(", s")
    names = [text.get_text() for axes in figure.axes if (legend := axes.get_legend()) for text in legend.get_texts()]
    assert names[:3] == ["prefill", "decoding", "waiting"]
    assert any("objective" in name for name in names)


def test_an_objective_far_above_is_left_out() -> None:
    assert len(timeline(ran("sarathi", Slo(tpot_s=5.0))).axes[3].lines) == 1


def test_a_long_queue_has_a_scale_of_its_own() -> None:
    rows = [(0, 30, 20)] * 100
    resolved = toy_resolved("sarathi", {"token_budget": 24, "max_seqs": 4})
    log = simulate(resolved, workload(rows), physics=lambda replica: ToyLatency())
    figure = timeline(log)
    requests, aside = figure.axes[2], figure.axes[4]
    assert requests.get_ylim()[1] < 10
    (waiting,) = aside.lines
    assert waiting.get_ydata().max() == phases(log).waiting.max() > 90
    assert [text.get_text() for text in requests.get_legend().get_texts()] == ["decoding", "waiting\n(right scale)"]


def test_several_runs_one_above_the_other() -> None:
    runs = [(f"the {name} one", ran(name)) for name in BATCHERS]
    figure = compare_timelines(runs, window=(0.0, 0.002))
    assert len(figure.axes) == 9
    assert [axes.get_title(loc="left") for axes in figure.axes[::3]] == [name for name, _ in runs]
    titles = [text for axes in figure.axes for text in axes.findobj(Text) if text.get_text().startswith("the ")]
    assert [text.get_color() for text in titles] == [colour(i) for i in range(len(runs))]
    assert {axes.get_xlim() for axes in figure.axes} == {(0.0, 0.002)}
    for kind in range(3):
        tops = [axes.get_ylim()[1] for axes in figure.axes[kind::3]]
        assert len(set(tops)) == 1 or max(tops) > 4 * min(tops)


def test_a_step_of_prompts_alone_stretches_the_gap_of_nobody() -> None:
    """Static batching computes prompts while nobody decodes: its line is broken there, not high."""
    log = ran("static")
    steps = log.tables.steps[0]
    (line,) = timeline(log, window=(0.0, 1.0)).axes[3].lines
    longest_decode = ((steps["end_ns"] - steps["start_ns"]) / steps["steps"])[steps["decodes"] > 0].max() / 1e6
    assert np.nanmax(line.get_ydata()) <= longest_decode * 1.2
    assert np.isnan(line.get_ydata()).any()


@pytest.mark.parametrize(
    ("window", "complaint"),
    [((5.0, 5.0), "window 5 to 5 s"), ((-1.0, 2.0), "window -1"), ((100.0, 200.0), "give two instants of the run")],
)
def test_windows_that_make_no_sense(window: tuple[float, float], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        timeline(ran("sarathi"), window=window)
    with pytest.raises(InputError, match=complaint):
        compare_timelines([("one", ran("sarathi"))], window=window)


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_save(suffix: str, magic: bytes, tmp_path: Path) -> None:
    log = ran("sarathi")
    for name in ("a", "b"):
        save(timeline(log), tmp_path / f"{name}{suffix}")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert first.startswith(magic)
    # Matplotlib names an SVG's clip paths after objects in memory: the same picture under other names.
    assert first == second or suffix == ".svg"
    assert len(list(tmp_path.iterdir())) == 2
    if suffix == ".png":
        assert struct.unpack(">I", first[16:20]) == (1200,)


def test_save_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = timeline(ran("sarathi"))
    with pytest.raises(InputError, match=r"end the name in \.png"):
        save(figure, tmp_path / "a.gif")
    with pytest.raises(InputError, match="cannot be written"):
        save(figure, tmp_path / "no" / "a.png")

    def half(path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(KeyboardInterrupt):
        save(figure, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'phasewise\[plot\]'"):
        check_figure("a.png")
    with pytest.raises(InputError, match="needs matplotlib"):
        timeline(ran("sarathi"))
