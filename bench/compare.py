"""Measures ours and the peers side by side and writes the tables and the figure: `make bench`.

Each peer lives in a process of its own, so that no peer affects the memory allocator of another. All but `numpy, fresh`
run where malloc keeps what was freed, as it does in a long-lived process: a large batch then costs no page faults.
Every cell is measured in rounds. In each round each peer has one turn of about the same length on the same core, in an
order that rotates, and a peer's time is the median of its turns. The core changes from round to round. The rounds of a
cell are spread over the time that its workload takes, a few at once: other work comes in bursts, and memory can be slow
for the first seconds of a process. On a machine with other work, many turns shorter than a time slice
(`--turn 0.003 --rounds 61`) are disturbed least.
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from benchmarks.peers import PEERS, filled, filled_floor, is_installed, peers_for
from benchmarks.workloads import LAYOUTS, WORKLOADS
from colours import COLOURS

from bench.published import publish

BATCHES = (32, 256, 1024)
FLOORS = ("floor", "best C")  # the same for puts
UNABLE = {"sample": (), "put": FLOORS[1:], "put one": FLOORS}  # who has no such call
AT_ONCE = 6  # rounds of a cell
CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
PUTS = {"cartpole": (1000, 20_000), "wide": (1000, 20_000), "atari": (500,)}
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 26)}
TIMES = "\u00d7"
ONES = 500  # rows that are put one by one in turn


def main():
    arguments = parse()
    results = {}
    for name in arguments.workload:
        for cell, rates in measure(WORKLOADS[name], arguments):
            results[f"{name}: {cell}"] = rates
            print(f"{name}: {cell}: " + "  ".join(f"{peer}: {text(rate)}" for peer, rate in rates.items()), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "compare.json").write_text(json.dumps(results, indent=1))
    (arguments.out / "compare.md").write_text(table(results))
    if arguments.figure:
        figure(results, arguments.figure)
    if arguments.publish:
        tables = {"buffers": table(results), "buffers in short": summary(results)}
        publish("compare", "make bench", tables, f"{arguments.rounds} rounds of {arguments.turn} s a peer")


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--turn", type=float, default=0.02, help="seconds")
    parser.add_argument("--only", nargs="+", help="these peers and nobody else")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--figure", type=Path, help="where the figure goes (.png or .svg)")
    parser.add_argument("--publish", action="store_true", help="write the tables into docs/")
    return parser.parse_args()


def measure(workload, arguments):
    """Yields (cell, {peer: rows a second}); the C floor and the best C are peers, too."""
    wanted = [name for name in peers_for(workload) if not arguments.only or name in arguments.only]
    for missing in (name for name in wanted if not is_installed(name)):
        print(f"{workload.name}: {missing} is not installed", flush=True)
    floors = FLOORS if workload is LAYOUTS[workload.layout] else ()
    workers = {}
    for name in [*filter(is_installed, wanted), *floors]:
        try:
            workers[name] = Worker(name, workload, arguments.turn)
        except (EOFError, ConnectionError):
            print(f"{workload.name}: {name} does not work here: its process ended with the error above", flush=True)
    cells = [("sample", num) for num in BATCHES] + [("put", num) for num in PUTS[workload.layout]] + [("put one", 1)]
    seconds = {cell: {name: [] for name in workers if name not in UNABLE[cell[0]]} for cell in cells}
    for first in range(0, arguments.rounds, AT_ONCE):
        for cell, times in seconds.items():
            take_turns(workers, cell, times, range(first, min(first + AT_ONCE, arguments.rounds)))
    for worker in workers.values():
        worker.close()
    for (verb, num), times in seconds.items():
        rates = {name: num / statistics.median(turns) for name, turns in times.items()}
        yield verb if verb == "put one" else f"{verb} {num}", rates


def take_turns(workers, cell, seconds, rounds):
    """Adds the seconds that a call of each peer takes, one turn of it in each round."""
    names = list(seconds)
    for name in names:
        workers[name].ask(("prepare", *cell))
    for number in rounds:
        start, cpu = number % len(names), CPUS[number % len(CPUS)]
        for name in names[start:] + names[:start]:
            seconds[name].append(workers[name].ask(("turn", cpu)))


class Worker:
    """A peer in a process of its own, which works only on request."""

    def __init__(self, name, workload, turn):
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=work, args=(name, workload.name, turn, theirs), daemon=True)
        os.environ.update({} if name in PEERS and PEERS[name].fresh else KEPT)
        self.process.start()
        theirs.close()  # else nobody would be told that the process has ended
        for key in KEPT:
            os.environ.pop(key, None)
        self.ask(("hello",))

    def ask(self, what):
        """Sends a request and waits for its answer; raises EOFError or ConnectionError if the process has ended."""
        self.pipe.send(what)
        return self.pipe.recv()

    def close(self):
        """Ends the process."""
        self.pipe.send(None)
        self.process.join()


def work(name, workload_name, seconds, pipe):
    """Fills a peer, then serves requests to prepare a turn and to run it."""
    workload = WORKLOADS[workload_name]
    is_floor = name in FLOORS
    peer = filled_floor(workload, best=name == "best C") if is_floor else filled(name, workload)
    make = functools.cache(floor_turn if is_floor else peer_turn)
    turn = None
    while (what := pipe.recv()) is not None:
        if what[0] == "prepare":
            turn = make(peer, workload, seconds, *what[1:])
        pipe.send(turn_on(what[1], turn) if what[0] == "turn" else None)


def turn_on(cpu, turn):
    """A turn whose calling thread is on this core, if the system lets it choose. Other threads are on any."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})
    return turn()


