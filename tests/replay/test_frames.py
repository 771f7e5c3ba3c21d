"""Frame deduplication: every row comes out as it was put, and rows that can share frames take less memory."""

from __future__ import annotations

import itertools
import mmap
import pickle
import re
import tempfile
import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from really import InvalidTypeError, InvalidValueError, ReplayBuffer
from really.data.frames import FrameColumn, Sharing, is_after, joined, owned, plan
from really.data.record_batches import from_record_batch, to_record_batch
from really.data.schema import ColumnSpec
from really.errors import InvalidFileError, NotEnoughMemoryError, ReadOnlyError
from really.replay import Sequences
from really.replay.frame_encoding import encode
from really.replay.io.interchange import to_arrow
from tests.trajectories import FRAME, Game, rows_of

KEYS = ("state", "state_new", "row")
NUM_GAMES = 3


def assert_equal_rows(batch, expected):
    for key in expected:
        np.testing.assert_array_equal(np.asarray(batch[key]), expected[key], err_msg=key)


def all_rows(buffer):
    return buffer.take(np.arange(len(buffer)))


class SharingMachine(RuleBasedStateMachine):
    """Puts of every order and size into a small ring, against the plain list of rows that should be there."""

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        capacity=st.integers(1, 70),
        kind=st.sampled_from(
            [(4, 0, np.uint16), (4, 2, np.uint16), (4, 2, np.uint8), (3, 1, np.float32), (1, 0, np.int64)]
        ),
        padded=st.booleans(),
    )
    def make(self, seed, capacity, kind, padded):
        self.rng = np.random.default_rng(seed)
        self.stack, axis, dtype = kind
        shape = list((16, 33) if dtype is np.uint8 else FRAME)
        if self.stack > 1:
            shape.insert(axis, self.stack)
        self.games = [Game(self.rng, self.stack, axis, dtype, padded) for _ in range(NUM_GAMES)]
        if dtype is np.uint8:
            for game in self.games:
                game.frame = lambda: self.rng.integers(0, 3, (16, 33)).astype(np.uint8)
                game.reset()
        spec = {"state": (dtype, shape), "state_new": (dtype, shape), "row": np.int64}
        self.options = {"spec": spec, "stack": (self.stack, axis) if self.stack > 1 else None}
        self.buffer = self.new_buffer(capacity, seed)
        assert self.buffer._ring.shared == [Sharing((0, 1), self.stack, axis)]
        self.plain = {key: [] for key in KEYS}

    def new_buffer(self, capacity, seed):
        return ReplayBuffer(capacity, seed=seed, **self.options)

    def record(self, rows):
        for key in KEYS:
            self.plain[key] = [*self.plain[key], *rows[key]][-self.buffer.capacity :]

    def new_rows(self, order):
        rows = rows_of(self.games, order, self.rng)
        rows["row"] = self.rng.integers(0, 1 << 40, len(order))
        return rows

    @rule(num=st.integers(1, 40), game=st.integers(0, NUM_GAMES - 1))
    def put_chunk(self, num, game):
        rows = self.new_rows([game] * num)
        self.buffer.put(rows)
        self.record(rows)

    @rule(num=st.integers(1, 30))
    def put_interleaved(self, num):
        rows = self.new_rows(list(range(NUM_GAMES)) * num)
        self.buffer.put(rows)
        self.record(rows)

    @rule(game=st.integers(0, NUM_GAMES - 1))
    def put_one(self, game):
        rows = self.new_rows([game])
        self.buffer.put({key: rows[key][0] for key in KEYS})
        self.record(rows)

    @rule(num=st.integers(1, 30))
    def put_shuffled(self, num):
        rows = self.new_rows(self.rng.integers(0, NUM_GAMES, num))
        order = self.rng.permutation(num)
        rows = {key: rows[key][order] for key in KEYS}
        self.buffer.put(rows)
        self.record(rows)

    @rule(num=st.integers(1, 10))
    def put_unrelated(self, num):
        rows = self.new_rows([0] * num)
        rows["state"] = self.rng.permuted(rows["state"].reshape(-1)).reshape(rows["state"].shape)
        self.buffer.put(rows)
        self.record(rows)

    @rule(num=st.integers(1, 40), game=st.integers(0, NUM_GAMES - 1), cut=st.integers(1, 39))
    def put_as_runners_send(self, num, game, cut):
        rows = self.new_rows([game] * num)
        pieces = [{key: rows[key][part] for key in KEYS} for part in (slice(0, cut), slice(cut, None))]
        sent = [owned(from_record_batch(to_record_batch(encode(piece)))) for piece in pieces if len(piece["row"])]
        self.buffer.put(to_record_batch(joined(sent)) if len(sent) > 1 else sent[0])
        self.record(rows)

    @rule()
    def put_refused(self):
        rows = self.new_rows([0] * 3)
        with pytest.raises(InvalidValueError):
            self.buffer.put(rows | {"row": np.arange(2)})

    @rule()
    def clear(self):
        self.buffer.clear()
        self.plain = {key: [] for key in KEYS}

    @rule()
    def reopened(self):
        """Nothing to check in memory."""

    @rule()
    def pickled(self):
        self.buffer = pickle.loads(pickle.dumps(self.buffer, protocol=5))

    @rule(num=st.integers(1, 50))
    def sample(self, num):
        if len(self.buffer):
            by_row = {row: at for at, row in enumerate(self.plain["row"])}
            batch = self.buffer.sample(num)
            expected = [by_row[row] for row in batch["row"]]
            assert_equal_rows(batch, {key: np.array(self.plain[key])[expected] for key in KEYS})

    @invariant()
    def holds_what_was_put(self):
        if not hasattr(self, "buffer"):
            return
        assert len(self.buffer) == len(self.plain["row"])
        if len(self.buffer):
            assert_equal_rows(all_rows(self.buffer), {key: np.array(self.plain[key]) for key in KEYS})

    def teardown(self):
        if hasattr(self, "buffer"):
            self.buffer = None


SharingMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
test_any_order_of_puts = SharingMachine.TestCase


class SharingOnDiskMachine(SharingMachine):
    """The same on disk; a reader and a writer open the files again now and then."""

    def new_buffer(self, capacity, seed):
        self.folder = tempfile.TemporaryDirectory()
        self.spare = int(self.rng.integers(1, 50))
        return ReplayBuffer(capacity, seed=seed, path=self.folder.name, spare=self.spare, **self.options)

    @rule()
    def reopened(self):
        with ReplayBuffer.open(self.folder.name) as reader:
            if len(reader):
                assert_equal_rows(all_rows(reader), {key: np.array(self.plain[key]) for key in KEYS})
        self.buffer.close()
        self.buffer = ReplayBuffer.open(self.folder.name, mode="r+")
        assert self.buffer._ring.shared

    @rule()
    def pickled(self):
        """Not on disk: the pickle of a buffer on disk is a buffer in memory."""

    def teardown(self):
        if hasattr(self, "buffer"):
            self.buffer.close()
            self.folder.cleanup()


SharingOnDiskMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
test_any_order_of_puts_on_disk = SharingOnDiskMachine.TestCase


def test_a_reader_in_this_process_follows_the_writer(tmp_path):
    with ReplayBuffer(500, path=tmp_path / "b", spare=100) as buffer:
        chunks = long_run(2, 70, 20)
        buffer.put(next(chunks))
        with ReplayBuffer.open(tmp_path / "b", seed=0) as reader:
            for rows in chunks:
                buffer.put(rows)
                assert_equal_rows(all_rows(reader), all_rows(buffer))
                assert len(reader.sample(50)["row"]) == 50
                assert reader.memory() == buffer.memory()
                with pytest.raises(ReadOnlyError):
                    reader.put(rows)


@pytest.mark.parametrize("keys", [["row"], ["state"], ["row", "state_new"]], ids=str)
def test_a_stream_of_some_keys_of_a_buffer_that_shares_frames(keys):
    buffer = ReplayBuffer(150)
    for rows in long_run(2, 70, 3):
        buffer.put(rows)
    whole, some = buffer.to_arrow().read_all(), to_arrow(buffer, keys, chunk_bytes=20_000).read_all()
    assert some.column_names == keys
    assert len(some) == 150
    for key in keys:
        assert some[key].combine_chunks().equals(whole[key].combine_chunks())


def test_another_thread_draws_while_a_column_of_frames_is_made(monkeypatch, tmp_path):
    """So may the handler of a signal in the same thread, which runs amid Python code alone."""
    check, ended = FrameColumn.__post_init__, []

    def drawn_meanwhile(column):
        check(column)
        thread = threading.Thread(target=buffer.sample, args=(2,), daemon=True)
        thread.start()
        thread.join(10)
        ended.append(not thread.is_alive())

    buffer = ReplayBuffer(50, seed=0)
    for rows in long_run(2, 20, 2):
        buffer.put(rows)
    monkeypatch.setattr(FrameColumn, "__post_init__", drawn_meanwhile)
    buffer.save(tmp_path / "saved.arrow")
    assert ended
    assert all(ended)


