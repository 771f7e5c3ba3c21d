"""Size and speed of saved buffers and Parquet, for real Pong transitions: `python -m bench.compression [--rows N]`.

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
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from atari import GAMES, STEPS, pong

from really import ReplayBuffer

KEYS = ["state", "action", "reward", "state_new", "terminal"]
WAYS = {"buffer.save": "save", "to_parquet": "to_parquet"}


def filled(num_rows: int, dedup: bool) -> ReplayBuffer:
    """A buffer filled with complete chunks, at most `num_rows` rows."""
    buffer, source = ReplayBuffer(num_rows, KEYS, seed=0, dedup=dedup), pong()
    for _ in range(num_rows // (GAMES * STEPS)):
        chunk = next(source)
        buffer.put({key: column.reshape(-1, *column.shape[2:]) for key, column in chunk.items()})
    return buffer


def measured(write, path: Path, naive: int) -> str:
    """Cells of the table: MB, ratio, MB of rows a second, of the faster of two turns."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        write(path)
        times.append(time.perf_counter() - began)
    size = path.stat().st_size
    return f"{size / 1e6:,.1f} | {naive / size:.1f} | {naive / 1e6 / min(times):,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3 * GAMES * STEPS)
    rows = parser.parse_args().rows
    print("| written with | frames | compression | MB | ratio | MB of rows/s |\n| --- | --- | --- | --- | --- | --- |")
    for dedup, frames in ((True, "stored once"), (False, "`dedup=False`")):
        buffer = filled(rows, dedup)
        naive = len(buffer) * sum(dtype.itemsize * math.prod(shape) for dtype, shape in buffer.spec.values())
        for way, name in WAYS.items():
            for compression in ("none", "lz4", "zstd"):
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "buffer"
                    write = functools.partial(getattr(buffer, name), compression=compression)
                    cells = measured(write, path, naive)
                print(f"| `{way}` | {frames} | {compression} | {cells} |", flush=True)
    print(f"\n{len(buffer):,} transitions, {naive / 1e6:,.0f} MB as rows.")


if __name__ == "__main__":
    main()
