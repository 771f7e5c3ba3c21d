"""make_batch: chooses the kind of batch that suits an environment, and makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from really.envs.atari import Atari, AtariBatch
from really.envs.batch import EnvironmentBatch, PlainBatch
from really.envs.environment import Environment
from really.envs.envpool import EnvPool, PoolBatch
from really.envs.masked import MaskedBatch
from really.envs.native import CartPoleBatch, VectorBatch, can_reset_some, is_classic_cartpole
from really.envs.sources import IdSource, VectorSource
from really.envs.spec import EnvironmentSpec, Probe
from really.errors import InvalidValueError, one_of

VECTOR_CHOICES = ("auto", "plain", "native")
# Measured µs for a step of the batch, plain / native: 28 / 31 with 4 environments, 35 / 31 with 5, 56 / 32 with 8.
CARTPOLE_NATIVE_FROM = 5


def make_batch(
    spec: EnvironmentSpec,
    seeds: Sequence[np.random.SeedSequence],
    *,
    vector: str = "auto",
    render_mode: str | None = None,
) -> EnvironmentBatch:
    """Makes a batch with one environment for each seed.

    Args:
        spec: the environment.
        seeds: one for each environment. The same seed gives the same transitions, whatever the other seeds are.
        vector: 'plain' steps instances one by one. 'native' takes the id's own vector environment (for `atari` one
            for all games, which is faster but steps waiting games too). 'auto' takes the fastest for this number of
            environments among those that give the transitions of plain instances; for `envpool` its own.
        render_mode: gymnasium's, for `render`.

    Raises:
        InvalidValueError: there are no seeds, `vector` is unknown, or it is 'native' and there is no native vector
            environment.
        EnvironmentFailedError: an environment could not be made.
    """
    if vector not in VECTOR_CHOICES:
        raise InvalidValueError(one_of("vector", vector, VECTOR_CHOICES))
    if not seeds:
        raise InvalidValueError("seeds: expected at least one, got none")
    native, probe = None, spec.probe()
    # Only plain instances write observations in another shape than that of the environment.
    if vector != "plain" and probe.observation_space is probe.seen_space:
        native = _from_vectors(spec, seeds, vector, render_mode) or _from_id(spec, seeds, vector, render_mode)
    if native is None and vector == "native":
        raise InvalidValueError(
            f"vector: expected 'auto' or 'plain' for {spec.name!r}, which has no vector environment of its own "
            f"that gives observations of {probe.observation_space}, got 'native'"
        )
    return native or plain_batch(spec, seeds, render_mode)


def plain_batch(
    spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], render_mode: str | None = None
) -> EnvironmentBatch:
    """Plain instances, which tell their action masks if these come with `info`."""
    return (MaskedBatch if _has_masks_in_info(spec) else PlainBatch)(spec, seeds, render_mode)


@dataclass(frozen=True)
class _InstanceSpec(EnvironmentSpec):
    """A spec whose only instance exists already."""

    spec: EnvironmentSpec | None = None
    instance: Environment | None = None

    def probe(self) -> Probe:
        return self.spec.probe()  # type: ignore[union-attr]

    def make(self, render_mode: str | None = None) -> Environment:
        return self.instance  # type: ignore[return-value]


def batch_of_instance(spec: EnvironmentSpec, seed: np.random.SeedSequence, instance: Environment) -> EnvironmentBatch:
    """A batch of one plain instance of `spec` that exists already."""
    return plain_batch(_InstanceSpec(spec.environment, spec.env_config, spec=spec, instance=instance), [seed])


def _has_masks_in_info(spec: EnvironmentSpec) -> bool:
    masks = spec.probe().masks
    return masks is not None and masks.leaf is None


def _from_vectors(
    spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], vector: str, render_mode: str | None
) -> EnvironmentBatch | None:
    """The batch for a source of vector environments, as plain instances of size one if it cannot reset some alone.

    Returns None for another source.
    """
    if isinstance(spec.environment, Atari):
        if spec.reward_shape:
            raise InvalidValueError(
                f"reward_shape: expected () for {spec.name!r}, whose rewards are one number, got {spec.reward_shape}"
            )
        if vector == "native" and render_mode is None:
            return _vector_batch(spec, seeds, partial(spec.environment.make_vector, len(seeds)))
        return AtariBatch(spec, seeds, render_mode)
    if isinstance(spec.environment, EnvPool) and render_mode is None and not spec.reward_shape:
        return PoolBatch(spec, seeds)
    if not isinstance(spec.source, VectorSource):
        return None
    make = partial(spec.source.make_vector, len(seeds), spec.env_config, render_mode)
    return _vector_batch(spec, seeds, make) or plain_batch(spec, seeds, render_mode)


def _vector_batch(
    spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], make: Callable[[], Any]
) -> VectorBatch | None:
    """The batch of the vector environment that `make` makes.

    Returns None if it is None, if it cannot reset some environments alone, or if masks come with `info`.
    """
    if _has_masks_in_info(spec):
        return None
    vector_env = make()
    if vector_env is None or can_reset_some(vector_env):
        return vector_env and VectorBatch(spec, vector_env, seeds, make)
    vector_env.close()
    return None


def _from_id(
    spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], vector: str, render_mode: str | None
) -> EnvironmentBatch | None:
    """The batch of an id's own vector environment. Returns None if there is none, or plain instances are preferable."""
    if not isinstance(spec.source, IdSource):
        return None
    if render_mode is None and not spec.reward_shape and is_classic_cartpole(spec):
        is_faster = len(seeds) >= CARTPOLE_NATIVE_FROM
        return CartPoleBatch(spec, seeds) if is_faster or vector == "native" else None
    if vector != "native":
        return None
    return _vector_batch(spec, seeds, partial(spec.source.make_vector, len(seeds), spec.env_config, render_mode))
