"""A buffer in files against one in memory, in turns of one run: `python -m bench.disk [--limit MB] [--folder DIR]`.

The first part has files that fit in memory. It prints rows a second of both buffers, their ratio, and the time to open
a buffer, also one with priorities. The second part runs in a control group with `--limit` MB of memory, which needs
root. It samples from a buffer of four times that size, with `madvise` for the rows of a batch and without, and then
reads the disk directly. The benchmark needs some 5 GB of disk. `--publish` writes both tables into docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from benchmarks.disk import HELD, filled

from bench.published import publish
from really import ReplayBuffer

LINES = ["| files in memory | memory rows/s | disk rows/s | disk / memory |", "| --- | --- | --- | --- |"]
LARGER = ["| rows/s | with `madvise` | without | the disk itself |", "| --- | --- | --- | --- |"]
BATCHES = (32, 256, 1024)
SECONDS, LEAST_ROUNDS, WARM_UP = 3.0, 40, 5
PRIORITIES = (1_000_000, 10_000_000, 100_000_000)  # rows
COLD_BATCH, COLD_ROUNDS, TIMES_LARGER = 256, 12, 4
ROW_NBYTES = {"wide": 3136, "frames": 7200}  # bytes that a row adds to the files
READ_NBYTES = {"wide": 3136, "frames": 5 * 7056}  # bytes that a batch reads for a row


def main() -> None:
    arguments = parse()
    if arguments.open:
        open_existing(arguments.open)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.inside:
            larger_than_memory(arguments.inside, Path(folder), arguments.limit)
            return
        for line in LINES:
            print(line)
        for workload in HELD:
            compare(workload, Path(folder) / workload)
        for num in PRIORITIES:
            open_prioritized(num, Path(folder) / "prioritized")
    for workload in ROW_NBYTES:
        command = [sys.executable, "-m", "bench.disk", "--inside", workload, "--limit", str(arguments.limit)]
        command += ["--folder", arguments.folder or tempfile.gettempdir()]
        LARGER.append(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    print("\n" + "\n".join(LARGER))
    if arguments.publish:
        tables = {"disk": "\n".join(LINES), "disk, larger than memory": "\n".join(LARGER)}
        publish("disk", "make bench-disk", tables)


def compare(workload: str, folder: Path) -> None:
    """Prints the table rows of one kind of experience, then how long its buffer takes to open."""
    (memory, rows), (disk, _) = filled(workload), filled(workload, folder)
    num = len(rows["reward"])
    show(f"{workload}, put {num}", num, partial(memory.put, rows), partial(disk.put, rows))
    for batch in BATCHES:
        show(f"{workload}, sample {batch}", batch, partial(memory.sample, batch), partial(disk.sample, batch))
    disk.close()
    print(f"{workload}: {opening(folder):.1f} ms to open", file=sys.stderr, flush=True)
    shutil.rmtree(folder)


def open_prioritized(num: int, folder: Path) -> None:
    """Prints how long a buffer with priorities takes to open; these are in a file of their own."""
    rows = {"reward": np.zeros(num // 10, np.float32)}
    buffer = ReplayBuffer(num, spec={"reward": (np.float32, ())}, path=folder, alpha=0.6, seed=0)
    for _ in range(10):
        buffer.put(rows)
    buffer.sample(1)  # rows get their priorities at the next draw
    buffer.close()
    cold = opening(folder)
    warm = 1e3 * seconds(lambda: ReplayBuffer.open(folder).close())
    print(
        f"{num / 1e6:.0f}M rows with priorities: {cold:.0f} ms to open, {warm:.0f} ms from a warm page cache",
        file=sys.stderr,
        flush=True,
    )
    shutil.rmtree(folder)


def show(cell: str, rows: int, memory, disk) -> None:
    """Prints lower quartiles of calls in turns: other work on the machine makes calls longer, never shorter."""
    times: dict[str, list[float]] = {"memory": [], "disk": []}
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times["disk"]) < LEAST_ROUNDS:
        for name, call in (("memory", memory), ("disk", disk)):
            times[name].append(seconds(call))
    found = {name: statistics.quantiles(part[WARM_UP:], n=4)[0] for name, part in times.items()}
    ratio = found["memory"] / found["disk"]
    LINES.append(f"| {cell} | {rows / found['memory']:,.0f} | {rows / found['disk']:,.0f} | {ratio:.2f} |")
    print(LINES[-1], flush=True)


def seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def opening(folder: Path) -> float:
    """Milliseconds to open a buffer whose files are not in the page cache."""
    forget_pages(folder)
    began = time.perf_counter()
    buffer = ReplayBuffer.open(folder, "r+")
    took = time.perf_counter() - began
    buffer.close()
    return 1e3 * took


def open_existing(folder: Path) -> None:
    """Prints how long an existing buffer takes to open, and DuckDB to average two of its columns."""
    import duckdb

    cold = opening(folder)
    with ReplayBuffer.open(folder) as buffer:
        warm = 1e3 * seconds(lambda: ReplayBuffer.open(folder).close())
        held, ratio = buffer.memory()["held"], buffer.memory()["ratio"]
        print(f"{len(buffer):,} rows, {held / 1e9:.2f} GB, {ratio:.1f} times less than whole rows")
        print(f"opened in {cold:.0f} ms from a cold page cache, in {warm:.0f} ms from a warm one")
        columns = duckdb.from_arrow(buffer.to_arrow(["reward", "action"]))
        took = seconds(lambda: columns.aggregate("avg(reward), avg(action)").fetchall())
        print(f"DuckDB averages two columns in {took:.2f} s")


def forget_pages(folder: Path) -> None:
    """Drops the pages of all files in the folder from the page cache, except mapped ones."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


