"""Figures of training progress, drawn with matplotlib's object interface: no window, no global state."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from really._utils.atomic_files import check_replaceable, replacing
from really._utils.packages import check_installed
from really.metrics.curves import STEP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from really.metrics.curves import ComparedCurve, Curve

# Okabe and Ito, "Color universal design" (2008): colour-blind readers can tell these colours apart, also in print. The
# yellow is left out: it is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, FAINT = "#333333", "#DDDDDD"
# Suffixes of a figure's files, and the first bytes of each file.
MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml"}
# Most characters that fit beside the height of a panel: in a figure of progress, and in a comparison.
LONGEST_LINE, LONGEST_ALONE = 24, 40
# More points cannot be seen apart at the width of a panel, and would make the vector file large.
MOST_POINTS = 1500


def draw_progress(curves: Sequence[Curve], stem: Path) -> None:
    """Draws one panel per curve: smoothed, with its spread, over the raw values; replaces `<stem>.png` and `.svg`."""
    columns = 1 if len(curves) <= 3 else 2
    rows = -(-len(curves) // columns)
    figure = _new_figure(6.4 * columns, 0.7 + 2.4 * rows)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel(order="C")
    for number, (panel, curve) in enumerate(zip(panels, curves, strict=False)):
        _draw_curve(panel, curve, COLOURS[number % len(COLOURS)])
    if len(shown := {x for curve in curves for x in curve.x}) == 1:
        # Matplotlib needs more than one point for ticks at whole numbers.
        panels[0].set_xlim(min(shown) - 1, min(shown) + 1)
    for panel in panels[len(curves) :]:
        panel.set_axis_off()
    x_label = STEP if any(curve.steps for curve in curves) else "epoch (updates of the aggregator)"
    for panel in panels[max(0, len(curves) - columns) : len(curves)]:
        panel.set_xlabel(x_label, color=INK)
        panel.tick_params(labelbottom=True)
    _add_legend(figure, curves[0].window)
    write(figure, stem)


def write(figure: Figure, stem: Path) -> None:
    """Writes `<stem>.png` and `<stem>.svg`, each complete or not at all. Raises FileError if that fails."""
    for suffix, magic in MAGIC.items():
        with replacing(stem.with_name(stem.name + suffix), magic, "a figure") as file:
            figure.savefig(file, format=suffix[1:], metadata={"Date": None} if suffix == ".svg" else None)
        # The first file has computed the layout. To compute it again would take a quarter of the time.
        figure.set_layout_engine("none")


def check_figure(argument: str, stem: Path) -> None:
    """Raises an error that names `argument` if the figure would replace something else, or matplotlib is missing.

    Raises:
        InvalidValueError: there is a file, and it is no figure.
        MissingPackageError: matplotlib is not installed.
    """
    check_installed("matplotlib", argument, "matplotlib for its figure", "plots")
    for suffix, magic in MAGIC.items():
        check_replaceable(stem.with_name(stem.name + suffix), magic, "a figure", argument)


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _draw_curve(panel: Axes, curve: Curve, colour: str) -> None:
    points = len(curve.epochs)
    shown = np.linspace(0, points - 1, min(points, MOST_POINTS)).astype(np.intp)
    columns = (curve.x, curve.means, curve.smoothed, curve.bands)
    epochs, raw, smoothed, band = (np.asarray(column, np.float64)[shown] for column in columns)
    panel.fill_between(epochs, smoothed - band, smoothed + band, color=colour, alpha=0.18, linewidth=0)
    panel.plot(epochs, raw, ".", markersize=4.5, markeredgewidth=0, color=colour, alpha=0.5)
    panel.plot(epochs, smoothed, color=colour, linewidth=1.8, solid_joinstyle="round")
    _style(panel, curve.label)
    if not np.isfinite(raw).any():
        _write_in_panel(panel, "no value is finite" if points else "no values yet")
        return
    _label_last(panel, curve, colour)


def _write_in_panel(panel: Axes, text: str) -> None:
    panel.set_yticks([])
    panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", color=INK, fontsize=9)


def _label_last(panel: Axes, curve: Curve, colour: str) -> None:
    """Writes the newest smoothed value to the right of the curve's end."""
    panel.annotate(
        f"{curve.smoothed[-1]:.3g}".replace("-", "−"),  # noqa: RUF001 - the minus that the axes have
        (curve.x[-1], curve.smoothed[-1]),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=9,
        fontweight="bold",
        annotation_clip=False,
    )