def test_files_do_not_grow_once_the_buffer_is_full(tmp_path):
    sizes = []
    with ReplayBuffer(2000, path=tmp_path / "b", spare=200) as buffer:
        for rows in long_run(4, 100, 40):
            buffer.put(rows)
            sizes.append((tmp_path / "b" / "frames.0").stat().st_size)
    assert sizes[40] > 0
    assert max(sizes) <= 1.3 * sizes[40]


def test_a_table_that_names_other_blocks_is_refused(tmp_path):
    with ReplayBuffer(500, path=tmp_path / "b") as buffer:
        buffer.put(next(long_run(1, 200, 1)))
    table = tmp_path / "b" / "frames.0.table"
    damaged = bytearray(table.read_bytes())
    damaged[64:68] = (999).to_bytes(4, "little")
    table.write_bytes(damaged)
    with pytest.raises(InvalidValueError, match=r"frames\.0\.table: expected blocks that .*frames\.0 has, got others"):
        ReplayBuffer.open(tmp_path / "b", mode="r+")


@pytest.mark.parametrize("num_columns", [1, 13, 14, 40])
def test_rows_of_many_columns_share_frames(num_columns):
    states = np.arange(101 * 300, dtype=np.float32).reshape(101, 300)
    rows = {"state": states[:-1], "state_new": states[1:]}
    rows |= {f"x{i}": np.arange(100, dtype=np.int64) * (i + 1) for i in range(num_columns)}
    buffer = ReplayBuffer(100)
    for i in range(50):
        buffer.put({name: column[i] for name, column in rows.items()})
    buffer.put({name: column[50:] for name, column in rows.items()})
    assert buffer.memory()["ratio"] > 1.4
    taken = buffer.take(np.arange(100))
    assert all(np.array_equal(taken[name], column) for name, column in rows.items())


@pytest.mark.parametrize(
    ("options", "num"), [({}, 32), ({"unit": Sequences(4)}, 8), ({}, 1000)], ids=["rows", "windows", "a long batch"]
)
def test_the_number_of_a_frame_that_is_not_stored_is_an_error_of_each_batch(tmp_path, options, num):
    states = np.arange(101 * 300, dtype=np.float32).reshape(101, 300)
    rows = {"state": states[:-1], "state_new": states[1:], "terminal": np.zeros(100, np.float32)}
    with ReplayBuffer(100, path=tmp_path / "b", seed=0, **options) as buffer:
        buffer.put(rows)
        for _ in range(2):
            batch = buffer.sample(num)
            assert np.array_equal(batch["state_new"], batch["state"] + 300)
        np.memmap(tmp_path / "b" / "records", np.uint32, "r+")[:] = 200
        del batch
        for _ in range(3):
            with pytest.raises(InvalidFileError, match="expected rows whose frames are stored, got the number of one"):
                buffer.sample(num)


def test_another_sharing_than_the_buffers_is_refused(tmp_path):
    with ReplayBuffer(500, path=tmp_path / "b") as buffer:
        buffer.put(next(long_run(1, 20, 1)))
    with pytest.raises(InvalidValueError, match="dedup, stack: expected"):
        ReplayBuffer(500, path=tmp_path / "b", dedup=False)


class LongSharingMachine(SharingMachine):
    """The same, many more times."""


