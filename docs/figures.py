"""Draws the figure of the README: `.venv/bin/python docs/figures.py [FOLDER]` writes architecture.svg and .png."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

INK, QUIET, FAINT = "#222222", "#555555", "#F2F2F2"
# Tints and lines of the Okabe-Ito colours, one for each place in which the data can be.
DRIVER, MEMORY, RUNNERS = ("#E6F0F8", "#0072B2"), ("#FDF1DC", "#B87A00"), ("#E2F3EE", "#00795A")
TITLE, DETAIL, LABEL, WING = 10.8, 9.0, 9.0, 8.4
MONO = "DejaVu Sans Mono"
WIDTH, HEIGHT = 109.0, 79.0


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
    "your process": (Box(1, 22.5, 59, 55), DRIVER),
    "shared memory": (Box(65.5, 22.5, 15.5, 30.5), MEMORY),
    "Ray actors, one per CPU": (Box(86.5, 22.5, 21.5, 55), RUNNERS),
}
LEARNER, MANAGER, FLEET = Box(3, 25, 14.5, 47.5), Box(24.5, 56, 16, 16.5), Box(45, 56, 13, 16.5)
BUFFER, STORE, RUNNER = Box(24.5, 25, 33.5, 25), Box(67, 25, 12.5, 22.5), Box(90, 25, 16.5, 47.5)
DATA, WEIGHTS = 30.2, 64.0  # heights of the arrows
STEPS = (
    ("forward pass", "one for all agents", "policies"),
    ("actions", "with log-probabilities", "policies"),
    ("environments", "one batched step", "envs"),
    ("transitions", "Arrow record batch", "data"),
)
PARTS = (
    ("sample unit", "one step, n steps"),
    ("sampler", "uniform, priority"),
    ("storage", "memory, files"),
)
WINGS = Box(1, 1, 107, 18.5)
ORDER = (
    ("errors",),
    ("_utils", "_ray"),
    ("data", "metrics"),
    ("replay", "envs", "policies"),
    ("checkpoints",),
    ("agents", "collectors", "service", "evaluation"),
    ("manager",),
    ("learners",),
    ("cli",),
)


def architecture() -> Figure:
    """The data flow, from the learner's weights through the runners back to its batches; and the order of the wings."""
    figure = Figure(figsize=(WIDTH / 10, HEIGHT / 10), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.set_axis_off()
    for name, (box, (tint, line)) in PLACES.items():
        _place(axes, box, name, tint, line)
    blue = DRIVER[1]
    _box(axes, LEARNER, "learner", "", ["your training loop"], blue)
    _box(
        axes, MANAGER, "SampleManager", "manager", ["the API: get_data,", "store_in_buffer,", "sample, test, ..."], blue
    )
    _box(axes, FLEET, "Fleet", "collectors", ["starts, feeds,", "restarts runners"], blue)
    _box(axes, BUFFER, "ReplayBuffer", "replay", [], blue)
    _box(axes, STORE, "object store", "", ["Arrow batches,", "thousands of", "rows each"], MEMORY[1])
    inner = Box(LEARNER.x + 1, 0, LEARNER.width - 2, 8.6)
    _step(axes, replace(inner, y=48.5), "Agent", "act, q_val, max_q", "agents", DRIVER)
    _step(axes, replace(inner, y=36.5), "update", "DQN, PPO, A2C", "learners", DRIVER)
    _draw_ring(axes)
    _draw_runners(axes)
    _draw_arrows(axes)
    _draw_wings(axes)
    return figure


def _draw_ring(axes: Axes) -> None:
    """The parts of a buffer, and its records, with the write head between the newest and the oldest."""
    width, gap = 10.3, 0.6
    for number, (title, detail) in enumerate(PARTS):
        part = Box(BUFFER.x + 0.7 + number * (width + gap), BUFFER.y + 11.5, width, 6.6)
        _step(axes, part, title, detail, "", DRIVER)
    count, head, width = 15, 9, 2.0
    left, bottom = BUFFER.x + (BUFFER.width - count * width) / 2, DATA - 1.6
    for number in range(count):
        tint = DRIVER[1] if number < head else "#9CC4E0"
        axes.add_patch(Rectangle((left + number * width, bottom), width - 0.35, 3.2, facecolor=tint, linewidth=0))
    x = left + head * width - 0.17
    axes.plot([x, x], [bottom - 0.9, bottom + 4.1], color=INK, linewidth=1.4, solid_capstyle="butt")
    axes.text(x - 0.6, bottom - 2.5, "newest", ha="right", fontsize=DETAIL - 1, color=QUIET)
    axes.text(x + 0.6, bottom - 2.5, "oldest", ha="left", fontsize=DETAIL - 1, color=QUIET)
    axes.text(
        *BUFFER.side(0.5, 0.385), "compiled ring: one record per transition", ha="center", fontsize=DETAIL, color=QUIET
    )


def _draw_runners(axes: Axes) -> None:
    """A stack of runners, the front one open: what one of them does at each step."""
    for offset in (1.6, 0.8):
        behind = Box(RUNNER.x - offset, RUNNER.y + offset, RUNNER.width, RUNNER.height)
        _rounded(axes, behind, "white", RUNNERS[1], 1.0)
    _box(axes, RUNNER, "Runner", "collectors", [], RUNNERS[1])
    height, gap = 8.4, 1.9
    for number, (title, detail, wing) in enumerate(STEPS):
        step = Box(RUNNER.x + 1, RUNNER.y + 1.2 + (3 - number) * (height + gap), RUNNER.width - 2, height)
        _step(axes, step, title, detail, wing, RUNNERS)
        if number:
            _arrow(axes, (step.x + step.width / 2, step.y + height + gap), step.side(0.5, 1), RUNNERS[1], 1.2)


def _draw_arrows(axes: Axes) -> None:
    blue, orange, green = DRIVER[1], MEMORY[1], RUNNERS[1]
    right = LEARNER.side(1, 0)[0]
    _arrow(axes, (right, WEIGHTS), (MANAGER.x, WEIGHTS), blue, label="weights")
    _arrow(axes, (MANAGER.side(1, 0)[0], WEIGHTS), (FLEET.x, WEIGHTS), blue)
    label = "weights and settings,\norders queued ahead"
    _arrow(axes, (FLEET.side(1, 0)[0], WEIGHTS), (RUNNER.x - 1.6, WEIGHTS), blue, label=label)
    _arrow(axes, (RUNNER.x, DATA), (STORE.side(1, 0)[0], DATA), green, label="put", dx=-2.2)
    _arrow(axes, (STORE.x, DATA), (BUFFER.side(1, 0)[0], DATA), orange, label="one\nscatter", dx=0.1)
    _arrow(axes, (BUFFER.x, DATA), (right, DATA), blue, label="training\nbatches")
    _arrow(axes, MANAGER.side(0.5, 0), (MANAGER.side(0.5, 0)[0], BUFFER.side(0, 1)[1]), blue, 1.2)


def _draw_wings(axes: Axes) -> None:
    """The wings of the package in the order in which they may import each other."""
    _place(axes, WINGS, "wings of the package: each imports only wings to its left", FAINT, QUIET)
    width, height, gap = 10.4, 2.9, 0.55
    step = (WINGS.width - 4 - width) / (len(ORDER) - 1)
    middle = WINGS.y + 8.0
    for number, wings in enumerate(ORDER):
        x = WINGS.x + 2 + number * step
        bottom = middle - (len(wings) * (height + gap) - gap) / 2
        for row, wing in enumerate(reversed(wings)):
            chip = Box(x, bottom + row * (height + gap), width, height)
            _rounded(axes, chip, "white", "#BBBBBB", 0.9)
            axes.text(
                *chip.side(0.5, 0.47), wing, ha="center", va="center", fontsize=WING + 0.4, color=INK, family=MONO
            )
        if number:
            _arrow(axes, (x, middle), (x - step + width, middle), QUIET, 1.0)


def _place(axes: Axes, box: Box, name: str, tint: str, line: str) -> None:
    _rounded(axes, box, tint, tint, 0.0)
    x, y = box.side(0, 1)
    axes.text(x + 1.5, y - 1.3, name, ha="left", va="top", fontsize=LABEL, color=line, fontweight="bold")


def _box(axes: Axes, box: Box, title: str, wing: str, details: list[str], line: str) -> None:
    _rounded(axes, box, "white", line, 1.4)
    x, y = box.side(0.5, 1)
    axes.text(x, y - 1.7, title, ha="center", va="top", fontsize=TITLE, color=INK, fontweight="bold")
    if wing:
        axes.text(x, y - 4.6, f"{wing}/", ha="center", va="top", fontsize=WING, color=line, family=MONO)
    text = "\n".join(details)
    top = y - (7.7 if wing else 5.2)
    axes.text(x, top, text, ha="center", va="top", fontsize=DETAIL, color=QUIET, linespacing=1.25)


def _step(axes: Axes, box: Box, title: str, detail: str, wing: str, colours: tuple[str, str]) -> None:
    _rounded(axes, box, colours[0], colours[0], 0.0)
    heights = (0.78, 0.48, 0.19) if wing else (0.66, 0.27, 0.0)
    axes.text(*box.side(0.5, heights[0]), title, ha="center", va="center", fontsize=DETAIL + 1, color=INK)
    axes.text(*box.side(0.5, heights[1]), detail, ha="center", va="center", fontsize=DETAIL - 1, color=QUIET)
    if wing:
        name = f"{wing}/"
        axes.text(
            *box.side(0.5, heights[2]), name, ha="center", va="center", fontsize=WING, color=colours[1], family=MONO
        )


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
