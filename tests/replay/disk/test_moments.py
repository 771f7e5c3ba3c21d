"""A buffer on disk returns to an earlier moment, exactly, whatever came after it and wherever a kill comes."""

import itertools
import logging
import os
import shutil
import signal
import sys

import numpy as np
import pytest

from really import ReplayBuffer
from really.errors import InvalidValueError, LockedError, OvertakenError, ReadOnlyError
from really.replay.disk import branches, rollback
from really.replay.moments import RolledBack

CAPACITY, SPARE = 60, 90
KINDS = {
    "uniform": {},
    "prioritized": {"alpha": 0.7, "eps": 0.01},
    "n-step": {"n_step": 3, "gamma": 0.9},
    "frames": {"stack": (4, 0)},
    "prioritized frames": {"stack": (4, 0), "alpha": 0.5},
}


def rows(first, num, frames=False):
    """Rows with distinct values, of one trajectory; with `frames`, stacks of four frames of 1 kB and more."""
    number = np.arange(first, first + num)
    columns = {"reward": number.astype(np.float32), "terminal": np.zeros(num, np.float32)}
    columns["episode_end"] = (number % 7 == 6).astype(np.float32)
    if not frames:
        states = np.repeat(number[:, None], 4, axis=1).astype(np.float32)
        return columns | {"state": states, "state_new": states + 1}
    seen = np.zeros((num + 5, 32, 32), np.uint8)
    seen.reshape(num + 5, -1)[:, :8] = np.arange(first, first + num + 5).astype(np.int64)[:, None].view(np.uint8)
    stacks = np.stack([seen[at : at + 4] for at in range(num + 1)])
    return columns | {"state": stacks[:-1], "state_new": stacks[1:]}


def make(path, kind="uniform", **options):
    return ReplayBuffer(CAPACITY, path=path, seed=0, **{"spare": SPARE} | KINDS[kind] | options)


def put(buffer, kind, first, num):
    buffer.put(rows(first, num, "frames" in kind))


def filled(path, kind, num=CAPACITY + 25):
    """A buffer with rows, drawn from, with priorities."""
    buffer = make(path, kind)
    for first in range(0, num, 5):
        put(buffer, kind, first, 5)
    drawn(buffer, 2)
    return buffer


def drawn(buffer, num=4):
    """Batches; a prioritized buffer's priorities change after each."""
    batches = []
    for _ in range(num):
        batches.append(buffer.sample(16))
        if buffer.is_prioritized:
            buffer.update_priorities(batches[-1]["index"], batches[-1]["reward"] / 10)
    return batches


def same(one, other):
    return all(np.array_equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in {**a, **b})


def moment_of(buffer):
    """A moment as a checkpoint takes it."""
    moment = buffer.moments.take(buffer.state_dict())
    buffer.moments.keep(moment)
    return moment


def all_rows(buffer):
    return buffer.take(np.arange(len(buffer)))


@pytest.mark.parametrize("later", [0, 7, SPARE], ids=["nothing", "a few rows", "all spare rows"])
@pytest.mark.parametrize("reopens", [False, True], ids=["open", "reopened"])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_after_the_return_are_those_of_the_uninterrupted_run(tmp_path, kind, reopens, later):
    buffer = filled(tmp_path / "b", kind)
    moment = moment_of(buffer)
    expected = drawn(buffer)
    for first in range(0, later, 10):
        put(buffer, kind, 1000 + first, min(10, later - first))
        drawn(buffer, 1)
    if reopens:
        buffer.close()
        buffer = make(tmp_path / "b", kind)
    assert buffer.moments.roll_back(moment) == RolledBack(min(later, CAPACITY), 0)
    assert same(drawn(buffer), expected)
    assert all_rows(buffer)["reward"].max() < 1000
    buffer.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_returns_again_and_again_equals_one_that_never_did(tmp_path, kind):
    buffer, other = filled(tmp_path / "b", kind), filled(tmp_path / "other", kind)
    draw = np.random.default_rng(3)
    for lap in range(12):
        moment = moment_of(buffer)
        put(buffer, kind, 5000, int(draw.integers(1, SPARE)))
        drawn(buffer, 1)
        if lap % 3 == 1:
            buffer.clear()
        buffer.flush()
        if lap % 2:
            buffer.close()
            buffer = make(tmp_path / "b", kind)
        buffer.moments.roll_back(moment)
        for each in (buffer, other):
            put(each, kind, 100 + 20 * lap, 20)
        assert same([all_rows(buffer)], [all_rows(other)])
        assert same(drawn(buffer), drawn(other))
        assert buffer.verify().is_whole
    other.flush()
    names = [sorted(file.name for file in (tmp_path / name).iterdir()) for name in ("b", "other")]
    assert names[0] == names[1]
    assert buffer.memory()["held"] <= other.memory()["held"] + (
        1 << 22
    )  # a block for rows that only a checkpoint needs
    buffer.close()


