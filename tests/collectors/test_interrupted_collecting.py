"""Interrupts and endless episodes: after any error, at any place, rows continue one another; nothing grows forever."""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from really import ReallyError, SampleManager, atari
from really.envs.make import make_batch
from really.envs.spec import EnvironmentSpec
from really.errors import EnvironmentFailedError, NotEnoughMemoryError
from tests.environments import Counter, Exits, Wide
from tests.models import QNet


class InterruptedIn(Counter):
    """All instances together count their steps; the step with a number in `steps` raises `error` before or after it."""

    steps: frozenset[int] = frozenset()
    error: type[BaseException] = KeyboardInterrupt
    taken = 0

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        type(self).taken += 1
        if 2 * self.taken in self.steps:
            raise self.error
        result = super().step(action)
        if 2 * self.taken + 1 in self.steps:
            raise self.error
        return result


def check_rows(data: dict[str, np.ndarray]) -> None:
    """Asserts that each row continues the row before it, unless that row ends a trajectory."""
    np.testing.assert_array_equal(data["state_new"], data["state"] + 1)
    follows = data["episode_end"][:-1] == 0
    np.testing.assert_array_equal(data["state"][1:][follows], data["state_new"][:-1][follows])
    np.testing.assert_array_equal(data["agent"][1:][follows], data["agent"][:-1][follows])


def check_whole_episodes(data: dict[str, np.ndarray], length: int) -> None:
    """Asserts that each trajectory is an episode from its start to its end."""
    check_rows(data)
    np.testing.assert_array_equal(data["episode_end"] == 1, data["state_new"][:, 0] == length)
    np.testing.assert_array_equal(data["state"][0], 0)


def make(environment: Any, **changes: Any) -> SampleManager:
    given = {"num_parallel": 3, "total_steps": 60, "returns": ["agent", "episode_end", "monte_carlo"], **changes}
    return SampleManager(QNet, environment, use_ray=False, **given)


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError, SystemExit, GeneratorExit])
def test_an_interrupt_in_a_step_leaves_no_gap_in_the_rows(error: type[BaseException]) -> None:
    class Once(InterruptedIn):
        pass

    Once.error = error
    every = 1 if error is KeyboardInterrupt else 9
    for options in ({"num_steps": 10}, {"num_episodes": 1}):
        Once.taken, Once.steps = 0, frozenset()
        with make(Once, env_config={"length": 7}, **options) as manager:
            check_rows(manager.get_data())
            for number in range(2, 40, every):
                Once.taken, Once.steps = 0, frozenset([number])
                with pytest.raises(error if error is KeyboardInterrupt else EnvironmentFailedError):
                    manager.get_data()
                data = manager.get_data()
                check_whole_episodes(data, 7) if "num_episodes" in options else check_rows(data)
                np.testing.assert_array_equal(data["state"][0], 0)


EXITS = [SystemExit("no licence"), GeneratorExit("\udcff"), asyncio.CancelledError("x" * 30_000_000)]


FUNCTIONS = {"constructor": "__init__"}


@pytest.mark.parametrize("where", ["constructor", "reset", "step"])
def test_an_exit_of_an_environment_at_the_start_or_in_a_test_is_its_error(where: str) -> None:
    """A KeyboardInterrupt may be Ctrl-C, and stays one."""
    for error in [*EXITS, KeyboardInterrupt("its own")]:
        is_interrupt = isinstance(error, KeyboardInterrupt)
        expected = KeyboardInterrupt if is_interrupt else EnvironmentFailedError
        with pytest.raises(expected) as raised, make(Exits, env_config={"error": error, "where": where}) as manager:
            manager.test(20, test_episodes=2)
        if not is_interrupt:
            named = rf"(?s)Exits.*{type(error).__name__}.*Original traceback.*in {FUNCTIONS.get(where, where)}\n"
            assert re.search(named, text := str(raised.value)), text
            assert len(text.encode()) < 12_000


