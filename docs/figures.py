"""Draws the figures of the README: `.venv/bin/python docs/figures.py [FOLDER]` writes architecture.svg and .png."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

INK, QUIET = "#222222", "#555555"
# Tints and lines of the Okabe-Ito colours, one a place that the data can be in.
DRIVER, MEMORY, RUNNERS = ("#E6F0F8", "#0072B2"), ("#FDF1DC", "#B87A00"), ("#E2F3EE", "#00795A")
TITLE, DETAIL, LABEL = 10.8, 9.0, 9.0
WIDTH, HEIGHT = 109.0, 53.0


@dataclass(frozen=True)
class Box:
    """A rectangle by its lower left corner and size, in the figure's own units."""

    x: float
    y: float
    width: float
    height: float

    def side(self, x: float, y: float) -> tuple[float, float]:
        """A point of the box: (0, 0) is its lower left corner, (1, 1) its upper right one."""
        return self.x + x * self.width, self.y + y * self.height


PLACES = {
    "your process": (Box(1, 1.5, 59, 50), DRIVER),
    "shared memory": (Box(65.5, 1.5, 15.5, 25.5), MEMORY),
    "Ray actors, one a CPU": (Box(86.5, 1.5, 21.5, 50), RUNNERS),
}
LEARNER, MANAGER, FLEET = Box(3, 4.5, 14.5, 41), Box(24.5, 31.5, 16, 14), Box(45, 31.5, 13, 14)
BUFFER, STORE, RUNNER = Box(24.5, 4.5, 33.5, 18), Box(67, 4.5, 12.5, 18), Box(90, 4.5, 16.5, 41)
STEPS = (
    ("model", "one forward pass for all"),
    ("policy", "actions, log-probabilities"),
    ("environments", "one batched step"),
    ("transitions", "Arrow record batch"),
)


