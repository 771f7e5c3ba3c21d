"""A buffer in shards against one `ReplayBuffer`: `python -m bench.shards [--batches 10000] [--nodes | --hosts]`.

Prints ratios of one run, and no more, since rows a second depend on the machine:

- batches of (8, 256) from the share of the learner's own node, against the local buffer, while a thread puts: CPU time
  of the sampling thread, in turns;
- how many of so many batches are those of one buffer, bit for bit: 1, 2 and 3 shards; uniform, prioritized, n steps,
  shared frames, sequences, by the values of a column; uneven puts that wrap around;
- with `--nodes`, on a Ray cluster of three nodes on this machine, so that the wire is this machine's memory; with
  `--hosts`, as root, on three hosts in network namespaces of this machine, with a virtual wire between them:
  - how long a learner that works 20 ms waits for a batch of 256 Atari rows of other nodes, of noise and of Pong;
  - batches of (8, 256) of such rows, two ahead, against whole rows, and against an actor with RLlib's buffer if RLlib
    is installed; bytes a second against a plain TCP connection between the same hosts, and against Ray alone with
    objects of as many bytes;
  - rows a second of `collect` into shards against `collect` into one buffer, and the bytes of a row's description that
    go to the learner;
  - seconds from the loss of a shard to the next batch.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from really import ReplayBuffer, SampleManager, ShardedBuffer

ROUNDS, CALLS = 15, 4
SHAPE = (8, 256)
CAPACITY = {"narrow": 100_000, "wide": 20_000, "atari": 6_000}
WRITTEN = {"narrow": 500, "wide": 200, "atari": 50}
"""Rows of each put of the live writer, every millisecond or as fast as it can."""
WORK, WAITS = 0.020, 200
STORE_BYTES = 1_500_000_000
"""Of each node's object store: room for whole rows, too."""


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
    yield "sequences", {"unit": ("sequences", {"length": 4, "pad": True})}, steps
    yield "by task", {"sampler": ("stratified", {"column": "action"})}, plain


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


@contextlib.contextmanager
def cluster() -> Iterator[list[str]]:
    """The ids of two nodes beside that of the learner, which has no CPUs."""
    import ray
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": STORE_BYTES}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **store})
    nodes = [made.add_node(num_cpus=2, **store).node_id for _ in range(2)]  # for the runners of two managers
    ray.init(address=made.address, log_to_driver=False)
    try:
        yield nodes
    finally:
        ray.shutdown()
        made.shutdown()