@pytest.mark.parametrize("use_more", [False, True])
def test_an_exit_by_a_handler_of_a_signal_stays_an_exit(use_more: bool) -> None:
    """The handler may take its arguments as it likes, and may be replaced by the time that it raises."""

    class Terminated(InterruptedIn):
        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
            signal.raise_signal(signal.SIGTERM)
            return super().step(action)

    def ends(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        sys.exit(3)

    before = signal.signal(signal.SIGTERM, (lambda *_: sys.exit(3)) if use_more else ends)
    try:
        with make(Terminated, num_steps=5) as manager, pytest.raises(SystemExit, match="3"):
            manager.get_data()
    finally:
        signal.signal(signal.SIGTERM, before)


class InterruptedWait(AsyncVectorEnv):
    """Ctrl-C comes while the processes step, `count` calls of `step` from now."""

    count = 0

    def step_wait(self, *arguments: Any, **options: Any) -> Any:
        type(self).count -= 1
        if self.count == 0:
            raise KeyboardInterrupt
        return super().step_wait(*arguments, **options)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_vector_environment_begins_anew_after_an_interrupt(mode: str) -> None:
    def vectors(num_envs: int) -> Any:
        return SyncVectorEnv([partial(InterruptedIn, 7)] * num_envs, autoreset_mode=mode)

    with make(vectors, num_episodes=1, num_parallel=2) as manager:
        for number in range(2, 40, 5):
            InterruptedIn.taken, InterruptedIn.steps = 0, frozenset([number])
            with pytest.raises(KeyboardInterrupt):
                manager.get_data()
            check_whole_episodes(manager.get_data(), 7)


def test_processes_of_a_vector_environment_are_replaced_after_an_interrupt() -> None:
    def vectors(num_envs: int) -> Any:
        return InterruptedWait([partial(Counter, 7)] * num_envs, autoreset_mode="SameStep")

    manager = make(vectors, num_episodes=1, num_parallel=2)
    for count in (1, 9):
        InterruptedWait.count = count
        with pytest.raises(KeyboardInterrupt):
            manager.get_data()
        check_whole_episodes(manager.get_data(), 7)
    InterruptedWait.count = 3
    with pytest.raises(KeyboardInterrupt):
        manager.get_data()
    manager.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("place", [13, 21])
def test_atari_games_are_replaced_after_an_interrupt(place: int) -> None:
    """The interrupt comes when one of two actions was sent, or both, and before any result was received."""
    batch = make_batch(EnvironmentSpec(atari("breakout", max_frames=120)), np.random.SeedSequence(1).spawn(2))
    batch.reset()
    actions = np.ones(2, np.int64)
    with interrupted_at(place), pytest.raises(KeyboardInterrupt):
        batch.step(actions)
    batch.reset()
    for _ in range(50):
        before = batch.observations[0].copy()
        batch.step(actions)
        np.testing.assert_array_equal(batch.final_observations[0][:, :3], before[:, 1:])
    batch.close()


@contextmanager
def interrupted_at(number: int) -> Iterator[None]:
    """Raises KeyboardInterrupt at the place with this number, counted over the places that are run in this block.

    A place is the start of a function of the package or of what it calls, or a line of a module that steps. At the end
    of a `with` block, which is a line too, Python itself raises none.
    """
    left = number

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        name = frame.f_code.co_filename
        steps = any(part in name for part in ("/envs/", "/runner.py", "/rollout.py", "/delivery.py", "/data/"))
        if event == "call" or (event == "line" and steps):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace if "/really/" in name else None

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


# Alone in a process: an interrupt inside TensorFlow's or tqdm's own code leaves their global state as it is.
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"num_steps": 5}, {"num_episodes": 1}])
def test_an_interrupt_at_any_place_leaves_no_gap_in_the_rows(options: dict[str, int]) -> None:
    with make(Counter, env_config={"length": 4}, total_steps=15, normalize_rewards=True, **options) as manager:
        manager.get_data()
        place, interrupts = 1, 0
        while True:
            try:
                with interrupted_at(place):
                    manager.get_data(progress=False)
                break
            except KeyboardInterrupt:
                interrupts += 1
            for _ in range(2):
                data = manager.get_data()
                check_rows(data)
                if "num_episodes" in options:
                    check_whole_episodes(data, 4)
            manager.set_agent([array + 1 for array in manager.get_agent().get_weights()])
            place += 1 + place // 10
        assert interrupts > 50


