"""Window: shows the episodes of an evaluation on the screen, if there is a display."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.envs.atari import Atari
from really.envs.batch import EnvironmentBatch
from really.envs.environment import Environment, logged_warnings
from really.envs.spec import EnvironmentSpec
from really.errors import InvalidValueError
from really.evaluation.rendering import frame_of, frames_per_second, render_modes, with_frames
from really.evaluation.text import Text, declares_text
from really.evaluation.viewer import Notices, Viewer, Watcher, watched_batch

# Smaller frames are enlarged by an integer factor.
WINDOW_SIDE = 480


class Window(Viewer):
    """Shows the episodes in a window, one after the other. If none can be opened, it logs a warning and plays on."""

    at_once = 1

    def __init__(self, notices: Notices | None = None) -> None:
        self._notices = notices or Notices()

    def batch(
        self, spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], vector: str = "auto"
    ) -> EnvironmentBatch:
        """Makes one environment that renders into a window of its own, or whose frames `_Screen` shows."""
        reason: Exception
        for open_window in (_own_window, _our_window):
            try:
                with logged_warnings():
                    environment, watcher = open_window(spec)
            except Exception as error:
                reason = error
            else:
                return watched_batch(spec, seeds[0], environment, _Careful(watcher, self._not_shown))
        if declares_text(spec):
            return Text().batch(spec, seeds, vector)
        self._not_shown(reason)
        return super().batch(spec, seeds, vector)

    def unseen(self, error: Exception) -> Viewer:
        """Plays without a window: an environment that renders within its steps raises there if it cannot."""
        self._not_shown(error)
        return Viewer()

    def _not_shown(self, error: Exception) -> None:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        text = f"render=True: expected to show a window, but {reason}; episodes are not shown."
        self._notices.warn("window", text)


class _Careful(Watcher):
    """Shows an environment by another watcher until that raises; `tell` is called with the error."""

    def __init__(self, watcher: Watcher, tell: Callable[[Exception], None]) -> None:
        self._watcher: Watcher | None = watcher
        self._tell = tell

    def see(self, environment: Environment, is_start: bool) -> None:
        self._call("see", environment, is_start)

    def leave(self) -> None:
        self._call("leave")

    def _call(self, verb: str, *arguments: Any) -> None:
        if self._watcher is None:
            return
        try:
            getattr(self._watcher, verb)(*arguments)
        except Exception as error:
            self._watcher = None
            self._tell(error)


class _RenderHuman(Watcher):
    """Calls `render` of environments of the older API; those of the newer API render at each step by themselves."""

    def see(self, environment: Environment, is_start: bool) -> None:
        if not hasattr(environment.env, "render_mode"):
            environment.render("human")


class _Screen(Watcher):
    """A pygame window for environments that only render frames."""

    def __init__(self, frame: NDArray[np.uint8], fps: float, name: str) -> None:
        import pygame

        pygame.display.init()
        height, width = frame.shape[:2]
        scale = max(1, WINDOW_SIDE // max(height, width))
        self._pygame, self._fps, self._name = pygame, fps, name
        self._surface = pygame.display.set_mode((width * scale, height * scale))
        pygame.display.set_caption(name)
        self._clock = pygame.time.Clock()

    def see(self, environment: Environment, is_start: bool) -> None:
        pygame, frame = self._pygame, frame_of(environment, self._name, "render=True")
        picture = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
        pygame.transform.scale(picture, self._surface.get_size(), self._surface)
        pygame.display.flip()
        pygame.event.pump()
        self._clock.tick(self._fps)

    def leave(self) -> None:
        self._pygame.display.quit()


def _own_window(spec: EnvironmentSpec) -> tuple[Environment, Watcher]:
    """An environment with render mode 'human', after it has rendered its first state."""
    if isinstance(spec.environment, Atari):
        raise InvalidValueError("ale_py's vector environment has no render mode 'human'")
    environment = spec.make("human")
    try:
        modes = render_modes(environment)
        if modes is not None and "human" not in modes:
            raise InvalidValueError(f"environment {spec.name!r} has no render mode 'human'")
        if getattr(environment.env, "render_mode", "human") != "human":
            raise InvalidValueError(f"environment {spec.name!r} was not made with render_mode='human'")
        environment.reset(0)
        watcher = _RenderHuman()
        watcher.see(environment, is_start=True)
    except BaseException:
        environment.close()
        raise
    return environment, watcher


def _our_window(spec: EnvironmentSpec) -> tuple[Environment, Watcher]:
    """An environment that renders frames, and the window that shows them."""
    environment, frame = with_frames(spec, "render=True")
    try:
        return environment, _Screen(frame, frames_per_second(environment), spec.name)
    except BaseException:
        environment.close()
        raise


def has_display() -> bool:
    """Whether a window can open: on Linux, a display server must answer at the address in the environment variables.

    Without a server SDL draws nowhere without an error, and other toolkits end the process.
    """
    if sys.platform != "linux" or os.environ.get("SDL_VIDEODRIVER"):
        return True
    addresses = [*_x_addresses(os.environ.get("DISPLAY", "")), *_wayland_addresses()]
    return any(_answers(*address) for address in addresses)


def _x_addresses(display: str) -> Iterator[tuple[int, Any]]:
    """Yields the addresses at which an X server may listen, from `[host]:display[.screen]` (see X(7))."""
    host, _, number = display.rpartition(":")
    number = number.partition(".")[0]
    if not number.isdigit():
        return
    if host in ("", "unix"):
        path = f"/tmp/.X11-unix/X{number}"
        yield from ((socket.AF_UNIX, path), (socket.AF_UNIX, f"\0{path}"))
    else:
        yield socket.AF_INET, (host, 6000 + int(number))


def _wayland_addresses() -> Iterator[tuple[int, Any]]:
    if name := os.environ.get("WAYLAND_DISPLAY"):
        yield socket.AF_UNIX, os.path.join(os.environ.get("XDG_RUNTIME_DIR", ""), name)


def _answers(family: int, address: Any) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(2)
            connection.connect(address)
    except OSError:
        return False
    return True
