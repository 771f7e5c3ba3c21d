"""Ours and cpprb's prioritized replay in turns, call by call, as a table: `python bench/prioritized.py`.

A call is short against a time slice, so nothing interrupts the fastest twentieth of the calls.
"""

import time

import numpy as np
from benchmarks.priorities import PEERS, Draw, Gathering, Update

CALLS, ROWS = 400, (32, 256, 1024)
CLAIMS = {
    "draw rows and weights": (Draw, ()),
    "draw them and take the batch": (Gathering, ()),
    "update, rows as drawn": (Update, ("drawn",)),
    "update, any rows": (Update, ("any",)),
}


def main():
    print("| us (5 % / median) | rows | really | cpprb | cpprb / really |\n| --- | --- | --- | --- | --- |")
    for what, (claim, more) in CLAIMS.items():
        for num in ROWS:
            times = {name: np.percentile(taken, (5, 50)) for name, taken in in_turns(claim, more, num).items()}
            cells = " | ".join(f"{low:.1f} / {median:.1f}" for low, median in times.values())
            ratios = " / ".join(f"{ratio:.1f}" for ratio in times["cpprb"] / times["really"])
            print(f"| {what} | {num} | {cells} | {ratios} |", flush=True)


def in_turns(claim, more, num):
    """Microseconds of all calls by peer; the peers take turns."""
    cases = {name: (name, *more, num) for name in PEERS}
    ready = {name: claim() for name in PEERS}
    for name, values in cases.items():
        ready[name].setup(*values)
    taken = {name: [] for name in PEERS}
    for _ in range(CALLS):
        for name, values in cases.items():
            (method,) = (getattr(ready[name], known) for known in dir(claim) if known.startswith("time_"))
            start = time.perf_counter()
            method(*values)
            taken[name].append((time.perf_counter() - start) * 1e6)
    return taken


if __name__ == "__main__":
    main()
