"""Minari data sets: `minari.load_dataset` opens the episodes of a buffer, truncation included."""

from __future__ import annotations

from collections import defaultdict

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from really import EmptyBufferError, InvalidTypeError, InvalidValueError, ReplayBuffer
from really.errors import ClosedError
from really.replay.io.minari import _Chunks

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    """Data sets of a test go to a folder of its own."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def transition(state, action, reward, state_new, terminated, truncated) -> dict[str, np.ndarray]:
    return {
        "state": np.asarray(state, np.float32),
        "action": np.asarray(action),
        "reward": np.float32(reward),
        "state_new": np.asarray(state_new, np.float32),
        "not_done": np.float32(not (terminated or truncated)),
        "terminal": np.float32(terminated),
        "truncated": np.float32(truncated),
    }


def cartpole(buffer: ReplayBuffer, num_steps: int, limit: int = 20) -> list[dict[str, list]]:
    """Puts steps into the buffer; returns the same steps as episodes."""
    draw, episodes = np.random.default_rng(0), []
    with gymnasium.make("CartPole-v1", max_episode_steps=limit) as environment:
        state, _ = environment.reset(seed=0)
        episode = defaultdict(list)
        for _ in range(num_steps):
            action = int(draw.integers(2))
            state_new, reward, terminated, truncated, _ = environment.step(action)
            row = transition(state, action, reward, state_new, terminated, truncated)
            buffer.put(row)
            for key, value in row.items():
                episode[key].append(value)
            state = state_new
            if terminated or truncated:
                episodes.append(episode)
                state, _ = environment.reset()
                episode = defaultdict(list)
    return [*episodes, episode] if episode["state"] else episodes


def assert_is_episode(got, expected) -> None:
    states = np.stack(expected["state"] + expected["state_new"][-1:])
    assert np.array_equal(got.observations, states)
    assert got.actions.tolist() == [int(action) for action in expected["action"]]
    assert got.rewards.tolist() == expected["reward"]
    assert got.terminations.tolist() == [bool(flag) for flag in expected["terminal"]]
    assert got.truncations[:-1].tolist() == [bool(flag) for flag in expected["truncated"]][:-1]
    assert got.truncations[-1] == bool(expected["truncated"][-1] or expected["not_done"][-1])


def test_load_dataset_opens_the_episodes():
    buffer = ReplayBuffer(1000, seed=0)
    episodes = cartpole(buffer, 700)
    assert any(episode["truncated"][-1] for episode in episodes)
    assert any(episode["terminal"][-1] for episode in episodes)
    buffer.to_minari("tests/cartpole-v0", env="CartPole-v1", algorithm_name="random", author="a student")
    dataset = minari.load_dataset("tests/cartpole-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (len(episodes), 700)
    for got, expected in zip(dataset.iterate_episodes(), episodes, strict=True):
        assert_is_episode(got, expected)
    assert dataset.action_space == spaces.Discrete(2)
    assert dataset.env_spec.id == "CartPole-v1"
    assert dataset.storage.metadata["algorithm_name"] == "random"
    assert "tests/cartpole-v0" in minari.list_local_datasets()
    with dataset.recover_environment() as environment:
        assert environment.observation_space == dataset.observation_space


def test_a_wrapped_buffer_begins_in_the_middle_of_an_episode():
    buffer = ReplayBuffer(100, seed=0)
    episodes = cartpole(buffer, 250)
    dataset = buffer.to_minari("wrapped-v0")
    got = list(dataset.iterate_episodes())
    assert sum(map(len, got)) == 100
    whole = episodes[len(episodes) - len(got) + 1 :]
    for one, expected in zip(got[1:], whole, strict=True):
        assert_is_episode(one, expected)
    start = episodes[len(episodes) - len(got)]
    assert np.array_equal(got[0].observations[-1], start["state_new"][-1])


def test_rows_come_back():
    buffer = ReplayBuffer(300, seed=0)
    cartpole(buffer, 300)
    buffer.to_minari("back-v0", env="CartPole-v1")
    again = ReplayBuffer.from_minari("back-v0", seed=0)
    expected, got = buffer.take(range(300)), again.take(range(300))
    assert again.capacity == 300
    for key in ("state", "action", "reward", "state_new", "terminal"):
        assert got[key].dtype == expected[key].dtype
        assert np.array_equal(got[key], expected[key]), key
    assert np.array_equal(got["truncated"][:-1], expected["truncated"][:-1])
    assert again.sample(8)["state"].shape == (8, 4)
    newest = ReplayBuffer.from_minari(minari.load_dataset("back-v0"), 50, keys=["reward", "not_done"])
    assert newest.keys == ("reward", "not_done")
    assert len(newest) == 50
    ends = ReplayBuffer.from_minari("back-v0", keys=iter(["reward", "episode_end"])).take(range(300))["episode_end"]
    assert np.array_equal(ends, got["not_done"] == 0)


def interleaved(with_agent: bool) -> ReplayBuffer:
    """Two agents' steps, in turns of four; agent 0 ends at its sixth step, agent 1 is truncated at its eighth."""
    buffer = ReplayBuffer(100, seed=0)
    for turn in range(3):
        for agent in range(2):
            for step in range(turn * 4, turn * 4 + 4):
                ends = agent == 0 and step == 5, agent == 1 and step == 7
                state, state_new = [agent * 100 + step], [agent * 100 + step + 1 + 0.5 * any(ends)]
                if (agent == 0 and step == 6) or (agent == 1 and step == 8):
                    state = [agent * 100 + step]
                row = transition(state, step, step, state_new, *ends)
                buffer.put({**row, "agent": np.int32(agent)} if with_agent else row)
    return buffer