LongSharingMachine.TestCase.settings = settings(
    max_examples=5_000, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyOrderOfPutsLong = pytest.mark.slow(LongSharingMachine.TestCase)


def long_run(num_games, chunk, num_chunks, stack=4, axis=0, end_probability=0.02):
    """Chunks of each game in turn."""
    rng = np.random.default_rng(0)
    games = [Game(rng, stack, axis) for _ in range(num_games)]
    for _ in range(num_chunks):
        for number in range(num_games):
            yield rows_of(games, [number] * chunk, rng, end_probability)


def frames_a_row(buffer):
    """How many frames are kept for each row held."""
    rows = buffer.open_reader().read_shared(len(buffer))
    return len(rows["state"].frames) / len(buffer)


def more_than_small_pages(num_blocks):
    """By how many bytes blocks of frames, which have whole pages, exceed those of pages of 4 kB at most."""
    return num_blocks * (mmap.PAGESIZE - 4096)


def test_a_trajectory_costs_one_frame_a_row():
    buffer = ReplayBuffer(4000)
    for rows in long_run(num_games=8, chunk=50, num_chunks=10):
        buffer.put(rows)
    # An episode of 50 steps on average begins with one frame more.
    assert frames_a_row(buffer) < 1.04
    memory = buffer.memory()
    assert memory["held"] < memory["naive"] / 5 + more_than_small_pages(10)


@pytest.mark.parametrize("num_games", [1, 2, 7, 64])
def test_interleaved_environments_share(num_games):
    rng = np.random.default_rng(1)
    games = [Game(rng) for _ in range(num_games)]
    buffer = ReplayBuffer(2000)
    for _ in range(5):
        buffer.put(rows_of(games, list(range(num_games)) * (400 // num_games), rng, end_probability=0))
    assert frames_a_row(buffer) < 1.0 + 2 * num_games / len(buffer)


def test_rows_put_one_at_a_time_share():
    rng = np.random.default_rng(2)
    games = [Game(rng) for _ in range(3)]
    buffer = ReplayBuffer(300)
    for at in range(300):
        buffer.put(rows_of(games, [at % 3], rng, end_probability=0))
    assert frames_a_row(buffer) < 1.02


def test_states_n_steps_apart_share():
    rng = np.random.default_rng(3)
    rows = rows_of([Game(rng)], [0] * 303, rng, end_probability=0)
    buffer = ReplayBuffer(300)
    for start in range(0, 300, 60):
        part = slice(start, start + 60)
        after = rows["state_new"][start + 2 : start + 62]
        buffer.put({"state": rows["state"][part], "state_new": after, "row": rows["row"][part]})
    assert_equal_rows(all_rows(buffer), {"state": rows["state"][:300], "state_new": rows["state_new"][2:302]})
    assert frames_a_row(buffer) < 1.05


def test_a_column_alone_shares_frames_of_its_stacks():
    rng = np.random.default_rng(4)
    rows = rows_of([Game(rng)], [0] * 200, rng, end_probability=0)
    buffer = ReplayBuffer(200)
    buffer.put({"image": rows["state"]})
    assert_equal_rows(all_rows(buffer), {"image": rows["state"]})
    assert buffer.open_reader().read_shared(200)["image"].frames.shape[0] < 205


def bytes_of_games(draw, num, size, still=0.2):
    """[num, *size] uint8 frames; some repeat the frame before, some differ from it in the last byte only."""
    frames = draw.integers(0, 255, (num, *size), np.uint8)
    for at in range(1, num):
        if draw.random() < still:
            frames[at] = frames[at - 1]
            frames[at].flat[-1] += draw.integers(0, 2, dtype=np.uint8)
    return frames


@pytest.mark.parametrize("size", [(84, 84), (33, 61), (8, 40)])  # pixels a vector, a block, and fewer at the end
@pytest.mark.parametrize("keys", [("state", "state_new"), ("image",)])
def test_four_frames_of_bytes_along_the_last_axis(size, keys):
    draw = np.random.default_rng(5)
    frames = bytes_of_games(draw, 220, size)
    stacks = np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0)
    columns = {key: np.ascontiguousarray(stacks[at : at + 216]) for at, key in enumerate(keys)}
    for at in (50, 51, 120):  # another trajectory, in its last pixel alone
        columns[keys[-1]][at, ..., -1, 1] += 1
    buffer = ReplayBuffer(216, stack=(4, -1))
    for part in (slice(0, 100), slice(100, 101), slice(101, 216)):
        buffer.put({key: rows[part] for key, rows in columns.items()})
    assert_equal_rows(all_rows(buffer), columns)
    for num in (1, 30, 700 if size == (84, 84) else 50):  # many rows are written past the cache
        picks = draw.integers(0, 216, num)
        assert_equal_rows(buffer.take(picks), {key: rows[picks] for key, rows in columns.items()})
    unaligned = {
        key: np.empty(rows[:7].nbytes + 1, np.uint8)[1:].reshape(rows[:7].shape) for key, rows in columns.items()
    }
    assert_equal_rows(buffer.take(np.arange(7), out=unaligned), {key: rows[:7] for key, rows in columns.items()})


@pytest.mark.parametrize("size", [(84, 84), (33, 61), (8, 40)])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("num", [1, 3, 100])  # rows of a put: a trajectory continues in this put or from an earlier one
@pytest.mark.parametrize("keys", [("state", "state_new"), ("state_new",)])
def test_rows_that_differ_in_one_byte_from_their_trajectory(size, axis, num, keys):
    draw = np.random.default_rng(6)
    stacks = np.lib.stride_tricks.sliding_window_view(draw.integers(0, 255, (104, *size), np.uint8), 4, axis=0)
    stacks = stacks if axis == -1 else stacks.transpose(0, 3, 1, 2)
    columns = {"state": stacks[:100].copy(), "state_new": stacks[1:].copy()}
    columns = {key: columns[key] for key in keys}
    for at in range(2, 100, 3):
        columns[keys[at % len(keys)]][at].flat[draw.integers(0, stacks[0].size)] += 1
    buffer = ReplayBuffer(100, stack=(4, axis))
    for first in range(0, 100, num):
        buffer.put({key: rows[first : first + num] for key, rows in columns.items()})
    assert_equal_rows(all_rows(buffer), columns)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("keys", [("state", "state_new"), ("image",)])
def test_a_few_steps_of_each_game_at_a_time_share(axis, steps, keys):
    draw, num_games, num_steps = np.random.default_rng(8), 6, 30
    games = [bytes_of_games(draw, num_steps + 4, (40, 40)) for _ in range(num_games)]
    stacks = np.stack([np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0) for frames in games])
    stacks = stacks if axis == -1 else np.moveaxis(stacks, -1, 2)
    columns = {key: stacks[:, at : at + num_steps] for at, key in enumerate(keys)}
    buffer, parts = ReplayBuffer(num_games * num_steps, stack=(4, axis)), []
    for first in range(0, num_steps, steps):
        rows = {key: column[:, first : first + steps] for key, column in columns.items()}
        parts.append({key: np.concatenate(list(column)) for key, column in rows.items()})
        buffer.put(parts[-1])
    assert_equal_rows(all_rows(buffer), {key: np.concatenate([part[key] for part in parts]) for key in keys})
    kept = buffer.open_reader().read_shared(len(buffer))[keys[0]].frames
    assert len(kept) <= sum(num_different(frames) for frames in games)


@pytest.mark.parametrize("num", [1, 7, 60])  # rows a put
@pytest.mark.parametrize("names", [("camera", "depth"), ("depth", "camera")])
@pytest.mark.parametrize("pair", [True, False])
def test_observations_of_several_parts_with_stacks_of_their_own(tmp_path, num, names, pair):
    draw = np.random.default_rng(9)
    shapes, columns = {"camera": (4, 40, 40), "depth": (3, 40, 40), "lidar": (360,)}, {}
    for name in (*names, "lidar"):
        rows = draw.integers(0, 255, (61, *shapes[name])).astype(np.float32 if name == "lidar" else np.uint8)
        columns[f"state.{name}"] = rows[:-1]
        if pair:
            columns[f"state_new.{name}"] = rows[1:]
    for place in ({}, {"path": tmp_path / "buffer", "spare": 20}):
        buffer = ReplayBuffer(60, **place)
        for first in range(0, 60, num):
            buffer.put({key: rows[first : first + num] for key, rows in columns.items()})
        assert_equal_rows(all_rows(buffer), columns)
        buffer.close()
    assert_equal_rows(encode(columns), columns)


@pytest.mark.parametrize(("stack", "capacity"), [(1, 64), (1, 2), (2, 64), (4, 32), (16, 8)])
def test_a_screen_that_stands_still_beside_a_game(stack, capacity):
    """Its rows share frames that are older than those of all other rows."""
    draw = np.random.default_rng(10)
    frames = draw.integers(0, 255, (2500, 32, 32), np.uint8)
    game = np.lib.stride_tricks.sliding_window_view(frames, stack, axis=0).transpose(0, 3, 1, 2)
    still = np.broadcast_to(draw.integers(0, 255, (stack, 32, 32), np.uint8), game[0].shape)
    buffer, num_held = ReplayBuffer(capacity, stack=(stack, 0)), capacity // 2
    for at in range(len(game) - 1):
        rows = {"state": np.stack([still, game[at]]), "state_new": np.stack([still, game[at + 1]])}
        buffer.put(rows)
        if at % 50 == 49:
            held = buffer.take(np.arange(len(buffer)))["state"]
            assert (held[::2] == still).all()
            assert np.array_equal(held[1::2], game[at + 1 - num_held : at + 1])


@pytest.mark.parametrize(("stack", "capacity", "num_games"), [(4, 100, 600), (3, 257, 520), (4, 500, 600)])
def test_more_games_than_rows(stack, capacity, num_games):
    draw = np.random.default_rng(11)
    games = draw.integers(0, 255, (num_games, stack, 20, 20), np.uint8)
    buffer, rows = ReplayBuffer(capacity, stack=(stack, 0)), games[:0]
    for at in range(12):
        new = draw.integers(0, 255, (num_games, 1, 20, 20), np.uint8)
        games = np.concatenate([games[:, 1:], new], axis=1)
        order = np.arange(num_games) if at % 2 else draw.permutation(num_games)
        buffer.put({"image": games[order]})
        rows = np.concatenate([rows, games[order]])[-capacity:]
        assert np.array_equal(buffer.take(np.arange(len(rows)))["image"], rows)


def num_different(frames):
    """Number of frames of a game without repetitions of the frame before."""
    return 1 + sum(not np.array_equal(one, other) for one, other in itertools.pairwise(frames))


@pytest.mark.parametrize("axis", [0, -1])
def test_views_of_one_array_share_and_are_not_followed(axis):
    draw = np.random.default_rng(7)
    frames = draw.integers(0, 255, (104, 84, 84), np.uint8)
    stacks = np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0)
    stacks = stacks if axis == -1 else stacks.transpose(0, 3, 1, 2)
    for rows in (stacks, stacks.copy()):
        expected = {"state": rows[:100].copy(), "state_new": rows[1:].copy()}
        buffer = ReplayBuffer(100, stack=(4, axis))
        buffer.put({"state": rows[:100], "state_new": rows[1:]})
        (rows if rows.flags.writeable else frames)[...] += 1
        assert_equal_rows(all_rows(buffer), expected)
        assert buffer.memory()["held"] < 1.2 * 100 * 84 * 84 + more_than_small_pages(8)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("sent", ["state", "state_new"])
def test_one_column_as_frames_and_one_as_rows(axis, sent):
    rows = next(long_run(1, 60, 1, axis=axis % 3))
    kept = {key: rows[key] for key in ("state", "state_new")}
    spec = {key: (column.dtype, column.shape[1:]) for key, column in kept.items()}
    encoder = ReplayBuffer(60, spec=spec, stack=(4, axis))
    encoder.put(kept)
    buffer = ReplayBuffer(60, spec=spec, stack=(4, axis))
    frames = encoder.open_reader().read_shared(60)[sent]
    buffer.put(kept | {sent: frames})
    assert_equal_rows(all_rows(buffer), kept)


def test_stacks_along_the_last_axis_cost_a_frame_a_row():
    frames = bytes_of_games(np.random.default_rng(6), 305, (40, 40), still=0)
    stacks = np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0)
    buffer = ReplayBuffer(301, stack=(4, -1))
    for part in (slice(0, 100), slice(100, 301)):
        buffer.put({"state": stacks[:-1][part], "state_new": stacks[1:][part]})
    assert frames_a_row(buffer) == 305 / 301


