"""The C floor copies the right bytes: every share in the tables relies on it."""

import numpy as np
import pytest
from benchmarks.c_floor import NUMBERS, Floor, FrameFloor, library, read_all
from benchmarks.workloads import LAYOUTS


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("num", [1, 2, 5, 63, 300])
@pytest.mark.parametrize("best", [False, True])
def test_scatter_and_gather_give_the_rows_back(name, num, best):
    workload = LAYOUTS[name]
    floor = Floor(workload, 350, best)
    rows = workload.rows(num)
    floor.put(50, rows)
    picks = np.random.default_rng(1).integers(0, num, num)
    columns = floor.outputs(num)
    floor.take(picks + 50, columns)
    for key, column in columns.items():
        assert np.array_equal(column, rows[key][picks])


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_record_is_no_longer_than_the_buffers(name):
    row_nbytes = LAYOUTS[name].row_nbytes
    assert row_nbytes <= library().floor_stride(NUMBERS[name]) < row_nbytes + 64


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("best", [False, True])
def test_timed_gather_uses_every_pick(name, best):
    workload = LAYOUTS[name]
    floor = Floor(workload, 64, best)
    rows = workload.rows(64)
    floor.put(0, rows)
    picks = np.arange(64)
    columns = floor.outputs(16)
    assert floor.seconds_per_gather(picks, 16, columns) > 0
    for key, column in columns.items():
        assert np.array_equal(column, rows[key][48:])


@pytest.mark.parametrize("name", LAYOUTS)
def test_timed_scatter_continues_where_it_stopped(name):
    workload = LAYOUTS[name]
    floor = Floor(workload, 10)
    rows = workload.rows(4)
    assert floor.seconds_per_scatter(rows, 2) > 0
    columns = floor.outputs(8)
    floor.take(np.arange(8), columns)
    for key, column in columns.items():
        assert np.array_equal(column, np.concatenate([rows[key]] * 2))


@pytest.mark.parametrize("streams", [False, True])
def test_frames_are_gathered_to_both_columns(streams):
    draw = np.random.default_rng(2)
    frames = draw.integers(0, 255, (50, 84, 84), np.uint8)
    picks = draw.integers(0, 46, 20)
    state, after = np.empty((2, 20, 4, 84, 84), np.uint8)
    FrameFloor(frames).take(picks, state, after, streams)
    assert np.array_equal(state, frames[picks[:, None] + np.arange(4)])
    assert np.array_equal(after, frames[picks[:, None] + np.arange(1, 5)])


@pytest.mark.parametrize("num", [1, 7, 8, 1003])
def test_every_word_is_read(num):
    columns = np.random.default_rng(3).integers(0, 1 << 63, (2, num), np.uint64)
    assert read_all(*columns) == np.bitwise_xor.reduce(columns, None)
