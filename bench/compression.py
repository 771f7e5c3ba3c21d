"""Size of saved buffers and Parquet, for real Pong transitions: `python -m bench.compression [--rows N]`.

`--publish` writes the table into docs/performance.md.

The transitions are of 16 games of ALE Pong with random actions (`bench/atari.py`). One buffer deduplicates frames and
one does not. Each is saved and written as Parquet, uncompressed and with zstd and lz4. Ratios refer to the bytes of the
rows without deduplication.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from atari import GAMES, STEPS, pong

from bench.published import publish
from really import ReplayBuffer

COMPRESSIONS = ("none", "lz4", "zstd")
KEYS = ["state", "action", "reward", "state_new", "terminal"]
WAYS = {"buffer.save": "save", "to_parquet": "to_parquet"}


def filled(num_rows: int, dedup: bool) -> ReplayBuffer:
    """A buffer filled with complete chunks, at most `num_rows` rows."""
    buffer, source = ReplayBuffer(num_rows, KEYS, seed=0, dedup=dedup), pong()
    for _ in range(num_rows // (GAMES * STEPS)):
        chunk = next(source)
        buffer.put({key: column.reshape(-1, *column.shape[2:]) for key, column in chunk.items()})
    return buffer


def megabytes(write: Callable[[Path], None]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "buffer"
        write(path)
        return path.stat().st_size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3 * GAMES * STEPS)
    parser.add_argument("--publish", action="store_true", help="write the table into docs/")
    arguments = parser.parse_args()
    head = "".join(f" {name}: MB | ratio |" for name in COMPRESSIONS)
    lines = [f"| written with | frames |{head}", "| --- | --- |" + " --- | --- |" * len(COMPRESSIONS)]
    for dedup, frames in ((True, "stored once"), (False, "`dedup=False`")):
        buffer = filled(arguments.rows, dedup)
        whole = len(buffer) * sum(dtype.itemsize * math.prod(shape) for dtype, shape in buffer.spec.values()) / 1e6
        for way, name in WAYS.items():
            cells = []
            for compression in COMPRESSIONS:
                size = megabytes(functools.partial(getattr(buffer, name), compression=compression))
                cells.append(f"{size:,.1f} | {whole / size:,.1f}")
            lines.append(f"| `{way}` | {frames} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    print("\n".join(lines))
    if arguments.publish:
        note = f"{len(buffer):,} transitions, {whole:,.0f} MB with every stack written out"
        publish("compression", "python -m bench.compression --publish", {"compression": "\n".join(lines)}, note)


if __name__ == "__main__":
    main()