# Larger than memory ---------------------------------------------------------------------------------------------------


def larger_than_memory(workload: str, folder: Path, limit_mb: int) -> None:
    """Fills, samples and reopens a buffer of `TIMES_LARGER` times the memory of the control group; prints its row."""
    nbytes = TIMES_LARGER * limit_mb << 20
    what = f"{workload}, {nbytes / 1e9:.1f} GB in {limit_mb} MB of memory"
    with limited(limit_mb << 20):
        began = time.perf_counter()
        buffer, rows = filled(workload, folder, nbytes // ROW_NBYTES[workload])
        rate = len(buffer) / (time.perf_counter() - began)
        tell(f"{what}: filled with {rate:,.0f} rows/s")
        rates = sample_and_put(buffer, rows)
        buffer.close()
        del buffer
        tell(f"  opened in {opening(folder):.1f} ms")
        largest = max(folder.iterdir(), key=lambda path: path.stat().st_size)
        rates.append(disk_rate(largest, READ_NBYTES[workload]))
        print(f"| {what} | {' | '.join(f'{rate:,.0f}' for rate in rates)} |", flush=True)


def sample_and_put(buffer: ReplayBuffer, rows) -> list[float]:
    """Rows/s of batches with `madvise` for their rows and without. Tells how long puts and batches in turns take.

    The last come at the end, not in turns: the read-ahead of the system for them evicts pages that the others need.
    """
    ring = buffer._ring
    tell(f"  rows are prefetched with madvise: {bool(ring.prefetches_from_disk)}")
    buffer.flush()  # else writes from filling would compete with the reads
    with_madvise = cold_rate(buffer)
    both = [seconds(lambda: (buffer.put(rows), buffer.sample(COLD_BATCH))) for _ in range(COLD_ROUNDS)]
    tell(f"  put {len(rows['reward'])} and sample {COLD_BATCH}: {1e3 * statistics.median(both):.1f} ms")
    ring.prefetches_from_disk = False
    return [with_madvise, cold_rate(buffer)]


def cold_rate(buffer: ReplayBuffer) -> float:
    part = [seconds(partial(buffer.sample, COLD_BATCH)) for _ in range(WARM_UP + COLD_ROUNDS)][WARM_UP:]
    return COLD_BATCH / statistics.median(part)


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


@contextlib.contextmanager
def limited(nbytes: int):
    """Limits this process to `nbytes` of memory, page cache included, by a control group of its own."""
    version1 = Path("/sys/fs/cgroup/memory")
    root, limit = (version1, "memory.limit_in_bytes") if version1.exists() else (version1.parent, "memory.max")
    group = root / f"really_bench_{os.getpid()}"
    group.mkdir()
    (group / limit).write_text(str(nbytes))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (root / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def disk_rate(path: Path, nbytes: int) -> float:
    """Reads a second of `nbytes` at random places of a file from a cold page cache, with `fadvise` for each batch."""
    forget_pages(path.parent)
    handle, size = os.open(path, os.O_RDONLY), path.stat().st_size
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
    places = np.random.default_rng(0).integers(0, size - nbytes, (COLD_ROUNDS, COLD_BATCH)).tolist()
    took = seconds(lambda: [read(handle, nbytes, batch) for batch in places])
    os.close(handle)
    return COLD_ROUNDS * COLD_BATCH / took


def read(handle: int, nbytes: int, places: list[int]) -> None:
    for at in places:
        os.posix_fadvise(handle, at, nbytes, os.POSIX_FADV_WILLNEED)
    for at in places:
        os.pread(handle, nbytes, at)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="folder for the files (default: the system's temporary folder)")
    parser.add_argument("--limit", type=int, default=1024, help="MB of memory in the second part")
    parser.add_argument("--open", type=Path, help="only measure how long this existing buffer takes to open")
    parser.add_argument("--publish", action="store_true", help="write the table into docs/")
    parser.add_argument("--inside", choices=ROW_NBYTES, help="only the second part, of this kind of experience")
    return parser.parse_args()


if __name__ == "__main__":
    main()
