"""Rows that share no frames are stored without a search; the search starts again with the rows that share some."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from really import ReplayBuffer
from tests.replay.test_frames import assert_equal_rows, frames_a_row

Rows = dict[str, NDArray]
KINDS = {
    "one frame": ((256,), np.float32, None),
    "stack along the first axis": ((4, 16, 16), np.uint8, None),
    "stack along the last axis": ((16, 16, 4), np.uint8, (4, 2)),
}


class Source:
    """Makes rows of one kind, whose bytes are random, and numbers them."""

    def __init__(self, kind: str, seed: int = 0) -> None:
        self.shape, self.dtype, self.stack = KINDS[kind]
        self.num_frames = 1 if len(self.shape) == 1 else 4
        self.rng = np.random.default_rng(seed)
        self.count = 0

    def frames(self, num: int, shape: tuple[int, ...]) -> NDArray:
        """Random frames [num, ...]."""
        return self.rng.integers(0, 256, (num, *shape)).astype(self.dtype)

    def unrelated(self, num: int) -> Rows:
        """Rows that share nothing with each other."""
        return self._rows(self.frames(num, self.shape), self.frames(num, self.shape))

    def trajectory(self, num: int) -> Rows:
        """Rows of one trajectory, in order."""
        if len(self.shape) == 1:
            states = self.frames(num + 1, self.shape)
        else:
            axis = 2 if self.stack else 0
            windows = np.lib.stride_tricks.sliding_window_view(self.frames(num + 4, (16, 16)), 4, axis=0)
            states = np.moveaxis(windows, 3, axis + 1)
        return self._rows(states[:num], states[1 : num + 1])

    def interleaved(self, agents: int, steps: int) -> Rows:
        """Trajectories of many agents, all agents' rows of one step after another."""
        parts = [self.trajectory(steps) for _ in range(agents)]
        rows = {key: np.stack([part[key] for part in parts], axis=1) for key in ("state", "state_new")}
        return self._rows(*(rows[key].reshape(-1, *self.shape) for key in ("state", "state_new")))

    def shuffled(self, num: int) -> Rows:
        """Rows of one long trajectory in random order."""
        rows = self.trajectory(num)
        order = self.rng.permutation(num)
        return self._rows(rows["state"][order], rows["state_new"][order])

    def _rows(self, state: NDArray, state_new: NDArray) -> Rows:
        number = np.arange(self.count, self.count + len(state))
        self.count += len(state)
        return {"state": np.ascontiguousarray(state), "state_new": np.ascontiguousarray(state_new), "row": number}


def pieces(rows: Rows, sizes: list[int]) -> Iterator[Rows]:
    """The rows in puts of these sizes, over and over."""
    at = turn = 0
    while at < len(rows["row"]):
        size = sizes[turn % len(sizes)]
        yield {key: column[at : at + size] for key, column in rows.items()}
        at, turn = at + size, turn + 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [[1, 7, 64, 200], [5000]])
