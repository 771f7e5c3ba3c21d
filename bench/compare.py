"""Measures ours and the peers side by side and writes the table and the figure: `make bench`.

Every cell is measured in rounds in which each peer has one turn of about the same length, in an order that rotates
from round to round; a peer's time is the median of its turns.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from benchmarks.peers import filled, filled_floor, peers_for
from benchmarks.workloads import WORKLOADS

BATCHES = (32, 256, 1024)
TURN = 0.04  # seconds


def main():
    arguments = parse()
    results = {}
    for name in arguments.workload:
        for cell, rates in measure(WORKLOADS[name], arguments.rounds, arguments.only):
            results[f"{name} {cell}"] = rates
            print(
                f"{name:9}{cell:13}" + "".join(f"{peer}:{text(rate):>9}  " for peer, rate in rates.items()), flush=True
            )
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "compare.json").write_text(json.dumps(results, indent=1))
    (arguments.out / "compare.md").write_text(table(results))
    if arguments.figure:
        figure(results, arguments.figure)


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", help="these peers and nobody else")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--figure", type=Path, help="where the figure goes (.png or .svg)")
    return parser.parse_args()


def measure(workload, rounds, only=None):
    """Yields (cell, {peer: rows a second}) with the C floor as one of the peers."""
    peers = {name: filled(name, workload) for name in peers_for(workload) if not only or name in only}
    floor = filled_floor(workload)
    for num in BATCHES:
        turns = {name: sampling_turn(peer, num) for name, peer in peers.items()}
        turns["floor"] = floor_sampling_turn(floor, num)
        yield f"sample {num}", rates(turns, num, rounds)
    for num in (500,) if workload.name == "atari" else (1000, 20_000):
        rows = workload.rows(num)
        turns = {name: putting_turn(peer.put, rows) for name, peer in peers.items()}
        turns["floor"] = floor_putting_turn(floor, rows)
        yield f"put {num}", rates(turns, num, rounds)
    row = {name: column[0] for name, column in workload.rows(1).items()}
    row = {name: value if value.ndim else value.item() for name, value in row.items()}
    yield "put one", rates({name: putting_turn(peer.put_one, row) for name, peer in peers.items()}, 1, rounds)


def rates(turns, num, rounds):
    """Rows a second by peer: each turn gives seconds a call."""
    names = list(turns)
    seconds = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            seconds[name].append(turns[name]())
    return {name: num / statistics.median(seconds[name]) for name in names}


def timed(call, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def turn_of(call):
    """A turn of about TURN seconds."""
    call()
    repeats = max(1, int(TURN / timed(call, 3)))
    return lambda: timed(call, repeats)


def sampling_turn(peer, num):
    return turn_of(lambda: peer.sample(num))


def putting_turn(put, rows):
    return turn_of(lambda: put(rows))


def floor_sampling_turn(floor, num):
    columns = floor.outputs(num)
    draw = np.random.default_rng(0)

    def turn(batches):
        return floor.seconds_per_gather(draw.integers(0, floor.capacity, batches * num), num, columns)

    batches = max(1, int(TURN / turn(10)))
    return lambda: turn(batches)


def floor_putting_turn(floor, rows):
    repeats = max(1, int(TURN / floor.seconds_per_scatter(rows, 3)))
    return lambda: floor.seconds_per_scatter(rows, repeats)


def text(rate):
    return f"{rate / 1e6:.3g}M" if rate >= 1e6 else f"{rate / 1e3:.3g}k"


def table(results):
    """Markdown: rows a second of everyone, and ours as a ratio to each."""
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


def figure(results, path):
    """Bars: sampling 256 rows, everyone in multiples of NumPy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = [cell for cell in results if "sample" in cell]
    peers = ["list", "numpy", "cpprb", "rlox", "really", "floor"]
    canvas, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    for at, peer in enumerate(peers):
        heights = [results[cell].get(peer, 0) / results[cell]["numpy"] for cell in cells]
        colour = {"really": "#c0392b", "floor": "#bbbbbb"}.get(peer, plt.cm.Blues(0.35 + 0.15 * at))
        label = "C floor" if peer == "floor" else peer
        axes.bar(np.arange(len(cells)) + 0.13 * (at - 2.5), heights, 0.12, label=label, color=colour)
    axes.set_xticks(np.arange(len(cells)), [cell.replace(" sample ", "\nsample ") for cell in cells])
    axes.set_ylabel("rows a second, NumPy = 1")
    axes.legend(ncols=6, frameon=False)
    canvas.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
