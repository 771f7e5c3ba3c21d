"""A buffer in files against one in memory, in turns of one run: `python -m bench.disk [--limit MB] [--folder DIR]`.

Prints rows a second of both and their ratio while the files fit in memory; how long a buffer takes to open, with
priorities, too; then, in a control group that may take `--limit` MB of memory (root), what a buffer of four times as
much does, with the rows of a batch asked for before they are copied and without, and what the disk itself gives. Needs
some 5 GB of disk meanwhile.
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

from really import ReplayBuffer

BATCHES = (32, 256, 1024)
SECONDS, LEAST_ROUNDS, WARM_UP = 3.0, 40, 5
PRIORITIES = (1_000_000, 10_000_000, 100_000_000)  # rows
COLD_BATCH, COLD_ROUNDS, TIMES_LARGER = 256, 12, 4
ROW_NBYTES = {"wide": 3136, "frames": 7200}  # that a row adds
READ_NBYTES = {"wide": 3136, "frames": 5 * 7056}  # that a batch needs of a row


def main() -> None:
    arguments = parse()
    if arguments.open:
        there_already(arguments.open)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.inside:
            larger_than_memory(arguments.inside, Path(folder), arguments.limit)
            return
        print("| files in memory | memory rows/s | disk rows/s | disk / memory |\n| --- | --- | --- | --- |")
        for workload in HELD:
            compare(workload, Path(folder) / workload)
        for num in PRIORITIES:
            open_prioritized(num, Path(folder) / "prioritized")
    for workload in ROW_NBYTES:
        command = [sys.executable, "-m", "bench.disk", "--inside", workload, "--limit", str(arguments.limit)]
        subprocess.run([*command, "--folder", arguments.folder or tempfile.gettempdir()], check=True)


def compare(workload: str, folder: Path) -> None:
    """The rows of the table for one kind of experience, then what opening it takes."""
    (memory, rows), (disk, _) = filled(workload), filled(workload, folder)
    num = len(rows["reward"])
    show(f"{workload}, put {num}", num, partial(memory.put, rows), partial(disk.put, rows))
    for batch in BATCHES:
        show(f"{workload}, sample {batch}", batch, partial(memory.sample, batch), partial(disk.sample, batch))
    disk.close()
    print(f"{workload}: {opening(folder):.1f} ms to open", file=sys.stderr, flush=True)
    shutil.rmtree(folder)


def open_prioritized(num: int, folder: Path) -> None:
    """What opening takes where each row has a priority, which a file of its own keeps."""
    rows = {"reward": np.zeros(num // 10, np.float32)}
    buffer = ReplayBuffer(num, spec={"reward": (np.float32, ())}, path=folder, alpha=0.6, seed=0)
    for _ in range(10):
        buffer.put(rows)
    buffer.sample(1)  # rows get their priorities when somebody draws
    buffer.close()
    cold = opening(folder)
    warm = 1e3 * seconds(lambda: ReplayBuffer.open(folder).close())
    print(
        f"{num / 1e6:.0f}M rows with priorities: {cold:.0f} ms to open, {warm:.0f} ms with its files in memory",
        file=sys.stderr,
        flush=True,
    )
    shutil.rmtree(folder)


def show(cell: str, rows: int, memory, disk) -> None:
    """Lower quartiles of calls in turns: a machine's other work makes calls longer, never shorter."""
    times: dict[str, list[float]] = {"memory": [], "disk": []}
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times["disk"]) < LEAST_ROUNDS:
        for name, call in (("memory", memory), ("disk", disk)):
            times[name].append(seconds(call))
    found = {name: statistics.quantiles(part[WARM_UP:], n=4)[0] for name, part in times.items()}
    ratio = found["memory"] / found["disk"]
    print(f"| {cell} | {rows / found['memory']:,.0f} | {rows / found['disk']:,.0f} | {ratio:.2f} |", flush=True)


def seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def opening(folder: Path) -> float:
    """Milliseconds that opening takes; pages that nobody maps any more are dropped first."""
    forget_pages(folder)
    began = time.perf_counter()
    buffer = ReplayBuffer.open(folder, "r+")
    took = time.perf_counter() - began
    buffer.close()
    return 1e3 * took