def test_collection_in_the_background_tells_of_an_interrupt_and_goes_on() -> None:
    class Once(InterruptedIn):
        taken, steps = 0, frozenset([161])

    with make(Once, env_config={"length": 7}, num_episodes=1) as manager:
        manager.initialize_buffer(10_000, ["state", "state_new", "reward", "episode_end", "agent"])
        background = manager.collect_in_background(max_rows=5000)
        while background.running:
            time.sleep(0.01)
        with pytest.raises(ReallyError, match="background collection ended with KeyboardInterrupt"):
            manager.sample(8)
        check_whole_episodes(manager.get_data(), 7)


def test_an_episode_that_does_not_end_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """200 rows are asked for; the second episode of agent 0 has 3,000 steps."""

    class LongSecond(Counter):
        def reset(self, **options: Any) -> tuple[np.ndarray, dict]:
            self.episodes = getattr(self, "episodes", 0) + 1
            self.length = 3000 if self.episodes == 3 else 5
            return super().reset(**options)

    how = {"num_episodes": 1, "action_sampling_type": "epsilon_greedy"}
    with make(LongSecond, num_parallel=1, total_steps=2, **how) as manager:
        manager.get_data()
        assert caplog.text == ""
        for _ in range(2):
            manager.get_data()
    assert caplog.text.count("num_episodes: expected episodes of environment 'LongSecond' to end, got one of 2,") == 1
    assert "give num_steps= instead of num_episodes=, or wrap it in gymnasium.wrappers.TimeLimit" in caplog.text


def test_an_endless_episode_without_a_time_limit_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends after 1,000 times the rows asked for and a number of steps, which is lower here."""
    monkeypatch.setattr("really.collectors.episode_watch.ENDLESS_STEPS", 6000)
    endless = {"env_config": {"length": 10**6}, "num_parallel": 1, "num_episodes": 1}
    for total_steps, expected in ((2, r"6,\d{3}"), (7, r"7,\d{3}")):
        with make(Counter, total_steps=total_steps, **endless) as manager:
            with pytest.raises(EnvironmentFailedError, match=f"to end, got one of {expected} steps .*give num_steps="):
                manager.get_data()
            assert manager.test(5, 1) == [5]

    def limited() -> TimeLimit:
        return TimeLimit(Counter(length=10**6), 6500)

    with make(limited, total_steps=2, num_parallel=1, num_episodes=1) as manager:
        assert len(manager.get_data()["reward"]) == 6500


def test_an_episode_that_takes_long_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("really.collectors.episode_watch.PATIENCE_SECONDS", 0.0)
    with make(Counter, num_parallel=1, num_episodes=1) as manager:
        manager.get_data()
        manager.get_data()
    assert caplog.text.count("has not ended") == 1


def test_an_endless_episode_ends_where_its_rows_need_too_much_memory() -> None:
    """256 rows of `Wide` take 8 MB, and then 16 MB in place of them."""
    with make(Wide, num_parallel=1, num_episodes=1, total_steps=10**5) as manager:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as statm:
            taken = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + (24 << 20), hard))
        try:
            with pytest.raises(NotEnoughMemoryError, match=r"got one of 256 steps .*its rows need .*num_steps="):
                manager.get_data()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert manager.test(30, 2) == [30, 30], "bounded by max_steps"
