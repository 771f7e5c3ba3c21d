"""plot: draws the values of an aggregator again, from its folder."""

from __future__ import annotations

import argparse

from really.cli.sources import path_of

EXAMPLES = """really plot runs/dqn/progress
really plot runs/dqn/progress -o curves.png --smooth 20
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "path", metavar="PATH", type=path_of, help="the folder of an aggregator or a run, or its .csv file"
    )
    parser.add_argument("-o", "--out", metavar="FIGURE", help="where to, .png and .svg (default: beside the values)")
    parser.add_argument("--smooth", type=int, default=5, metavar="N", help="updates to average over (default: 5)")


def run(given: argparse.Namespace) -> None:
    """Draws the figure and prints its path."""
    from really._utils.checks import checked_integer
    from really.metrics.comparison import csv_in, figure_stem
    from really.metrics.curves import read_curves
    from really.metrics.plots import draw_progress

    window = checked_integer("--smooth", given.smooth)
    file = given.path if given.path.is_file() else csv_in("PATH", given.path)
    stem = figure_stem(given.out or file.with_suffix(""))
    draw_progress(read_curves(file, window), stem)
    print(f"{stem}.png")
