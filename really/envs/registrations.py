"""Registrations: the ids of gymnasium and gym that this process knows, in a form that travels to other processes.

A new process knows only the ids that gymnasium itself registers. The user's script and the packages that it imported
may have registered more, or other specs under the same ids.
"""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from really.envs.environment import logged_warnings
from really.envs.real_gym import import_gym
from really.envs.sources import GymIdSource, IdSource, gymnasium_spec
from really.envs.spec import EnvironmentSpec
from really.errors import InvalidTypeError

# Fields of a spec that name what makes an environment, as "module:attribute" or as the callable itself.
ENTRY_POINTS = ("entry_point", "vector_entry_point")


@dataclass(frozen=True)
class PackedRegistry:
    """The specs of one registry, pickled.

    Attributes:
        common: one pickle of the list of specs that consist of text and numbers.
        special: pickles of all other specs by id. One that cannot be loaded does not affect the others.
    """

    common: bytes
    special: Mapping[str, bytes]

    @classmethod
    def of(cls, registry: Mapping[str, Any], dumps: Callable[[Any], bytes]) -> Self:
        """Packs a registry. A spec that cannot be pickled is replaced by one that raises the reason when it is made."""
        specs = {name: _portable(spec) for name, spec in registry.items()}
        common = [spec for spec in specs.values() if _is_common(spec)]
        special = {name: _packed(spec, dumps) for name, spec in specs.items() if not _is_common(spec)}
        return cls(pickle.dumps(common), special)

    def apply(self, registry: Any) -> None:
        """Writes the specs into the registry of this process."""
        registry.update({spec.id: spec for spec in pickle.loads(self.common)})
        for name, packed in self.special.items():
            try:
                registry[name] = pickle.loads(packed)
            except Exception as error:
                registry[name] = _unavailable(type(next(iter(registry.values()))), name, error)


@dataclass(frozen=True)
class Registrations:
    """The registries of this process; `gym` is None if the environment does not need that of real gym."""

    gymnasium: PackedRegistry
    gym: PackedRegistry | None

    @classmethod
    def of(cls, environment: EnvironmentSpec, dumps: Callable[[Any], bytes]) -> Self:
        """Packs the registries for processes that make this environment; `dumps` is cloudpickle's.

        Raises:
            TypeError, pickle.PicklingError: the spec of the environment's own id cannot be pickled.
        """
        import gymnasium

        if isinstance(environment.source, IdSource):
            with logged_warnings():
                own = gymnasium_spec(environment.source.name)
            dumps(_portable(own))
        registry = gym_registry() if "gym" in sys.modules else {}
        needs_gym = isinstance(environment.source, GymIdSource) or any(map(_is_foreign, registry.values()))
        return cls(
            PackedRegistry.of(gymnasium.registry, dumps), PackedRegistry.of(registry, dumps) if needs_gym else None
        )

    def apply(self) -> None:
        """Registers the ids in this process; a spec that it has under the same id is replaced."""
        import gymnasium

        self.gymnasium.apply(gymnasium.registry)
        if self.gym is not None:
            import_gym()
            self.gym.apply(gym_registry())


def gym_registry() -> Any:
    """The dict of specs of real gym, which must be imported. Before version 0.26 it is inside an object."""
    registry = sys.modules["gym"].envs.registration.registry
    return getattr(registry, "env_specs", registry)


def _is_foreign(spec: Any) -> bool:
    """Whether a spec of gym was registered by another package or by a script."""
    return not (isinstance(spec.entry_point, str) and spec.entry_point.startswith("gym.envs."))


def _is_common(spec: Any) -> bool:
    """Whether a spec consists of text and numbers, so that any process can unpickle it."""
    return (
        all(isinstance(getattr(spec, field, None), str | None) for field in ENTRY_POINTS)
        and not getattr(spec, "additional_wrappers", ())
        and all(isinstance(value, str | int | float | None) for value in getattr(spec, "kwargs", {}).values())
    )


def _portable(spec: Any) -> Any:
    """The spec; what it names in the script that was started, which no other process can import, as an object."""
    changed = {
        field: getattr(importlib.import_module("__main__"), name.removeprefix("__main__:"), name)
        for field in ENTRY_POINTS
        if isinstance(name := getattr(spec, field, None), str) and name.startswith("__main__:")
    }
    if not changed:
        return spec
    spec = copy.copy(spec)
    for field, value in changed.items():
        setattr(spec, field, value)
    return spec


def _packed(spec: Any, dumps: Callable[[Any], bytes]) -> bytes:
    try:
        return dumps(spec)
    except Exception as error:
        return dumps(_unavailable(type(spec), spec.id, error))


def _unavailable(spec_type: Any, name: str, error: Exception) -> Any:
    """A spec whose environment cannot be made, for the reason in `error`."""
    return spec_type(name, Unavailable(name, f"{type(error).__name__}: {error}"))


class Unavailable:
    """The entry point of an id whose spec could not be sent to this process; to make such an environment raises."""

    def __init__(self, name: str, reason: str) -> None:
        self._name, self._reason = name, reason

    def __call__(self, **_: Any) -> NoReturn:
        """Raises InvalidTypeError with the reason."""
        raise InvalidTypeError(
            f"environment {self._name!r}: expected a registration that can be sent to another process, got one that "
            f"cannot ({self._reason})"
        )
