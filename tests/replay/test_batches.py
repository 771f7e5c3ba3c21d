"""Batches drawn ahead: they equal those of `sample`, are bounded in number, end cleanly, and become tensors."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import (
    EmptyBufferError,
    InvalidStateError,
    InvalidTypeError,
    InvalidValueError,
    Mixture,
    ReplayBuffer,
    SampleManager,
    ShardedBuffer,
)
from really.replay import tensors
from really.replay.batches import Batches
from tests.environments import Counter, Raising
from tests.models import QNet

ROOT = Path(__file__).parents[2]
SPEC = {"x": (np.float32, (16,)), "id": np.int64}


def make(num: int = 1000, seed: int = 1) -> ReplayBuffer:
    buffer = ReplayBuffer(max(num, 1), spec=SPEC, seed=seed)
    buffer.put(rows(0, num))
    return buffer


def rows(first: int, num: int) -> dict[str, np.ndarray]:
    ids = np.arange(first, first + num)
    return {"x": np.repeat(ids, 16).reshape(-1, 16).astype(np.float32), "id": ids}


def await_true(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def thread_count() -> int:
    return sum(thread.name == "really-batches" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    await_true(lambda: thread_count() == 0)


class Asked:
    """Counts draws, and delays them while `closed`."""

    def __init__(self, closed: bool = False) -> None:
        self.rows: list[int] = []
        self.closed = closed

    def __call__(self, rows: int, cancelled: Callable[[], bool]) -> None:
        self.rows.append(rows)
        while self.closed and not cancelled():
            time.sleep(0.001)


# What comes out


@pytest.mark.parametrize("prefetch", [0, 1, 2, 5])
@pytest.mark.parametrize("n", [1, 33, (3, 8)])
@pytest.mark.parametrize("replace", [True, False])
def test_batches_and_generator_are_those_of_sample(prefetch: int, n: Any, replace: bool) -> None:
    one, other = make(), make()
    with one.batches(n, prefetch, replace=replace) as batches:
        for _ in range(7):
            got, expected = next(batches), other.sample(n, replace=replace)
            assert all(np.array_equal(got[key], expected[key]) for key in SPEC)
    assert np.array_equal(one.sample(50)["id"], other.sample(50)["id"]), "close set the generator back"


def test_two_runs_are_alike_with_puts_between_the_iterators() -> None:
    def run() -> list[list[int]]:
        buffer, got = make(500), []
        for turn in range(5):
            with buffer.batches(8, prefetch=3) as batches:
                got += [next(batches)["id"].tolist() for _ in range(4)]
            buffer.put(rows(500 + turn, 1))
        return got

    assert run() == run()


def test_the_generator_stays_where_others_have_drawn() -> None:
    buffer = make()
    with buffer.batches(8, prefetch=2, as_="numpy") as batches:
        next(batches)
        mine = buffer.sample(100)["id"].tolist()
    assert buffer.sample(100)["id"].tolist() != mine


def test_a_batch_is_the_callers_to_keep_and_its_memory_returns() -> None:
    buffer = make()
    with buffer.batches(64, prefetch=2) as batches:
        kept = next(batches)
        before = {key: column.copy() for key, column in kept.items()}
        where = {next(batches)["x"].ctypes.data for _ in range(500)}
        assert all(np.array_equal(kept[key], before[key]) for key in SPEC)
    assert kept["x"].ctypes.data not in where
    assert len(where) <= 6, "two ahead, one under way, one just given, and one or two that malloc moved"


def test_no_more_than_prefetch_batches_are_ahead() -> None:
    asked = Asked()
    with Batches(make(), (2, 4), 3, before=asked) as batches:
        time.sleep(0.02)
        assert asked.rows == [], "nothing is drawn before the first next"
        for taken in range(1, 5):
            next(batches)
            await_true(lambda taken=taken: len(asked.rows) == taken + 3)
            time.sleep(0.02)
            assert asked.rows == [8] * (taken + 3)


def test_rows_put_meanwhile_come_after_those_ahead() -> None:
    buffer, asked = make(10), Asked()
    with Batches(buffer, 4, 2, before=asked) as batches:
        next(batches)
        await_true(lambda: len(asked.rows) == 3)
        time.sleep(0.02)
        buffer.put(rows(100, 10))
        fresh = [bool((next(batches)["id"] >= 100).all()) for _ in range(4)]
    assert fresh == [False, False, True, True]
    with buffer.batches(4, prefetch=0) as batches:
        next(batches)
        buffer.put(rows(200, 10))
        assert (next(batches)["id"] >= 200).all()


def test_several_threads_share_the_batches() -> None:
    one, other = make(), make()
    got: list[bytes] = []
    with one.batches(16, prefetch=3) as batches:
        threads = [
            threading.Thread(target=lambda: got.extend(next(batches)["id"].tobytes() for _ in range(50)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(got) == sorted(other.sample(16)["id"].tobytes() for _ in range(200))


def test_rows_stay_whole_while_others_put() -> None:
    buffer, stop = make(), threading.Event()

    def put() -> None:
        first = 1000
        while not stop.is_set():
            buffer.put(rows(first, 100))
            first += 100

    writer = threading.Thread(target=put)
    writer.start()
    try:
        with buffer.batches(256) as batches:
            for _ in range(300):
                batch = next(batches)
                assert (batch["x"] == batch["id"][:, None]).all()
    finally:
        stop.set()
        writer.join()


# How it ends


def test_an_empty_buffer_is_an_error_that_ends_the_iterator() -> None:
    for buffer in (ReplayBuffer(10), make(0)):
        for prefetch in (0, 2):
            batches = buffer.batches(4, prefetch)
            with pytest.raises(EmptyBufferError, match="expected a buffer that holds rows, got an empty one"):
                next(batches)
            assert list(batches) == []
    batches = make(0).batches(1)
    batches._source.buffer.put(rows(7, 1))
    assert next(batches)["id"].tolist() == [7], "what counts is whether there are rows at the first next"
    batches.close()


def test_errors_of_a_draw_come_out_of_next() -> None:
    with pytest.raises(InvalidValueError, match="expected at most 3 rows with replace=False, got 4"):
        next(make(3).batches(4, replace=False))

    def fail(rows: int, cancelled: Callable[[], bool]) -> None:
        raise KeyboardInterrupt("from the thread")

    with pytest.raises(KeyboardInterrupt, match="from the thread"):
        next(Batches(make(), 4, before=fail))


def test_close_wakes_who_waits_and_is_final() -> None:
    batches = Batches(make(), 4, before=Asked(closed=True))
    got: list[Any] = []
    waiting = [threading.Thread(target=lambda: got.append(next(batches, "ended"))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    await_true(lambda: thread_count() == 1)
    batches.close()
    batches.close()
    for thread in waiting:
        thread.join(10)
    assert got == ["ended"] * 3
    assert list(batches) == []
    assert thread_count() == 0


def test_an_iterator_that_nobody_holds_ends_its_thread_and_frees_the_buffer() -> None:
    buffer = make()
    gone = weakref.ref(buffer)
    for batch in buffer.batches(4):
        assert len(batch["id"]) == 4
        break
    await_true(lambda: thread_count() == 0)
    del buffer
    await_true(lambda: gone() is None)


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", "import threading; batches.close()"])
def test_the_process_ends_while_batches_are_drawn(ending: str) -> None:
    code = f"""
