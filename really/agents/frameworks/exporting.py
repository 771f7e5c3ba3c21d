"""Export of models that runners build and call as Python: each is tried, verified and timed as runners will call it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.agents.frameworks.protocol import ExportRequest
from really.agents.verification import disagreement, random_leaves, seconds_per_call, tried
from really.data.spaces import nest
from really.errors import ModelError
from really.policies.inference import Exported
from really.policies.states import state_of

log = logging.getLogger("really")

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


def export_as_python(trial: Trial, model: Any, request: ExportRequest, infer: Infer) -> Exported:
    """The model as every runner builds it, after a look whether one gives the outputs of the model.

    A model that draws random numbers of its own is named in a warning, and is not compared.

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
    if draws:
        log.warning(
            "model: expected equal outputs for equal observations, got others in each call: the model draws random "
            "numbers of its own while it acts. seed= repeats the environments and the random numbers of actions, but "
            "not those."
        )
    forward, got = tried(exported, rows, state, example, trial.expected, trial.cure)
    for name in () if draws else own:
        if reason := disagreement(name, got[name], own[name]):
            raise ModelError(f"model: expected {trial.expected} and agrees with the model, but {reason}")
    seconds = seconds_per_call(forward, example) * 1e6
    told = f"{seconds:.1f} µs a call with {rows} states: {trial.told}"
    return replace(exported, report={trial.kind: told + ", draws random numbers of its own" * draws})


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