def test_memory_is_constant_once_full():
    buffer, held = ReplayBuffer(2000), []
    for at, rows in enumerate(long_run(num_games=4, chunk=100, num_chunks=40)):
        buffer.put(rows)
        if at > 40:
            held.append(buffer.memory()["held"])
    assert max(held) - min(held) <= 2 * buffer._ring.frames_nbytes / 8
    # A game's next chunk continues 400 rows further back; blocks of an eighth of the rows are freed at a time.
    assert max(held) < 1.5 * buffer.nbytes + more_than_small_pages(12)


def test_dedup_false_stores_rows_whole():
    rows = next(long_run(1, 50, 1))
    buffer = ReplayBuffer(50, dedup=False)
    buffer.put(encode(rows))
    assert_equal_rows(all_rows(buffer), rows)
    assert buffer._ring.shared == []
    assert buffer.memory()["ratio"] <= 1


def test_what_shares_nothing_is_refused_at_max_bytes_and_nothing_is_lost():
    rng = np.random.default_rng(5)
    shared = list(long_run(2, 60, 2))
    buffer = ReplayBuffer(2000, max_bytes=1 << 20)
    for rows in shared:
        buffer.put(rows)
    before = all_rows(buffer)
    noise = rng.integers(0, 9999, (2, 900, 4, *FRAME)).astype(np.uint16)
    with pytest.raises(NotEnoughMemoryError, match=r"key 'state'.*max_bytes=1,048,576.*but 900 of 900 rows"):
        buffer.put({"state": noise[0], "state_new": noise[1], "row": np.arange(900)})
    assert_equal_rows(all_rows(buffer), before)
    buffer.put(shared[0])
    assert_equal_rows(buffer.take(np.arange(len(buffer) - 60, len(buffer))), shared[0])


