"""What one sees of a test: nothing, a window where there is a display, or a film; then one environment is watched."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.envs.atari import Atari, AtariInColour
from really.envs.batch import EnvironmentBatch, PlainBatch
from really.envs.environment import Environment, StepResult, logged_warnings
from really.envs.make import make_batch
from really.envs.spec import EnvironmentSpec, Probe
from really.errors import InvalidTypeError, InvalidValueError

log = logging.getLogger("really")

# As many environments as an evaluation steps together: more would only add memory.
EVALUATION_ENVS = 128
# Frames a second of an environment that does not say how many.
DEFAULT_FPS = 30.0
# A window whose frames are smaller than this is enlarged, by a whole number.
WINDOW_SIDE = 480
EXPECTED = "expected True, False, 'gif', 'mp4' or a path that ends in .gif or .mp4"


class Viewer:
    """Sees nothing: episodes are stepped as one batch. What all viewers have."""

    at_once = EVALUATION_ENVS
    """Environments stepped together; one where somebody watches."""
    path: Path | None = None
    """Where a film is."""

    def batch(
        self, spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], vector: str = "auto"
    ) -> EnvironmentBatch:
        """The environments to step, one a seed."""
        return make_batch(spec, seeds, vector=vector)

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        """The time in which the episodes are played."""
        yield

    def after_step(self) -> None:
        """Called after each step of the batch."""


class Watcher:
    """What is told of each state of one environment."""

    def see(self, environment: Environment, is_start: bool) -> None:
        """The environment has been reset (`is_start`) or stepped."""

    def leave(self) -> None:
        """The environment has been closed."""


class Watched(Environment):
    """An environment of which a watcher sees each state, an episode's last one among them.

    A batch resets an environment within the step that ends its episode; from outside that last state is never seen.
    """

    def __init__(self, environment: Environment, watcher: Watcher) -> None:
        super().__init__(environment.env, environment.limit)
        self._inner, self._watcher = environment, watcher
        self.step = self._watched_step
        self.is_known = True

    def reset(self, seed: int | None = None) -> Any:
        """Begins an episode."""
        observation = self._inner.reset(seed)
        self._watcher.see(self._inner, is_start=True)
        return observation

    def close(self) -> None:
        """Closes the environment, and what its watcher has open."""
        self._inner.close()
        self._watcher.leave()

    def _watched_step(self, action: Any) -> StepResult:
        result = self._inner.step(action)
        self._watcher.see(self._inner, is_start=False)
        return result


@dataclass(frozen=True)
class _WatchedSpec(EnvironmentSpec):
    """A spec with one instance, which is there already."""

    spec: EnvironmentSpec | None = None
    made: Environment | None = None

    def probe(self) -> Probe:
        return self.spec.probe()  # type: ignore[union-attr]

    def make(self, render_mode: str | None = None) -> Environment:
        return self.made  # type: ignore[return-value]


def watched_batch(
    spec: EnvironmentSpec, seed: np.random.SeedSequence, environment: Environment, watcher: Watcher
) -> EnvironmentBatch:
    """A batch of one environment that `watcher` sees: a plain instance, whatever vector environments there are."""
    watched = Watched(environment, watcher)
    return PlainBatch(_WatchedSpec(spec.environment, spec.env_config, spec, watched), [seed])


# ---------------------------------------------------------------------------------------------- frames


def with_frames(spec: EnvironmentSpec, what: str) -> tuple[Environment, NDArray[np.uint8]]:
    """An instance that renders frames, and the first of them.

    Args:
        spec: what the user gave.
        what: the argument that asks for frames, for messages.

    Raises InvalidValueError where the environment renders none.
    """
    environment = None
    try:
        with logged_warnings():
            environment = _rendering(spec)
            _check_modes(environment, spec.name, what)
            environment.reset(0)
            return environment, frame_of(environment, spec.name, what)
    except Exception as error:
        if environment is not None:
            environment.close()
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError(
            f"{what}: expected environment {spec.name!r} to render with render mode 'rgb_array', "
            f"but {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error


def frame_of(environment: Environment, name: str, what: str) -> NDArray[np.uint8]:
    """The frame that shows the environment's state, `[height, width, 3] uint8`; grey and RGBA ones become RGB."""
    got = environment.render("rgb_array")
    frame = np.asarray(got) if isinstance(got, np.ndarray) or hasattr(got, "__array__") else None
    if frame is None or frame.dtype != np.uint8 or frame.ndim not in (2, 3) or 0 in frame.shape:
        raise InvalidValueError(_no_frame(environment, name, what, got))
    if frame.ndim == 2:
        frame = frame[:, :, None]
    if frame.shape[2] not in (1, 3, 4):
        raise InvalidValueError(_no_frame(environment, name, what, got))
    return np.ascontiguousarray(np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame[:, :, :3])


def frames_per_second(environment: Environment) -> float:
    """As the environment's metadata says, in gymnasium's or in the old gym's words."""
    metadata = _metadata(environment)
    for name in ("render_fps", "video.frames_per_second"):
        fps = metadata.get(name)
        if isinstance(fps, int | float) and 0 < fps < 1000:
            return float(fps)
    return DEFAULT_FPS