def test_episodes_of_several_agents_are_told_apart():
    got = [
        (episode.rewards.tolist(), bool(episode.terminations[-1]), bool(episode.truncations[-1]))
        for episode in interleaved(with_agent=True).to_minari("agents-v0").iterate_episodes()
    ]
    assert got == [
        ([0, 1, 2, 3, 4, 5], True, False),
        ([0, 1, 2, 3, 4, 5, 6, 7], False, True),
        ([6, 7, 8, 9, 10, 11], False, True),
        ([8, 9, 10, 11], False, True),
    ]


def test_without_agents_an_episode_stops_where_another_one_goes_on():
    got = [
        (episode.rewards.tolist(), bool(episode.terminations[-1]))
        for episode in interleaved(with_agent=False).to_minari("agents-v0").iterate_episodes()
    ]
    assert got == [
        ([0, 1, 2, 3], False),
        ([0, 1, 2, 3], False),
        ([4, 5], True),
        ([6, 7], False),
        ([4, 5, 6, 7], False),
        ([8, 9, 10, 11], False),
        ([8, 9, 10, 11], False),
    ]


def test_episodes_longer_than_a_chunk(monkeypatch):
    monkeypatch.setattr("really.replay.io.minari.CHUNK", 100)
    buffer = ReplayBuffer(1000, seed=0)
    episodes = cartpole(buffer, 120)
    dataset = buffer.to_minari("long-v0")
    for got, expected in zip(dataset.iterate_episodes(), episodes, strict=True):
        assert_is_episode(got, expected)
    with buffer.open_reader() as reader:
        assert len(list(_Chunks(reader, ["reward"]))) == 120


def test_images_and_nested_observations_come_back_bit_for_bit():
    draw = np.random.default_rng(0)
    buffer = ReplayBuffer(10, seed=0)
    frames = draw.integers(0, 256, (6, 8, 8, 3), np.uint8)
    speeds = draw.random((6, 2), np.float32)
    for step in range(5):
        buffer.put(
            {
                "state.camera.left": frames[step],
                "state.speed": speeds[step],
                "action": draw.random(3, np.float32),
                "reward": 1.0,
                "state_new.camera.left": frames[step + 1],
                "state_new.speed": speeds[step + 1],
                "not_done": float(step < 4),
            }
        )
    dataset = buffer.to_minari("nested-v0")
    (episode,) = dataset.iterate_episodes()
    assert np.array_equal(episode.observations["camera"]["left"], frames)
    assert np.array_equal(episode.observations["speed"], speeds)
    assert dataset.observation_space["camera"]["left"].dtype == np.uint8
    assert dataset.action_space.shape == (3,)
    again = ReplayBuffer.from_minari(dataset)
    assert np.array_equal(again.take(range(5))["state_new.camera.left"], frames[1:])
    assert again.take([4])["terminal"] == 1


