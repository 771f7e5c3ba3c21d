"""Compares the cells of bench/benchmarks in two commits: `python -m bench.turns BASE HEAD --cells 'sampling\\.'`.

Three processes take turns at each cell: one with BASE, one with HEAD, and one more with BASE, the control. The clock is
the CPU time of the process, and the least of all turns counts, so that other work on the machine shows little. The
control's ratio is what a ratio of this run means at all. A cell that differs by more than 3 % runs again with four
times as many turns. `--wall` measures by the clock, which cells with Ray need.

Both commits run the benchmarks of this checkout. Their code is built below `build/turns`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BENCH, BUILT = ROOT / "bench", ROOT / "build" / "turns"
MODULES = tuple(path.stem for path in sorted(BENCH.glob("benchmarks/[a-z]*.py")))
# Rows of peers and of plain C are the same for each commit; so many rows only take long to be put.
SAME = r"Floor|'(numpy|numpy, fresh|indices|list|cpprb|rlox|torchrl|flashbax)'|0000000"
TURNS, SECONDS, DIFFERS = 20, 0.03, 0.03


@dataclass(frozen=True)
class Cell:
    """One benchmark with one combination of its parameters."""

    module: str
    group: str
    method: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.module}.{self.group}.{self.method}({', '.join(map(repr, self.values))})"


class Side:
    """A process that runs cells with the code of one commit."""

    def __init__(self, folder: Path, clock: str) -> None:
        command = [sys.executable, __file__, "--serve", str(folder), "--clock", clock]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        # Runners look for packages in the working directory, and then there.
        paths = {"PYTHONPATH": os.pathsep.join(map(str, (folder, BENCH)))}
        self._process = subprocess.Popen(command, cwd=folder, env=os.environ | paths, text=True, **pipes)

    def ask(self, what: str, cell: Cell, repeats: int = 1) -> float:
        """Seconds of one call, for `what="run"`; `begin` and `end` are a cell's setup and teardown.

        Raises:
            RuntimeError: the benchmark failed in this commit, or does not run here.
        """
        question = [what, cell.module, cell.group, cell.method, cell.values, repeats]
        print(json.dumps(question), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline() or '"the process ended"')  # type: ignore[union-attr]
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return float(answer)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def serve(folder: str, clock: str) -> None:
    """Answers the questions of `Side.ask` line by line."""
    import really

    if not str(really.__file__).startswith(folder):
        sys.exit(f"turns: expected the package in {folder}, got {really.__file__}")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a benchmark prints is no answer
    now = time.process_time if clock == "cpu" else time.perf_counter
    group: Any = None
    for line in sys.stdin:
        what, module, name, method, values, repeats = json.loads(line)
        answer: float | str = 0.0
        try:
            if what == "begin":
                group = getattr(importlib.import_module(f"benchmarks.{module}"), name)()
                getattr(group, "setup", lambda *_: None)(*values)
            elif what == "end":
                getattr(group, "teardown", lambda *_: None)(*values)
            else:
                call, began = getattr(group, method), now()
                for _ in range(repeats):
                    call(*values)
                answer = (now() - began) / repeats
        except Exception as reason:
            answer = f"{type(reason).__name__}: {reason}".splitlines()[0]
        print(json.dumps(answer), file=answers, flush=True)


def cells(wanted: str) -> Iterator[Cell]:
    """The cells that are timed by calls and that the regular expression finds."""
    sys.path.insert(0, str(BENCH))
    from benchmarks import cells_of

    for name in MODULES:
        for group, method, values in cells_of(name, "time_"):
            cell = Cell(name, group.__name__, method, values)
            if re.search(wanted, str(cell)) and not re.search(SAME, str(cell)):
                yield cell


def built(commit: str) -> Path:
    """The folder with the code of a commit, compiled."""
    name = subprocess.run(["git", "rev-parse", commit], cwd=ROOT, capture_output=True, text=True, check=True)
    folder = BUILT / name.stdout.strip()[:12]
    if not (folder / "built").exists():
        shutil.rmtree(folder, ignore_errors=True)  # of a build that was interrupted
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", ROOT, folder], check=True)
        subprocess.run(["git", "checkout", "--quiet", name.stdout.strip()], cwd=folder, check=True)
        build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        subprocess.run(build, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (folder / "built").touch()
    return folder


def least(sides: list[Side], cell: Cell, turns: int) -> list[float]:
    """The least seconds of a call in each process, over turns in one order and the other."""
    once = max(min(sides[0].ask("run", cell) for _ in range(3)), 1e-7)
    repeats, found = max(1, int(SECONDS / once)), [float("inf")] * len(sides)
    for turn in range(max(3, turns) if once < SECONDS else max(3, turns // 3)):
        for at in range(len(sides)) if turn % 2 else reversed(range(len(sides))):
            found[at] = min(found[at], sides[at].ask("run", cell, repeats))
    return found


def compare(sides: list[Side], cell: Cell, turns: int) -> tuple[float, float, float]:
    """Seconds with BASE, and the ratios of HEAD and of the control to it."""
    with contextlib.ExitStack() as ends:
        for side in sides:
            side.ask("begin", cell)
            ends.callback(side.ask, "end", cell)
        base, head, again = least(sides, cell, turns)
        if abs(head / base - 1) > DIFFERS:
            base, head, again = least(sides, cell, 4 * turns)
    return base, head / base, again / base


def main() -> None:
    """Compares two commits, or is one of the three processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", nargs="?", default="HEAD~1")
    parser.add_argument("head", nargs="?", default="HEAD")
    parser.add_argument("--cells", default=".", help="regular expression that names of cells contain")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--wall", dest="clock", action="store_const", const="wall", default="cpu", help="by the clock")
    parser.add_argument("--clock", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.clock)
    else:
        compare_commits(arguments)


def compare_commits(arguments: argparse.Namespace) -> None:
    """Prints a line for each cell; those that differ from BASE by more than the control does stand again at the end."""
    base, head = built(arguments.base), built(arguments.head)
    sides = [Side(folder, arguments.clock) for folder in (base, head, base)]
    different = []
    for cell in cells(arguments.cells):
        try:
            seconds, ratio, control = compare(sides, cell, arguments.turns)
        except RuntimeError as reason:
            print(f"{cell}: {reason}", flush=True)
            continue
        line = f"{ratio:6.3f} (control {control:5.3f}) {1e6 * seconds:12.1f} us  {cell}"
        print(line, flush=True)
        if not min(1.0, control) - DIFFERS <= ratio <= max(1.0, control) + DIFFERS:
            different.append(line)
    for side in sides:
        side.close()
    print("\n".join([f"\n{len(different)} cells differ by more than 3 % and the control:", *different]))


if __name__ == "__main__":
    main()