def test_max_bytes_holds_on_disk_and_says_what_is_in(tmp_path):
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 9999, (2, 900, 4, *FRAME)).astype(np.uint16)
    rows = {"state": noise[0], "state_new": noise[1], "row": np.arange(900)}
    with ReplayBuffer(2000, path=tmp_path / "b", spare=100, max_bytes=1 << 20) as buffer:
        buffer.put({key: column[:1] for key, column in rows.items()})
        with pytest.raises(
            NotEnoughMemoryError, match=r"max_bytes=1,048,576.*but 100 of 100 rows.*; (\d+) rows"
        ) as said:
            buffer.put(rows)
        num_in = int(re.search(r"; (\d+) rows before them are in", str(said.value))[1])
        assert num_in > 0
        assert len(buffer) == 1 + num_in
        assert_equal_rows(buffer.take(np.arange(1, 1 + num_in)), {key: column[:num_in] for key, column in rows.items()})
    with ReplayBuffer(700, path=tmp_path / "c", spare=100, max_bytes=1 << 20) as buffer:
        with pytest.raises(NotEnoughMemoryError, match="rows before them are in") as said:
            buffer.put(rows)  # more than fit, of which the pieces before the one that fails are in
        num_in = int(re.search(r"; (\d+) rows before them are in", str(said.value))[1])
        assert num_in > 0
        assert buffer.take(np.arange(len(buffer)))["row"].tolist() == list(range(num_in))