def test_actions_that_start_elsewhere():
    buffer = ReplayBuffer(10, seed=0)
    buffer.put({"state": [[0.0], [1.0]], "action": [-1, 2], "reward": [0.0, 0.0], "state_new": [[1.0], [2.0]]} | FLAGS)
    assert buffer.to_minari("started-v0").action_space == spaces.Discrete(4, start=-1)
    space = spaces.Discrete(7, start=-2)
    assert buffer.to_minari("given-v0", action_space=space).action_space == space


FLAGS = {"not_done": [1.0, 0.0]}


def test_a_closed_buffer_says_so(datasets, tmp_path):
    buffer = ReplayBuffer(10, path=tmp_path / "b")
    buffer.put({"state": [[0.0]], "action": [0], "reward": [0.0], "state_new": [[1.0]], "not_done": [0.0]})
    buffer.close()
    with pytest.raises(ClosedError, match=r"^to_minari: .*expected an open buffer"):
        buffer.to_minari("some-v0")


def test_refusals_leave_nothing_behind(datasets):
    buffer = ReplayBuffer(10, seed=0)
    with pytest.raises(EmptyBufferError, match="expected a buffer that holds rows"):
        buffer.to_minari("some-v0")
    buffer.put({"state": [[0.0]], "action": [0], "reward": [0.0], "state_new": [[1.0]], "not_done": [0.0]})
    for dataset_id in ("no version", "a/b-v0"):
        with pytest.raises(
            InvalidValueError,
            match=rf"expected .*, got {dataset_id!r}($|; the name of a folder)",
        ):
            buffer.to_minari(dataset_id)
    with pytest.raises(InvalidValueError, match=r"a column 'state' of float32 \[4\] .* got float32 \[1\]"):
        buffer.to_minari("some-v0", env="CartPole-v1")
    with pytest.raises(InvalidValueError, match=r"env: expected an environment, .* got 'CartPloe-v1'"):
        buffer.to_minari("some-v0", env="CartPloe-v1")
    with pytest.raises(InvalidValueError, match="'action' of shape"):
        buffer.to_minari("some-v0", action_space=spaces.Box(0, 1, (2,)))
    with pytest.raises(
        InvalidTypeError, match=r"about: expected texts as Minari wants them, got {'code_permalink': 3}"
    ):
        buffer.to_minari("some-v0", code_permalink=3)
    assert not list(datasets.rglob("*-v0*"))
    for missing in ("reward", "not_done", "state_new"):
        less = ReplayBuffer.from_arrow(buffer.to_arrow([key for key in buffer.keys if key != missing]), 10)
        with pytest.raises(InvalidValueError, match=f"expected a column '{missing}|or 'not_done'"):
            less.to_minari("some-v0")
    buffer.to_minari("some-v0")
    with pytest.raises(InvalidValueError, match="expected one that is not taken, got 'some-v0'"):
        buffer.to_minari("some-v0")
    assert not buffer._readers.keepers


@pytest.mark.filterwarnings("ignore:.*set to None:UserWarning", "ignore:env_spec is None:UserWarning")
def test_other_data_sets_are_refused():
    told = r"expected a local Minari data set, got 'none-v0', which is not there; `minari download none-v0` gets it$"
    with pytest.raises(InvalidValueError, match=told):
        ReplayBuffer.from_minari("none-v0")
    with pytest.raises(InvalidTypeError, match=r"^from_minari: .*'download'.*`minari download ID`"):
        ReplayBuffer.from_minari("none-v0", download=True)
    with pytest.raises(InvalidTypeError, match=r"^from_minari: .*'alfa'.*Did you mean 'alpha'"):
        ReplayBuffer.from_minari("none-v0", alfa=0.6)
    box = spaces.Box(0, 1, (1,))
    episode = minari.data_collector.EpisodeBuffer(
        observations=np.zeros((2, 1)),
        actions={"arm": np.zeros((1, 1))},
        rewards=[0.0],
        terminations=[True],
        truncations=[False],
    )
    dataset = minari.create_dataset_from_buffers(
        "arms-v0", [episode], observation_space=box, action_space=spaces.Dict({"arm": box})
    )
    with pytest.raises(InvalidTypeError, match="expected actions that are one array, got dict"):
        ReplayBuffer.from_minari(dataset)