@pytest.mark.parametrize("kind", ["uniform", "frames", "prioritized"])
def test_rows_that_are_gone_are_counted_and_may_be_accepted(tmp_path, kind):
    buffer = filled(tmp_path / "b", kind)
    moment = moment_of(buffer)
    for first in range(0, SPARE + 10, 10):
        put(buffer, kind, 1000 + first, 10)
    before = all_rows(buffer)
    with pytest.raises(InvalidValueError, match=r"expected the 60 rows .* got 50: 10 of them are gone.*spare=90"):
        buffer.moments.roll_back(moment)
    assert same([all_rows(buffer)], [before])
    assert buffer.moments.roll_back(moment, missing="accept") == RolledBack(CAPACITY, 10)
    assert all_rows(buffer)["reward"].tolist() == list(range(35, 85))
    drawn(buffer)
    moment = moment_of(buffer)
    for first in range(0, 4 * CAPACITY, 10):
        put(buffer, kind, 2000 + first, 10)
    assert buffer.moments.roll_back(moment, missing="accept").rows_missing == 50
    assert len(buffer) == 0
    put(buffer, kind, 0, 30)
    assert same([all_rows(buffer)], [{**rows(0, 30, "frames" in kind)}])
    drawn(buffer)
    with ReplayBuffer.open(tmp_path / "b") as reader:
        assert len(reader.sample(8)["reward"]) == 8
    buffer.close()


def test_another_buffer_a_copy_from_before_and_one_that_only_reads_are_refused(tmp_path):
    buffer = filled(tmp_path / "b", "uniform", 20)
    buffer.close()
    shutil.copytree(tmp_path / "b", tmp_path / "older")
    with make(tmp_path / "b") as buffer:
        put(buffer, "uniform", 20, 10)
        moment = moment_of(buffer)
    with (
        filled(tmp_path / "another", "uniform") as another,
        pytest.raises(InvalidValueError, match="expected the buffer of the checkpoint, whose identity is"),
    ):
        another.moments.roll_back(moment, missing="accept")
    with make(tmp_path / "older") as older:
        with pytest.raises(InvalidValueError, match="30 rows that the buffer held at the checkpoint, got 20: 10 of"):
            older.moments.roll_back(moment)
        assert older.moments.roll_back(moment, missing="accept") == RolledBack(0, 10)
        assert len(older) == 20
    with ReplayBuffer.open(tmp_path / "b") as reader, pytest.raises(ReadOnlyError):
        reader.moments.roll_back(moment)
    with pytest.raises(InvalidValueError, match="missing: expected one of 'accept', 'error', got 'maybe'"):
        make(tmp_path / "b").moments.roll_back(moment, missing="maybe")
    assert ReplayBuffer(5).moments is None


@pytest.mark.parametrize("reopens", [False, True])
@pytest.mark.parametrize("kind", ["uniform", "prioritized frames"])
def test_rows_that_came_after_a_return_are_not_those_of_a_later_moment(tmp_path, kind, reopens):
    buffer = filled(tmp_path / "b", kind, 20)
    earlier = moment_of(buffer)
    put(buffer, kind, 20, 10)
    moment = moment_of(buffer)
    buffer.moments.roll_back(earlier)
    put(buffer, kind, 500, 15)
    if reopens:
        buffer.close()
        buffer = make(tmp_path / "b", kind)
    with pytest.raises(InvalidValueError, match="got 20: 10 of them are gone, because the buffer has returned"):
        buffer.moments.roll_back(moment)
    assert len(buffer) == 35
    latest = moment_of(buffer)
    put(buffer, kind, 600, 5)
    assert buffer.moments.roll_back(latest) == RolledBack(5, 0)
    assert buffer.moments.roll_back(moment, missing="accept") == RolledBack(15, 10)
    assert all_rows(buffer)["reward"].tolist() == list(range(20))
    put(buffer, kind, 700, 10)
    assert buffer.moments.roll_back(earlier) == RolledBack(10, 0)
    buffer.close()


