"""Films and windows: every state is shown in order, for environments of every API; refused arguments."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from really import (
    EnvironmentFailedError,
    InvalidTypeError,
    InvalidValueError,
    MissingPackageError,
    SampleManager,
    atari,
)
from really.envs.atari import AtariInColour
from really.envs.make import make_batch
from really.envs.spec import EnvironmentSpec
from really.errors import FileError
from really.evaluation.viewers import viewer_of
from tests.environments import Counter, OldCounter, Raising
from tests.models import QNet

TINT, SIDE = 8, 16


class Drawn(Counter):
    """Its frame has one colour: red is the episode number, green the step number, both times `TINT`."""

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 10}  # noqa: RUF012 - gymnasium's

    def __init__(self, length: int = 4, render_mode: str | None = None, at: int = -1) -> None:
        super().__init__(length)
        self.render_mode, self.at, self.episode = render_mode, at, 0

    def reset(self, **options: Any) -> tuple[np.ndarray, dict]:
        # A reset with a seed restarts the count, as it restarts the generator of other environments.
        self.episode = 1 if options.get("seed") is not None else self.episode + 1
        return super().reset(**options)

    def render(self) -> np.ndarray:
        side = SIDE + (self.count == self.at)
        return np.full((side, SIDE, 3), (TINT * self.episode, TINT * self.count, 0), np.uint8)


class OldDrawn(OldCounter):
    """The older API with four values and `render(mode=...)`; records the modes."""

    metadata = {"render.modes": ["human", "rgb_array"], "video.frames_per_second": 5}  # noqa: RUF012 - gym's
    asked: list[str] = []  # noqa: RUF012 - of all instances

    def render(self, mode: str = "human") -> np.ndarray | None:
        self.asked.append(mode)
        return np.full((SIDE, SIDE), TINT * self.count, np.uint8) if mode == "rgb_array" else None


@pytest.fixture(autouse=True)
def _no_screen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.chdir(tmp_path)


def seeds(number: int = 1) -> list[np.random.SeedSequence]:
    return np.random.SeedSequence(3).spawn(number)


def play(render: Any, environment: Any, steps: int = 10, **config: Any) -> Any:
    """Steps an environment `steps` times, through any number of episodes, and returns its viewer."""
    viewer = viewer_of(render, "x")
    spec = EnvironmentSpec(environment, config)
    with contextlib.closing(viewer.batch(spec, seeds())) as batch, viewer.showing():
        batch.reset()
        for _ in range(steps):
            batch.step(np.zeros((1, *batch.action_space.shape), batch.action_space.dtype))
            viewer.after_step()
    return viewer


def read(path: Path | str) -> np.ndarray:
    """All frames of a film, `[frame, height, width, 3] uint8`."""
    with contextlib.suppress(OSError), Image.open(path) as film:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)])
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path)]
    command += ["-vf", "showinfo", "-f", "rawvideo", "-pix_fmt", "rgb24", "-loglevel", "info", "pipe:1"]
    done = subprocess.run(command, capture_output=True, check=True)
    width, height = re.search(rb" s:(\d+)x(\d+) ", done.stderr).groups()
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, int(height), int(width), 3)


def seconds_per_frame(path: Path | str) -> float:
    """Seconds for which a frame is shown."""
    with contextlib.suppress(OSError), Image.open(path) as film:
        return film.info["duration"] / 1000
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    return seconds / frames


def numbers(path: Path) -> list[tuple[int, int]]:
    """Episode and step of each frame of a film."""
    centres = read(path)[:, SIDE // 2, SIDE // 2].astype(int)
    return [(round(red / TINT), round(green / TINT)) for red, green, _ in centres[:, :3].tolist()]


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_a_film_has_every_state_of_every_episode_in_order(kind: str) -> None:
    with SampleManager(QNet, Drawn, 2, 20, num_steps=10, use_ray=False) as manager:
        assert manager.test(3, test_episodes=2, render=f"films/short.{kind}") == [3, 3]
        assert numbers(Path(f"films/short.{kind}")) == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]
        steps, rewards = manager.test(9, 2, evaluation_measure="time_and_reward", render=Path(f"long.{kind}"))
        assert (steps, len(rewards)) == ([4, 4], 2)
        assert manager.film == Path.cwd() / f"long.{kind}"
    assert numbers(manager.film) == [(episode, step) for episode in (1, 2) for step in range(5)]
    assert sorted(os.listdir()) == ["films", f"long.{kind}"]
    assert os.listdir("films") == [f"short.{kind}"]


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_a_film_of_cartpole_has_its_name(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with SampleManager(QNet, "CartPole-v1", 2, 20, num_steps=10, use_ray=False, seed=1) as manager:
        before = manager.get_data()
        steps = manager.test(60, test_episodes=2, render=kind)
    assert manager.film == Path.cwd() / f"CartPole-v1.{kind}"
    frames = read(manager.film)
    assert frames.shape[:3] == (sum(steps) + 2, 400, 600)
    assert (frames[0] != frames[steps[0]]).any(), "the pole falls"
    assert f"film of {len(frames)} frames: {manager.film}" in capsys.readouterr().out
    assert seconds_per_frame(manager.film) == pytest.approx(1 / 50, rel=0.02)
    with SampleManager(QNet, "CartPole-v1", 2, 20, num_steps=10, use_ray=False, seed=1) as unwatched:
        np.testing.assert_array_equal(unwatched.get_data()["state"], before["state"])


def test_an_existing_film_is_replaced_but_no_other_file() -> None:
    assert play("x.mp4", Drawn).frames == 13
    first = Path("x.mp4").read_bytes()
    play("x.mp4", Drawn, steps=6)
    assert Path("x.mp4").read_bytes() != first
    Path("y.mp4").write_text("notes")
    with pytest.raises(InvalidValueError, match=r"y.mp4: expected .*a film to replace, or nothing, got a file that"):
        viewer_of("y.mp4", "x")
    assert Path("y.mp4").read_text() == "notes"


def test_environments_of_the_older_api_are_filmed_with_render_mode() -> None:
    OldDrawn.asked.clear()
    assert play("old.gif", OldDrawn, steps=5).frames == 7
    assert [step for _, step in numbers(Path("old.gif"))] == [0, 1, 2, 3, 4, 0, 1]
    assert set(OldDrawn.asked) == {"rgb_array"}
    assert seconds_per_frame("old.gif") == 1 / 5


def test_frames_that_differ_only_in_colour_stay_different() -> None:
    class Flash(Drawn):
        def render(self) -> np.ndarray:
            return np.full((SIDE, SIDE, 3), 200 * (self.count % 3 == 1), np.uint8)

    play("flash.gif", Flash, steps=4)
    assert [frame[0, 0, 0] for frame in read("flash.gif")] == [0, 200, 0, 0, 200]


def test_real_gym_is_filmed() -> None:
    gym = pytest.importorskip("gym")
    from gym.envs.classic_control import CartPoleEnv

    assert play("gym.gif", CartPoleEnv, steps=6).frames == 7
    made = gym.make("CartPole-v1", render_mode="rgb_array", disable_env_checker=True)
    assert play("gym.gif", made, steps=6).frames == 7
    assert read("gym.gif").shape[:3] == (7, 400, 600)


@pytest.mark.parametrize("vector", ["auto", "native"])
def test_vector_environments_are_filmed(vector: str) -> None:
    from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

    for environment in ("CartPole-v1", CartPoleVectorEnv):
        film = viewer_of("vector.mp4", "x")
        with contextlib.closing(film.batch(EnvironmentSpec(environment), seeds(), vector)) as batch, film.showing():
            batch.reset()
            for _ in range(8):
                batch.step(np.ones(1, np.int64))
                film.after_step()
        assert read("vector.mp4").shape == (9, 400, 600, 3)


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_an_atari_film_shows_the_game_in_colour(sticky: float) -> None:
    pytest.importorskip("ale_py")
    game = atari("pong", sticky_actions=sticky, max_frames=300, clip_rewards=False)
    assert play("pong.mp4", game, steps=80).frames > 80
    frames = read("pong.mp4")
    assert frames.shape[1:] == (210, 160, 3)
    assert np.ptp(frames[40].astype(int), axis=2).max() > 50, "colours"
    plain, filmed = make_batch(EnvironmentSpec(game), seeds()), AtariInColour(game)
    plain.reset()
    filmed.reset(int(seeds()[0].generate_state(1)[0] >> 1))
    rng = np.random.default_rng(0)
    for _ in range(300):
        action = int(rng.integers(6))
        plain.step(np.array([action]))
        observation, reward, terminated, truncated, _ = filmed.step(action)
        np.testing.assert_array_equal(plain.final_observations[0][0], observation)
        assert (plain.rewards[0], plain.terminated[0], plain.truncated[0]) == (reward, terminated, truncated)
        # The coloured game is the same: its screen is as bright as the newest frame of the observation.
        grey = filmed.render("rgb_array") @ [0.299, 0.587, 0.114]
        assert abs(grey.mean() - observation[-1].mean()) < 2
        if terminated or truncated:
            filmed.reset()


def test_grey_and_rgba_frames_become_rgb() -> None:
    class Grey(Drawn):
        def render(self) -> np.ndarray:
            return super().render()[:, :, 1]

    class Transparent(Drawn):
        def render(self) -> np.ndarray:
            return np.concatenate([super().render(), np.full((SIDE, SIDE, 1), 255, np.uint8)], axis=2)

    play("grey.gif", Grey, steps=2)
    assert [step for _, step in numbers(Path("grey.gif"))] == [0, 1, 2]
    play("alpha.gif", Transparent, steps=2)
    assert numbers(Path("alpha.gif")) == [(1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (Counter, "environment 'Counter' to render with render mode 'rgb_array', got NotImplementedError"),
        (
            type("Text", (Drawn,), {"metadata": {"render_modes": ["ansi"]}}),
            "rgb_array', got one with 'ansi'",
        ),
        (type("None_", (Drawn,), {"render": lambda self: None}), "uint8 with render mode 'rgb_array', got NoneType"),
        (type("Float", (Drawn,), {"render": lambda self: np.zeros((9, 9, 3))}), r"got float64 \[9, 9, 3\]"),
        (type("Flat", (Drawn,), {"render": lambda self: np.zeros(9, np.uint8)}), r"got uint8 \[9\]"),
        (type("Many", (Drawn,), {"render": lambda self: [np.zeros((9, 9, 3), np.uint8)]}), "got list"),
    ],
)
def test_an_environment_without_frames_is_refused_before_any_episode(environment: Any, message: str) -> None:
    film = viewer_of("x.gif", "x")
    with pytest.raises(InvalidValueError, match=f"render='x.gif': expected .*{message}"):
        film.batch(EnvironmentSpec(environment), seeds())
    assert os.listdir() == []


def test_the_error_for_an_instance_without_render_mode_has_a_hint() -> None:
    import gymnasium

    with pytest.raises(InvalidValueError, match=r"got NoneType. Make an instance with render_mode='rgb_array'"):
        play("x.gif", gymnasium.make("CartPole-v1"))


def test_an_episode_that_fails_leaves_no_file() -> None:
    class Broken(Raising):
        def render(self) -> np.ndarray:
            return np.zeros((SIDE, SIDE, 3), np.uint8)

    with pytest.raises(EnvironmentFailedError, match="the simulator broke down"):
        play("x.gif", Broken, at=5)
    with pytest.raises(EnvironmentFailedError, match=r"expected frames \[16, 16, 3\] as before, got \[17, 16, 3\]"):
        play("x.gif", Drawn, at=3)
    assert os.listdir() == []


@pytest.mark.parametrize("program", ["false", "cat"])
def test_the_message_of_a_failing_encoder_is_in_the_error(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", f"/bin/{program}")
    with pytest.raises(FileError, match=r"x.mp4: expected to write a film, but ffmpeg ended with 1"):
        play("x.mp4", Drawn, steps=200)
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("render", "error", "message"),
    [
        ("film.avi", InvalidValueError, "a path that ends in .gif or .mp4, got 'film.avi'"),
        ("human", InvalidValueError, "expected True, False, 'gif', 'mp4' or a path that ends in .gif or .mp4, got"),
        (".gif", InvalidValueError, "got '.gif'"),
        (["gif"], InvalidTypeError, r"got \['gif'\]"),
        (1.5, InvalidTypeError, "got 1.5"),
        ("file/below/x.gif", InvalidValueError, "render='file/below/x.gif': expected a folder that can be written"),
        ("folder.gif", InvalidValueError, "expected .*a film to replace, or nothing, got a folder"),
    ],
)
def test_an_invalid_render_argument_is_refused(render: Any, error: type[Exception], message: str) -> None:
    Path("file").write_text("")
    Path("folder.gif").mkdir()
    with pytest.raises(error, match=message):
        viewer_of(render, "x")
    assert sorted(os.listdir()) == ["file", "folder.gif"]


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    message = r"imageio-ffmpeg for films, got .*: pip install 'really-rl\[video\]'$"
    with pytest.raises(MissingPackageError, match=message):
        viewer_of("x.gif", "x")


def test_names_become_file_names() -> None:
    assert viewer_of("gif", "ALE/Pong-v5").path == Path.cwd() / "ALE-Pong-v5.gif"
    assert viewer_of("mp4", "atari('pong')").path == Path.cwd() / "atari-pong.mp4"
    assert viewer_of("gif", "...").path == Path.cwd() / "film.gif"


def test_a_window_shows_the_episodes(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    import pygame

    how = {"num_steps": 10, "action_sampling_type": "epsilon_greedy", "use_ray": False}
    with SampleManager(QNet, "CartPole-v1", 2, 20, **how) as manager:
        shown = pygame.display.get_surface
        assert manager.test(5, test_episodes=2, render=True) == [5, 5]
        viewer = viewer_of(True, "x")
        with contextlib.closing(viewer.batch(EnvironmentSpec("CartPole-v1"), seeds())) as batch:
            batch.reset()
            assert shown().get_size() == (600, 400)
    assert caplog.text == ""
    assert manager.film is None


def test_our_window_shows_environments_that_only_render_frames(caplog: pytest.LogCaptureFixture) -> None:
    import pygame

    class Frames(Drawn):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 500}  # noqa: RUF012 - gymnasium's

    viewer = viewer_of(True, "x")
    with contextlib.closing(viewer.batch(EnvironmentSpec(Frames), seeds())) as batch:
        batch.reset()
        for step in range(1, 4):
            batch.step(np.zeros(1, np.int64))
            surface = pygame.display.get_surface()
            assert surface.get_size() == (480, 480)
            assert surface.get_at((240, 240))[:3] == (TINT, TINT * step, 0)
    assert pygame.display.get_surface() is None
    assert caplog.text == ""


def test_environments_of_the_older_api_render_in_human_mode() -> None:
    OldDrawn.asked.clear()
    play(True, OldDrawn, steps=3)
    assert OldDrawn.asked == ["human"] * 5, "to see whether it works, at the start, after each step"


@pytest.mark.parametrize(
    "variables",
    [{}, *({"DISPLAY": name} for name in (":9876.0", "nowhere", "localhost:59000")), {"WAYLAND_DISPLAY": "no"}],
)
def test_without_a_display_a_warning_is_logged_and_episodes_are_played(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with SampleManager(QNet, "CartPole-v1", 2, 20, num_steps=10, use_ray=False) as manager:
        assert len(manager.test(5, test_episodes=2, render=True)) == 2
    assert "expected a display, there is none" in caplog.text
    assert ("does not answer" in caplog.text) == ("DISPLAY" in variables)