def test_a_buffer_on_disk_without_sharing_stays_one(tmp_path):
    rows = next(long_run(1, 50, 1))
    with ReplayBuffer(50, path=tmp_path / "b", dedup=False) as buffer:
        buffer.put(rows)
    with ReplayBuffer.open(tmp_path / "b", "r+") as buffer:
        assert pickle.loads(pickle.dumps(buffer))._ring.shared == []
        buffer.save(tmp_path / "saved")
    assert ReplayBuffer.load(tmp_path / "saved")._ring.shared == []


def test_what_shares_nothing_is_stored_where_there_is_room():
    rng = np.random.default_rng(6)
    noise = rng.integers(0, 9999, (2, 500, 4, *FRAME)).astype(np.uint16)
    buffer = ReplayBuffer(300)
    for part in (slice(0, 200), slice(200, 500)):
        buffer.put({"state": noise[0, part], "state_new": noise[1, part]})
    assert_equal_rows(all_rows(buffer), {"state": noise[0, 200:], "state_new": noise[1, 200:]})


def test_saved_and_loaded_with_frames_stored_once(tmp_path):
    buffer = ReplayBuffer(700, seed=1)
    for rows in long_run(2, 100, 5):
        buffer.put(rows)
    buffer.save(tmp_path / "buffer")
    loaded = ReplayBuffer.load(tmp_path / "buffer")
    assert_equal_rows(all_rows(loaded), all_rows(buffer))
    assert frames_a_row(loaded) < 1.1
    assert_equal_rows(loaded.sample(20), buffer.sample(20))
    plain = ReplayBuffer(700, dedup=False)
    plain.put(all_rows(buffer))
    plain.save(tmp_path / "plain", compression="none")
    buffer.save(tmp_path / "once", compression="none")
    assert (tmp_path / "once").stat().st_size * 5 < (tmp_path / "plain").stat().st_size


@pytest.mark.parametrize("stack", [(4, 0), {"state": (4, 0), "state_new": (4, 0)}, None])
def test_stack_survives_save_and_pickle(tmp_path, stack):
    buffer = ReplayBuffer(50, stack=stack)
    buffer.put(next(long_run(1, 50, 1)))
    buffer.save(tmp_path / "buffer")
    for other in (ReplayBuffer.load(tmp_path / "buffer"), pickle.loads(pickle.dumps(buffer))):
        assert other._ring.shared == buffer._ring.shared
        assert_equal_rows(all_rows(other), all_rows(buffer))


def test_what_runners_send_has_each_frame_once():
    rows = next(long_run(1, 100, 1, end_probability=0))
    sent = encode(rows)
    assert sent["state"].frames is sent["state_new"].frames
    assert len(sent["state"].frames) <= 101 + 3
    batch = to_record_batch(sent)
    assert batch.nbytes < 0.2 * to_record_batch(rows).nbytes
    back = from_record_batch(batch)
    assert isinstance(back["state"], FrameColumn)
    assert_equal_rows(back, rows)
    # Without a copy: the frames are the batch's own memory.
    column = batch.column("really.frames.state")
    address = column.values.buffers()[1].address
    assert back["state"].frames.ctypes.data == address


def test_arrow_tables_of_frames_in_several_chunks():
    pieces = [to_record_batch(encode(rows)) for rows in long_run(1, 30, 3)]
    buffer = ReplayBuffer(90)
    buffer.put(pa.Table.from_batches(pieces))
    assert_equal_rows(all_rows(buffer), {key: np.concatenate([r[key] for r in long_run(1, 30, 3)]) for key in KEYS})