def test_rows_of_a_copy_of_the_folder_are_not_those_of_a_moment_of_the_original(tmp_path):
    filled(tmp_path / "b", "uniform", 20).close()
    shutil.copytree(tmp_path / "b", tmp_path / "copy")
    with make(tmp_path / "b") as buffer:
        put(buffer, "uniform", 20, 10)
        moment = moment_of(buffer)
    for lap in range(3):
        with make(tmp_path / "copy") as copy:
            put(copy, "uniform", 900 + 5 * lap, 5)
    with make(tmp_path / "copy") as copy:
        with pytest.raises(InvalidValueError, match=r"got 20: 10 of them are gone, .* a copy from before this one"):
            copy.moments.roll_back(moment)
        assert copy.moments.roll_back(moment, missing="accept") == RolledBack(15, 10)
        assert all_rows(copy)["reward"].tolist() == list(range(20))
    with make(tmp_path / "b") as buffer:
        assert buffer.moments.roll_back(moment) == RolledBack(0, 0)


def test_branches_of_many_processes_tell_the_rows_of_the_last_ones(tmp_path):
    path = tmp_path / "b"
    for first in range(2 * branches.PLACES):
        with make(path) as buffer:
            put(buffer, "uniform", first, 1)
    with make(path) as buffer:
        known = branches.read(np.fromfile(path / "cursor", np.uint8))
        last = 2 * branches.PLACES - 1  # this process has put nothing yet
        assert [first for first, _ in known] == list(range(last - len(known) + 1, last + 1))
        assert len({key for _, key in known}) == len(known) == branches.PLACES - 1
        moment = moment_of(buffer)
        assert moment.branches == [one for one in known if moment.first <= one[0] < moment.num_put]
        put(buffer, "uniform", 900, 5)
        assert buffer.moments.roll_back(moment) == RolledBack(5, 0)
    page = np.zeros(4096, np.uint8)
    assert branches.read(page) == []
    page[branches.COUNT].view(np.int64)[0] = -1
    assert branches.read(page) == []


@pytest.mark.parametrize("later", [0, 5, 4 * CAPACITY])
def test_a_buffer_that_was_empty_is_empty_again(tmp_path, later):
    with make(tmp_path / "b", "prioritized") as buffer, make(tmp_path / "other", "prioritized") as other:
        moment = moment_of(buffer)
        for first in range(0, later, 5):
            put(buffer, "prioritized", first, 5)
        buffer.moments.roll_back(moment)
        buffer.load_state_dict(moment.generator)
        assert len(buffer) == 0
        for each in (buffer, other):
            put(each, "prioritized", 500, CAPACITY)
        columns = ("reward", "weight")
        ours, theirs = ([{key: b[key] for key in columns} for b in drawn(each)] for each in (buffer, other))
        assert same(ours, theirs)


def test_an_empty_buffer_keeps_its_identity_and_another_empty_one_has_its_own(tmp_path):
    with make(tmp_path / "b") as buffer:
        moment = moment_of(buffer)
    with make(tmp_path / "b") as buffer:
        put(buffer, "uniform", 0, 5)
        assert buffer.moments.roll_back(moment) == RolledBack(5, 0)
    with make(tmp_path / "other") as other, pytest.raises(InvalidValueError, match="got another one"):
        other.moments.roll_back(moment)


@pytest.mark.parametrize("kind", ["uniform", "frames"])
def test_a_reader_is_told_of_the_return(tmp_path, kind):
    with filled(tmp_path / "b", kind) as buffer:
        reader = ReplayBuffer.open(tmp_path / "b", seed=0)
        moment = moment_of(buffer)
        put(buffer, kind, 1000, 10)
        assert all_rows(reader)["reward"].max() == 1009
        buffer.moments.roll_back(moment)
        with pytest.raises(OvertakenError, match="has returned to a checkpoint; open it again"):
            len(reader)
        for ask in (lambda: reader.sample(5), lambda: reader.take([0]), lambda: reader.sample_indices(3)):
            with pytest.raises(OvertakenError, match="returned to a checkpoint"):
                ask()
        assert all_rows(ReplayBuffer.open(tmp_path / "b"))["reward"].max() < 1000


