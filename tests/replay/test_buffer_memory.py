"""Memory of the buffer: how much it takes, when it takes it, and when it returns it."""

import copy
import gc
import itertools
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from really import Mixture, ReplayBuffer
from really._utils import memory_limits
from really._utils.memory_limits import available_bytes
from really.errors import NotEnoughMemoryError
from really.replay import Sequences

CARTPOLE = {
    "state": (np.float32, (4,)),
    "action": np.int64,
    "reward": np.float32,
    "state_new": (np.float32, (4,)),
    "terminal": np.float32,
}
WIDE = CARTPOLE | {"state": (np.float32, (256,)), "state_new": (np.float32, (256,))}


def resident():
    """Resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_hundred_million_rows_are_reserved_in_no_time_and_no_memory():
    before, start = resident(), time.perf_counter()
    buffer = ReplayBuffer(100_000_000, spec=CARTPOLE, overcommit=True)
    seconds = time.perf_counter() - start
    assert seconds < 0.05
    assert resident() - before < 8 << 20
    assert buffer.nbytes == 6_400_000_000


def test_pages_are_taken_as_rows_arrive_and_never_more_than_nbytes():
    rows = np.ones((1000, 1000), np.float32)
    buffer = ReplayBuffer(20_000, spec={"x": (np.float32, (1000,))})
    before = resident()
    for _ in range(5):
        buffer.put({"x": rows})
    quarter = resident() - before
    assert 18e6 < quarter < 30e6
    for _ in range(100):
        buffer.put({"x": rows})
    assert resident() - before < buffer.nbytes + (8 << 20)


def test_a_dropped_buffer_gives_its_memory_back():
    rows = np.ones((20_000, 1000), np.float32)
    before = resident()
    buffer = ReplayBuffer(20_000, spec={"x": (np.float32, (1000,))})
    buffer.put({"x": rows})
    del buffer
    assert resident() - before < 16 << 20


def test_batches_come_from_a_pool_and_go_back_to_it():
    buffer = ReplayBuffer(100, spec={"x": (np.float32, (1000,)), "y": np.int64})
    buffer.put({"x": np.ones((100, 1000), np.float32), "y": np.arange(100)})
    first = buffer.sample(500)
    address, part = first["x"].ctypes.data, first["y"][3:5]
    del first
    assert buffer.sample(500)["x"].ctypes.data != address, "a view still holds the block"
    del part
    assert buffer.sample(500)["x"].ctypes.data in {address, buffer.sample(500)["x"].ctypes.data}


def shape(spec):
    return spec[1] if isinstance(spec, tuple) else ()


def dtype_of(spec):
    return spec[0] if isinstance(spec, tuple) else spec


def narrow(n=100):
    buffer = ReplayBuffer(n, spec=CARTPOLE, seed=0)
    buffer.put({key: np.arange(n * np.prod(shape(spec))).reshape(n, *shape(spec)).astype(dtype_of(spec))
                for key, spec in CARTPOLE.items()})  # fmt: skip
    return buffer


def wide(n=100):
    """A buffer that shares frames, of rows that do and others that do not."""
    buffer = ReplayBuffer(n, spec=WIDE, seed=0)
    states = np.arange((n + 1) * 256, dtype=np.float32).reshape(n + 1, 256)
    following = np.where(np.arange(n)[:, None] % 3 == 0, -states[1:], states[1:])
    buffer.put(narrow(n).take(np.arange(n)) | {"state": states[:-1], "state_new": following})
    return buffer


def mixed():
    return Mixture([(narrow(), 1.0), (narrow(), 1.0)], source=None, seed=0)


def windows():
    buffer = ReplayBuffer(100, spec=CARTPOLE, unit=Sequences(STEPS, checks_states=False), seed=0)
    buffer.put(narrow().take(np.arange(100)) | {"terminal": np.zeros(100, np.float32)})
    return buffer


STEPS = 4
COLUMNS = {narrow: CARTPOLE, wide: WIDE, mixed: CARTPOLE, windows: {
    **{key: (dtype_of(spec), (STEPS, *shape(spec))) for key, spec in CARTPOLE.items()},
    "mask": (np.float32, (STEPS,)), "is_first": (np.float32, (STEPS,)), "number": (np.int64, (STEPS,)),
}}  # fmt: skip
SOURCES = pytest.mark.parametrize("source", COLUMNS, ids=["buffer", "shared frames", "mixture", "windows"])


def handed_out_again(source, n, hold):
    """Whether a batch has the arrays of the one before it, of which `hold` keeps what it returns."""
    buffer, columns = source(), COLUMNS[source].values()
    buffer.sample(n)
    batch = buffer.sample(n)
    kept, arrays = hold(batch), {id(array) for array in batch.values()}
    before = copy.deepcopy(dict(kept)) if isinstance(kept, dict) else None
    del batch
    others = [np.empty(0) for _ in range(1000)]  # in the memory of arrays that were dropped
    again = buffer.sample(n)
    assert before is None or all(np.array_equal(before[key], kept[key]) for key in before)
    assert [again[key].shape for key in again] == [(n, *shape(spec)) for spec in columns]
    assert [again[key].dtype for key in again] == [dtype_of(spec) for spec in columns]
    assert all(array.flags.carray for array in again.values())
    return len(others) == 1000 and arrays == {id(array) for array in again.values()}


@SOURCES
@pytest.mark.parametrize("n", [32, 256, 1000])
def test_arrays_that_nobody_holds_are_handed_out_again(source, n):
    n = min(n, 120) if source is wide else n  # up to 256 kB
    assert handed_out_again(source, n, lambda batch: None)
    assert handed_out_again(source, n, lambda batch: batch["state"].copy())


@SOURCES
@pytest.mark.parametrize(
    "hold",
    [
        lambda batch: batch,
        dict,
        lambda batch: batch["terminal"],
        lambda batch: batch["state"][3:5, 1],
        lambda batch: memoryview(batch["reward"]),
        lambda batch: np.from_dlpack(batch["state_new"]),
        lambda batch: weakref.ref(batch["action"]),
        lambda batch: iter(batch["state"]),
    ],
    ids=["batch", "dict", "array", "view", "memoryview", "DLPack", "weakref", "iterator"],
)
def test_arrays_that_somebody_holds_are_not(source, hold):
    assert not handed_out_again(source, 32, hold)


@SOURCES
@pytest.mark.parametrize(
    "change",
    [
        lambda batch: setattr(batch["state"], "shape", (batch["state"].size,)),
        lambda batch: batch["action"].setflags(write=False),
        lambda batch: setattr(batch["reward"], "dtype", np.int32),
    ],
    ids=["shape", "flags", "dtype"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_arrays_that_somebody_has_changed_in_place_are_not(source, change):
    assert not handed_out_again(source, 32, change)


@SOURCES
def test_columns_that_are_added_to_a_batch_do_not_come_back(source):
    buffer = source()
    for _ in range(5):
        batch = buffer.sample(32)
        assert list(batch) == list(COLUMNS[source])
        batch["more"] = batch.pop("state")


@SOURCES
def test_many_batches_that_are_held_are_all_different(source):
    buffer = source()
    held = [buffer.sample(32) for _ in range(50)]
    assert len({batch["state"].ctypes.data for batch in held}) == 50
    addresses = [array.ctypes.data for batch in held for array in batch.values()]
    assert len(set(addresses)) == len(addresses)


def test_batches_outlive_their_buffer():
    buffer = ReplayBuffer(10, spec={"x": np.int64})
    buffer.put({"x": np.arange(10)})
    batch = buffer.take(range(10))
    del buffer
    gc.collect()
    assert batch["x"].tolist() == list(range(10))


def test_the_pool_is_bounded():
    buffer = ReplayBuffer(100, spec={"x": (np.float32, (10_000,))})
    buffer.put({"x": np.ones((100, 10_000), np.float32)})
    before = resident()
    held = [buffer.sample(1000) for _ in range(16)]
    assert resident() - before > 500e6
    del held
    assert resident() - before < (1 << 28) + (64 << 20)


def test_sampling_leaks_nothing():
    buffer = ReplayBuffer(1000, spec=CARTPOLE)
    buffer.put({key: np.zeros((1000, *shape(spec))) for key, spec in CARTPOLE.items() if key != "action"} | {
        "action": np.zeros(1000, int)
    })  # fmt: skip
    for n in (32, 5000):
        for _ in range(20):
            buffer.sample(n)
        before = resident()
        for _ in range(2000):
            buffer.sample(n)
            buffer.sample_indices((2, n))
        assert resident() - before < 4 << 20


def test_refused_puts_leak_nothing():
    buffer = ReplayBuffer(10, spec={"x": np.int64})
    wrong = {"x": np.zeros((200_000, 2))}
    before = resident()
    for _ in range(500):
        with pytest.raises(ValueError, match="expected shape"):
            buffer.put(wrong)
    assert resident() - before < 4 << 20


def test_what_does_not_fit_is_refused_with_the_numbers():
    available = available_bytes()
    rows = available // 4000 * 2
    with pytest.raises(NotEnoughMemoryError, match=rf"needs {rows * 4032:,} bytes, available are [\d,]+ \(overcommit"):
        ReplayBuffer(rows, spec={"x": (np.float32, (1000,))})
    with pytest.raises(MemoryError):
        ReplayBuffer(rows, spec={"x": (np.float32, (1000,))})
    assert ReplayBuffer(rows, spec={"x": (np.float32, (1000,))}, overcommit=True).nbytes == rows * 4032


def test_two_buffers_are_not_promised_the_same_memory():
    rows = int(available_bytes() * 0.6) // 64
    first = ReplayBuffer(rows, spec=CARTPOLE)
    with pytest.raises(NotEnoughMemoryError, match="available are"):
        ReplayBuffer(rows, spec=CARTPOLE)
    del first
    assert len(ReplayBuffer(rows, spec=CARTPOLE)) == 0


def test_a_containers_limit_counts(tmp_path):
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5\n")
    (tmp_path / "a" / "memory.max").write_text("1000\n")
    (tmp_path / "a" / "memory.current").write_text("400\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    assert list(memory_limits._cgroup_left(str(tmp_path), str(own))) == [600]


def test_the_older_kind_of_containers_limit_counts(tmp_path):
    group = tmp_path / "memory" / "a"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("900\n")
    (group / "memory.usage_in_bytes").write_text("100\n")
    own = tmp_path / "cgroup"
    own.write_text("5:cpu:/x\n4:memory,hugetlb:/a\n")
    assert list(memory_limits._cgroup_left(str(tmp_path), str(own))) == [800]


def test_a_container_without_a_limit_leaves_what_others_leave(tmp_path):
    for group, limit, used in (
        (tmp_path / "memory", "9223372036854771712", "7"),
        (tmp_path / "memory" / "a", "90", "1"),
    ):
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (group / "memory.usage_in_bytes").write_text(f"{used}\n")
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/a\n")
    assert list(memory_limits._cgroup_left(str(tmp_path), str(own))) == [89]


@pytest.mark.parametrize("length", [1 << 16, 200_000])
def test_a_long_list_of_groups_is_read_to_its_end(tmp_path, length):
    group = tmp_path / "memory" / "a"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("900\n")
    (group / "memory.usage_in_bytes").write_text("100\n")
    own = tmp_path / "cgroup"
    own.write_text(f"5:cpu:/{'x' * length}\n4:memory:/a\n")
    assert list(memory_limits._cgroup_left(str(tmp_path), str(own))) == [800]


def test_a_process_limit_counts():
    code = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from really import NotEnoughMemoryError, ReplayBuffer
for overcommit in (False, True):
    try:
        ReplayBuffer(10**9, spec={"x": "f8"}, overcommit=overcommit)
    except NotEnoughMemoryError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    refused, failed = run.stdout.splitlines()
    assert "needs 8,000,000,000 bytes, available are" in refused
    assert "needs 8,000,000,000 bytes, for which the system has no addresses left" in failed


def test_the_buffer_needs_numpy_alone():
    code = """
import sys
from really.replay.buffer import ReplayBuffer
buffer = ReplayBuffer(5)
buffer.put({"x": [1.0, 2.0]})
buffer.sample(3)
print([name for name in ("tensorflow", "ray", "pyarrow", "matplotlib", "torch", "jax") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the page faults of a thread")
@pytest.mark.parametrize("order", ["unrelated", "trajectory"])
def test_a_full_buffer_of_frames_puts_without_new_pages(order):
    import resource

    buffer = ReplayBuffer(20_000)
    shown = np.random.default_rng(0).integers(0, 256, (6001, 376), np.uint8).astype(np.float32)
    step = 1 if order == "trajectory" else 3000
    ends = np.cumsum([0, 100, 1400, 200, 800, 500])
    rows = [
        {"state": shown[start:end], "state_new": shown[start + step : end + step]}
        for start, end in itertools.pairwise(ends)
    ]

    def page_faults(times):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for _ in range(times):
            for piece in rows:
                buffer.put(piece)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

    page_faults(20)
    # A block of frames has hundreds of pages.
    assert page_faults(40) < 100
