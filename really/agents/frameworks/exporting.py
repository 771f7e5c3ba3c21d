"""Export of models that runners build and call as Python, or in a form that a converter gives.

Each form is tried, verified and timed as runners will call it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.agents.frameworks.protocol import ExportRequest
from really.agents.verification import Timing, disagreement, random_leaves, seconds_per_call, tried
from really.data.spaces import nest
from really.errors import ModelError, summary
from really.policies.inference import Exported, Forward, load
from really.policies.states import State, state_of

# Bytes of weights from which a form whose weights are inputs is slower than one that packs them.
LARGE_MODEL = 1 << 20
# Seconds of a call with one state, and of each further state, under which no other form is looked for: a graph of ONNX
# takes seconds to make, as long as a hundred thousand such calls.
FAST_ENOUGH = 40e-6, 1e-6
# Kinds whose `set_weights` takes long, so that calls are fast.
PACKED = ("onnx_static",)
# Calls with the same weights from which a large model is faster as one of them, whatever it is.
MANY_CALLS = 100

Candidate = Callable[[], Exported]
"""Makes another form of a model; raises any error if there is none."""
Infer = Callable[[Any], Any]
"""The model's own outputs, NumPy, for an observation in NumPy."""


@dataclass(frozen=True)
class Trial:
    """What is expected of a model's form, and the words for it.

    Attributes:
        kind: of the `Exported`.
        expected: what the model should be, for errors.
        cure: what to do if it is not; it follows the error.
        told: how runners call it, for the report.
    """

    kind: str
    expected: str
    cure: str
    told: str


def once(make: Candidate) -> Candidate:
    """Makes a form when it is called first; later calls give the same form, or raise the same error."""
    made: list[Exported | Exception] = []

    def kept() -> Exported:
        if not made:
            try:
                made.append(make())
            except Exception as error:
                made.append(error)
        if isinstance(made[0], Exception):
            raise made[0]
        return made[0]

    return kept


def export_as_python(
    trial: Trial, model: Any, request: ExportRequest, infer: Infer, others: Mapping[str, Candidate] | None = None
) -> Exported:
    """The model as every runner builds it, after a look whether one gives the outputs of the model.

    A model that draws random numbers of its own is not compared. One of the `others` is taken if it agrees and is
    faster; with `request.repeatable`, the first that agrees. Of a large model that is one which packs the weights, if
    they change seldom, or else the model itself. None is tried after another that is fast enough.

    Raises:
        ModelError: runners cannot have it, or what they have gives other outputs.
    """
    state = state_of(model)
    exported = request.as_python(trial.kind, state, "")
    rows = request.batch_size
    given = random_leaves(request.observation_space, rows, np.random.default_rng(0))
    example = [np.asarray(leaf, spec.dtype) for leaf, spec in zip(given, exported.leaves.values(), strict=True)]
    own, again = (_outputs(exported, infer, example, rows) for _ in range(2))
    draws = any(disagreement(name, again[name], own[name]) for name in own)
    forward, got = tried(exported, rows, state, example, trial.expected, trial.cure)
    for name in () if draws else own:
        if reason := disagreement(name, got[name], own[name]):
            raise ModelError(f"model: expected {trial.expected} and agrees with the model, but {reason}")
    weights = [np.asarray(weight) for weight in state.get()]
    timing = Timing(seconds_per_call(forward, example), _seconds_to_set(forward, weights))
    report = {trial.kind: f"{timing.told(rows)}: {trial.told}" + ", draws random numbers of its own" * draws}
    found = {exported: timing}
    is_large = sum(weight.nbytes for weight in weights) > LARGE_MODEL
    packs = request.repeatable and is_large and request.calls >= MANY_CALLS
    for kind, make in sorted((others or {}).items(), key=lambda each: packs and each[0] not in PACKED):
        if request.repeatable and len(found) > 1:
            report[kind] = f"not tried: {[*found][1].kind} agrees, and a seed takes the first that does"
            continue
        if fast := [each for each in [*found][1:] if found[each].call < FAST_ENOUGH[0] + FAST_ENOUGH[1] * rows]:
            report[kind] = f"not tried: {fast[0].kind} takes {found[fast[0]].call * 1e6:.1f} µs"
            continue
        try:
            if draws:
                raise ModelError("it draws random numbers of its own")
            candidate = make()
            found[candidate] = _verified(candidate, exported, state, request)
            report[kind] = found[candidate].told(rows)
        except Exception as error:  # a converter may raise anything; it rejects the candidate
            report[kind] = f"rejected: {summary(error)}"
    return replace(_chosen(found, request, is_large), report=report)


def _verified(candidate: Exported, own: Exported, state: State, request: ExportRequest) -> Timing:
    """The times of a form that agrees with the model's own, for several weights and numbers of states.

    Raises:
        ModelError: it does not agree.
    """
    rng = np.random.default_rng(1)
    weights = [np.asarray(weight) for weight in state.get()]
    for rows in (1, request.batch_size + 1, request.batch_size):
        forward, expecting = load(candidate, rows), load(own, rows)
        leaves = random_leaves(request.observation_space, rows, rng)
        leaves = [np.asarray(leaf, spec.dtype) for leaf, spec in zip(leaves, candidate.leaves.values(), strict=True)]
        for given in ([_changed(weight, rng) for weight in weights], weights):
            for each in (forward, expecting):
                each.set_weights(given)
            got, expected = forward(leaves), expecting(leaves)
            for name in candidate.output_names:
                if reason := disagreement(name, got[name], expected[name]):
                    raise ModelError(f"{reason} for {rows} states")
    return Timing(seconds_per_call(forward, leaves), _seconds_to_set(forward, weights))


def _seconds_to_set(forward: Forward, weights: Sequence[NDArray[Any]]) -> float:
    """Seconds of setting weights, the best of a few: other processes interrupt them."""
    found = []
    for _ in range(3):
        began = time.perf_counter()
        forward.set_weights(weights)
        found.append(time.perf_counter() - began)
    return min(found)


def _changed(weight: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Other weights of the same signs: what is positive, such as a variance, stays so."""
    is_float = weight.dtype.kind == "f"
    return np.asarray(weight * rng.uniform(0.5, 1.5, weight.shape), weight.dtype) if is_float else weight


def _chosen(found: Mapping[Exported, Timing], request: ExportRequest, is_large: bool) -> Exported:
    """The fastest form; with `request.repeatable` the first other one, or the model as Python if it is large."""
    own, *others = found
    if not request.repeatable:
        return min(found, key=lambda each: found[each].cost(request.calls))
    return next((each for each in others if not is_large or each.kind in PACKED), own)


def _outputs(exported: Exported, infer: Infer, leaves: Sequence[NDArray[Any]], rows: int) -> Mapping[str, NDArray[Any]]:
    """The model's own outputs in the form of runners, also if it takes one state at a time."""
    forms, space, names = exported.forms, exported.observation_space, exported.output_names
    if forms is None:
        return dict(infer(nest(space, leaves)))
    if not forms.one_by_one:
        return forms.arrays(infer(nest(space, leaves)), rows, names)
    parts = [[leaf[at : at + 1] for leaf in leaves] for at in range(rows)]
    found = [forms.arrays(infer(nest(space, part)), 1, names) for part in parts]
    return {name: np.concatenate([row[name] for row in found]) for name in names}
