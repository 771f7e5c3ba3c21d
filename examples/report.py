"""Prints the table of docs/examples.md from the results of their runs, and draws their learning curves.

`python examples/report.py [--figure FILE] [FOLDER ...]` reads every `result.json` below the folders (by default
`runs`). It groups runs by the name of their folder without the seed, so `runs/dqn_cartpole_0` to `runs/dqn_cartpole_4`
make one row. The rest of the name has the options: `runs/t_maze_no_memory_0` is a run with `--no-memory`,
`runs/dqn_atari_game_breakout_recipe_fast_0` one with `--game breakout --recipe fast`, and `runs/keras_any_jax_0` one
with `KERAS_BACKEND=jax`. A second table says after how many steps each seed reached the goal first, for runs that
played greedy episodes all the time and whose task has a goal. `--figure` takes the name of a .png or .svg.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from really.metrics.comparison import smoothed
from really.metrics.curves import STEP

HEADER = (
    "| example | task | seeds | mean return, or successes, of each | environment steps | updates | wall seconds |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)
REACHED = (
    "| example | goal | environment steps until each seed reached it |",
    "| --- | --- | --- |",
)
# The return, or the part of successful episodes, that solves each task, drawn as a line.
GOALS = {
    "CartPole-v1": 475.0,
    "Acrobot-v1": -90.0,
    "LunarLanderContinuous-v3": 230.0,
    "Pendulum-v1": -180.0,
    "gridworld": -18.0,
    "bit flipping, 15 bits": 0.95,
    "T-maze of length 20": 0.95,
    "FetchReach-v4": 0.95,
    "pong, pixels": 18.0,
}
# In the name of a folder: the options that the run was made with.
WITHOUT = "_no_"
VALUES = re.compile(r"_(game|recipe|precision)_(.+?)(?=_recipe_|_precision_|$)")
BACKEND = "keras_any_"
SMOOTHED, POINTS = 10, 200
RETURNS = ("epoch", "reward.")


def runs_by_example(folders: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Results by example, in the order of seeds."""
    found = defaultdict(list)
    for path in (path for folder in folders for path in folder.rglob("result.json")):
        result = json.loads(path.read_text())
        found[path.parent.name.removesuffix(f"_{result['seed']}")].append(result | {"folder": path.parent})
    return {name: sorted(runs, key=lambda run: run["seed"]) for name, runs in sorted(found.items())}


def row(example: str, runs: list[dict[str, Any]]) -> str:
    """One line of the table: every seed's score, and the range of steps, updates and seconds."""
    cells = [
        f"`{command(example)}`",
        ", ".join(sorted({run["task"] for run in runs})),
        ", ".join(str(run["seed"]) for run in runs),
        ", ".join(map(score, runs)),
        *(span([run[name] for run in runs]) for name in ("env_steps", "updates", "wall_seconds")),
    ]
    return f"| {' | '.join(cells)} |"


def command(example: str) -> str:
    """The script of an example, with the backend or the option that the folder's name tells."""
    if example.startswith(BACKEND):
        return f"KERAS_BACKEND={example.removeprefix(BACKEND)} examples/keras_any.py"
    script, without, what = example.partition(WITHOUT)
    options = [f" --{name} {value}" for name, value in VALUES.findall(script)]
    if without:
        options.append(f" --no-{what.replace('_', '-')}")
    return f"examples/{VALUES.sub('', script)}.py{''.join(options)}"


def score(run: dict[str, Any]) -> str:
    if "success" in run:
        return f"{100 * run['success']:.1f} %"
    return f"{run['mean_return']:.1f} ± {run['std_return']:.1f}"


def reached(example: str, runs: list[dict[str, Any]]) -> str:
    """One line of the second table: the steps after which the test of each seed was at the goal first."""
    goal, first = GOALS[runs[0]["task"]], []
    for run in runs:
        steps, scores = learning_curve(run)
        at_goal = steps[scores >= goal]
        first.append(f"{at_goal[0]:,.0f}" if len(at_goal) else "never")
    shown = f"{100 * goal:.0f} %" if "success" in runs[0] else f"{goal:g}"
    return f"| `{command(example)}` | {shown} | {', '.join(first)} |"


def tests_all_the_time(run: dict[str, Any]) -> bool:
    """Whether each row of a run's curve is a test, at the number of steps in its column `step`."""
    return STEP in read_curve(run)[0]