def test_a_reader_of_this_thread_that_keeps_rows_forbids_the_return(tmp_path):
    with filled(tmp_path / "b", "uniform") as buffer:
        moment = moment_of(buffer)
        put(buffer, "uniform", 1000, 10)
        with buffer.open_reader(keeps=True), pytest.raises(InvalidValueError, match="as this thread reads"):
            buffer.moments.roll_back(moment)
        assert all_rows(buffer)["reward"].max() == 1009
        buffer.moments.roll_back(moment)


def test_one_warning_comes_when_little_room_is_left(tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="really")
    with filled(tmp_path / "b", "uniform") as buffer:
        moment_of(buffer)
        put(buffer, "uniform", 0, 40)
        put(buffer, "uniform", 0, SPARE - SPARE // 8 - 40)
        assert not caplog.messages
        put(buffer, "uniform", 0, 1)
        assert "after 10 more rows the buffer can no longer return to its last checkpoint" in caplog.text
        put(buffer, "uniform", 0, 50)
        moment_of(buffer)
        put(buffer, "uniform", 0, 58)
        put(buffer, "uniform", 0, 58)
        assert len(caplog.messages) == 1


def test_frames_of_a_checkpoint_give_way_to_new_rows_when_max_bytes_is_reached(tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="really")
    with make(tmp_path / "b", "frames", max_bytes=9 * 16 * 1024) as buffer:
        for first in range(0, 80, 20):
            put(buffer, "frames", first, 20)
        moment = moment_of(buffer)
        for first in range(80, 200, 20):
            put(buffer, "frames", 10 * first, 20)
        assert len(buffer) == CAPACITY
        assert "frames of new rows needed the room" in caplog.text
        with pytest.raises(InvalidValueError, match="of them are gone"):
            buffer.moments.roll_back(moment)
        assert buffer.moments.roll_back(moment, missing="accept").rows_missing > 0


def lines_of(*modules):
    """A function that counts the executed lines of these modules and kills the process at number `at`."""
    files = {module.__file__ for module in modules}

    def trace_until(at):
        executed = itertools.count()

        def trace(frame, event, argument):
            if frame.f_code.co_filename not in files:
                return None
            if event == "line" and next(executed) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)

    return trace_until


def killed_at(trace_until, at, prepare, act):
    """Whether a fork of this process is killed at a line of `act(prepare())`; it must otherwise succeed."""
    child = os.fork()
    if child == 0:
        try:
            prepared = prepare()
            trace_until(at)
            act(prepared)
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["prioritized", "frames"])
def test_a_kill_at_any_line_of_the_return_leaves_the_old_or_the_new_state(tmp_path, kind, step):
    from really._utils import atomic_files
    from really.replay import moments
    from really.replay.disk import folder, priority_files

    buffer = filled(tmp_path / "b", kind)
    moment = moment_of(buffer)
    new = drawn(buffer)
    put(buffer, kind, 1000, 20)
    drawn(buffer)
    buffer.close()
    shutil.copytree(tmp_path / "b", tmp_path / "kept")
    with make(tmp_path / "b", kind) as buffer:
        old = drawn(buffer)

    def opened():
        shutil.rmtree(tmp_path / "b")
        shutil.copytree(tmp_path / "kept", tmp_path / "b")
        return make(tmp_path / "b", kind)

    found, trace_until = [], lines_of(moments, folder, rollback, priority_files, atomic_files)
    for at in itertools.count(0, step):
        if not killed_at(trace_until, at, opened, lambda buffer: buffer.moments.roll_back(moment)):
            break
        if rollback.is_pending(tmp_path / "b"):
            with pytest.raises(LockedError, match=r"about to return to a checkpoint.*mode='r\+' finishes it"):
                ReplayBuffer.open(tmp_path / "b")
        with make(tmp_path / "b", kind) as buffer:
            batches = drawn(buffer)
        assert same(batches, old) or same(batches, new)
        found.append(same(batches, new))
        assert not list((tmp_path / "b").glob("*rollback*"))
    assert found == sorted(found)
    assert {False, True} == set(found)