def test_rows_are_exact_while_the_search_pauses_and_starts(kind: str, sizes: list[int]) -> None:
    source = Source(kind)
    buffer = ReplayBuffer(3000, stack=source.stack)
    held: list[Rows] = []
    for rows in (
        source.trajectory(1500),
        source.unrelated(6000),
        source.interleaved(300, 16),
        source.shuffled(5000),
        source.trajectory(3000),
    ):
        for piece in pieces(rows, sizes):
            buffer.put(piece)
        held = [*held, rows][-2:]
        expected = {key: np.concatenate([part[key] for part in held])[-len(buffer) :] for key in rows}
        assert_equal_rows(buffer.take(np.arange(len(buffer))), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_share_nothing_cost_no_more_than_whole_rows(kind: str) -> None:
    source = Source(kind)
    buffer = ReplayBuffer(8000, stack=source.stack)
    for _ in range(10):
        buffer.put(source.unrelated(1000))
    assert frames_a_row(buffer) == 2 * source.num_frames
    # Two blocks of frames, an eighth of the capacity each, are not full.
    assert buffer.memory()["held"] <= 1.15 * buffer.memory()["naive"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("agents", [1, 64, 500])
def test_trajectories_after_offline_data_share_within_a_few_thousand_rows(kind: str, agents: int) -> None:
    source = Source(kind)
    buffer = ReplayBuffer(4000, stack=source.stack)
    for piece in pieces(source.unrelated(10_000), [500]):
        buffer.put(piece)
    steps = 9000 // agents
    for piece in pieces(source.interleaved(agents, steps), [250]):
        buffer.put(piece)
    # One new frame a row, and the first stack of each agent.
    assert frames_a_row(buffer) < 1.02 + agents * source.num_frames / len(buffer)


def test_shuffled_rows_share_frames_within_a_row() -> None:
    source = Source("stack along the first axis")
    buffer = ReplayBuffer(4000)
    for piece in pieces(source.shuffled(12_000), [500]):
        buffer.put(piece)
    assert frames_a_row(buffer) < 5.1


def test_observations_that_do_not_change_share_after_rows_that_do() -> None:
    source = Source("one frame")
    buffer = ReplayBuffer(2000)
    still = source.unrelated(8000)
    still["state_new"] = still["state"]
    for rows in (source.unrelated(8000), still):
        for piece in pieces(rows, [500]):
            buffer.put(piece)
    assert frames_a_row(buffer) < 1.01


@pytest.mark.parametrize("size", [16, 41])  # frames of whole cache lines, and of parts
def test_rows_that_share_frames_with_themselves_alone_are_exact(size: int) -> None:
    """Shuffled rows: stacks with a frame twice, next stacks that differ in a last byte, repeat or are unrelated."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2103, size, size), np.uint8)
    stacks = np.moveaxis(np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0), 3, 1)[rng.permutation(2100)]
    state, after = (
        stacks.copy(),
        np.concatenate([stacks[:, 1:], rng.integers(0, 256, (2100, 1, size, size), np.uint8)], axis=1),
    )
    state[::7, 1] = state[::7, 0]
    after[::7, 0] = state[::7, 1]
    after[1::7, 2, -1, -1] ^= 1
    after[2::7, 3] = after[2::7, 2]
    after[3::7] = rng.integers(0, 256, after[3::7].shape, np.uint8)
    after[4::7] = state[4::7]
    state[5::7] = after[5::7] = state[5::7, :1]
    rows = {"row": np.arange(2100), "state": state, "state_new": after}
    buffer = ReplayBuffer(2100)
    for piece in pieces(rows, [500]):
        buffer.put(piece)
    assert_equal_rows(buffer.take(np.arange(2100)), rows)
    # Of seven rows: 4, 6, 4, 8, 4 and 1 new frames, and 5 for the last one.
    assert frames_a_row(buffer) < 1.001 * (4 + 6 + 4 + 8 + 4 + 1 + 5) / 7


@pytest.mark.parametrize("nbytes", [1024, 1187, 1200, 3008])  # of an observation: whole cache lines, and parts
@pytest.mark.parametrize("views", [False, True])
def test_a_trajectory_of_lone_frames_that_breaks_off_and_stands_still(nbytes: int, views: bool) -> None:
    """Rows that do not continue the one before by their first, last or middle byte, and rows that stand still."""
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 256, (2001, nbytes), np.uint8)
    shown[np.arange(70, 2001, 90)] = shown[np.arange(69, 2001, 90)]
    state, after = (shown[:-1], shown[1:]) if views else (shown[:-1].copy(), shown[1:].copy())
    breaks = np.arange(0 if views else 20)
    for number in breaks:
        state[100 * number + 50, (0, -1, nbytes // 2)[number % 3]] ^= 1
    rows = {"row": np.arange(2000), "state": state, "state_new": after}
    buffer = ReplayBuffer(2000)
    for piece in pieces(rows, [1, 2, 500, 3, 64]):
        buffer.put(piece)
    assert_equal_rows(buffer.take(np.arange(2000)), rows)
    num_still = len(range(70, 2001, 90))
    assert frames_a_row(buffer) * len(buffer) == 1 + 2000 - num_still + len(breaks)
