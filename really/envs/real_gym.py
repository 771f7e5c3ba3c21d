"""Real gym: the unmaintained package of gymnasium's predecessor, and what of it fails on NumPy 2."""

from __future__ import annotations

import importlib
import importlib.util
import io
import traceback
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import PurePath
from typing import Any

import numpy as np

HAS_NUMPY_2 = int(np.__version__.split(".")[0]) >= 2
GAMES = ("gym", "envs", "box2d")


def import_gym() -> Any:
    """Imports real gym, without the message and the warning that it is unmaintained."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        return importlib.import_module("gym")


def gym_spec(name: str) -> Any:
    """The spec of an id in gym's registry. None if gym is not installed or does not know the id."""
    if importlib.util.find_spec("gym") is None:
        return None
    gym = import_gym()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return gym.spec(name)
        except (gym.error.Error, ModuleNotFoundError):
            return None


def fails_in_gym(spec: Any, config: Mapping[str, Any]) -> bool:
    """Whether gym cannot run the environment of a spec.

    Its continuous Box2D games give Box2D float32 numbers that it refuses on NumPy 2. Its MuJoCo tasks before v4 need
    mujoco_py, which is unmaintained, too.
    """
    entry_point = str(spec.entry_point)
    if entry_point.startswith("gym.envs.mujoco"):
        return importlib.util.find_spec("mujoco_py") is None
    if not HAS_NUMPY_2 or ".".join(GAMES) not in entry_point:
        return False
    default = "lunar_lander" not in entry_point
    return bool({"continuous": default, **spec.kwargs, **config}["continuous"])


def without_checker(env: Any) -> Any:
    """The environment without gym's checker of it, which uses names that NumPy 2 no longer has."""
    if not HAS_NUMPY_2 or not type(env).__module__.startswith("gym.wrappers."):
        return env
    if type(env).__name__ == "PassiveEnvChecker":
        return without_checker(env.env)
    env.env = without_checker(env.env)
    return env


def advice(error: BaseException) -> str:
    """What to install or to change, to append to a message, if the cause is gym on NumPy 2. Else an empty text."""
    files = [PurePath(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__)]
    if not HAS_NUMPY_2 or not any("gym" in parts for parts in files):
        return ""
    if isinstance(error, TypeError) and any(parts[-4:-1] == GAMES for parts in files):
        return (
            " (the continuous Box2D games of gym 0.26 fail on NumPy 2: pip install 'gymnasium[box2d]' and take its "
            "version, such as 'LunarLanderContinuous-v3' or 'CarRacing-v3')"
        )
    if isinstance(error, AttributeError) and "numpy" in str(error):
        return (
            " (gym 0.26 uses names that NumPy 2 no longer has: take the same id of gymnasium, or make the environment "
            "with disable_env_checker=True)"
        )
    return ""
