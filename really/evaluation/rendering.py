"""Frames of an environment as RGB arrays, and its frames per second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.envs.atari import Atari, AtariInColour
from really.envs.environment import Environment, logged_warnings
from really.envs.spec import EnvironmentSpec
from really.errors import InvalidValueError

# Frames per second of an environment whose metadata have none.
DEFAULT_FPS = 30.0


def with_frames(spec: EnvironmentSpec, what: str) -> tuple[Environment, NDArray[np.uint8]]:
    """Makes an instance that renders frames, and returns it with its first frame.

    Args:
        spec: the environment.
        what: the argument that asks for frames, for messages.

    Raises:
        InvalidValueError: the environment renders no frames.
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
            f"got {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error


def frame_of(environment: Environment, name: str, what: str) -> NDArray[np.uint8]:
    """The environment's current frame, `[height, width, 3] uint8`; grey and RGBA frames are converted to RGB."""
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
    """Frames per second from the environment's metadata, under gymnasium's key or that of the older gym."""
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


def render_modes(environment: Environment) -> Sequence[str] | None:
    """Render modes that the environment declares. Returns None if it declares none."""
    metadata = _metadata(environment)
    return metadata.get("render_modes", metadata.get("render.modes")) or None


def _check_modes(environment: Environment, name: str, what: str) -> None:
    modes = render_modes(environment)
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
