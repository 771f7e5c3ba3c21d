"""Figures of training progress, drawn with matplotlib's object interface: no window, no global state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from really.aggregator import Curve
    from really.comparison import Comparison

# Okabe and Ito, "Color universal design" (2008): told apart by colour-blind readers, and in print. Without the yellow,
# which is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, FAINT = "#333333", "#DDDDDD"
# More points than this cannot be told apart at the width of a panel, and would make the vector file large.
MOST_POINTS = 1500


def draw_progress(curves: Sequence[Curve], stem: Path) -> None:
    """Draws one panel a curve: smoothed, with its spread, over the raw values; replaces `<stem>.png` and `.svg`."""
    columns = 1 if len(curves) <= 3 else 2
    rows = -(-len(curves) // columns)
    figure = _new_figure(6.4 * columns, 0.7 + 2.4 * rows)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel(order="C")
    for number, (panel, curve) in enumerate(zip(panels, curves, strict=False)):
        _draw_curve(panel, curve, COLOURS[number % len(COLOURS)])
    for panel in panels[len(curves) :]:
        panel.set_axis_off()
    for panel in panels[max(0, len(curves) - columns) : len(curves)]:
        panel.set_xlabel("epoch (updates of the aggregator)", color=INK)
        panel.tick_params(labelbottom=True)
    _add_legend(figure, curves[0].window)
    write(figure, stem)


def write(figure: Figure, stem: Path) -> None:
    """Writes `<stem>.png` and `<stem>.svg`, each under a temporary name first: a reader sees a whole file only."""
    for suffix in ("png", "svg"):
        partial = stem.with_name(f".{stem.name}.{os.getpid()}.{suffix}")
        try:
            figure.savefig(partial, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
            partial.replace(stem.with_name(f"{stem.name}.{suffix}"))
        finally:
            partial.unlink(missing_ok=True)
        # The first file has settled the layout; to settle it again would take a quarter of the time.
        figure.set_layout_engine("none")


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _draw_curve(panel: Axes, curve: Curve, colour: str) -> None:
    points = len(curve.epochs)
    shown = np.linspace(0, points - 1, min(points, MOST_POINTS)).astype(np.intp)
    columns = (curve.epochs, curve.means, curve.smoothed, curve.bands)
    epochs, raw, smoothed, band = (np.asarray(column, np.float64)[shown] for column in columns)
    panel.fill_between(epochs, smoothed - band, smoothed + band, color=colour, alpha=0.18, linewidth=0)
    panel.plot(epochs, raw, ".", markersize=4.5, markeredgewidth=0, color=colour, alpha=0.5)
    panel.plot(epochs, smoothed, color=colour, linewidth=1.8, solid_joinstyle="round")
    _style(panel, curve.label)
    if points:
        _label_last(panel, curve, colour)


def _label_last(panel: Axes, curve: Curve, colour: str) -> None:
    """Writes the newest smoothed value right of its curve's end."""
    panel.annotate(
        f"{curve.smoothed[-1]:.3g}",
        (curve.epochs[-1], curve.smoothed[-1]),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=9,
        fontweight="bold",
        annotation_clip=False,
    )


def _style(panel: Axes, name: str) -> None:
    panel.set_ylabel(name, color=INK, fontsize=11, parse_math=False)
    panel.grid(axis="y", color=FAINT, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.margins(x=0.01)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(INK)
    panel.tick_params(colors=INK, labelsize=9)
    panel.locator_params(axis="x", integer=True)


def _add_legend(figure: Figure, window: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    updates = "update" if window == 1 else f"{window} updates"
    handles = [
        Line2D([], [], color=INK, linestyle="none", marker=".", alpha=0.6, label="one update"),
        Line2D([], [], color=INK, linewidth=1.8, label=f"mean of the last {updates}"),
        Patch(color=INK, alpha=0.18, linewidth=0, label="± 1 standard deviation of their values"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=INK)


# Besides colours, which a copier loses: what tells curves apart in black and white.
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
LABEL_HEIGHT = 0.058


def draw_comparison(comparison: Comparison, stem: Path, x_label: str, y_label: str) -> None:
    """Draws one curve an experiment with its interval, its name at its end; replaces `<stem>.png` and `.svg`."""
    figure = _new_figure(7.2, 4.0)
    panel = figure.subplots()
    for number, curve in enumerate(comparison.curves.values()):
        colour = COLOURS[number % len(COLOURS)]
        panel.fill_between(curve.epochs, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
        panel.plot(curve.epochs, curve.mean, color=colour, linewidth=1.8, linestyle=DASHES[number % len(DASHES)])
    _style(panel, y_label)
    panel.set_xlabel(x_label, color=INK, fontsize=11, parse_math=False)
    _name_curves(panel, comparison)
    band = f"band: {comparison.confidence:.0%} bootstrap interval over seeds"
    panel.set_title(f"{comparison.statistic} over seeds; {band}", fontsize=9, color=INK, loc="left")
    write(figure, stem)


def _name_curves(panel: Axes, comparison: Comparison) -> None:
    """Names right of the panel, in the order of the curves' ends and never over each other."""
    low, high = panel.get_ylim()
    ends = [(float((curve.mean[-1] - low) / (high - low)), name) for name, curve in comparison.curves.items()]
    numbers = {name: number for number, name in enumerate(comparison.curves)}
    places = _spread([end for end, _ in sorted(ends)])
    for place, (end, name) in zip(places, sorted(ends), strict=True):
        colour, seeds = COLOURS[numbers[name] % len(COLOURS)], len(comparison.curves[name].seeds)
        number = f"{seeds} seeds" if seeds > 1 else "1 seed: no interval"
        x = panel.transLimits.transform((comparison.curves[name].epochs[-1], 0))[0]
        panel.plot([x, 1.015], [end, place], transform=panel.transAxes, color=colour, linewidth=0.6, clip_on=False)
        panel.text(
            1.02,
            place,
            f"{name} ({number})",
            transform=panel.transAxes,
            va="center",
            color=colour,
            fontsize=9,
            fontweight="bold",
            parse_math=False,
        )


def _spread(places: Sequence[float]) -> list[float]:
    """Places in rising order, moved up, and then down again from the top, until none covers its neighbour."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + LABEL_HEIGHT) if moved else place)
    highest = 1.0
    for at in reversed(range(len(moved))):
        moved[at] = min(moved[at], highest)
        highest = moved[at] - LABEL_HEIGHT
    return moved