def _rendering(spec: EnvironmentSpec) -> Environment:
    return AtariInColour(spec.environment) if isinstance(spec.environment, Atari) else spec.make("rgb_array")


def _metadata(environment: Environment) -> Mapping[str, Any]:
    found = getattr(environment.env, "metadata", None)
    return found if isinstance(found, Mapping) else {}


def _modes(environment: Environment) -> Sequence[str] | None:
    """Render modes that the environment declares; None where it declares none."""
    metadata = _metadata(environment)
    return metadata.get("render_modes", metadata.get("render.modes")) or None


def _check_modes(environment: Environment, name: str, what: str) -> None:
    modes = _modes(environment)
    if modes is not None and "rgb_array" not in modes:
        raise InvalidValueError(
            f"{what}: expected environment {name!r} to have render mode 'rgb_array', got one with "
            f"{', '.join(map(repr, modes))}"
        )


def _no_frame(environment: Environment, name: str, what: str, got: Any) -> str:
    array = isinstance(got, np.ndarray)
    text = f"{got.dtype} {list(got.shape)}" if array else f"{type(got).__name__}"
    hint = ""
    if getattr(environment.env, "render_mode", "rgb_array") != "rgb_array":
        hint = " Make an instance with render_mode='rgb_array'; let a class or factory take render_mode."
    return (
        f"{what}: expected environment {name!r} to render frames [height, width, 3] uint8 with render mode "
        f"'rgb_array', got {text}.{hint}"
    )


# ---------------------------------------------------------------------------------------------- a window


class Window(Viewer):
    """Shows the episodes in a window, one after the other; where none can be opened, it says so and plays on."""

    at_once = 1

    def batch(
        self, spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], vector: str = "auto"
    ) -> EnvironmentBatch:
        """One environment that shows itself, or whose frames are shown."""
        for opened in (_shows_itself, _shown_by_us):
            try:
                with logged_warnings():
                    environment, watcher = opened(spec)
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            else:
                return watched_batch(spec, seeds[0], environment, watcher)
        log.warning("render=True: expected to open a window, but %s; episodes are not shown.", reason)
        return super().batch(spec, seeds, vector)


class _Glance(Watcher):
    """Asks environments of the old API to show themselves; those of the new one do at each step, unasked."""

    def see(self, environment: Environment, is_start: bool) -> None:
        if not hasattr(environment.env, "render_mode"):
            environment.render("human")


class _Screen(Watcher):
    """A window of our own, for environments that render frames only."""

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


def _shows_itself(spec: EnvironmentSpec) -> tuple[Environment, Watcher]:
    """An environment with render mode 'human', once it has shown something."""
    if isinstance(spec.environment, Atari):
        raise InvalidValueError("ale_py's vector environment has no render mode 'human'")
    environment = spec.make("human")
    try:
        modes = _modes(environment)
        if modes is not None and "human" not in modes:
            raise InvalidValueError(f"environment {spec.name!r} has no render mode 'human'")
        if getattr(environment.env, "render_mode", "human") != "human":
            raise InvalidValueError(f"environment {spec.name!r} was not made with render_mode='human'")
        environment.reset(0)
        watcher = _Glance()
        watcher.see(environment, is_start=True)
    except BaseException:
        environment.close()
        raise
    return environment, watcher


def _shown_by_us(spec: EnvironmentSpec) -> tuple[Environment, Watcher]:
    environment, frame = with_frames(spec, "render=True")
    try:
        return environment, _Screen(frame, frames_per_second(environment), spec.name)
    except BaseException:
        environment.close()
        raise


def has_display() -> bool:
    """Whether a window can open: on Linux a variable says where, and somebody answers there.

    SDL draws into nothing where nobody does, and other toolkits end the process.
    """
    if sys.platform != "linux" or os.environ.get("SDL_VIDEODRIVER"):
        return True
    addresses = [*_x_addresses(os.environ.get("DISPLAY", "")), *_wayland_addresses()]
    return any(_answers(*address) for address in addresses)


def _x_addresses(display: str) -> Iterator[tuple[int, Any]]:
    """Where an X server may listen: `[host]:display[.screen]`, as X(7) has it."""
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


def viewer_of(render: Any, name: str) -> Viewer:
    """What `render` asks for.

    Args:
        render: True or False; 'gif', 'mp4' or a path that ends so.
        name: of the environment; 'gif' is the film `<name>.gif` in the current folder.

    Raises:
        InvalidTypeError, InvalidValueError: none of these; a film that cannot be written there.
    """
    from really.evaluation.film import Film

    if render is None or isinstance(render, bool | int | np.bool_):
        if render and not has_display():
            where = f"{os.environ['DISPLAY']!r} does not answer" if os.environ.get("DISPLAY") else "DISPLAY is not set"
            log.warning("render=True: expected a display, there is none (%s); episodes are not shown.", where)
            return Viewer()
        return Window() if render else Viewer()
    if isinstance(render, str | os.PathLike):
        return Film(render, name)
    raise InvalidTypeError(f"render: {EXPECTED}, got {render!r}")