import numpy as np
from really import ReplayBuffer
buffer = ReplayBuffer(500, spec={{"x": ("uint8", (84, 84, 4))}}, seed=0)
buffer.put({{"x": np.zeros((500, 84, 84, 4), np.uint8)}})
iterators = [buffer.batches(256, prefetch=50) for _ in range(3)]
for batches in iterators:
    next(batches)
{ending}
"""
    for _ in range(3):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("prefetch", [0, 1, 4])
@pytest.mark.parametrize("taken", [0, 5])
def test_a_forked_process_goes_on_with_the_same_batches(prefetch: int, taken: int) -> None:
    code = f"""
import os, sys
import numpy as np
from really import ReplayBuffer
buffer = ReplayBuffer(1000, seed=3)
buffer.put({{"id": np.arange(1000)}})
batches = buffer.batches(16, prefetch={prefetch})
for _ in range({taken}):
    next(batches)
child = os.fork()
ids = [next(batches)["id"].tolist() for _ in range(10)]
if child:
    os.waitpid(child, 0)
with batches:
    pass
print(ids, buffer.sample(4)["id"].tolist())
"""
    for _ in range(3):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        first, second = done.stdout.splitlines()
        assert first == second
        assert done.stderr == ""


# As tensors


@pytest.fixture(params=["tf", "torch", "jax"])
def library(request: pytest.FixtureRequest) -> str:
    pytest.importorskip({"tf": "tensorflow"}.get(request.param, request.param))
    return request.param


NUMBERS = ["?", "i1", "i2", "i4", "u1", "u2", "u4", "f2", "f4", "c8"]
WIDE_NUMBERS = ["i8", "u8", "f8", "c16"]


def of_dtypes(dtypes: list[str]) -> ReplayBuffer:
    buffer = ReplayBuffer(100, spec={dtype: (dtype, (3,)) for dtype in dtypes}, seed=0)
    buffer.put({dtype: np.arange(300).reshape(100, 3).astype(dtype) for dtype in dtypes})
    return buffer


def test_tensors_have_the_values_and_dtypes_and_the_batchs_memory(library: str) -> None:
    one, other = of_dtypes(NUMBERS), of_dtypes(NUMBERS)
    with one.batches((2, 5), as_=library) as batches:
        for _ in range(3):
            got, expected = next(batches), other.sample((2, 5))
            for key, tensor in got.items():
                assert type(tensor).__module__.partition(".")[0].startswith(("tensorflow", "torch", "jax"))
                back = np.asarray(tensor)
                assert back.dtype == key
                assert np.array_equal(back, expected[key])
    for key, column in other.sample(5).items():
        assert np.asarray(tensors.converter(library)(key, column)).ctypes.data == column.ctypes.data, "no copy"


def test_wide_numbers_keep_their_width_apart_from_jax(library: str) -> None:
    one, other = of_dtypes(WIDE_NUMBERS), of_dtypes(WIDE_NUMBERS)
    with one.batches(5, as_=library) as batches:
        got, expected = next(batches), other.sample(5)
    halves = {"i8": "i4", "u8": "u4", "f8": "f4", "c16": "c8"}
    for key, tensor in got.items():
        assert np.asarray(tensor).dtype == (halves[key] if library == "jax" else key)
        assert np.array_equal(np.asarray(tensor), expected[key])


def test_jax_is_not_given_integers_that_it_would_cut() -> None:
    pytest.importorskip("jax")
    buffer = ReplayBuffer(3, seed=0)
    buffer.put({"id": np.full(3, 1 << 40)})
    with pytest.raises(InvalidValueError, match=r"key 'id': expected int64 that fits int32, .* got 1099511627776"):
        next(buffer.batches(2, as_="jax"))


def test_tensors_keep_their_memory_out_of_the_pool(library: str) -> None:
    buffer = make()
    with buffer.batches(256, as_=library) as batches:
        tensor = next(batches)["x"]
        before = np.asarray(tensor).copy()
        for _ in range(200):
            next(batches)
        for _ in range(200):
            other = buffer.sample(256)
            other["x"].fill(-1)
            del other
        assert np.array_equal(np.asarray(tensor), before)


def test_memory_of_tensors_returns(library: str) -> None:
    with make().batches(256, as_=library) as batches:
        where = {np.asarray(next(batches)["x"]).ctypes.data for _ in range(200)}
    assert len(where) <= 20, "blocks are reused after the library has released them"


@pytest.mark.parametrize("dtype", ["S7", "U3", "M8[us]", "m8[D]", "g", [("a", "i4"), ("b", "f8")]])
def test_what_no_tensor_can_be_is_refused_by_name(library: str, dtype: Any) -> None:
    buffer = ReplayBuffer(10, spec={"ok": "f4", "bad": dtype})
    with pytest.raises(InvalidTypeError, match=f"as_='{library}': key 'bad': expected bool, an integer, .*got"):
        buffer.batches(2, as_=library)
    late = ReplayBuffer(10)
    batches = late.batches(2, as_=library)
    late.put({"ok": np.zeros(3, np.float32), "bad": np.zeros(3, dtype)})
    with pytest.raises(InvalidTypeError, match="key 'bad'"):
        next(batches)
    assert set(next(late.batches(2))) == {"ok", "bad"}, "NumPy takes all"


def test_rows_of_nothing_are_tensors_too(library: str) -> None:
    buffer = ReplayBuffer(10, spec={"x": ("f4", (0, 3))})
    buffer.put({"x": np.zeros((10, 0, 3), np.float32)})
    with buffer.batches(2, as_=library) as batches:
        assert tuple(next(batches)["x"].shape) == (2, 0, 3)


def test_learning_in_tensorflow_from_batches() -> None:
    import tensorflow as tf

    buffer, weight = make(), tf.Variable(tf.zeros((16, 1)))

    @tf.function
    def step(x: Any, target: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x @ weight - tf.cast(target, tf.float32)[:, None]) ** 2)
        weight.assign_sub(1e-8 * tape.gradient(loss, weight))
        return loss

    with buffer.batches(64, as_="tf") as batches:
        losses = [float(step(batch["x"], batch["id"])) for batch, _ in zip(batches, range(200), strict=False)]
    assert losses[-1] < 0.9 * losses[0]
    assert step.experimental_get_tracing_count() == 1


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, InvalidValueError, "n: expected an integer from 1"),
        ({"n": (2, 3, 4)}, InvalidValueError, r"n: expected a number of rows or \(batches, rows\)"),
        ({"n": 1.5}, InvalidTypeError, "n: expected an integer >= 1, got 1.5"),
        ({"prefetch": -1}, InvalidValueError, "prefetch: expected an integer >= 0, got -1"),
        ({"prefetch": True}, InvalidTypeError, "prefetch: expected an integer >= 0, got True"),
        ({"prefetch": 2.0}, InvalidTypeError, "prefetch: expected an integer >= 0, got 2.0"),
        ({"as_": "tensorflow"}, InvalidValueError, "as_: expected one of 'jax', 'numpy', 'tf', 'torch', got"),
        ({"as_": None}, InvalidValueError, "as_: expected one of 'jax', 'numpy', 'tf', 'torch', got None"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make().batches(**{"n": 4, **arguments})


def test_a_library_that_is_not_installed_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="torch"):
        make().batches(4, as_="torch")


TOLD = r"^sample: expected no as_, as it gives arrays of NumPy, got 'torch'; batches\(n, as_='torch'\) gives tensors$"


@pytest.mark.parametrize("kind", ["buffer", "mixture", "shards"])
def test_sample_names_what_gives_tensors(kind: str) -> None:
    buffer: Any = ShardedBuffer(10, shards=1) if kind == "shards" else ReplayBuffer(10)
    buffer.put({"x": np.arange(4.0)})
    buffer = Mixture([(buffer, 1)]) if kind == "mixture" else buffer
    assert buffer.sample(2, as_=None)["x"].shape == (2,)
    with pytest.raises(InvalidTypeError, match=TOLD):
        buffer.sample(2, as_="torch")


# With a manager


def manager_of(environment: Any = Counter, **changes: Any) -> SampleManager:
    given = {"num_parallel": 2, "total_steps": 100, "num_steps": 50, "use_ray": False, **changes}
    manager = SampleManager(QNet, environment, action_sampling_type="epsilon_greedy", **given)
    manager.initialize_buffer(100_000, ["state", "state_new", "reward"])
    return manager


def test_a_manager_gives_batches_of_its_buffer() -> None:
    with manager_of(seed=1) as one, manager_of(seed=1) as other:
        for manager in (one, other):
            manager.collect()
        with one.batches(32, as_="tf") as batches:
            for _ in range(5):
                assert np.array_equal(next(batches)["state"], other.sample(32)["state"])
        assert np.array_equal(one.sample(3)["state"], other.sample(3)["state"])


def test_a_manager_without_buffer_or_rows_says_so() -> None:
    manager = SampleManager(QNet, Counter, 1, 10, action_sampling_type="epsilon_greedy", use_ray=False)
    with (
        manager,
        pytest.raises(InvalidStateError, match=r"the buffer: expected initialize_buffer\(\) to be called first"),
    ):
        manager.batches(4)
    with manager_of() as manager, pytest.raises(InvalidTypeError, match=TOLD):
        manager.sample(4, as_="torch")  # type: ignore[arg-type]
    with manager_of() as manager, pytest.raises(EmptyBufferError):
        next(manager.batches(4))


def test_the_rate_limiter_sees_batches_when_they_are_drawn() -> None:
    with manager_of() as manager:
        ratio = {"samples_per_insert": 1.0, "min_rows": 1000, "error_buffer": 2000}
        with manager.collect_in_background(**ratio) as background, manager.batches((2, 50), prefetch=3) as batches:
            for taken in range(1, 201):
                batch = next(batches)
                np.testing.assert_array_equal(batch["state_new"], batch["state"] + 1)
                assert taken * 100 <= background.info()["background_sampled"] <= (taken + 3) * 100
            assert background.rows >= 1000 + 200 * 100 - 2000, "the learner waited for the runners"
        assert not background.running


def test_closing_does_not_wait_for_the_rate_limiter() -> None:
    with manager_of() as manager:
        background = manager.collect_in_background(samples_per_insert=1e-6, min_rows=1, error_buffer=64)
        with manager.batches(64, prefetch=4) as batches:
            next(batches)  # another one is due in 64 million rows
        assert background.running
        assert background.info()["background_sampled"] == 64
        background.stop()


def test_an_error_of_the_runners_reaches_who_iterates() -> None:
    with manager_of(Raising, env_config={"at": 3}) as manager:
        manager.collect_in_background(min_rows=100_000)
        with pytest.raises(InvalidStateError, match=r"background collection ended with EnvironmentFailedError"):
            next(manager.batches(10))


def test_sampling_several_batches_counts_all_their_rows() -> None:
    with manager_of() as manager, manager.collect_in_background() as background:
        assert manager.sample((3, 8))["state"].shape[:2] == (3, 8)
        assert background.info()["background_sampled"] == 24


# By priority


def prioritized(num: int = 200, **options: Any) -> ReplayBuffer:
    buffer = ReplayBuffer(1000, alpha=0.7, seed=5, **options)
    ends = (np.arange(num) % 10 == 9).astype(np.float32)
    buffer.put({"id": np.arange(num), "reward": np.ones(num, np.float32), "terminal": ends, "episode_end": ends})
    buffer.update_priorities(np.arange(num), 1.0 + np.arange(num) % 7)
    return buffer


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_beta_of_a_function_is_that_of_the_batchs_number_whatever_is_ahead(prefetch: int) -> None:
    one, other = prioritized(), prioritized()
    with one.batches(16, prefetch, beta=lambda number: number / 10) as batches:
        for number in range(6):
            got, expected = next(batches), other.sample(16, beta=number / 10)
            assert all(np.array_equal(got[key], expected[key]) for key in expected)
    assert np.array_equal(one.sample(50)["id"], other.sample(50)["id"]), "close set the generator back"


def test_a_number_as_beta_is_that_of_every_batch() -> None:
    one, other = prioritized(), prioritized()
    with one.batches((2, 8), beta=1.0) as batches:
        for _ in range(3):
            assert np.array_equal(next(batches)["weight"], other.sample((2, 8), beta=1.0)["weight"])


def test_a_beta_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="beta: expected none for a buffer that draws uniformly"):
        make().batches(4, beta=0.5)
    with pytest.raises(InvalidValueError, match="beta: expected none for a buffer that draws uniformly"):
        make().batches(4, beta=lambda number: 0.5)
    with pytest.raises(InvalidValueError, match=r"beta: expected a number from 0 to 1, got 1\.5"):
        prioritized().batches(4, beta=1.5)
    with pytest.raises(InvalidTypeError, match="beta: expected a number from 0 to 1, got 'much'"):
        prioritized().batches(4, beta="much")  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="replace: expected True with alpha"):
        prioritized().batches(4, replace=False)
    batches = prioritized().batches(4, beta=lambda number: -1.0)
    with pytest.raises(InvalidValueError, match="beta: expected a number from 0 to 1, got -1"):
        next(batches)
