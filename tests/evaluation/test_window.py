"""`render=True` plays every environment to the end, with or without a display, and says once if it shows nothing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from really import EnvironmentFailedError, SampleManager
from tests.environments import Counter, OldCounter
from tests.models import QNet


class OldRaises(OldCounter):
    """The older API, whose `render` needs a toolkit that finds no screen; it works for `renders` calls."""

    asked = 0

    def __init__(self, renders: int = 0) -> None:
        self.renders = renders

    def render(self, mode: str = "human") -> None:
        type(self).asked += 1
        if self.asked > self.renders:
            raise RuntimeError("cannot connect to display")


class NeedsMode(Counter):
    """Its constructor has no default for `render_mode`."""

    def __init__(self, render_mode: str | None, length: int = 4) -> None:
        super().__init__(length)
        self.render_mode = render_mode


class RendersInSteps(NeedsMode):
    """Opens its window in the second step of an episode, as environments with render mode 'human' do by themselves."""

    metadata = {"render_modes": ["human"]}  # noqa: RUF012 - gymnasium's

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.render_mode == "human" and self.count == 1:
            raise RuntimeError("cannot connect to display")
        return super().step(action)

    def render(self) -> None:
        pass


def make(environment: Any, **config: Any) -> SampleManager:
    return SampleManager(QNet, environment, 2, 20, num_steps=10, env_config=config, use_ray=False)


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.mark.usefixtures("no_display")
@pytest.mark.parametrize("environment", [OldRaises, NeedsMode, RendersInSteps])
def test_without_a_display_nothing_is_rendered_and_it_is_said_once(
    environment: Any, caplog: pytest.LogCaptureFixture
) -> None:
    OldRaises.asked = 0
    for managers in (1, 2):
        with make(environment) as manager:
            for _ in range(2):
                assert manager.test(9, 3, render=True) == [4, 4, 4]
        assert caplog.text.count("render=True: expected a display, there is none") == managers
    assert OldRaises.asked == 0


@pytest.mark.usefixtures("display")
@pytest.mark.parametrize("renders", [0, 3])
def test_an_environment_whose_render_raises_is_played_on(renders: int, caplog: pytest.LogCaptureFixture) -> None:
    OldRaises.asked = 0
    with make(OldRaises, renders=renders) as manager:
        for _ in range(2):
            assert manager.test(9, 3, render=True) == [4, 4, 4]
    assert caplog.text.count("episodes are not shown") == 1
    assert OldRaises.asked <= renders + 4


@pytest.mark.usefixtures("display")
def test_an_environment_that_raises_in_a_step_while_it_is_shown_is_played_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with make(RendersInSteps) as manager:
        for _ in range(2):
            assert manager.test(9, 3, render=True) == [4, 4, 4]
    assert caplog.text.count("cannot connect to display; episodes are not shown") == 1


@pytest.mark.usefixtures("display")
def test_an_environment_that_fails_unseen_too_is_an_error() -> None:
    class Broken(RendersInSteps):
        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
            raise OSError("the simulator broke down")

    with make(Broken) as manager, pytest.raises(EnvironmentFailedError, match="the simulator broke down"):
        manager.test(9, 3, render=True)


class Written(Counter):
    """Renders text only, as the environments for terminals do."""

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 - gymnasium's

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(4)
        self.render_mode = render_mode

    def render(self) -> str | None:
        return f"at {self.count}\n" if self.render_mode == "ansi" else None


@pytest.mark.parametrize("screen", ["display", "no_display"])
def test_text_of_an_environment_is_printed(
    screen: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    request.getfixturevalue(screen)
    with make(Written) as manager:
        assert manager.test(9, 2, render=True) == [4, 4]
    episode = ["at 0", "at 1", "at 2", "at 3", "at 4"]
    assert capsys.readouterr().out.splitlines() == ["", *episode, "", *episode]
    assert "not shown" not in caplog.text


@pytest.mark.usefixtures("no_display")
def test_an_id_that_can_render_text_is_printed_without_a_display(capsys: pytest.CaptureFixture[str]) -> None:
    with SampleManager(lake, "FrozenLake-v1", 1, 10, num_steps=10, use_ray=False) as manager:
        manager.test(2, 1, render=True)
    # Gymnasium colours the letter of the agent's place.
    assert "SFFF" in re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out)


def lake(state: Any) -> Any:
    return {"q_values": np.zeros((len(state), 4), np.float32)}
