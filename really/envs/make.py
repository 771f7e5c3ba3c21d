"""Environments in batches: which batch of environments is made from what the user gave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from really.envs.atari import Atari, AtariBatch
from really.envs.batch import EnvironmentBatch, PlainBatch
from really.envs.environment import IdSource, VectorSource
from really.envs.native import CartPoleBatch, VectorBatch, can_reset_some, is_classic_cartpole
from really.envs.spec import EnvironmentSpec, Probe
from really.errors import InvalidValueError, one_of

__all__ = ["EnvironmentBatch", "EnvironmentSpec", "Probe", "make_batch"]

VECTOR_CHOICES = ("auto", "plain", "native")
# Measured (us a step of the batch, plain against native): 28 / 31 at 4, 35 / 31 at 5, 56 / 32 at 8.
CARTPOLE_NATIVE_FROM = 5


def make_batch(
    spec: EnvironmentSpec,
    seeds: Sequence[np.random.SeedSequence],
    *,
    vector: str = "auto",
    render_mode: str | None = None,
) -> EnvironmentBatch:
    """A batch with one environment a seed.

    Args:
        spec: what the user gave
        seeds: each environment's own: the same seed gives the same transitions, whatever stands beside it
        vector: 'plain' for instances stepped one by one, 'native' for the id's own vector environment (for `atari`
            one for all games, which is faster, but steps those that wait, too), 'auto' for the faster at this
            number among those that give the transitions of the plain ones
        render_mode: gymnasium's, for `render`

    Raises:
        InvalidValueError: no seeds, an unknown `vector`, or no native vector environment where one is asked for.
        EnvironmentFailedError: an environment could not be made.
    """
    if vector not in VECTOR_CHOICES:
        raise InvalidValueError(one_of("vector", vector, VECTOR_CHOICES))
    if not seeds:
        raise InvalidValueError("seeds: expected at least one, got none")
    native = None
    if vector != "plain":
        native = _from_vectors(spec, seeds, vector, render_mode) or _from_id(spec, seeds, vector, render_mode)
    if native is None and vector == "native":
        raise InvalidValueError(
            f"vector: expected 'auto' or 'plain' for {spec.name!r}, which has no vector environment of its own, "
            f"got 'native'"
        )
    return native or PlainBatch(spec, seeds, render_mode)


def _from_vectors(
    spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], vector: str, render_mode: str | None
) -> EnvironmentBatch | None:
    """The batch of what makes vector environments itself; plain ones of size one where episodes would mix."""
    if isinstance(spec.environment, Atari):
        if vector == "native" and render_mode is None:
            return VectorBatch(spec, spec.environment.make_vector(len(seeds)), seeds)
        return AtariBatch(spec, seeds, render_mode)
    if not isinstance(spec.source, VectorSource):
        return None
    made = spec.source.make_vector(len(seeds), spec.env_config, render_mode)
    if can_reset_some(made):
        return VectorBatch(spec, made, seeds)
    made.close()
    return PlainBatch(spec, seeds, render_mode)


def _from_id(
    spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], vector: str, render_mode: str | None
) -> EnvironmentBatch | None:
    """The batch of an id's own vector environment, where there is one and it is asked for or worth it."""
    if not isinstance(spec.source, IdSource):
        return None
    if render_mode is None and is_classic_cartpole(spec):
        worth_it = len(seeds) >= CARTPOLE_NATIVE_FROM
        return CartPoleBatch(spec, seeds) if worth_it or vector == "native" else None
    if vector != "native":
        return None
    made = spec.source.make_vector(len(seeds), spec.env_config, render_mode)
    if made is None or can_reset_some(made):
        return made and VectorBatch(spec, made, seeds)
    made.close()
    return None