def peer_turn(peer, workload, seconds, verb, num):
    """Prepares a turn of a peer; its result is seconds per call. Arguments are made before the clock starts."""
    if verb == "sample":
        return turn_of(seconds, peer.sample, peer.for_sample(num))
    if verb == "put":
        # As many different rows as a turn puts without seeing one again soon, in at most some 60 MB.
        batches = max(2, min(12, int(6e7 // (num * workload.row_nbytes))))
        rows = [peer.for_put(workload.rows(num, seed)) for seed in range(batches)]
        return turn_of(seconds, peer.put, itertools.cycle(rows))
    columns = workload.rows(ONES)
    rows = [
        {name: column[at] if column.ndim > 1 else column[at].item() for name, column in columns.items()}
        for at in range(ONES)
    ]
    return turn_of(seconds, peer.put_one, itertools.cycle([peer.for_one(row) for row in rows]))


def floor_turn(floor, workload, seconds, verb, num):
    """Prepares a turn of the C floor; its result is seconds per batch."""
    if verb == "sample":
        return floor_sampling_turn(floor, seconds, num)
    rows = workload.rows(num)
    repeats = max(1, int(seconds / min(floor.seconds_per_scatter(rows, 3) for _ in range(5))))
    return lambda: floor.seconds_per_scatter(rows, repeats)


def timed(call, arguments):
    start = time.perf_counter()
    for values in arguments:
        call(*values)
    return (time.perf_counter() - start) / len(arguments)


def turn_of(seconds, call, arguments):
    """Prepares a turn of about `seconds` with the next arguments."""

    def turn(repeats):
        return timed(call, list(itertools.islice(arguments, repeats)))

    turn(1)
    repeats = max(1, int(seconds / min(turn(3) for _ in range(5))))
    return lambda: turn(repeats)


def floor_sampling_turn(floor, seconds, num):
    columns = floor.outputs(num)
    draw = np.random.default_rng(0)

    def turn(batches):
        return floor.seconds_per_gather(draw.integers(0, floor.capacity, batches * num), num, columns)

    batches = max(1, int(seconds / min(turn(10) for _ in range(5))))
    return lambda: turn(batches)


def text(rate):
    return f"{rate / 1e6:.3g}M" if rate >= 1e6 else f"{rate / 1e3:.3g}k"


def table(results):
    """Markdown table of rows a second of all peers, and the ratio of ours to each."""
    peers = list(dict.fromkeys(peer for rates in results.values() for peer in rates))
    others = [peer for peer in peers if peer != "really"]
    lines = [
        f"| rows/s | {' | '.join(peers)} | {' | '.join(f'really / {peer}' for peer in others)} |",
        "| --- " * (len(peers) + len(others) + 1) + "|",
    ]
    for cell, rates in results.items():
        values = [text(rates[peer]) if peer in rates else "-" for peer in peers]
        ratios = [f"{rates['really'] / rates[peer]:.2f}" if peer in rates else "-" for peer in others]
        lines.append(f"| {cell} | {' | '.join(values)} | {' | '.join(ratios)} |")
    return "\n".join(lines) + "\n"


def summary(results):
    """Markdown table of batches of each size: our rows a second, and that rate in multiples of the peers' rates."""
    peers = [
        peer for peer in ("numpy", "numpy, fresh", "cpprb", "rlox", "torchrl", "flashbax") if peer in _peers(results)
    ]
    lines = [
        f"| | 32 | 256 | 1024 | {' | '.join(f'{TIMES} {peer}' for peer in peers)} |",
        "| --- " * (4 + len(peers)) + "|",
    ]
    for name in dict.fromkeys(cell.split(": ")[0] for cell in results):
        cells = [results[f"{name}: sample {num}"] for num in BATCHES]
        ratios = [
            " / ".join(f"{rates['really'] / rates[peer]:.1f}" for rates in cells) if peer in cells[0] else "-"
            for peer in peers
        ]
        lines.append(f"| {name} | {' | '.join(text(rates['really']) for rates in cells)} | {' | '.join(ratios)} |")
    return "\n".join(lines) + "\n"


def _peers(results):
    return {peer for rates in results.values() for peer in rates}


def figure(results, path):
    """Bar chart: sampling, all peers in multiples of NumPy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = [f"{name}: sample {num}" for name in LAYOUTS for num in BATCHES if f"{name}: sample {num}" in results]
    peers = ["list", "torchrl", "numpy", "cpprb", "rlox", "flashbax", "really", "floor", "best C"]
    canvas, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    for at, peer in enumerate(peers):
        heights = [results[cell].get(peer, 0) / results[cell]["numpy"] for cell in cells]
        label = "C floor" if peer == "floor" else peer
        axes.bar(np.arange(len(cells)) + 0.095 * (at - 4), heights, 0.088, label=label, color=COLOURS[peer])
    axes.set_xticks(np.arange(len(cells)), [cell.replace(": sample ", "\nsample ") for cell in cells])
    axes.set_ylabel("rows a second, NumPy = 1")
    axes.margins(y=0.12)  # room for the legend
    axes.legend(ncols=9, frameon=False, fontsize=8)
    canvas.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
