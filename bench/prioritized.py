"""Our prioritized replay and mixtures in turns with the peers', call by call: `python -m bench.prioritized`.

A call is short against a time slice, so nothing interrupts the fastest twentieth of the calls.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from benchmarks.mixtures import Mixed
from benchmarks.peers import is_installed
from benchmarks.priorities import PEERS, Draw, Gathering, Update

from bench.published import publish

CALLS, ROWS = 400, (32, 256, 1024)
CLAIMS = {
    "draw rows and weights": (Draw, ()),
    "draw them and take the batch": (Gathering, ()),
    "update, rows as drawn": (Update, ("drawn",)),
    "update, any rows": (Update, ("any",)),
    "a batch from two buffers": (Mixed, ()),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publish", action="store_true", help="write the table into docs/")
    arguments = parser.parse_args()
    names = [name for name in PEERS if is_installed(name)]
    for missing in set(PEERS) - set(names):
        print(f"{missing} is not installed", file=sys.stderr)
    others = names[1:]
    lines = [
        f"| us (5 % / median) | rows | {' | '.join(names)} | {' | '.join(f'{peer} / really' for peer in others)} |",
        "| --- " * (2 + len(names) + len(others)) + "|",
    ]
    for what, (claim, more) in CLAIMS.items():
        for num in ROWS:
            lines.append(row(what, num, in_turns(claim, more, num, names), others))
            print(lines[-1], flush=True)
    if arguments.publish:
        publish("prioritized", "python -m bench.prioritized --publish", {"priorities": "\n".join(lines)})


def row(what, num, taken, others):
    """A row of the table: microseconds of each peer, then their multiples of ours; a peer may lack the call."""
    times = {name: np.percentile(calls, (5, 50)) for name, calls in taken.items()}
    found = [times.get(name) for name in ("really", *others)]
    found += [None if times.get(name) is None else times[name] / times["really"] for name in others]
    return f"| {what} | {num} | {' | '.join(map(cell, found))} |"


def cell(pair):
    """The fastest twentieth and the median as text."""
    return "-" if pair is None else f"{pair[0]:.1f} / {pair[1]:.1f}"


def in_turns(claim, more, num, names):
    """Microseconds of all calls by peer; the peers take turns."""
    cases = {name: (name, *more, num) for name in names}
    ready, taken = {}, {}
    for name, values in cases.items():
        made = claim()
        try:
            made.setup(*values)
        except NotImplementedError:
            continue
        except ImportError as error:
            print(f"{name} does not work here: {error}", file=sys.stderr)
            continue
        ready[name], taken[name] = made, []
    for _ in range(CALLS):
        for name in ready:
            values = cases[name]
            (method,) = (getattr(ready[name], known) for known in dir(claim) if known.startswith("time_"))
            start = time.perf_counter()
            method(*values)
            taken[name].append((time.perf_counter() - start) * 1e6)
    return taken


if __name__ == "__main__":
    main()
