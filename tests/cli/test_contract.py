"""`really check ENV`: what it tells of environments that keep their contract, and of those that break a part of it."""

from __future__ import annotations

import json
import time
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from really.cli.main import main
from tests.environments import Counter, Forbidding

PARTS = ("same_seed_same_data", "values_in_space", "declared_dtype", "finite", "new_observations")


def box(high: float = 100, *, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(0, high, (1,), dtype)


class Showing(Counter):
    """A Counter with an observation space of its own, which shows the step of the episode in another form."""

    space: spaces.Space[Any] = box()

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = self.space
        self.kept: Any = {}


class Outside(Showing):
    space = box(3)


class OutsideInPart(Showing):
    space = spaces.Dict(goal=spaces.Tuple((spaces.Discrete(20), box(3))))

    def _show(self) -> Any:
        return {"goal": (self.count, super()._show())}


class OtherDtype(Showing):
    def _show(self) -> Any:
        return np.array([self.count], np.float64)


class RoundedBound(OtherDtype):
    """Shows 0.1 in float64, which is less than 0.1 in float32."""

    space = spaces.Box(0.1, 1, (1,), np.float32)

    def _show(self) -> Any:
        return np.array([0.1], np.float64)


class Listed(Showing):
    def _show(self) -> Any:
        return [float(self.count)]


class FloatChoice(Showing):
    space = spaces.Discrete(20)

    def _show(self) -> Any:
        return float(self.count)


class NarrowChoice(Showing):
    space = spaces.MultiDiscrete([20])

    def _show(self) -> Any:
        return np.array([self.count], np.int16)


class OneArray(Showing):
    def _show(self) -> Any:
        array = self.kept.setdefault("array", np.zeros(1, np.float32))
        array[:] = self.count
        return array


class OneDict(Showing):
    space = spaces.Dict(count=box(), mission=spaces.Text(9))

    def _show(self) -> Any:
        self.kept |= {"count": super()._show(), "mission": "count"}
        return self.kept


class Window(Showing):
    """Shows a part of an array that nobody writes to, so that observations share memory and keep their values."""

    def _show(self) -> Any:
        return self.kept.setdefault("array", np.arange(20, dtype=np.float32))[self.count : self.count + 1]


class Infinite(Showing):
    space = box(np.inf)

    def _show(self) -> Any:
        return np.array([np.inf if self.count == 3 else 0], np.float32)


class NotANumber(Showing):
    def _show(self) -> Any:
        return np.array([np.nan if self.count == 3 else 0], np.float32)


class NotANumberLate(Counter):
    """Shows NaN in a step that only the walk of one environment reaches."""

    def __init__(self) -> None:
        super().__init__(length=10**6)

    def _show(self) -> Any:
        return np.array([np.nan if self.count == 30 else 0], np.float32)


class Unseeded(Showing):
    def _show(self) -> Any:
        return np.random.default_rng().random(1, np.float32)


class OtherShape(Showing):
    def _show(self) -> Any:
        return np.zeros(2, np.float32)


class NoSpace(Counter):
    observation_space = property(lambda self: None, lambda self, space: None)  # type: ignore[assignment]


class Endless(Counter):
    def __init__(self) -> None:
        super().__init__(length=10**6)


class Unlimited(Endless):
    """Declares a time limit that nobody keeps."""

    spec = EnvSpec("Unlimited-v0", max_episode_steps=20)


class Truncating(Counter):
    def __init__(self) -> None:
        super().__init__(truncate=True)


def limited() -> Any:
    return gymnasium.wrappers.TimeLimit(Endless(), 20)


class Copyless(gymnasium.vector.SyncVectorEnv):
    """A vector environment that returns the same array in each step."""

    def __init__(self, num_envs: int) -> None:
        super().__init__([Counter] * num_envs, copy=False)


class MaskedParts(Forbidding):
    def __init__(self) -> None:
        super().__init__(space=spaces.MultiDiscrete([3, 4]))


class MaskedBits(Forbidding):
    def __init__(self) -> None:
        super().__init__(space=spaces.MultiBinary(3), where="state")


class SlowToSample(spaces.Discrete):
    def sample(self, *masks: Any, **more: Any) -> Any:
        time.sleep(0.01)
        return super().sample(*masks, **more)


class SlowActions(Counter):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = SlowToSample(2)


def checked(capsys: pytest.CaptureFixture[str], name: str, steps: int = 40) -> dict[str, Any]:
    env = f"{__name__}:{name}" if name in globals() else name
    assert main(["check", env, "--steps", str(steps), "--json"]) == 0
    about: dict[str, Any] = json.loads(capsys.readouterr().out)
    return about


NO_LIMIT = "none is declared; the environment truncated no episode in 40 steps"
TRUNCATES = "none is declared; the environment truncated an episode after {} steps"
CONVERTED = "(45 of 45 observations); really converts them to the declared dtype"
OVERWRITTEN = (
    "expected a new observation, got the one before overwritten ({} observations); really copies each observation at "
    "once, as code of yours has to"
)


@pytest.mark.parametrize(
    ("name", "part", "told"),
    [
        (
            "Outside",
            "values_in_space",
            "no: step 3 of episode 0: expected 0.0 to 3.0 in 'state', got 4.0 (28 of 45 observations); really keeps "
            "the values",
        ),
        (
            "OutsideInPart",
            "values_in_space",
            "no: step 3 of episode 0: expected 0.0 to 3.0 in 'state.goal.1', got 4.0 (28 of 45 observations); really "
            "keeps the values",
        ),
        (
            "OtherDtype",
            "declared_dtype",
            f"no: reset of episode 0: expected float32 in 'state', got float64 {CONVERTED}",
        ),
        (
            "RoundedBound",
            "declared_dtype",
            f"no: reset of episode 0: expected float32 in 'state', got float64 {CONVERTED}",
        ),
        (
            "Listed",
            "declared_dtype",
            f"no: reset of episode 0: expected an array of float32 in 'state', got a list {CONVERTED}",
        ),
        (
            "FloatChoice",
            "declared_dtype",
            f"no: reset of episode 0: expected integers in 'state', got float64 {CONVERTED}",
        ),
        ("OneArray", "new_observations", f"no: step 0 of episode 0: {OVERWRITTEN.format('44 of 45')}"),
        ("OneDict", "new_observations", f"no: step 0 of episode 0: {OVERWRITTEN.format('44 of 45')}"),
        ("Copyless", "new_observations", f"no: step 0 of episode 0: {OVERWRITTEN.format('40 of 45')}"),
        (
            "Infinite",
            "finite",
            "no: step 2 of episode 0: expected finite numbers in 'state', got inf (4 of 45 observations); a run ends "
            "if the model's outputs are then not finite",
        ),
        ("Unlimited", "time_limit", "no: expected an end after 20 steps, as declared, got an episode of 40; really "),
        ("Truncating", "time_limit", TRUNCATES.format(10)),
        ("limited", "time_limit", "20 steps are declared; the environment truncated an episode after 20 steps"),
        ("CartPole-v1", "time_limit", "500 steps; really truncates episodes then"),
        ("Unseeded", "same_seed_same_data", "no: state, environment 0, step 0 of the walk: expected 0."),
        *((name, "time_limit", NO_LIMIT) for name in ("Counter", "NarrowChoice", "Window")),
        *((name, "time_limit", TRUNCATES.format(7)) for name in ("MaskedParts", "MaskedBits")),
    ],
)
def test_each_part_of_the_contract_is_told(name: str, part: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    about = checked(capsys, name)
    assert about[part].startswith(told)
    assert {about[other] for other in PARTS if other != part} == {"yes"}


@pytest.mark.parametrize(
    ("name", "why", "taken"),
    [
        ("OtherShape", "observations do not fit the declared space, as the warning tells", "Box(-inf, inf, (2,)"),
        ("NoSpace", "no space is declared", "Box(-inf, inf, (1,)"),
    ],
)
def test_a_space_that_is_not_that_of_the_observations_is_told(
    name: str, why: str, taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    about = checked(capsys, name)
    for part in ("values_in_space", "declared_dtype"):
        assert about[part].startswith(f"no: {why}; really takes {taken}")


@pytest.mark.parametrize(
    ("name", "where"),
    [("NotANumber", "number 0 of the batch, step 2 of"), ("NotANumberLate", "number 0 of the batch, step 29 of")],
)
def test_nan_is_an_error_as_in_a_run(name: str, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{__name__}:{name}", "--steps", "40"]) == 2
    assert capsys.readouterr().err == (
        f"really check: environment '{name}', {where} the walk: expected numbers in 'state', got NaN\n"
    )


def test_what_to_ask_for_follows_from_the_ends_of_a_walk_of_all_steps(capsys: pytest.CaptureFixture[str]) -> None:
    about = checked(capsys, "Pendulum-v1", 200)
    assert (about["truncated"], about["suggestion"]) == (0, "num_episodes or num_steps")
    assert checked(capsys, "Endless")["suggestion"] == "num_steps: no episode ended within 40 steps"


def test_only_the_environments_steps_count_as_their_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(capsys, "SlowActions", 16)["steps_per_second"] > 1000  # with the actions at most 100