def _style(panel: Axes, name: str, longest: int = LONGEST_LINE) -> None:
    panel.set_ylabel(_wrapped(name, longest), color=INK, fontsize=11, parse_math=False)
    panel.grid(axis="y", color=FAINT, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.margins(x=0.01)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(INK)
    panel.tick_params(colors=INK, labelsize=9)
    panel.locator_params(axis="x", integer=True)


def _wrapped(label: str, longest: int) -> str:
    """A label in lines of at most `longest` characters, broken after spaces, underscores, slashes and dots."""
    lines = [""]
    for part in re.findall(rf"[^\s_/.]{{1,{longest}}}[\s_/.]*|[\s_/.]+", label):
        if len(lines[-1] + part.rstrip()) > longest:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip(" ") for line in lines)


def _add_legend(figure: Figure, window: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    updates = "update" if window == 1 else f"{window} updates"
    handles = [
        Line2D([], [], color=INK, linestyle="none", marker=".", alpha=0.6, label="one update"),
        Line2D([], [], color=INK, linewidth=1.8, label=f"mean of the last {updates}"),
        Patch(color=INK, alpha=0.18, linewidth=0, label="± 1 standard deviation of their values"),
    ]
    style = {"frameon": False, "fontsize": 9, "labelcolor": INK, "columnspacing": 1.4, "handlelength": 1.6}
    figure.legend(handles=handles, loc="outside lower center", ncols=3, **style)


# Dashes tell the curves apart in black and white.
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
LABEL_HEIGHT = 0.058


def draw_comparison(
    curves: Mapping[str, ComparedCurve], stem: Path, statistic: str, confidence: float, *, x_label: str, y_label: str
) -> None:
    """Draws one curve per experiment, with its interval and its name; replaces `<stem>.png` and `.svg`."""
    figure = _new_figure(7.2, 4.0)
    panel = figure.subplots()
    for number, curve in enumerate(curves.values()):
        colour = COLOURS[number % len(COLOURS)]
        panel.fill_between(curve.epochs, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
        # A line through one point is invisible.
        marker = "o" if len(curve.epochs) == 1 else None
        dashes = DASHES[number % len(DASHES)]
        panel.plot(curve.epochs, curve.mean, color=colour, linewidth=1.8, linestyle=dashes, marker=marker)
    _style(panel, y_label, LONGEST_ALONE)
    panel.set_xlabel(x_label, color=INK, fontsize=11, parse_math=False)
    _name_curves(panel, curves)
    band = f"band: {confidence:.0%} bootstrap interval over seeds"
    panel.set_title(f"{statistic} over seeds; {band}", fontsize=9, color=INK, loc="left")
    write(figure, stem)


def _name_curves(panel: Axes, curves: Mapping[str, ComparedCurve]) -> None:
    """Writes the names to the right of the panel, in the order of the curves' ends and without overlap."""
    low, high = panel.get_ylim()
    ends = [(float((curve.mean[-1] - low) / (high - low)), name) for name, curve in curves.items()]
    numbers = {name: number for number, name in enumerate(curves)}
    places = _without_overlap([end for end, _ in sorted(ends)])
    for place, (end, name) in zip(places, sorted(ends), strict=True):
        colour, curve = COLOURS[numbers[name] % len(COLOURS)], curves[name]
        x = panel.transLimits.transform((curve.epochs[-1], 0))[0]
        panel.plot([x, 1.015], [end, place], transform=panel.transAxes, color=colour, linewidth=0.6, clip_on=False)
        panel.text(
            1.02,
            place,
            f"{name} ({curve.seeds_shown})",
            transform=panel.transAxes,
            va="center",
            color=colour,
            fontsize=9,
            fontweight="bold",
            parse_math=False,
        )


def _without_overlap(places: Sequence[float]) -> list[float]:
    """Moves rising places up, and then down again from the top, until labels there do not overlap."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + LABEL_HEIGHT) if moved else place)
    highest = 1.0
    for at in reversed(range(len(moved))):
        moved[at] = min(moved[at], highest)
        highest = moved[at] - LABEL_HEIGHT
    return moved
