"""A buffer in shards against one `ReplayBuffer`: `python -m bench.shards [--batches 10000] [--nodes]`.

Prints ratios of one run, and no more, since rows a second depend on the machine:

- batches of (8, 256) from the share of the learner's own node, against the local buffer, while a thread puts: CPU time
  of the sampling thread, in turns;
- how many of so many batches are those of one buffer, bit for bit: 1, 2 and 3 shards; uniform, prioritized, n steps,
  shared frames; uneven puts that wrap around;
- with `--nodes`, on a Ray cluster of three nodes on this machine: how long a learner that works 20 ms waits for a batch
  of 256 Atari rows of other nodes, and the bytes of a chunk's description that goes to the learner for each row.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from really import ReplayBuffer, ShardedBuffer

ROUNDS, CALLS = 15, 4
SHAPE = (8, 256)
CAPACITY = {"narrow": 100_000, "wide": 20_000, "atari": 6_000}
WRITTEN = {"narrow": 500, "wide": 200, "atari": 50}
"""Rows of each put of the live writer, every millisecond or as fast as it can."""
WORK, WAITS = 0.020, 200


def rows(kind: str, first: int, num: int) -> dict[str, np.ndarray]:
    """Rows with numbers from `first` on."""
    ids = np.arange(first, first + num)
    own = {
        "id": ids,
        "action": ids % 4,
        "reward": np.sin(ids).astype(np.float32),
        "terminal": np.zeros(num, np.float32),
    }
    if kind == "atari":
        whole = np.random.default_rng(first).integers(0, 255, (num + 4, 84, 84), np.uint8)
        stacks = np.lib.stride_tricks.sliding_window_view(whole, 4, axis=0).transpose(0, 3, 1, 2)
        return own | {"state": stacks[:-1].copy(), "state_new": stacks[1:].copy()}
    states = np.repeat(ids[:, None], 4 if kind == "narrow" else 128, axis=1).astype(np.float32)
    return own | {"state": states, "state_new": states + 1}


def filled(buffer: Any, kind: str) -> Any:
    """The buffer with as many rows as fit, and some that have dropped out."""
    for first in range(0, CAPACITY[kind] * 11 // 10, 1000):
        buffer.put(rows(kind, first, 1000))
    return buffer


def cpu_seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of this thread for a call."""
    call()
    began = time.thread_time()
    for _ in range(CALLS):
        call()
    return (time.thread_time() - began) / CALLS


def own_share(kind: str) -> tuple[float, float, float]:
    """Speed of the own node's share / speed of the local buffer, with a live writer: median, least and most."""
    local = filled(ReplayBuffer(CAPACITY[kind], seed=0), kind)
    share = filled(ShardedBuffer(CAPACITY[kind], shards=1, seed=0), kind)
    chunk, ends = rows(kind, 0, WRITTEN[kind]), threading.Event()

    def write() -> None:
        while not ends.wait(0.001):
            for buffer in (local, share):
                buffer.put(chunk)

    writer = threading.Thread(target=write)
    writer.start()
    ratios = []
    for turn in range(ROUNDS):
        order = (local, share) if turn % 2 else (share, local)
        found = {id(buffer): cpu_seconds(lambda buffer=buffer: buffer.sample(SHAPE)) for buffer in order}
        ratios.append(found[id(local)] / found[id(share)])
    ends.set()
    writer.join()
    return statistics.median(ratios), min(ratios), max(ratios)


def kinds() -> Iterator[tuple[str, dict[str, Any], Callable[[int, int], dict[str, np.ndarray]]]]:
    """Name, options and rows of each kind of buffer."""

    def stacks(first: int, num: int) -> dict[str, np.ndarray]:
        ids = np.arange(first, first + num)
        frames = ((ids[:, None] + np.arange(5)) % 251).astype(np.uint8)
        whole = np.broadcast_to(frames[:, :, None, None], (num, 5, 16, 32))
        return {"id": ids, "state": whole[:, :4].copy(), "state_new": whole[:, 1:].copy()}

    def steps(first: int, num: int) -> dict[str, np.ndarray]:
        ids = np.arange(first, first + num)
        end = (ids % 6 == 5).astype(np.float32)
        return {"reward": np.cos(ids).astype(np.float32), "episode_end": end, "terminal": end * (ids % 12 == 11),
                "state_new": ids}  # fmt: skip

    def plain(first: int, num: int) -> dict[str, np.ndarray]:
        return rows("narrow", first, num)

    yield "uniform", {}, plain
    yield "priorities", {"alpha": 0.6}, plain
    yield "n steps", {"n_step": 3, "gamma": 0.9}, steps
    yield "frames", {}, stacks


def equal_batches(num: int) -> tuple[int, int]:
    """How many batches are equal, and of how many."""
    equal = total = 0
    each = -(-num // (3 * len(list(kinds()))))
    for name, options, make in kinds():
        for shards in (1, 2, 3):
            draw, first = np.random.default_rng(shards), 0
            one, sharded = (ReplayBuffer(900, seed=5, **options), ShardedBuffer(900, shards=shards, seed=5, **options))
            for at in range(each):
                if at % 10 == 0:
                    size = int(draw.integers(1, 700))
                    for buffer in (one, sharded):
                        buffer.put(make(first, size))
                    first += size
                expected, got = one.sample((2, 64)), sharded.sample((2, 64))
                same = all(got[key].tobytes() == column.tobytes() for key, column in expected.items())
                equal, total = equal + same, total + 1
                if name == "priorities":
                    for buffer in (one, sharded):
                        buffer.update_priorities(expected["index"], np.cos(expected["index"]) ** 2)
    return equal, total


def waits() -> dict[str, float]:
    """Milliseconds that a learner waits for 256 Atari rows of other nodes, of which 4 batches are drawn ahead."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1).node_id for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        with filled(ShardedBuffer(CAPACITY["atari"], shards=nodes, seed=0), "atari") as buffer:
            found = []
            with buffer.batches(256, prefetch=4) as batches:
                for _ in range(WAITS):
                    began = time.perf_counter()
                    next(batches)
                    found.append(1e3 * (time.perf_counter() - began))
                    time.sleep(WORK)
        return {"median": statistics.median(found[10:]), "99 %": float(np.percentile(found[10:], 99))}
    finally:
        ray.shutdown()
        cluster.shutdown()


def description_bytes(num_rows: int = 1000) -> float:
    """Bytes of the description of a chunk, which alone goes to the learner, for each of its rows."""
    import pickle

    from really._ray.remote_rows import RemoteRows

    return len(pickle.dumps(RemoteRows(num_rows, "0" * 56))) / num_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=10_000, help="batches that are compared bit for bit")
    parser.add_argument("--nodes", action="store_true", help="also what needs a Ray cluster")
    given = parser.parse_args()
    print("| own node's share / local buffer, (8, 256), live writer | median | least | most |")
    print("| --- | --- | --- | --- |")
    for kind in CAPACITY:
        median, least, most = own_share(kind)
        print(f"| {kind} | {median:.2f} | {least:.2f} | {most:.2f} |")
        sys.stdout.flush()
    equal, total = equal_batches(given.batches)
    print(f"\n{equal:,} of {total:,} batches are those of one buffer, bit for bit.")
    print(f"{description_bytes():.2f} bytes a row of a chunk's description, of 1,000 rows.")
    if given.nodes:
        print("Wait for 256 Atari rows of other nodes, ms:", waits())
    if equal != total:
        sys.exit(1)


if __name__ == "__main__":
    main()
