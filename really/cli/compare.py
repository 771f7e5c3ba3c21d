"""compare: compares learning curves of several experiments over their seeds."""

from __future__ import annotations

import argparse
from collections import Counter

from really.errors import InvalidValueError

EXAMPLES = """really compare dqn=runs/dqn_0,runs/dqn_1 ddqn=runs/ddqn_0,runs/ddqn_1 --key episode_return --x step
really compare runs/a runs/b -o comparison.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("runs", nargs="+", metavar="NAME=DIR[,DIR...]", help="an experiment: its seeds' folders")
    parser.add_argument("--key", default="reward", help="key of the aggregator (default: reward)")
    parser.add_argument("--x", default="epoch", help="x-axis: epoch, step or a key (default: epoch)")
    parser.add_argument("--statistic", default="mean", help="over the seeds: mean, median or iqm")
    parser.add_argument("-o", "--out", metavar="FIGURE", help="draw it, .png and .svg")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(given: argparse.Namespace) -> None:
    """Prints where the curves end."""
    from really.cli.output import show
    from really.metrics.comparison import compare, figure_stem

    pairs = [run.partition("=")[::2] for run in given.runs]
    named = dict(pairs)
    if any(named.values()) and not all(named.values()):
        raise InvalidValueError(f"runs: expected NAME=DIR for all or for none, got {' '.join(given.runs)}")
    twice = next((name for name, count in Counter(name for name, _ in pairs).items() if count > 1), None)
    if twice is not None and all(named.values()):
        seeds = ",".join(folders for name, folders in pairs if name == twice)
        raise InvalidValueError(
            f"runs: expected each name once, got {twice!r} twice; {twice}={seeds} are several seeds of it"
        )
    runs = {name: folders.split(",") for name, folders in named.items()} if all(named.values()) else given.runs
    found = compare(runs, given.key, x=given.x, statistic=given.statistic, path=given.out)
    if not given.json:
        print(found)
        if given.out is not None:
            print(f"{figure_stem(given.out)}.png")
        return
    ends = {
        name: {"end": curve.mean[-1], "low": curve.low[-1], "high": curve.high[-1], "seeds": len(curve.seeds)}
        for name, curve in found.curves.items()
    }
    show({"key": given.key, "x": given.x, "statistic": given.statistic, "curves": ends}, as_json=True)
