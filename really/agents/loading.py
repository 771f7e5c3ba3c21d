"""Loading: an agent from a saved model alone, with no manager, environment or Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from really._utils.input_files import reading
from really._utils.quiet import tensorflow, without_start_lines
from really.agents.frameworks.choice import framework_of
from really.agents.models import build_model
from really.checkpoints import saved_models
from really.data.masks import ActionMasks
from really.data.normalisation import Normalisation, NormalisationOptions
from really.data.space_json import space_from_json, space_to_json
from really.data.spaces import observation_leaves
from really.errors import InvalidValueError, ModelError, summary

WHAT = "the description of an agent"


def description_of(agent: Any) -> dict[str, Any]:
    """What a saved model says of the agent besides its weights and statistics."""
    normalization, masks = agent.normalization, agent.masks
    return {
        "observation_space": space_to_json(agent.observation_space),
        "action_space": space_to_json(agent.action_space),
        "action_sampling_type": agent.policy.sampling_type,
        "epsilon": agent.policy.epsilon,
        "temperature": agent.policy.temperature,
        "observation_clip": None if normalization is None else normalization.clip,
        "masks": None if masks is None else {"sizes": list(masks.sizes), "leaf": masks.leaf},
    }


@dataclass(frozen=True)
class SavedAgent:
    """What the description of an agent says."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    sampling_type: str
    epsilon: float
    temperature: float
    observation_clip: float | None
    masks: ActionMasks | None

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> SavedAgent:
        """The description of `description_of`, read. Raises KeyError, TypeError or ValueError if it is another."""
        masks, clip = about["masks"], about["observation_clip"]
        return cls(
            space_from_json(about["observation_space"]),
            space_from_json(about["action_space"]),
            str(about["action_sampling_type"]),
            float(about["epsilon"]),
            float(about["temperature"]),
            None if clip is None else float(clip),
            None if masks is None else ActionMasks(tuple(masks["sizes"]), masks["leaf"]),
        )

    def normalisation(self, folder: Path) -> Normalisation | None:
        """The normalisation of observations with the statistics in the folder; None if they are not normalised."""
        if self.observation_clip is None:
            return None
        options = NormalisationOptions(True, self.observation_clip, False, 1.0, (-np.inf, np.inf))
        leaves = observation_leaves(self.observation_space)
        return Normalisation(options, leaves, saved_models.load_statistics(folder))


def load_agent(
    make_agent: Callable[..., Any],
    path: str | os.PathLike[str],
    model: Any,
    model_kwargs: Mapping[str, Any] | None,
    model_name: str | None,
    greedy: bool,
    seed: int | None,
    device: Any,
) -> Any:
    """The agent of a saved model, made by a subclass of Agent; arguments and errors are those of `Agent.load`."""
    folder = saved_models.newest_checkpoint(path, model_name)
    about = saved_models.describe(folder)
    if about.get("agent") is None:
        raise InvalidValueError(
            f"Agent.load: expected a model that manager.save_model() of this version saved, got {str(folder)!r}, which "
            f"does not say what it observes; manager.load_model() reads it"
        )
    with reading(folder / saved_models.META, WHAT):
        saved = SavedAgent.of(about["agent"])
    if model is None:
        if model_kwargs:
            raise InvalidValueError(f"model_kwargs: expected none without model=, got {sorted(model_kwargs)}")
        built = _keras_model(folder, about)
    else:
        built = build_model(model, model_kwargs, None, saved.observation_space)
    epoch = saved_models.load_model(built, folder)
    if device is not None:
        built = framework_of(built).placed(built, device)
    agent = make_agent(
        built,
        saved.observation_space,
        saved.action_space,
        saved.sampling_type,
        epsilon=saved.epsilon,
        temperature=saved.temperature,
        rng=np.random.default_rng(seed),
        epoch=epoch,
        normalization=saved.normalisation(folder),
        masks=saved.masks,
    )
    agent.greedy = greedy
    return agent


def _keras_model(folder: Path, about: Mapping[str, Any]) -> Any:
    """The model in Keras' own file, which Keras reads in its safe mode: no Lambda, no class that it does not know."""
    file = saved_models.keras_file(folder, about)
    if file is None:
        raise InvalidValueError(
            f"Agent.load: expected model=, the class or function that made the model, as {str(folder)!r} has no file "
            f"of Keras ({about['keras']}), got none"
        )
    tf = tensorflow("Agent.load", "TensorFlow for a model of Keras")
    try:
        with without_start_lines():
            return tf.keras.models.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many classes
        raise ModelError(
            f"Agent.load: expected model=, the class or function that made the model, as Keras cannot make it from "
            f"{str(file)!r}: {summary(error)}"
        ) from error
