"""Pictures of Sarathi-Serve's Figures 12 and 14 as we find them. They are given numbers and know no search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phasewise.report.figures import COLOURS, DPI, figure_class, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, VLLM, OTHER = COLOURS[0], COLOURS[1], COLOURS[2]
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
FAINT = "#777777"
Rates = Sequence[float | None]


def write(figure: Figure, path: Path) -> None:
    """As PNG in 64 colours: lines and letters need no more, and it is a quarter of the size."""
    from PIL import Image

    save(figure, path)
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(64)
    reduced.save(path, optimize=True)


def trade_off(slos_s: Sequence[float], curves: Mapping[str, Mapping[str, Rates]]) -> Figure:
    """Capacity against the limit of P99 TBT, one panel a model, one line a batcher; no point where no rate holds."""
    with style():
        figure = figure_class()(figsize=(9.2, 3.5), dpi=DPI, layout="constrained")
        for axes, (name, lines) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
            for index, (batcher, rates) in enumerate(lines.items()):
                family, label = (VLLM, batcher) if batcher.startswith("vllm") else (OURS, batcher)
                points = [(slo, rate) for slo, rate in zip(slos_s, rates, strict=True) if rate is not None]
                x, y = zip(*points, strict=True) if points else ((), ())
                axes.plot(x, y, color=family, linestyle=DASHES[index % 3], marker="o", markersize=4, label=label)
            axes.set_ylim(bottom=0)
            axes.set_xticks(slos_s, [f"{slo:g}" for slo in slos_s])
            axes.set_title(name, loc="left", fontsize=10)
            axes.set_xlabel("limit of P99 TBT, s")
        figure.axes[0].set_ylabel("capacity, requests/s")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", handlelength=3.4)
        title = "Capacity against the limit of pauses: openchat-sharegpt4, median delay within 2 s"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5)
    return figure


def overhead(prompts: Sequence[int], found: Mapping[int, Sequence[float]], title: str) -> Figure:
    """How much longer a prompt takes in chunks, a share, against its length; the published bound at 512 dashed."""
    with style():
        figure = figure_class()(figsize=(7.2, 3.6), dpi=DPI, layout="constrained")
        axes: Axes = figure.subplots()
        for (chunk, shares), colour in zip(found.items(), (VLLM, OTHER, OURS), strict=True):
            axes.plot(prompts, [100 * share for share in shares], color=colour, marker="o", markersize=5)
            text = f"chunks of {chunk:,}"
            axes.annotate(
                text, (prompts[-1], 100 * shares[-1]), (8, 0), textcoords="offset points", va="center", color=colour
            )
        axes.axhline(25, color=FAINT, linestyle="--", linewidth=1)
        said = "published: at most about 25 % in chunks of 512"
        axes.annotate(said, (prompts[0], 25), (0, -12), textcoords="offset points", color=FAINT, fontsize=9)
        axes.set_xscale("log", base=2)
        axes.set_xticks(prompts, [f"{prompt:,}" for prompt in prompts])
        axes.minorticks_off()
        axes.set_ylim(0, 28)
        axes.set_xlim(prompts[0] * 0.92, prompts[-1] * 1.7)
        axes.set_xlabel("prompt, tokens")
        axes.set_ylabel("longer than whole, %")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5)
    return figure
