"""Faults with real processes: runners that are killed or die at every start, Ctrl-C, a small object store."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import EnvironmentFailedError, RunnerError, SampleManager
from really._ray.runtime import warn_of_small_shared_memory
from really.errors import ReallyError, RunnerTimeoutError
from tests.environments import AwkwardErrors, Counter, Exiting, Exits, Fragile, RaisingInterrupts, RaisingOnce
from tests.models import QNet
from tests.scripts import LongDay, run_script

RAY_EXPECTED = "the Ray runtime of this manager: expected it to be running,"


def make(environment: Any = Counter, **changes: Any) -> SampleManager:
    given = {"num_parallel": 4, "total_steps": 400, "num_steps": 50, "returns": ["agent", "episode_end"], **changes}
    return SampleManager(QNet, environment, **given)


def check_rows(data: dict[str, np.ndarray]) -> None:
    """Asserts that every row continues the row before it, unless that row ends a trajectory."""
    np.testing.assert_array_equal(data["state_new"], data["state"] + 1)
    follows = data["episode_end"][:-1] == 0
    np.testing.assert_array_equal(data["state"][1:][follows], data["state_new"][:-1][follows])
    np.testing.assert_array_equal(data["agent"][1:][follows], data["agent"][:-1][follows])


@pytest.mark.usefixtures("ray_runtime")
def test_sigkill_of_runners_loses_and_repeats_no_row(caplog: pytest.LogCaptureFixture) -> None:
    kill_runners(5, caplog)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_runtime")
def test_sigkill_of_runners_fifty_times(caplog: pytest.LogCaptureFixture) -> None:
    kill_runners(50, caplog)


def kill_runners(kills: int, caplog: pytest.LogCaptureFixture) -> None:
    """Kills a runner at a random moment of each call. The environments count their steps and never end an episode."""
    rng = np.random.default_rng(kills)
    with make(env_config={"length": 10**6}, total_steps=20_000, num_steps=100, num_workers=2) as manager:
        manager.get_data()
        for _ in range(kills):
            victim = int(rng.choice(pids_of_runners(manager)))
            timer = threading.Timer(rng.random() * 0.15, os.kill, (victim, signal.SIGKILL))
            timer.start()
            data = manager.get_data()
            timer.join()
            await_end(victim)  # a call may be over before the kill, and `info` may still see its victim
            assert len(data["reward"]) == 20_000
            check_rows(data)
            # An environment never repeats a count; one in a restarted runner starts at 0 again.
            for agent in range(4):
                counts = data["state"][data["agent"] == agent, 0]
                restarts = np.flatnonzero(np.diff(counts) != 1)
                assert len(restarts) <= 2
                assert (counts[restarts + 1] == 0).all()
        # The other runner may have the rows of a call before the loss of the last victim is noticed.
        deadline = time.monotonic() + 60
        while restarts_of_runners(manager) < kills and time.monotonic() < deadline:
            manager.get_data()
        restarted = restarts_of_runners(manager)
    assert restarted == kills
    assert caplog.text.count("was lost and is restarted") == kills


def pids_of_runners(manager: SampleManager) -> list[int]:
    """Of those that have started; if all were lost, a call waits for new ones."""
    while not (found := [runner["pid"] for runner in manager.info()["runners"] if runner["pid"]]):
        manager.get_data()
    return found


def restarts_of_runners(manager: SampleManager) -> int:
    """How often runners were restarted, all together."""
    return sum(runner["restarts"] for runner in manager.info()["runners"])


def await_end(pid: int) -> None:
    """Waits until a process that was killed is gone."""
    deadline = time.monotonic() + 30
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.usefixtures("ray_runtime")
def test_an_environment_whose_constructor_raises_ends_the_call_at_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The error has the traceback, and there is no second attempt before the next call."""
    licence = tmp_path / "licence"
    with make(Fragile, env_config={"alive": os.getpid(), "licence": str(licence)}, num_workers=1) as manager:
        with pytest.raises(RunnerError, match=r"(?s)runner 0 .*could not start.*OSError: no licence for the simulator"):
            manager.get_data()
        assert "is restarted" not in caplog.text
        with pytest.raises(RunnerError, match=r"could not start"):
            manager.get_data()
        licence.touch()
        # The runner that was started when the second call failed may have found no licence either.
        with contextlib.suppress(RunnerError):
            manager.get_data()
        check_rows(manager.get_data())