def architecture() -> Figure:
    """The way of the data: from the learner's weights through the runners back to its training batches."""
    figure = Figure(figsize=(WIDTH / 10, HEIGHT / 10), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.set_axis_off()
    for name, (box, (tint, line)) in PLACES.items():
        _place(axes, box, name, tint, line)
    _box(axes, LEARNER, "learner", ["your training loop,", "TensorFlow"], DRIVER[1])
    _box(axes, MANAGER, "SampleManager", ["the API: get_data,", "store_in_buffer,", "sample, test, ..."], DRIVER[1])
    _box(axes, FLEET, "Fleet", ["starts, feeds and", "restarts runners;", "back-pressure"], DRIVER[1])
    _box(axes, BUFFER, "ReplayBuffer", ["compiled ring: one record a transition"], DRIVER[1])
    _box(axes, STORE, "object store", ["Arrow batches,", "thousands of", "rows each"], MEMORY[1])
    _step(axes, Box(LEARNER.x + 1, 21, LEARNER.width - 2, 7.5), "Agent", "act, q_val, max_q", DRIVER[0])
    _draw_ring(axes)
    _draw_runners(axes)
    _draw_arrows(axes)
    return figure


def _draw_ring(axes: Axes) -> None:
    """The buffer's records, with the write head between the newest and the oldest."""
    count, head, width = 15, 9, 2.0
    left, bottom = BUFFER.x + (BUFFER.width - count * width) / 2, BUFFER.y + 5.2
    for number in range(count):
        tint = DRIVER[1] if number < head else "#9CC4E0"
        axes.add_patch(Rectangle((left + number * width, bottom), width - 0.35, 3.2, facecolor=tint, linewidth=0))
    x = left + head * width - 0.17
    axes.plot([x, x], [bottom - 1.3, bottom + 3.9], color=INK, linewidth=1.4, solid_capstyle="butt")
    axes.text(x - 0.6, bottom - 2.9, "newest", ha="right", fontsize=DETAIL - 1, color=QUIET)
    axes.text(x + 0.6, bottom - 2.9, "oldest", ha="left", fontsize=DETAIL - 1, color=QUIET)


def _draw_runners(axes: Axes) -> None:
    """A stack of runners, the front one open: what one of them does at each step."""
    for offset in (1.6, 0.8):
        behind = Box(RUNNER.x - offset, RUNNER.y + offset, RUNNER.width, RUNNER.height)
        _rounded(axes, behind, "white", RUNNERS[1], 1.0)
    _box(axes, RUNNER, "Runner", [], RUNNERS[1])
    height, gap = 6.6, 2.0
    for number, (title, detail) in enumerate(STEPS):
        step = Box(RUNNER.x + 1, RUNNER.y + 1.4 + (3 - number) * (height + gap), RUNNER.width - 2, height)
        _step(axes, step, title, detail, RUNNERS[0])
        if number:
            _arrow(axes, (step.x + step.width / 2, step.y + height + gap), step.side(0.5, 1), RUNNERS[1], 1.2)


def _draw_arrows(axes: Axes) -> None:
    blue, orange, green = DRIVER[1], MEMORY[1], RUNNERS[1]
    _arrow(axes, (LEARNER.side(1, 0)[0], 38.5), MANAGER.side(0, 0.5), blue, label="weights")
    _arrow(axes, MANAGER.side(1, 0.5), FLEET.side(0, 0.5), blue)
    _arrow(axes, FLEET.side(1, 0.5), (RUNNER.x - 1.6, 38.5), blue, label="weights and settings,\norders queued ahead")
    _arrow(axes, (RUNNER.x, STORE.side(0, 0.5)[1]), STORE.side(1, 0.5), green, label="put", dx=-2.2)
    _arrow(axes, STORE.side(0, 0.5), BUFFER.side(1, 0.5), orange, label="one\nscatter", dx=0.1)
    _arrow(axes, BUFFER.side(0, 0.5), (LEARNER.side(1, 0)[0], BUFFER.side(0, 0.5)[1]), blue, label="training\nbatches")
    _arrow(axes, MANAGER.side(0.5, 0), (MANAGER.side(0.5, 0)[0], BUFFER.side(0, 1)[1]), blue, 1.2)


def _place(axes: Axes, box: Box, name: str, tint: str, line: str) -> None:
    _rounded(axes, box, tint, tint, 0.0)
    x, y = box.side(0, 1)
    axes.text(x + 1.5, y - 1.3, name, ha="left", va="top", fontsize=LABEL, color=line, fontweight="bold")


def _box(axes: Axes, box: Box, title: str, details: list[str], line: str) -> None:
    _rounded(axes, box, "white", line, 1.4)
    x, y = box.side(0.5, 1)
    axes.text(x, y - 1.7, title, ha="center", va="top", fontsize=TITLE, color=INK, fontweight="bold")
    text = "\n".join(details)
    axes.text(x, y - 5.2, text, ha="center", va="top", fontsize=DETAIL, color=QUIET, linespacing=1.25)


def _step(axes: Axes, box: Box, title: str, detail: str, tint: str) -> None:
    _rounded(axes, box, tint, tint, 0.0)
    axes.text(*box.side(0.5, 0.66), title, ha="center", va="center", fontsize=DETAIL + 1, color=INK)
    axes.text(*box.side(0.5, 0.27), detail, ha="center", va="center", fontsize=DETAIL - 1, color=QUIET)


def _rounded(axes: Axes, box: Box, fill: str, line: str, width: float) -> None:
    style = "round,pad=0,rounding_size=1"
    patch = FancyBboxPatch(
        (box.x, box.y), box.width, box.height, boxstyle=style, facecolor=fill, edgecolor=line, linewidth=width
    )
    axes.add_patch(patch)


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    width: float = 2.0,
    label: str = "",
    dx: float = 0.0,
) -> None:
    style = "-|>,head_length=5,head_width=3" if width > 1.5 else "-|>,head_length=3.5,head_width=2.2"
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle=style, color=colour, linewidth=width, shrinkA=1.5, shrinkB=1.5)
    )
    middle = (start[0] + end[0]) / 2 + dx
    axes.text(middle, start[1] + 1.1, label, ha="center", va="bottom", fontsize=LABEL, color=INK, linespacing=1.15)


def main(folder: Path) -> None:
    """Writes every figure as SVG and PNG; the same bytes each time."""
    with matplotlib.rc_context({"svg.hashsalt": "really"}):
        figure = architecture()
        figure.savefig(folder / "architecture.svg", metadata={"Date": None})
        figure.savefig(folder / "architecture.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
