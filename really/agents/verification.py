"""Verification of a model's form for runners: random observations, and outputs that have to agree."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from really._utils.system import waits
from really.data.spaces import flatten, nest
from really.errors import ModelError, summary
from really.policies.inference import Exported, Forward, load
from really.policies.model_inputs import model_leaves
from really.policies.outputs import OutputForms
from really.policies.states import State

# Roundings in half precision by which an output may differ from the model's own.
ROUNDINGS = 4
# Calls of a runner with the same weights, if nobody tells how many.
CALLS = 200
# Share of an output's largest number by which a state's may differ that is alone. Half precision and scales that are
# computed for a batch stay below it.
MIXED = 0.05


def random_leaves(space: spaces.Space[Any], rows: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
    """Leaves [rows, ...] of random observations; a copy is sampled, so the user's space keeps its random state."""
    copied = copy.deepcopy(space)
    copied.seed(int(rng.integers(2**31)))
    samples = [flatten(copied, copied.sample()) for _ in range(rows)]
    stacked = [np.stack(column) for column in zip(*samples, strict=True)]
    return [_moderate(column, rng) for column in stacked]


def disagreement(name: str, got: NDArray[Any], expected: NDArray[Any], precision: float = 0.0) -> str | None:
    """How an output differs from the model's own; None if it agrees.

    `precision` is the distance of 1 from the next number in the model's dtype, if that is one of half precision. A
    graph rounds fused operations once, and Python rounds after each of them. So some roundings may differ.
    """
    if got.shape != expected.shape:
        return f"output {name!r} is {list(got.shape)}, the model's {list(expected.shape)}"
    relative = max(1e-5, ROUNDINGS * precision)
    tolerance = relative * max(1.0, float(np.abs(expected).max(initial=0.0)))
    if np.allclose(got, expected, rtol=max(1e-4, relative), atol=tolerance, equal_nan=True):
        return None
    difference = float(np.abs(np.subtract(got, expected, dtype=np.float64)).max())
    return f"output {name!r} differs from the model's by {difference:.3g}"


def oddity(
    call: Callable[[Any], Mapping[str, Any]], space: spaces.Space[Any], forms: OutputForms, names: Sequence[str]
) -> tuple[str, str] | None:
    """What is unusual of the model's outputs, and the first output of which it is so; None for most models.

    `drawn` is an output that is another one when the model is called again. `mixed` is one that is another one for a
    state alone than for the same state among others.
    """
    rows = 1 if forms.one_by_one else 3
    given = random_leaves(space, 3, np.random.default_rng(0))
    leaves = [np.asarray(leaf, spec.dtype) for leaf, spec in zip(given, model_leaves(space).values(), strict=True)]

    def outputs(first: int, end: int) -> dict[str, NDArray[Any]]:
        return forms.arrays(call(nest(space, [leaf[first:end] for leaf in leaves])), end - first, names)

    together, again = outputs(0, rows), outputs(0, rows)
    drawn = next((name for name in names if disagreement(name, again[name], together[name])), None)
    if drawn is not None or rows == 1:
        return None if drawn is None else ("drawn", drawn)
    alone = [outputs(at, at + 1) for at in range(rows)]
    for name in names:
        if name not in forms.shared and _are_others([each[name][0] for each in alone], together[name]):
            return "mixed", name
    return None


def _are_others(alone: Sequence[NDArray[Any]], together: NDArray[Any]) -> bool:
    """True if most outputs of a state alone are others than those of the same state among others.

    One may be near by chance: if states are normalized among others, one of them can have outputs of about 0. And one
    may be far by chance: if a model rounds or compares, a difference in the last digit can change its choice.
    """
    if together.dtype.kind != "f" or not all(np.isfinite(each).all() for each in (*alone, together)):
        return False
    limit = MIXED * np.abs(together).max(initial=0.0)
    far = [bool(np.abs(row - among).max(initial=0.0) > limit) for row, among in zip(alone, together, strict=True)]
    return sum(far) > len(far) // 2


def tried(
    exported: Exported, batch_size: int, state: State, leaves: Sequence[NDArray[Any]], expected: str, cure: str = ""
) -> tuple[Forward, dict[str, NDArray[Any]]]:
    """The forward pass of a runner with the model's weights, and its outputs for these observations.

    Raises:
        ModelError: it fails; the text says what was `expected`, and ends with the `cure`.
    """
    try:
        forward = load(exported, batch_size)
        forward.set_weights(state.get())
        return forward, forward(leaves)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"model: expected {expected}, got {summary(error)}{cure}") from error


@dataclass(frozen=True)
class Timing:
    """Seconds of a call, and of setting weights."""

    call: float
    setting: float

    def cost(self, calls: int) -> float:
        """Seconds of one of so many calls with the same weights."""
        return self.call + self.setting / calls

    def told(self, rows: int) -> str:
        """The times for a report."""
        return f"{self.call * 1e6:.1f} µs a call with {rows} states, {self.setting * 1e6:.0f} µs to set weights"


def seconds_per_call(forward: Forward, leaves: Sequence[NDArray[Any]]) -> float:
    """Seconds of a call, the best of short rounds: other processes interrupt long ones.

    Counts wall or CPU time, whichever is more: several threads do not help a runner, which has one. CPU time alone
    counts in a round in which this thread waited for nothing: other processes had its core for the rest.
    """
    forward(leaves)
    started = time.perf_counter()
    forward(leaves)
    once = time.perf_counter() - started
    calls = int(np.clip(0.0005 / once, 2, 500))
    rounds = []
    for _ in range(int(np.clip(0.1 / (calls * once), 3, 12))):
        waited, wall, cpu = waits(), time.perf_counter(), time.process_time()
        for _ in range(calls):
            forward(leaves)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        computed = waited is not None and waits() == waited
        rounds.append((cpu if computed else max(wall, cpu)) / calls)
    return min(rounds)


def _moderate(column: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Makes floats float32 of moderate size: a space without real bounds samples 1e38, which overflows in a network."""
    if not np.issubdtype(column.dtype, np.floating):
        return column
    moderate = np.where(np.abs(column) < 1e3, column, rng.standard_normal(column.shape))
    return moderate.astype(np.float32)
