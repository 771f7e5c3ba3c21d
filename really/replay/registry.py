"""The samplers and sample units that a buffer can be made with, by name. A new one is one more line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from really.errors import InvalidTypeError, InvalidValueError, one_of
from really.replay.emphasized import EmphasizedSampler
from really.replay.episodes import Episodes
from really.replay.half_life import HalfLifeSampler
from really.replay.hindsight import Hindsight
from really.replay.n_step import NSteps
from really.replay.newest import NewestSampler
from really.replay.samplers import PrioritizedSampler, Sampler, UniformSampler
from really.replay.sequences import Sequences
from really.replay.single_steps import Transitions
from really.replay.staleness import StalenessSampler
from really.replay.stratified import StratifiedSampler
from really.replay.units import SampleUnit

SAMPLERS: dict[str, type[Sampler]] = {
    "uniform": UniformSampler,
    "prioritized": PrioritizedSampler,
    "newest": NewestSampler,
    "half_life": HalfLifeSampler,
    "ere": EmphasizedSampler,
    "staleness": StalenessSampler,
    "stratified": StratifiedSampler,
}
"""Name -> sampler. Every process that opens or unpickles a buffer has to register the same names."""
UNITS: dict[str, type[SampleUnit]] = {
    "transition": Transitions,
    "n_step": NSteps,
    "sequences": Sequences,
    "episodes": Episodes,
    "hindsight": Hindsight,
}
"""Name -> sample unit, likewise."""

Kind = tuple[str, dict[str, Any]]
"""A registered name, and the options that make such a sampler or unit."""
Part = TypeVar("Part", Sampler, SampleUnit)


def kind_of(what: str, given: Any, known: Mapping[str, type[Part]]) -> Kind:
    """(name, options) of a registered name, an instance of a registered class, or such a pair itself."""
    if isinstance(given, str):
        return _registered(what, given, known), {}
    if isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[1], Mapping):
        return _registered(what, given[0], known), dict(given[1])
    for name, part in known.items():
        if type(given) is part:
            return name, given.options()
    raise InvalidTypeError(
        f"{what}: expected a name or an instance of a registered class ({', '.join(known)}), got {given!r}"
    )


def made(what: str, kind: Kind, known: Mapping[str, type[Part]]) -> Part:
    """The sampler or unit of that name with those options."""
    name, options = kind
    try:
        return known[_registered(what, name, known)](**options)
    except TypeError as error:
        raise InvalidTypeError(f"{what}: expected options of {name!r}, got {options}: {error}") from error


def _registered(what: str, name: Any, known: Mapping[str, type[Part]]) -> str:
    if name not in known:
        raise InvalidValueError(one_of(what, name, known))
    return str(name)