@contextlib.contextmanager
def joined(address: str) -> Iterator[list[str]]:
    """The ids of the nodes with CPUs of a cluster that runs. This process has to be on its head node."""
    import ray

    ray.init(address=address, log_to_driver=False, _node_ip_address=address.partition(":")[0])
    try:
        yield [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    finally:
        ray.shutdown()


def run_on_hosts(batches: int) -> int:
    """Runs this benchmark on the first of three hosts; returns its exit status."""
    from tests.hosts import Hosts

    with Hosts(0, 2, 2, store_bytes=STORE_BYTES) as hosts:
        arguments = ["bench.shards", "--batches", str(batches), "--address", hosts.address]
        script = f"import runpy, sys; sys.argv = {arguments}; runpy.run_module('bench.shards', run_name='__main__')"
        return hosts.popen(0, script, stdout=None, stderr=None).wait()


def pong(first: int, num: int) -> dict[str, np.ndarray]:
    """Atari rows of frames as Pong has them: a plain field, a ball, a bat, and a score of many edges."""
    frames, at = np.zeros((num + 4, 84, 84), np.uint8), np.arange(num + 4)
    frames[:, 10:77] = 87
    frames[at, (first + at) % 60 + 12, (first + 3 * at) % 80] = 255
    for row in range(8):
        frames[at, (first // 2 + at) % 60 + 10 + row % 8, 76] = 147
    frames[:, :8] = np.random.default_rng(0).integers(0, 255, (8, 84), np.uint8)
    stacks = np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0).transpose(0, 3, 1, 2)
    return rows("atari", first, num) | {"state": stacks[:-1].copy(), "state_new": stacks[1:].copy()}


def remote(nodes: list[str], of_pong: bool) -> ShardedBuffer:
    """A full buffer of Atari rows whose shards are on these nodes."""
    buffer = ShardedBuffer(CAPACITY["atari"], shards=nodes, seed=0)
    for first in range(0, CAPACITY["atari"] * 11 // 10, 1000):
        buffer.put(pong(first, 1000) if of_pong else rows("atari", first, 1000))
    return buffer


def waits(buffer: ShardedBuffer) -> dict[str, float]:
    """Milliseconds that a learner waits for 256 rows of other nodes, of which 4 batches are drawn ahead."""
    found = []
    with buffer.batches(256, prefetch=4) as batches:
        for _ in range(WAITS):
            began = time.perf_counter()
            next(batches)
            found.append(1e3 * (time.perf_counter() - began))
            time.sleep(WORK)
    return {"median": statistics.median(found[10:]), "99 %": float(np.percentile(found[10:], 99))}


def remote_rate(buffer: ShardedBuffer, frames_once: bool) -> float:
    """Rows a second in batches of (8, 256), two ahead; whole rows, or each frame once."""
    for shard in buffer._shards._remotes:  # the buffer has no option for what is never better
        shard._shares_frames = frames_once
    with buffer.batches(SHAPE, prefetch=2) as batches:
        for _ in range(3):
            next(batches)
        began = time.perf_counter()
        for _ in range(CALLS):
            next(batches)
    return CALLS * SHAPE[0] * SHAPE[1] / (time.perf_counter() - began)


def frame_bytes() -> float:
    """Bytes of the frames of a row of a batch of (8, 256), each frame once."""
    drawn = np.random.default_rng(0).integers(0, CAPACITY["atari"], SHAPE[0] * SHAPE[1])
    return len(np.unique(drawn[:, None] + np.arange(5))) * 84 * 84 / len(drawn)


def tcp_bytes_per_second(node: str, nbytes: int = 1 << 29) -> float:
    """Bytes a second over a plain connection from a process on this node to this one."""
    import ray

    @ray.remote(num_cpus=0)
    def send(host: str, port: int) -> None:
        part = np.ones(1 << 22, np.uint8)
        with socket.create_connection((host, port)) as connection:
            for _ in range(nbytes // part.nbytes):
                connection.sendall(part)

    with socket.create_server(("0.0.0.0", 0)) as server:
        address = ray.util.get_node_ip_address(), server.getsockname()[1]
        sent = send.options(scheduling_strategy=near(node)).remote(*address)
        connection, left, into = server.accept()[0], nbytes, bytearray(1 << 22)
        began = time.perf_counter()
        while left:
            left -= connection.recv_into(into, min(left, len(into)))
        seconds = time.perf_counter() - began
        ray.get(sent)
        connection.close()
    return nbytes / seconds


def near(node: str) -> Any:
    """Places an actor or a task on this node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def ray_bytes_per_second(nodes: list[str], nbytes: int, turns: int = 12) -> float:
    """Bytes a second that Ray alone moves to this node, in objects of so many bytes, two ahead, one from each node."""
    import ray

    @ray.remote(num_cpus=0)
    class Source:
        def __init__(self) -> None:
            self.content = np.ones(nbytes, np.uint8)

        def give(self) -> np.ndarray:
            return self.content

    sources = [Source.options(scheduling_strategy=near(node)).remote() for node in nodes]
    asked = collections.deque(source.give.remote() for source in sources)
    ray.get(asked[0])
    began = time.perf_counter()
    for turn in range(turns):
        asked.append(sources[turn % len(sources)].give.remote())
        ray.get(asked.popleft())
    seconds = time.perf_counter() - began
    for source in sources:
        ray.kill(source)
    return turns * nbytes / seconds


def rllib_rate(node: str) -> float | None:
    """Rows a second in 8 batches of 256 of an actor with RLlib's buffer on a node, two calls ahead; None without RLlib.

    An actor of RLlib gives a batch a call; that all eight come with one is its best form here.
    """
    try:
        import ray
        from ray.rllib.policy.sample_batch import SampleBatch
        from ray.rllib.utils.replay_buffers import ReplayBuffer as RLlibBuffer
    except ImportError:
        return None

    @ray.remote(num_cpus=0)
    class Replay:
        def __init__(self) -> None:
            self.buffer = RLlibBuffer(capacity=CAPACITY["atari"] // 3, storage_unit="timesteps")

        def add(self, part: dict[str, np.ndarray]) -> None:
            self.buffer.add(SampleBatch({key: column.copy() for key, column in part.items()}))

        def sample(self, num_batches: int, num: int) -> list[dict[str, np.ndarray]]:
            return [dict(self.buffer.sample(num)) for _ in range(num_batches)]

    actor = Replay.options(scheduling_strategy=near(node)).remote()
    for first in range(0, CAPACITY["atari"] // 3, 500):
        ray.get(actor.add.remote(rows("atari", first, 500)))
    asked = collections.deque(actor.sample.remote(*SHAPE) for _ in range(2))
    ray.get(asked[0])
    began = time.perf_counter()
    for _ in range(CALLS):
        asked.append(actor.sample.remote(*SHAPE))
        ray.get(asked.popleft())
    seconds = time.perf_counter() - began
    ray.kill(actor)
    return CALLS * SHAPE[0] * SHAPE[1] / seconds


def q_values(state: Any) -> dict[str, np.ndarray]:
    """A model that costs nothing."""
    return {"q_values": np.zeros((len(state), 2), np.float32)}


def collecting(turns: int = 5, num: int = 8_000) -> float:
    """Rows a second of `collect` into shards of the nodes / into one buffer, in turns: median."""
    keys = ["state", "action", "reward", "state_new", "terminal"]
    managers = [SampleManager(q_values, "CartPole-v1", 8, 1000, num_workers=2) for _ in range(2)]
    for manager, shards in zip(managers, ("nodes", None), strict=True):
        manager.initialize_buffer(50_000, keys, shards=shards)
        manager.collect(num)
    ratios = []
    for turn in range(turns):
        found = {}
        for at in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            found[at] = managers[at].collect(num) / (time.perf_counter() - began)
        ratios.append(found[0] / found[1])
    for manager in managers:
        manager.close()
    return statistics.median(ratios)


def seconds_after_a_loss(buffer: ShardedBuffer) -> float:
    """Seconds from the end of a shard's process to the next batch."""
    import ray

    ray.kill(buffer._shards._remotes[0].actor)
    began = time.perf_counter()
    buffer.sample(256)
    return time.perf_counter() - began


def print_wire(nodes: list[str], rate: float) -> None:
    """What limits rows of noise, of which so many come a second: the wire, Ray, or this package."""
    nbytes = int(SHAPE[0] * SHAPE[1] * frame_bytes())
    sent, tcp = rate * frame_bytes(), tcp_bytes_per_second(nodes[0])
    by_ray = ray_bytes_per_second(nodes, nbytes // len(nodes))
    print(f"  the same in bytes of frames a second / TCP: {sent / tcp:.2f}")
    print(f"  Ray alone, objects of as many bytes / TCP: {by_ray / tcp:.2f}; ours / Ray alone: {sent / by_ray:.2f}")
    rllib = rllib_rate(nodes[0])
    against = "not installed" if rllib is None else f"{rate / rllib:.2f}"
    print(f"  against an actor with RLlib's buffer: {against}")


def print_nodes(address: str | None) -> None:
    """What needs a Ray cluster: the one at this address, or one of this machine."""
    with cluster() if address is None else joined(address) as nodes:
        for name, of_pong in (("noise", False), ("Pong", True)):
            with remote(nodes, of_pong) as buffer:
                found = waits(buffer)
                print(f"Wait for 256 Atari rows of {name}, ms: median {found['median']:.2f}, 99 % {found['99 %']:.2f}")
                pairs = [(remote_rate(buffer, True), remote_rate(buffer, False)) for _ in range(ROUNDS // 3)]
                ratio, rate = statistics.median(one / other for one, other in pairs), max(one for one, _ in pairs)
                print(f"(8, 256) of {name}, each frame once / whole rows: {ratio:.2f}")
                if not of_pong:
                    print_wire(nodes, rate)
                print(f"Seconds from the loss of a shard to the next batch: {seconds_after_a_loss(buffer):.2f}")
            sys.stdout.flush()
        print(f"Collecting into shards / into one buffer, rows a second: {collecting():.2f}")


def description_bytes(num_rows: int = 1000) -> float:
    """Bytes of the description of a chunk, which alone goes to the learner, for each of its rows."""
    import pickle

    from really._ray.remote_rows import RemoteRows

    return len(pickle.dumps(RemoteRows(num_rows, "0" * 56))) / num_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=10_000, help="batches that are compared bit for bit")
    parser.add_argument("--nodes", action="store_true", help="also what needs a Ray cluster")
    parser.add_argument("--hosts", action="store_true", help="the same on hosts with networks of their own, as root")
    parser.add_argument("--address", help="the same on this cluster, on whose head node this runs")
    given = parser.parse_args()
    if given.hosts:
        sys.exit(run_on_hosts(given.batches))
    print("| own node's share / local buffer, (8, 256), live writer | median | least | most |")
    print("| --- | --- | --- | --- |")
    for kind in CAPACITY:
        median, least, most = own_share(kind)
        print(f"| {kind} | {median:.2f} | {least:.2f} | {most:.2f} |")
        sys.stdout.flush()
    equal, total = equal_batches(given.batches)
    print(f"\n{equal:,} of {total:,} batches are those of one buffer, bit for bit.")
    print(f"{description_bytes():.2f} bytes a row of a chunk's description, of 1,000 rows.")
    if given.nodes or given.address:
        print_nodes(given.address)
    if equal != total:
        sys.exit(1)


if __name__ == "__main__":
    main()
