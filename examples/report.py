"""Prints the README's table rows from what examples left behind: `python examples/report.py [FOLDER ...]`.

Reads every `result.json` below the folders (by default `runs`) and groups the runs by example, that is by the name of
the run's folder without its seed: `runs/dqn_cartpole_0` to `runs/dqn_cartpole_4` make one row.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEADER = (
    "| example | task | seeds | mean return of each | environment steps | updates | wall seconds |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


def runs_by_example(folders: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Results by example, in the order of seeds."""
    found = defaultdict(list)
    for path in (path for folder in folders for path in folder.rglob("result.json")):
        result = json.loads(path.read_text())
        found[path.parent.name.removesuffix(f"_{result['seed']}")].append(result)
    return {name: sorted(runs, key=lambda run: run["seed"]) for name, runs in sorted(found.items())}


def row(example: str, runs: list[dict[str, Any]]) -> str:
    """One line of the table: every seed's score, and the span of what the runs took."""
    cells = [
        f"`examples/{example}.py`",
        ", ".join(sorted({run["task"] for run in runs})),
        ", ".join(str(run["seed"]) for run in runs),
        ", ".join(f"{run['mean_return']:.1f} ± {run['std_return']:.1f}" for run in runs),
        *(span([run[name] for run in runs]) for name in ("env_steps", "updates", "wall_seconds")),
    ]
    return f"| {' | '.join(cells)} |"


def span(values: list[float]) -> str:
    """Least and largest value, rounded; one number where they agree."""
    least, largest = (f"{value:,.0f}" for value in (min(values), max(values)))
    return least if least == largest else f"{least} to {largest}"


def main(folders: list[str]) -> None:
    """Prints the table, or says where it looked in vain."""
    found = runs_by_example(map(Path, folders))
    if not found:
        sys.exit(f"report: expected result.json files below {', '.join(folders)}, found none; run an example first")
    print("\n".join([*HEADER, *(row(example, runs) for example, runs in found.items())]))


if __name__ == "__main__":
    main(sys.argv[1:] or ["runs"])