@pytest.mark.usefixtures("ray_runtime")
def test_a_runner_whose_process_dies_at_every_start_ends_the_call(caplog: pytest.LogCaptureFixture) -> None:
    with (
        make(Exiting, env_config={"alive": os.getpid()}, num_workers=1) as manager,
        pytest.raises(RunnerError, match=r"died 4 times in a row"),
    ):
        manager.get_data()
    assert caplog.text.count("was lost and is restarted") == 3


@pytest.mark.parametrize("use_ray", [True, False])
@pytest.mark.usefixtures("ray_runtime")
def test_errors_with_awkward_texts_arrive_as_text_of_bounded_length(use_ray: bool) -> None:
    """Lone surrogates are escaped, the middle of a long text is left out, and a missing text is said to be missing."""
    with make(AwkwardErrors, num_parallel=1, use_ray=use_ray) as manager:
        for expected in (
            r"OSError: port \\udcff is closed",
            "29,999,.* characters left out",
            "whose text raised ValueError",
        ):
            with pytest.raises(EnvironmentFailedError, match=rf"(?s){expected}.*Original traceback.*in step") as raised:
                manager.get_data()
            assert len(str(raised.value)) < 12_000
        check_rows(manager.get_data())
        assert manager.info()["runners"][0]["restarts"] == 0


@pytest.mark.parametrize("use_ray", [True, False])
@pytest.mark.usefixtures("ray_runtime")
def test_an_interrupt_that_an_environment_raises_itself_is_its_error(use_ray: bool) -> None:
    """No such error ends the process or the program, and each arrives with its traceback as text of bounded length.

    In this process a KeyboardInterrupt may be Ctrl-C, and stays one.
    """
    with make(RaisingInterrupts, num_parallel=1, use_ray=use_ray) as manager:
        if not use_ray:
            with pytest.raises(KeyboardInterrupt):
                manager.get_data()
        step = "number 0 of the batch, step 0 of its episode: step"
        for place, expected in (
            ("step 0 of the rollout", "KeyboardInterrupt: x"),
            (step, r"GeneratorExit: \\udcff"),
            (step, "CancelledError: late"),
            (step, "SystemExit: no licence"),
        )[not use_ray :]:
            place = rf"(?s)environment 'RaisingInterrupts', {place}: {expected}.*traceback.*, in step\n"
            with pytest.raises(EnvironmentFailedError, match=place) as raised:
                manager.get_data()
            assert len(str(raised.value)) < 12_000
        check_rows(manager.get_data())
        assert manager.info()["runners"][0]["restarts"] == 0


@pytest.mark.parametrize("where", ["constructor", "reset"])
@pytest.mark.usefixtures("ray_runtime")
def test_an_exit_of_an_environment_as_its_runner_starts_is_its_error(where: str) -> None:
    for error in (SystemExit("no licence"), GeneratorExit("\udcff"), KeyboardInterrupt("x" * 30_000_000)):
        given = {"error": error, "where": where, "but": os.getpid()}
        expected = rf"(?s){type(error).__name__}.*in {'__init__' if where == 'constructor' else where}\b"
        with (
            pytest.raises(EnvironmentFailedError, match=expected) as raised,
            make(Exits, env_config=given, num_parallel=1) as manager,
        ):
            manager.get_data()
        assert len(str(raised.value)) < 20_000


@pytest.mark.usefixtures("ray_runtime")
def test_an_environment_that_raises_once_costs_only_its_own_runners_rows(tmp_path: Path) -> None:
    token = tmp_path / "token"
    with make(RaisingOnce, env_config={"token": str(token)}, num_parallel=2, num_workers=2) as manager:
        manager.get_data()
        token.touch()
        with pytest.raises(
            EnvironmentFailedError,
            match=r"(?s)'RaisingOnce', number 0 of the batch, step \d+ of its episode: step.*OSError.*runner [01] \(",
        ):
            manager.get_data(total_steps=100_000)
        assert manager.info()["dropped_rows"] == 0
        data = manager.get_data(total_steps=100_000)
        assert len(data["reward"]) == 100_000
        check_rows(data)
        assert [runner["restarts"] for runner in manager.info()["runners"]] == [0, 0]


