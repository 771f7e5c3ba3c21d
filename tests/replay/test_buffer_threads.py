"""Threads and forks: no row is torn, lost or invented."""

import os
import sys
import threading
import time

import numpy as np
import pytest

from really import ReplayBuffer
from really.errors import EmptyBufferError
from tests.sanitize import pytest_of

SPEC = {"small": np.int64, "wide": (np.int64, (100,)), "flag": np.int64}
BIG_SPEC = {"small": np.int64, "wide": (np.int64, (5000,)), "flag": np.int64}


def rows(ids, width):
    ids = np.asarray(ids)
    return {"small": ids, "wide": np.repeat(ids, width).reshape(-1, width), "flag": ids}


def assert_whole(batch):
    """Every byte of a row is of the same row."""
    ids = batch["small"]
    assert np.array_equal(ids, batch["flag"])
    assert (batch["wide"] == ids[:, None]).all()


def in_threads(*jobs, seconds=1.0):
    """Runs each job repeatedly in a thread of its own; raises the error of any thread."""
    failures, stop = [], threading.Event()

    def run(job, number):
        try:
            count = 0
            while not stop.is_set():
                job(number, count)
                count += 1
        except BaseException as error:
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=run, args=(job, number)) for number, job in enumerate(jobs)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        stop.wait(seconds)
        stop.set()
        for thread in threads:
            thread.join(30)
    finally:
        sys.setswitchinterval(switch)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if failures:
        raise failures[0]


def stress(buffer, width, seconds):
    """5 writers, of many rows and of single ones, and 3 readers at once."""

    def put(writer, count):
        first = (writer << 40) + count * 64
        buffer.put(rows(range(first, first + 64), width))

    def put_one(writer, count):
        number = (writer << 40) + count
        buffer.put({"small": number, "wide": np.full(width, number), "flag": number})

    def sample(_, count):
        assert_whole(buffer.sample(50 + count % 100))

    def take(_, count):
        assert_whole(buffer.take(np.arange(100)))

    def sample_into(_, count):
        assert_whole(buffer.sample(20, replace=False, out=buffer.sample(20)))

    buffer.put(rows(range(200), width))
    in_threads(put, put, put_one, put_one, put_one, sample, take, sample_into, seconds=seconds)


@pytest.mark.parametrize("spec", [SPEC, BIG_SPEC])
def test_no_torn_row(spec):
    stress(ReplayBuffer(200, spec=spec, seed=1), spec["wide"][1][0], seconds=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [SPEC, BIG_SPEC])
def test_no_torn_row_at_length(spec):
    stress(ReplayBuffer(200, spec=spec, seed=1), spec["wide"][1][0], seconds=60)


@pytest.mark.parametrize("options", [{}, {"alpha": 0.6}], ids=["uniform", "prioritized"])
def test_no_torn_row_while_others_clear(options):
    buffer = ReplayBuffer(200, spec=SPEC, seed=1, **options)
    found = [0, 0]

    def put(writer, count):
        buffer.put(rows(range((writer << 40) + count * 64, (writer << 40) + count * 64 + 64), 100))

    def sample(_, count):
        try:
            assert_whole(buffer.sample(20))
            found[0] += 1
        except EmptyBufferError:
            found[1] += 1

    for _ in range(20):  # until both were met, which a busy machine may put off
        in_threads(put, put, sample, sample, lambda *_: buffer.clear(), seconds=0.3)
        if min(found) > 0:
            break
    assert min(found) > 0, "drawn from with rows, and without"
    buffer.clear()
    assert len(buffer) == 0
    buffer.put(rows(range(7), 100))
    assert buffer.take(np.arange(7))["small"].tolist() == list(range(7))


def test_rows_of_each_writer_stay_in_order_and_together():
    buffer = ReplayBuffer(10_000_000, spec={"small": np.int64})

    def put(writer, count):
        first = count * 50
        buffer.put({"small": (writer << 40) + np.arange(first, first + 50)})

    in_threads(put, put, put, put, seconds=0.3)
    ids = buffer.take(np.arange(len(buffer)))["small"]
    for writer in range(4):
        own = ids[ids >> 40 == writer] & ((1 << 40) - 1)
        assert np.array_equal(own, np.arange(len(own)) + (own[0] if len(own) else 0))


def test_buffers_made_in_several_threads():
    kept, errors = [ReplayBuffer(8, spec={"a": np.int64}) for _ in range(300)], []

    def make():
        try:
            for _ in range(300):
                ReplayBuffer(8, spec={"a": np.int64})
        except RuntimeError as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(kept) == 300


def test_first_puts_at_once_agree_on_one_schema():
    for _ in range(50):
        buffer, barrier = ReplayBuffer(1000), threading.Barrier(4)

        def put(buffer=buffer, barrier=barrier):
            barrier.wait()
            buffer.put({"x": np.arange(10)})

        threads = [threading.Thread(target=put) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(buffer) == 40


def test_kernels_run_without_the_gil():
    buffer = ReplayBuffer(2000, spec={"x": (np.uint8, (1 << 16,))}, seed=1)
    buffer.put({"x": np.zeros((2000, 1 << 16), np.uint8)})
    counted, done = [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    out, during = buffer.sample(4000), 0
    for _ in range(5):  # a busy machine may not run the other thread at all for once
        before = counted[0]
        buffer.sample(4000, out=out)
        during = max(during, counted[0] - before)
    done.set()
    thread.join()
    assert during > 10, f"another thread got {during} turns while 260 MB were copied"


def test_a_fork_amid_puts_leaves_the_child_whole_rows_and_no_held_lock():
    buffer = ReplayBuffer(200, spec=BIG_SPEC, seed=1)
    buffer.put(rows(range(200), 5000))
    stop = threading.Event()

    def put():
        first = 0
        while not stop.is_set():
            buffer.put(rows(range(first, first + 100), 5000))
            first += 100

    thread = threading.Thread(target=put)
    thread.start()
    try:
        codes = [_forked(lambda: assert_whole(buffer.take(np.arange(200)))) for _ in range(10)]
    finally:
        stop.set()
        thread.join()
    assert codes == [0] * 10


def test_a_fork_amid_the_first_put_leaves_the_child_no_held_lock():
    codes = []
    for _ in range(4):
        buffer = ReplayBuffer(10, dedup=False)
        rows = {"x": np.zeros((1_000_000, 10), ">f8")}  # has to be converted, which takes a while
        thread = threading.Thread(target=buffer.put, args=(rows,))
        thread.start()
        time.sleep(0.01)
        codes.append(_forked(lambda buffer=buffer: buffer.put({"x": np.zeros((1, 10))})))
        thread.join()
    assert codes == [0] * 4


def _forked(check):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks among threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            check()
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "hangs"


@pytest.mark.slow
def test_the_stress_fails_without_the_lock(tmp_path):
    said = pytest_of(tmp_path, "buffer_threads", "torn and not clear", REALLY_UNLOCKED="1")
    assert "2 failed" in said