def there_already(folder: Path) -> None:
    """What it takes to open a buffer that a run has left, and to average two of its columns with DuckDB."""
    import duckdb

    cold = opening(folder)
    with ReplayBuffer.open(folder) as buffer:
        warm = 1e3 * seconds(lambda: ReplayBuffer.open(folder).close())
        held, ratio = buffer.memory()["held"], buffer.memory()["ratio"]
        print(f"{len(buffer):,} rows, {held / 1e9:.2f} GB, {ratio:.1f} times less than whole rows")
        print(f"opened in {cold:.0f} ms after its files had been dropped from memory, in {warm:.0f} ms the next time")
        columns = duckdb.from_arrow(buffer.to_arrow(["reward", "action"]))
        took = seconds(lambda: columns.aggregate("avg(reward), avg(action)").fetchall())
        print(f"DuckDB averages two columns in {took:.2f} s")


def forget_pages(folder: Path) -> None:
    """Has the system drop the pages of all files there that nobody maps."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


# Larger than memory ---------------------------------------------------------------------------------------------------


def larger_than_memory(workload: str, folder: Path, limit_mb: int) -> None:
    """What a buffer does that takes `TIMES_LARGER` times the memory there is."""
    nbytes = TIMES_LARGER * limit_mb << 20
    with limited(limit_mb << 20):
        began = time.perf_counter()
        buffer, rows = filled(workload, folder, nbytes // ROW_NBYTES[workload])
        rate = len(buffer) / (time.perf_counter() - began)
        print(f"\n{workload}, {nbytes / 1e9:.1f} GB in {limit_mb} MB of memory: filled with {rate:,.0f} rows/s")
        sample_and_put(buffer, rows)
        buffer.close()
        del buffer
        print(f"  opened in {opening(folder):.1f} ms")
        largest = max(folder.iterdir(), key=lambda path: path.stat().st_size)
        print(
            f"  the disk itself: {disk_rate(largest, READ_NBYTES[workload]):,.0f} reads/s of a row's bytes", flush=True
        )


def sample_and_put(buffer: ReplayBuffer, rows) -> None:
    """Batches with rows asked for, then puts and batches in turns, then batches without asking.

    Those without come last, not in turns: what the system reads ahead for them drives out what others left in memory.
    """
    ring = buffer._ring
    print(f"  rows are prefetched from the disk: {bool(ring.prefetches_from_disk)}")
    buffer.flush()  # what filling left to be written would take turns with what is read
    show_cold(buffer, "asked for")
    both = [seconds(lambda: (buffer.put(rows), buffer.sample(COLD_BATCH))) for _ in range(COLD_ROUNDS)]
    print(f"  put {len(rows['reward'])} and sample {COLD_BATCH}: {1e3 * statistics.median(both):.1f} ms")
    ring.prefetches_from_disk = False
    show_cold(buffer, "not asked for")


def show_cold(buffer: ReplayBuffer, what: str) -> None:
    part = [seconds(partial(buffer.sample, COLD_BATCH)) for _ in range(WARM_UP + COLD_ROUNDS)][WARM_UP:]
    print(f"  sample {COLD_BATCH}, {what}: {COLD_BATCH / statistics.median(part):,.0f} rows/s")


@contextlib.contextmanager
def limited(nbytes: int):
    """Puts this process into a control group of its own that may take so many bytes, its files' pages among them."""
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
    """Reads a second of so many bytes anywhere in the file, a batch's asked for at once, none of it in memory."""
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
    parser.add_argument("--folder", help="where files are made (default: the system's temporary one)")
    parser.add_argument("--limit", type=int, default=1024, help="MB of memory in the second part")
    parser.add_argument("--open", type=Path, help="only this: how long a buffer that is there takes to open")
    parser.add_argument("--inside", choices=ROW_NBYTES, help="only the second part, of this kind of experience")
    return parser.parse_args()


if __name__ == "__main__":
    main()
