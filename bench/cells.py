"""Tables of single benchmarks of bench/benchmarks: `python -m bench.cells`, with `--publish` into docs/performance.md.

- `updates`: an update of `DQNLearner`, with XLA and without; one thread.
- `normalising`: the processor time of a row with normalised observations and rewards, as a multiple of that without.
- `methods`: the time of an agent's method as a multiple of the function of TensorFlow that one writes by hand.
- `waiting`: how long a learner waits for a batch, by the clock; its step takes some milliseconds in between.
- `datasets`: a batch of `dataset`, and of a function of Python a batch.

All but `waiting` are processor time, the least of rounds in which the cells of a table take turns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from bench.clocks import timed
from bench.published import publish

sys.path.insert(0, str(Path(__file__).parent))
from benchmarks.agent import Methods
from benchmarks.batches import ROWS as BATCHES
from benchmarks.batches import Ahead, Dataset
from benchmarks.collection import Normalise
from benchmarks.learning import PARTS, DQNUpdates

ROUNDS, SECONDS = 12, 0.05
LABELS = {"cartpole": "CartPole", "wide": "wide", "atari": "Atari"}


def seconds(group: type, method: str, cells: list[tuple[Any, ...]]) -> list[float]:
    """Processor time of one call of each cell."""
    with ExitStack() as ends:
        calls = [ends.enter_context(_Ready(group, method, values)) for values in cells]
        repeats = [max(1, int(SECONDS / max(timed(call, 1, process_time), 1e-7))) for call in calls]
        least = [np.inf] * len(calls)
        for _ in range(ROUNDS):
            for at, call in enumerate(calls):
                least[at] = min(least[at], timed(call, repeats[at], process_time) / repeats[at])
    return least


class _Ready:
    """A benchmark between its `setup` and its `teardown`: a call without arguments."""

    def __init__(self, group: type, method: str, values: tuple[Any, ...]) -> None:
        self._benchmark, self._method, self._values = group(), method, values

    def __enter__(self) -> Callable[[], Any]:
        self._benchmark.setup(*self._values)
        return lambda: getattr(self._benchmark, self._method)(*self._values)

    def __exit__(self, *reason: object) -> None:
        getattr(self._benchmark, "teardown", lambda *_: None)(*self._values)


def table(head: list[str], rows: dict[str, list[str]]) -> str:
    """Markdown of rows by name."""
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    return "\n".join(lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()])


def updates() -> str:
    head, rows = [""], {"XLA": [], "TensorFlow": []}
    for task, (_, _, num, batch) in PARTS.items():
        head.append(f"{num} updates a call, {batch} rows, {'Nature CNN' if task == 'atari' else '128-128 MLP'}")
        for name, compiler in (("XLA", "xla"), ("TensorFlow", "tensorflow")):
            (found,) = seconds(DQNUpdates, "time_update", [(task, compiler)])
            rows[name].append(f"{1e3 * found / num:,.2f} ms")
    return table(head, rows)


def normalising() -> str:
    numbers, ratios = (1, 8, 64), []
    for number in numbers:
        without, with_it = seconds(Normalise, "time_get_data", [(number, False), (number, True)])
        ratios.append(f"{with_it / without:.2f}")
    return table(["`num_parallel`", *map(str, numbers)], {"normalised / not": ratios})


def methods() -> str:
    names, given = Methods.params[0], Methods.params[1]
    rows: dict[str, list[str]] = {}
    for kind in given:
        for method, what in (("time_call", ""), ("time_gradient", ", with its gradient")):
            found = [seconds(Methods, method, [(name, kind, "agent"), (name, kind, "bare")]) for name in names]
            rows[kind + what] = [f"{ours / bare:.2f}" for ours, bare in found]
    return table(["agent / by hand", *(f"`{name}`" for name in names)], rows)


def waiting() -> str:
    ways = {"`sample` in the loop": "in_loop", "`next(batches)`, prefetch 2": "ahead"}
    rows: dict[str, list[str]] = {name: [] for name in ways}
    for workload in BATCHES:
        for name, way in ways.items():
            with _Ready(Ahead, "track_seconds_waiting", (workload, way)) as call:
                rows[name].append(f"{1e6 * call():,.0f} µs")
    return table(["", *(f"{num} {LABELS[name]}" for name, num in BATCHES.items())], rows)


def datasets() -> str:
    ways = {"`dataset`": "dataset", "`dataset`, one batch a call of Python": "one_a_call", "`from_generator`": None}
    rows: dict[str, list[str]] = {name: [] for name in ways}
    for workload in BATCHES:
        found = seconds(Dataset, "time_fifty_batches", [(workload, way or "from_generator") for way in ways.values()])
        for name, each in zip(ways, found, strict=True):
            rows[name].append(f"{1e6 * each / 50:,.0f} µs")
    return table(["", *(f"{num} {LABELS[name]}" for name, num in BATCHES.items())], rows)


def measured() -> Iterator[tuple[str, str]]:
    for part in (updates, normalising, methods, waiting, datasets):  # the first sets the threads of TensorFlow
        found = part()
        print(f"\n{part.__name__}\n\n{found}", flush=True)
        yield part.__name__, found


def main() -> None:
    tables = dict(measured())
    if "--publish" in sys.argv[1:]:
        publish("cells", "python -m bench.cells --publish", tables)


if __name__ == "__main__":
    main()