def read_curve(run: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of `progress.csv`; one empty row if there is no such file."""
    path = run["folder"] / "progress" / "progress.csv"
    if not path.exists():
        return [{}]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def span(values: list[float]) -> str:
    """Smallest and largest value, rounded; one number if they are equal."""
    least, largest = (f"{value:,.0f}" for value in (min(values), max(values)))
    return least if least == largest else f"{least} to {largest}"


def learning_curve(run: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Environment steps `[point]`, and the mean return of recent episodes, or the successes of a test, `[point]`.

    With a column `step` each row of `progress.csv` is a test of greedy episodes. Else every row that has more than
    returns stands for the same number of steps, and a row in which no episode ended has no return.
    """
    rows = read_curve(run)
    if STEP in rows[0]:
        key = "success.mean" if "success" in run else "reward.mean"
        return np.array([float(row[STEP]) for row in rows]), np.array([float(row[key]) for row in rows])
    trained = np.cumsum([any(row[name] for name in row if not name.startswith(RETURNS)) for row in rows])
    before = run.get("warm_up_steps", 0)
    steps = before + (run["env_steps"] - before) * trained / trained[-1]
    returns = np.array([float(row["reward.mean"] or "nan") for row in rows])
    steps, returns = steps[~np.isnan(returns)], returns[~np.isnan(returns)]
    if not len(returns):
        path = run["folder"] / "progress" / "progress.csv"
        sys.exit(f"report: expected returns of episodes in {path}, got none: no episode ended in training")
    if "tested" in run:
        return steps, returns
    return steps, smoothed(returns, SMOOTHED)


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """One panel per example: the curve of every seed, their mean and spread, and the greedy episodes after training."""
    from matplotlib.figure import Figure

    from really.metrics.plots import COLOURS, INK

    panels_of = defaultdict(list)
    for example, runs in found.items():
        panels_of[example.partition(WITHOUT)[0]].append((example, runs))
    rows, columns = -(-len(panels_of) // 2), min(2, len(panels_of))
    size = max(4.8 * columns, 7.2), 0.9 + 2.8 * rows  # the legend needs a width of 7.2
    figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for number, (panel, (script, variants)) in enumerate(zip(panels, panels_of.items(), strict=False)):
        for more, (example, runs) in enumerate(variants):
            draw_example(panel, COLOURS[(more if len(variants) > 1 else number) % len(COLOURS)], runs)
            panel.lines[-2].set_label(command(example).partition("py ")[2] or f"{script}.py")
        if len(variants) > 1:
            panel.legend(frameon=False, fontsize=9, labelcolor=INK)
        runs = variants[0][1]
        tested = f", {runs[0]['tested']}" if "tested" in runs[0] else ""
        made_by = command(script).removeprefix("examples/")
        panel.set_title(f"{runs[0]['task']} ({made_by}){tested}", fontsize=11, color=INK)
    for panel in panels[len(panels_of) :]:
        panel.set_axis_off()
    explores = not all("tested" in run or tests_all_the_time(run) for runs in found.values() for run in runs)
    handles = legend(f"exploring (mean of {SMOOTHED} calls)" if explores else "greedy episodes in between")
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    figure.savefig(path)


def draw_example(panel: Any, colour: str, runs: list[dict[str, Any]]) -> None:
    from really.metrics.plots import FAINT, INK

    curves = [learning_curve(run) for run in runs]
    grid = np.linspace(max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves), POINTS)
    together = np.stack([np.interp(grid, *curve) for curve in curves])
    mean, spread = together.mean(axis=0), together.std(axis=0)
    panel.fill_between(grid, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
    for run, (steps, returns) in zip(runs, curves, strict=True):
        panel.plot(steps, returns, color=colour, alpha=0.45, linewidth=0.9)
        panel.plot(
            run["env_steps"],
            run.get("success", run.get("mean_return")),
            "o",
            color=colour,
            markersize=4.5,
            markeredgecolor="white",
        )
    panel.plot(grid, mean, color=colour, linewidth=2.2)
    panel.axhline(GOALS.get(runs[0]["task"], np.nan), color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    panel.set_xlabel("environment steps", color=INK)
    successes = "part of episodes that succeed"
    label = successes if "success" in runs[0] else "return of an episode (sum of rewards)"
    panel.set_ylabel(label, color=INK, fontsize=9)
    panel.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:g}k" if steps else "0")
    panel.grid(axis="y", color=FAINT, linewidth=0.7)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(colors=INK, labelsize=9)


def legend(curve: str) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from really.metrics.plots import INK

    return [
        Line2D([], [], color=INK, alpha=0.45, linewidth=0.9, label=f"one seed, {curve}"),
        Line2D([], [], color=INK, linewidth=2.2, label="mean over seeds, while all were training"),
        Line2D([], [], color=INK, linestyle="none", marker="o", markersize=4.5, label="greedy episodes in the end"),
        Patch(color=INK, alpha=0.18, linewidth=0, label="± 1 standard deviation over seeds"),
        Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="to reach"),
    ]


def main() -> None:
    """Prints the table, or an error if there are no results; draws the figure if `--figure` is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", default=["runs"], help="folders with runs (default: runs)")
    parser.add_argument("--figure", type=Path, default=None, help="draw learning curves to this file")
    arguments = parser.parse_args()
    found = runs_by_example(map(Path, arguments.folders))
    if not found:
        where = ", ".join(arguments.folders)
        sys.exit(f"report: expected result.json files below {where}, found none; run an example first")
    print("\n".join([*HEADER, *(row(example, runs) for example, runs in found.items())]))
    with_goal = {example: runs for example, runs in found.items() if runs[0]["task"] in GOALS}
    tested = {example: runs for example, runs in with_goal.items() if all(map(tests_all_the_time, runs))}
    if tested:
        print("\n".join(["", *REACHED, *(reached(example, runs) for example, runs in tested.items())]))
    if arguments.figure is not None:
        draw(found, arguments.figure)


if __name__ == "__main__":
    main()