@pytest.mark.parametrize("awaits", [{"seed": 1}, {"remote_min_returns": 3}])
@pytest.mark.usefixtures("ray_runtime")
def test_calls_return_while_a_runner_stands_still(awaits: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    """They need agents of the runner that stands still, and neither wait for it nor order more and more of the other"""
    given = {"num_steps": 50, "num_workers": 2, "remote_time_out": 1.0, **awaits}
    with make(env_config={"length": 10**6}, **given) as manager:
        manager.get_data()
        pid = manager.info()["runners"][1]["pid"]
        goes_on = threading.Timer(60, os.kill, (pid, signal.SIGCONT))
        os.kill(pid, signal.SIGSTOP)
        goes_on.start()
        try:
            data = [manager.get_data() for _ in range(3)]
            assert goes_on.is_alive(), "the calls waited until the runner went on"
        finally:
            goes_on.cancel()
            os.kill(pid, signal.SIGCONT)
        assert manager.info()["kept_rows"] <= 400, "no more is kept than the next call delivers"
        assert "without late results: runner 1 (agents 2 to 3): in an unknown place: it has not answered" in caplog.text
        assert [len(rows["reward"]) for rows in data] == [400, 400, 400]
        while len(np.unique(data[-1]["agent"])) < 4:
            data.append(manager.get_data())
        assert manager.info()["kept_rows"] <= 800, "the call, and the late orders"
        for rows in data:
            check_rows(rows)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_runtime")
def test_runners_that_act_through_litert_never_import_tensorflow() -> None:
    with make() as manager:
        manager.get_data()
        info = manager.info()
        assert info["inference"] == "litert"
        assert [runner["tensorflow"] for runner in info["runners"]] == [False] * len(info["runners"])
        for runner in info["runners"]:
            status = Path(f"/proc/{runner['pid']}/status").read_text()
            # Pages of libraries, about as many, are shared with all other processes, and are more or fewer by the day.
            own = int(status.split("RssAnon:")[1].split()[0])
            assert own < 120_000, "kB: a runner has at most 120 MB of its own"


def test_ctrl_c_stops_cleanly(long_day: LongDay) -> None:
    assert "interrupted" in long_day.done.stdout.splitlines(), long_day.done.stderr
    assert "not interrupted" not in long_day.done.stdout
    assert long_day.said("rows after it") == ["400"]


def test_a_process_that_ends_leaves_nothing_behind(long_day: LongDay) -> None:
    assert len(long_day.said("pids")) == 2, long_day.done.stderr
    assert not long_day.processes
    assert not long_day.files


def test_a_process_that_ends_closes_the_environments(long_day: LongDay) -> None:
    (folder,) = long_day.said("folder")
    steps = [int(file.read_text()) for file in Path(folder).iterdir()]
    shutil.rmtree(folder)
    assert sorted(steps)[-2:] == [20, 20]


def test_ray_shutdown_under_a_live_manager_raises(long_day: LongDay) -> None:
    assert [message.split(" but ")[0] for message in long_day.said("error:")] == 2 * [RAY_EXPECTED]


@pytest.mark.slow
@pytest.mark.parametrize("call", ["manager.sample(10)", "background.stop()"])
def test_background_collection_whose_thread_outlasts_ray_ends_with_the_error(call: str) -> None:
    done = run_script(
        f"""
        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
        manager = SampleManager(QNet, Counter, 2, 100, num_steps=50, num_workers=1)
        manager.initialize_buffer(1000, ["state"])
        manager.collect(1000)
        reader = manager.buffer.open_reader(keeps=True)  # the thread waits in `put` until this is closed
        background = manager.collect_in_background()
        time.sleep(1)
        ray.shutdown()
        began = time.monotonic()
        try:
            while time.monotonic() - began < 60:
                {call}
        except ReallyError as error:
            print("ended", time.monotonic() - began < 30, background.running, error)
        background.stop()
        print("stopped")
        reader.close()
        """
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ended True False background collection ended with RunnerError: {RAY_EXPECTED}" in done.stdout, done.stdout
    assert "stopped" in done.stdout


def test_a_manager_of_a_ray_that_was_shut_down_is_no_part_of_a_new_one(long_day: LongDay) -> None:
    assert long_day.said("lost") == ["lost"], long_day.done.stderr
    (background,) = long_day.said("background:")
    assert background.startswith(f"background collection ended with RunnerError: {RAY_EXPECTED}")
    assert long_day.said("new") == ["2"]
    assert "Traceback" not in long_day.done.stderr


def test_runners_hold_resources_and_have_a_runtime_environment(long_day: LongDay) -> None:
    assert long_day.said("licences") == ["2 7.0 None None"]


def test_a_small_object_store_means_smaller_chunks_and_a_warning(long_day: LongDay) -> None:
    assert long_day.done.returncode == 0, long_day.done.stderr
    assert "Ray's object store is small" in long_day.done.stderr
    assert long_day.said("wide") == ["4000 True 64000000"] * 2


def test_a_small_shared_memory_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert not warn_of_small_shared_memory(1)
    assert not warn_of_small_shared_memory(1, path="/no/such/folder")
    assert warn_of_small_shared_memory(1 << 60)
    assert "/dev/shm holds" in caplog.text
    assert "--shm-size" in caplog.text


class HoldsTheLock(Counter):
    """Step 20 of its first instance stands still inside C code that keeps the interpreter lock."""

    def __init__(self, token: str) -> None:
        super().__init__(length=10**6)
        self.token, self.steps = Path(token), 0

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        if self.steps == 20 and self.token.exists():
            self.token.unlink()
            ctypes.PyDLL(None).sleep(45)
        return super().step(action)


@pytest.mark.parametrize("background", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("ray_runtime")
def test_a_step_that_keeps_the_interpreter_lock_is_found_in_the_first_chunk(
    background: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seconds that a process may take to start end when its environments and its policy are ready."""
    monkeypatch.setattr("really.collectors.lateness.START_ALLOWANCE", math.inf)
    monkeypatch.setattr("really.collectors.collector.START_ALLOWANCE", math.inf)
    (token := tmp_path / "token").touch()
    given = {"env_config": {"token": str(token)}, "num_parallel": 1, "remote_time_out": 1.0}
    with make(HoldsTheLock, **given) as manager:
        manager.initialize_buffer(1000)
        with pytest.raises(ReallyError, match=r"within 1.0 s, got none; .* in an unknown place"):
            collect_some(manager, background)
        collect_some(manager, background)
        assert len(manager.buffer) >= 400
        assert manager.info()["runners"][0]["restarts"] == 1


def collect_some(manager: SampleManager, background: bool) -> None:
    """Puts 400 rows into the buffer, by one call or in the background."""
    if not background:
        manager.collect()
        return
    with manager.collect_in_background(max_rows=400):
        manager.sample(1)


class EndlessSecond(Counter):
    """Its first episode has 10 steps, its second does not end."""

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        result = super().step(action)
        if result[2]:
            self.length = 10**9
        sum(range(5_000))  # so that the time-out comes before the number of steps that ends a call
        return result


@pytest.mark.usefixtures("ray_runtime")
def test_an_endless_episode_in_another_process_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with make(EndlessSecond, num_parallel=1, num_steps=None, total_steps=5, remote_time_out=2) as manager:
        assert len(manager.get_data()["reward"]) == 10
        # Set once the runner has started, as a start may take longer on a busy machine.
        monkeypatch.setattr("really.collectors.collector.PATIENCE_SECONDS", 0.2)
        with pytest.raises(RunnerTimeoutError, match="expected a result within"):
            manager.get_data()
    assert caplog.text.count("num_episodes: expected episodes to end, got none for long (runner 0 (agents 0 to 0)") == 1
    assert "of the rollout): an environment without a time limit may never end one: give num_steps=" in caplog.text