SPEC = {
    "state": ColumnSpec(np.dtype(np.uint8), (4, 84, 84)),
    "state_new": ColumnSpec(np.dtype(np.uint8), (4, 84, 84)),
    "flat": ColumnSpec(np.dtype(np.float32), (376,)),
    "flat_new": ColumnSpec(np.dtype(np.float32), (376,)),
    "small": ColumnSpec(np.dtype(np.float32), (4,)),
    "other": ColumnSpec(np.dtype(np.float64), (50, 50)),
}


def test_plan():
    assert plan(SPEC) == [Sharing((0, 1), 4, 0), Sharing((2, 3), 1, 0)]
    assert plan({"obs": SPEC["state"], "next_obs": SPEC["state"]}) == [Sharing((0, 1), 4, 0)]
    assert plan({"state.a": SPEC["state"], "state.b": SPEC["state"], "state_new.b": SPEC["state"]}) == [
        Sharing((0,), 4, 0),
        Sharing((1, 2), 4, 0),
    ]
    assert plan({"state_new": SPEC["state"], "state": SPEC["state"]}) == [Sharing((1, 0), 4, 0)]
    last = {"state": ColumnSpec(np.dtype(np.uint8), (84, 84, 4))}
    assert plan(last) == []
    assert plan(last, stack=(4, -1)) == [Sharing((0,), 4, 2)]


@pytest.mark.parametrize(
    ("key", "other", "expected"),
    [
        ("state", "state_new", True),
        ("state.image", "state_new.image", True),
        ("obs", "next_obs", True),
        ("obs", "obs_next", True),
        ("state", "new_state", True),
        ("state", "state", False),
        ("state.a", "state_new.b", False),
        ("obs", "newest", False),
    ],
)
def test_which_name_comes_after_which(key, other, expected):
    assert is_after(key, other) is expected


@pytest.mark.parametrize(
    ("stack", "error", "message"),
    [
        ((4, 1), InvalidValueError, r"key 'state'.*axis of \(4, 84, 84\) of that length, got \(4, 1\)"),
        ((4, 9), InvalidValueError, "key 'state'"),
        ({"state": (4, 0), "action": (2, 0)}, InvalidValueError, r"got \['action'\]"),
        ({"state": 4}, InvalidTypeError, r"\(number of frames, axis\), got 4"),
        ({"state": (84, 1)}, InvalidValueError, "up to 16 frames"),
    ],
)
def test_stacks_that_no_column_has_are_refused(stack, error, message):
    with pytest.raises(error, match=message):
        ReplayBuffer(10, spec={key: SPEC[key] for key in ("state", "state_new", "small")}, stack=stack)


@pytest.mark.parametrize(
    ("frames", "indices", "message"),
    [
        (np.zeros((3, 8)), np.zeros((2, 4)), "expected C-contiguous int32"),
        (np.zeros((3, 8)), np.full((2, 4), 3, np.int32), "expected 0 to 2, got 3 to 3"),
        (np.zeros((3, 8)), np.full((2, 4), -1, np.int32), "expected 0 to 2, got -1 to -1"),
        (np.zeros((8, 3)).T, np.zeros((2, 4), np.int32), "expected C-contiguous"),
    ],
)
def test_frame_columns_that_name_no_rows_are_refused(frames, indices, message):
    with pytest.raises(InvalidValueError, match=message):
        FrameColumn(frames, indices)


def test_construction_counts_one_frame_a_row():
    with pytest.raises(NotEnoughMemoryError, match="1,000,000,000 rows: needs") as refusal:
        ReplayBuffer(1_000_000_000, spec={key: SPEC[key] for key in ("state", "state_new")})
    needed = int(str(refusal.value).split("needs ")[1].split(" bytes")[0].replace(",", ""))
    assert 7.0e12 < needed < 7.6e12


def test_frames_of_a_structured_dtype(tmp_path):
    kind = np.dtype([("depth", np.float32), ("colour", np.uint8, (3,))])
    frames = np.zeros((40, 20, 20), kind)
    frames["depth"] = np.random.default_rng(0).random((40, 20, 20))
    buffer = ReplayBuffer(39)
    buffer.put({"obs": frames[:-1], "next_obs": frames[1:]})
    assert buffer._ring.shared
    buffer.save(tmp_path / "b")
    for other in (buffer, ReplayBuffer.load(tmp_path / "b")):
        np.testing.assert_array_equal(all_rows(other)["next_obs"], frames[1:])
    sent = from_record_batch(to_record_batch(encode({"obs": frames[:-1], "next_obs": frames[1:]})))
    np.testing.assert_array_equal(np.asarray(sent["obs"]), frames[:-1])
