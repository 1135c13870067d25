"""The scaling curves as a picture. matplotlib is an optional package: `find_matplotlib` says how to get it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagrun.cli.scaling import Point

_INK, _SOFT, _SHADE = "#222222", "#777777", "#F3EDE4"
_COLOURS = {"strong": "#332288", "weak": "#117733"}  # Paul Tol's "muted", as in the timeline


def find_matplotlib() -> None:
    """ImportError, with what to do, where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            "the curve is drawn by matplotlib: pip install 'dagrun[plot]', or leave it out with --no-plot"
        )


def draw(curves: Mapping[str, Sequence[Point]], title: str, cores: int, path: Path) -> Path:
    """Writes the curves ("strong", "weak") as a PNG: speedup over devices, with the ideal line. Returns the path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * len(curves), 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, color=_INK)
    for place, (kind, points) in enumerate(curves.items()):
        _panel(figure.add_subplot(1, len(curves), place + 1), kind, points, cores)
    figure.savefig(path)
    return path


def _panel(axes: Any, kind: str, points: Sequence[Point], cores: int) -> None:
    counts = [point.devices for point in points]
    low, high = min(counts) - 0.4, max(counts) + 0.6
    top = max(high, *(point.speedup for point in points)) + 0.2
    if high > cores + 0.5:
        axes.axvspan(cores + 0.5, high, color=_SHADE, zorder=0)
        axes.text(
            (cores + 0.5 + high) / 2, 0.12, f"oversubscribed:\nmore devices than the {cores} cores", ha="center",
            va="bottom", fontsize=8.5, color=_SOFT,
        )  # fmt: skip
    axes.plot([0, high], [0, high], color=_SOFT, linewidth=1.2, linestyle=(0, (5, 3)), label="ideal", zorder=1)
    one = points[0]
    spread = [
        [point.speedup - one_rate(one) * point.rows / point.slowest for point in points],
        [one_rate(one) * point.rows / point.fastest - point.speedup for point in points],
    ]
    axes.errorbar(
        counts, [point.speedup for point in points], yerr=[[max(0.0, e) for e in side] for side in spread],
        color=_COLOURS[kind], marker="o", markersize=6, linewidth=2, elinewidth=1, capsize=3,
        label="median, fastest and slowest", zorder=3,
    )  # fmt: skip
    for point in points:
        axes.annotate(
            f"{point.speedup:.2f}×\n{point.seconds * 1e3:.3g} ms", (point.devices, point.speedup), xytext=(9, -10),
            textcoords="offset points", fontsize=8.5, color=_INK, va="top",
        )  # fmt: skip
    rows = f"{one.rows} rows on each device" if kind == "weak" else f"{one.rows} rows in all"
    axes.set_title(f"{kind} scaling: {rows}", fontsize=11, color=_INK)
    axes.set_xlabel("devices, one lane each", fontsize=10)
    axes.set_ylabel("speedup: rows per second over one device", fontsize=10)
    axes.set_xticks(counts)
    axes.set_xlim(low, high)
    axes.set_ylim(0, top)
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9.5, colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="upper left", fontsize=9, frameon=False)


def one_rate(one: Point) -> float:
    """What a speedup is for each row a second: speedups of the curve over its rates."""
    return one.speedup / one.rows_per_second
