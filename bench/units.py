"""Mixtures, sequences and samplers against plain batches and other packages: `python -m bench.units`.

`python -m bench.units mixtures sequences samplers peers` prints some of these tables; `--publish` writes them into
docs/performance.md. They have ratios of one run, since rows a second depend on the machine. Each is the median of CPU
times of this thread, call by call in turns:

- a mixture of two buffers against a batch of half the size of each of the two;
- 64 sequences of 80 steps against a batch of 5,120 rows of the same buffer, with `compact=True` too for frames;
- batches after a tenth of the rows is removed, and those of each sampler, against uniform ones;
- sequences and hindsight of other packages that are installed (unit_peers.py) against ours.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np

from bench.clocks import medians
from bench.published import publish
from really import Mixture, ReplayBuffer

sys.path.insert(0, str(Path(__file__).parent))
from benchmarks.workloads import LAYOUTS
from unit_peers import peers

ROUNDS, SECONDS = 40, 0.004
HELD = {"cartpole": 200_000, "wide": 20_000, "atari": 4_000}
SIZES = (32, 256, 1024)
LENGTH, WINDOWS = 80, 64


def cpu_seconds(calls: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """CPU seconds of each call: medians over rounds in which all take turns."""
    return medians(calls, thread_time, rounds, SECONDS)


def filled(name: str, seed: int = 0, more: Callable[[int], dict[str, Any]] = lambda num: {}, **options: Any) -> Any:
    """A full buffer of this layout, whose episodes end."""
    workload, num = LAYOUTS[name], HELD[name]
    rows = workload.rows(num, seed) | {"terminal": ends(num, workload.episode)} | more(num)
    spec = {key: (column.dtype, column.shape[1:]) for key, column in rows.items()}
    buffer = ReplayBuffer(num, spec=spec, seed=seed, **options)
    buffer.put(rows)
    return buffer


def ends(num: int, episode: int) -> Any:
    """1 for the last step of each episode."""
    return (np.arange(num) % episode == episode - 1).astype(np.float32)


def apart(parts: list[Any], num: int) -> list[Any]:
    """A batch of each buffer."""
    return [part.sample(num) for part in parts]


Tables = dict[str, str]
"""Markdown by the name of its markers in docs/."""


def mixtures() -> Tables:
    """The speed of mixtures."""
    lines = ["| two buffers, mixed / alone | rows | halves | 0.3 and 0.7 |", "| --- | --- | --- | --- |"]
    for name in LAYOUTS:
        parts = [filled(name, seed) for seed in range(2)]
        halves, others = Mixture([(part, 1) for part in parts]), Mixture(zip(parts, (0.3, 0.7), strict=True))
        for size in SIZES:
            calls = {"alone": partial(apart, parts, size // 2)}
            found = cpu_seconds(
                calls | {"halves": partial(halves.sample, size), "others": partial(others.sample, size)}
            )
            ratios = [found["alone"] / found[kind] for kind in ("halves", "others")]
            lines.append(f"| {name} | {size} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    return {"mixtures": "\n".join(lines)}


def sequences() -> Tables:
    """The speed of sequences."""
    ways = {
        "whole windows": {},
        "padded": {"pad": True},
        "burn-in 40": {"length": LENGTH // 2, "burn_in": LENGTH // 2},
        "across episodes": {"across_episodes": True},
    }
    title = f"{WINDOWS} sequences of {LENGTH} / {WINDOWS * LENGTH} rows"
    lines = [f"| {title} | {' | '.join(ways)} | compact | 8 agents |", "| --- |" + " --- |" * (len(ways) + 2)]
    for name in LAYOUTS:
        plain = filled(name)
        calls = {"plain": partial(plain.sample, WINDOWS * LENGTH)}
        compact = {"compact": {"compact": True}} if name == "atari" else {}
        for way, options in (ways | compact).items():
            buffer = filled(name, unit=("sequences", {"length": LENGTH, **options}))
            calls[way] = partial(buffer.sample, WINDOWS)
        of_agents = filled(
            name, more=lambda num: {"agent": np.arange(num) // 125 % 8}, unit=("sequences", {"length": LENGTH})
        )
        calls["agents"] = partial(of_agents.sample, WINDOWS)
        found = cpu_seconds(calls, ROUNDS // 2)
        found = {key: f"{found['plain'] / seconds:.2f}" for key, seconds in found.items()}
        ratios = [found.get(key, "") for key in [*ways, "compact", "agents"]]
        lines.append(f"| {name} | {' | '.join(ratios)} |")
    return {"sequences": "\n".join(lines)}


def samplers() -> Tables:
    """The speed of samplers."""
    num = HELD["cartpole"]

    def columns(num: int) -> dict[str, Any]:
        return {"task": np.arange(num) // 250 % 8, "policy_version": np.arange(num) // 2000}

    make = partial(filled, "cartpole", 0, columns)
    plain, removed = make(), make()
    removed.remove(np.random.default_rng(0).choice(num, num // 10, replace=False))
    buffers = {
        "a tenth removed": removed,
        "newest": make(sampler=("newest", {"num_rows": num // 2})),
        "half-life": make(sampler=("half_life", {"half_life": num // 4})),
        "ERE": make(sampler=("ere", {"updates": 1000})),
        "stratified": make(sampler=("stratified", {"column": "task"})),
        "staleness": make(sampler=("staleness", {"half_life": 10})),
    }
    lines = [f"| sampler / uniform | {' | '.join(map(str, SIZES))} |", "| --- |" + " --- |" * len(SIZES)]
    ratios: dict[str, list[float]] = {name: [] for name in buffers}
    for size in SIZES:
        calls = {name: partial(buffer.sample, size) for name, buffer in buffers.items()}
        found = cpu_seconds({"uniform": partial(plain.sample, size), **calls})
        for name in buffers:
            ratios[name].append(found["uniform"] / found[name])
    lines += [f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in each)} |" for name, each in ratios.items()]
    return {"samplers": "\n".join(lines)}


def others() -> Tables:
    """The speed of sequences and hindsight in other packages."""
    workload, num = LAYOUTS["cartpole"], HELD["cartpole"]
    ours = filled("cartpole", unit=("sequences", {"length": LENGTH}))
    return peers(partial(ours.sample, WINDOWS), workload.rows(num, 0) | {"terminal": ends(num, workload.episode)})


KINDS = {"mixtures": mixtures, "sequences": sequences, "samplers": samplers, "peers": others}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], help="which tables; by default all")
    parser.add_argument("--publish", action="store_true", help="write the tables into docs/")
    arguments = parser.parse_args()
    gc.disable()
    for kind in arguments.kinds or KINDS:
        tables = KINDS[kind]()
        print(*tables.values(), sep="\n\n", end="\n\n", flush=True)
        if arguments.publish:  # a file for each kind, so that one of them can be measured anew
            publish(f"units_{kind}", f"python -m bench.units {kind} --publish", tables, "CPU time, medians of turns")


if __name__ == "__main__":
    main()
