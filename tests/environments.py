"""Environments for the tests of runners and managers: some count steps, the others have one fault each."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from asyncio import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Env, spaces


class Counter(Env[np.ndarray, int]):
    """Observes the step number of the episode; terminates (or truncates) after `length`; the reward is the action."""

    def __init__(self, length: int = 10, truncate: bool = False, start: int = 0) -> None:
        self.length, self.truncate = length, truncate
        self.action_space = spaces.Discrete(2, start=start)
        self.observation_space = spaces.Box(0, np.inf, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count = 0
        return self._show(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        over = self.count >= self.length
        return self._show(), float(action), over and not self.truncate, over and self.truncate, {}

    def _show(self) -> np.ndarray:
        return np.array([self.count], np.float32)


class Leaky(Counter):
    """Keeps more memory with every step."""

    def __init__(self, length: int = 10**6, step_bytes: int = 50_000) -> None:
        super().__init__(length)
        self._step_bytes, self._kept = step_bytes, list[bytes]()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._kept.append(b"x" * self._step_bytes)
        return super().step(action)


class Once(Counter):
    """Removes the file `token` once it is there, and takes a gigabyte then, in a runner that a control group limits."""

    def __init__(self, token: str) -> None:
        super().__init__(length=10**6)
        self._token = token

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if os.path.exists(self._token) and "really-test" in Path("/proc/self/cgroup").read_text():
            os.unlink(self._token)
            np.ones(1 << 27)
        return super().step(action)


class OldCounter:
    """The older API of gym: `reset` returns the observation alone, and `step` four values. Episodes have four steps."""

    observation_space, action_space = spaces.Box(0, np.inf, (1,), np.float32), spaces.Discrete(2)

    def reset(self) -> np.ndarray:
        self.count = 0
        return np.zeros(1, np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, dict]:
        self.count += 1
        return np.full(1, self.count, np.float32), 1.0, self.count == 4, {}


class Wide(Counter):
    """Observes its count in 4,000 copies: 16 kB an observation."""

    def __init__(self) -> None:
        super().__init__(length=10**6)
        self.observation_space = spaces.Box(0, np.inf, (4000,), np.float32)

    def _show(self) -> np.ndarray:
        return np.full(4000, self.count, np.float32)


class UnprintableError(Exception):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise ValueError("no text")


class RaisingInterrupts(Counter):
    """Its first steps raise what no `except Exception` catches, with text of 30 MB or text that is no valid Unicode."""

    def __init__(self) -> None:
        super().__init__(length=10**6)
        late, exits = CancelledError("late"), SystemExit("no licence")
        self.errors = [KeyboardInterrupt("x" * 30_000_000), GeneratorExit("\udcff"), late, exits]

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.errors:
            raise self.errors.pop(0)
        return super().step(action)


class Exits(Counter):
    """Raises `error` in its constructor, in `reset` or in a `step`, in every process but that of `but`."""

    def __init__(self, error: BaseException, where: str = "step", but: int = 0) -> None:
        super().__init__(length=7)
        self.error, self.where, self.is_armed = error, where, os.getpid() != but
        self._raise_in("constructor")

    def reset(self, **options: Any) -> tuple[np.ndarray, dict]:
        self._raise_in("reset")
        return super().reset(**options)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._raise_in("step")
        return super().step(action)

    def _raise_in(self, where: str) -> None:
        if self.is_armed and self.where == where:
            raise self.error


class AwkwardErrors(Counter):
    """Its first three steps raise: text that is no valid Unicode, text of 30 MB, and an error without text."""

    def __init__(self) -> None:
        super().__init__(length=10**6)
        self.errors = [OSError("port \udcff is closed"), OSError("x" * 30_000_000), UnprintableError()]

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.errors:
            raise self.errors.pop(0)
        return super().step(action)


class SlowAlone(Counter):
    """The environment that removes the file `token` is slow from then on, `seconds` a step; all others are fast."""

    def __init__(self, token: str, seconds: float, length: int = 10) -> None:
        super().__init__(length)
        self.token, self.seconds = Path(token), seconds
        self.slow = False

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.slow = self.slow or self._take()
        if self.slow:
            time.sleep(self.seconds)
        return super().step(action)

    def _take(self) -> bool:
        try:
            self.token.unlink()
        except FileNotFoundError:
            return False
        return True


class HeldAlone(SlowAlone):
    """The environment that removes the file `token` waits in that step until `token`.held is gone."""

    def __init__(self, token: str, length: int = 10**6) -> None:
        super().__init__(token, 0.0, length)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self._take():
            while self.token.with_suffix(".held").exists():
                time.sleep(0.02)
        return super().step(action)


class Raising(Counter):
    """Raises in step `at` of an episode, or in `reset` if `at` is 0."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        if self.at == 0:
            raise OSError("the simulator is not there")
        return super().reset(seed=seed)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.count + 1 == self.at:
            raise OSError("the simulator broke down")
        return super().step(action)


class Fragile(Counter):
    """Its constructor raises in runners while the file `licence` is missing, but not in the process that probes it."""

    def __init__(self, alive: int, licence: str) -> None:
        super().__init__()
        if os.getpid() != alive and not os.path.exists(licence):
            raise OSError("no licence for the simulator")


class Exiting(Counter):
    """Its constructor kills its process, unless that is the process that probes it."""

    def __init__(self, alive: int) -> None:
        super().__init__()
        if os.getpid() != alive:
            os._exit(1)


class RaisingOnce(SlowAlone):
    """The environment that removes the file `token` raises in that step, and works afterwards."""

    def __init__(self, token: str, length: int = 10**6) -> None:
        super().__init__(token, 0.0, length)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self._take():
            raise OSError("the simulator broke down")
        return super().step(action)


class Drawing(Counter):
    """Observes numbers from the generators that its process shares, from its constructor, a reset or a step."""

    def __init__(self, length: int = 7) -> None:
        super().__init__(length)
        self.first = random.random()

    def _show(self) -> np.ndarray:
        return np.array([self.first + random.random() + np.random.random()], np.float32)  # noqa: NPY002


class Forbidding(Env[Any, Any]):
    """Allows other actions in each step, and raises for one that it does not allow; it truncates after `length` steps.

    The observation is (step of the episode, number of the episode); `allowed` tells the mask of a step.

    Args:
        where: 'state' (a part of the observation), 'info', or 'method' (`action_masks`).
        space: the action space; a Discrete of four actions by default.
        missing: a step whose info has no mask.
        empty: a step in which no action is allowed.
        terminates: whether the last step is a termination.
    """

    def __init__(
        self,
        where: str = "info",
        space: Any = None,
        length: int = 7,
        missing: int = -1,
        empty: int = -1,
        terminates: bool = False,
        dtype: Any = np.int8,
    ) -> None:
        self.where, self.length, self.missing, self.empty, self.terminates = where, length, missing, empty, terminates
        self.action_space = spaces.Discrete(4, start=2) if space is None else space
        self.width = len(allowed(0, self.action_space))
        numbers = spaces.Box(0, np.inf, (2,), np.float32)
        mask = spaces.Box(0, 1, (self.width,), dtype)
        self.observation_space = spaces.Dict(numbers=numbers, action_mask=mask) if where == "state" else numbers
        self.count, self.episode = 0, 0
        if where == "method":
            self.action_masks = lambda: self._mask() > 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.count, self.episode = 0, self.episode + 1
        return self._show(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert is_allowed(self._mask(), action, self.action_space), f"{action} in step {self.count}"
        self.count += 1
        over = self.count == self.length
        return self._show(), 1.0, over and self.terminates, over and not self.terminates, self._info()

    def _mask(self) -> np.ndarray:
        return allowed(self.count, self.action_space) * (self.count != self.empty)

    def _show(self) -> Any:
        numbers = np.array([self.count, self.episode], np.float32)
        if self.where != "state":
            return numbers
        return {"numbers": numbers, "action_mask": self._mask().astype(self.observation_space["action_mask"].dtype)}

    def _info(self) -> dict[str, Any]:
        return {"action_mask": self._mask()} if self.where == "info" and self.count != self.missing else {}


def allowed(step: int, space: Any) -> np.ndarray:
    """The mask of `Forbidding` in a step: int8, at least one choice of each part of an action."""
    sizes = [space.n] if isinstance(space, spaces.Discrete) else np.ravel(getattr(space, "nvec", [2] * space.shape[0]))
    parts = [(np.arange(size) + step) % 3 != 0 for size in sizes]
    for part, size in zip(parts, sizes, strict=True):
        part[step % size] = True
    return np.concatenate(parts).astype(np.int8)


def is_allowed(mask: np.ndarray, action: Any, space: Any) -> bool:
    """Whether a mask allows an action as the environment takes it."""
    sizes = [space.n] if isinstance(space, spaces.Discrete) else np.ravel(getattr(space, "nvec", [2] * space.shape[0]))
    starts = np.cumsum([0, *sizes[:-1]])
    return bool(mask[starts + np.ravel(action) - np.ravel(getattr(space, "start", 0))].all())


class Tenant(SlowAlone):
    """Works only in the main thread (signals) and in the thread that made it (SQLite); `close` leaves a file.

    The file in `folder` has the number of steps. With `owes`, `close` then raises.
    """

    def __init__(self, folder: str, token: str = "/no/token", seconds: float = 0.0, owes: bool = False) -> None:
        super().__init__(token, seconds, length=10**6)
        self.owes = owes
        self.folder, self.database = Path(folder), sqlite3.connect(":memory:")
        self.database.execute("create table steps (count integer)")
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        result = super().step(action)
        self.database.execute("insert into steps values (?)", (self.count,))
        return result

    def close(self) -> None:
        (steps,) = self.database.execute("select count(*) from steps").fetchone()
        self.database.close()
        (self.folder / f"{os.getpid()}-{id(self)}").write_text(str(steps))
        if self.owes and steps:
            raise OSError("the rent is due")
