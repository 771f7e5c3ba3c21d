"""BufferOptions: all that is needed to make a buffer again, apart from its rows, its seed and its place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self, SupportsIndex

from really._utils.checks import checked_bool, checked_integer, checked_number
from really.data import frames
from really.data.schema import Spec
from really.errors import InvalidTypeError, InvalidValueError
from really.replay import arguments, n_step
from really.replay.registry import SAMPLERS, UNITS, Kind, kind_of, made
from really.replay.samplers import EPS, Sampler
from really.replay.units import SampleUnit


@dataclass(frozen=True)
class BufferOptions:
    """The one list of a buffer's options: constructor, folder, checkpoint and pickle take them from here.

    Attributes:
        capacity: how many rows are kept.
        keys: the columns; None leaves them to the first put.
        overcommit: True reserves more memory or disk than is left.
        dedup: True stores each observation once.
        stack: (number of frames, axis) of rows that share frames, or a mapping from key to that.
        max_bytes: limit of the bytes that frames take.
        alpha, eps: options of the sampler "prioritized"; alpha is None if another one draws.
        n_step, gamma: options of the unit "n_step"; n_step is 1 if another one is sampled.
        sampler, unit: (name, options) of a sampler and a unit that those four do not describe.
    """

    capacity: int
    keys: tuple[str, ...] | None = None
    overcommit: bool = False
    dedup: bool = True
    stack: frames.Stack | Mapping[str, frames.Stack] | None = None
    max_bytes: int | None = None
    alpha: float | None = None
    eps: float | None = None
    n_step: int = 1
    gamma: float | None = None
    sampler: Kind | None = None
    unit: Kind | None = None

    @classmethod
    def checked(
        cls,
        capacity: SupportsIndex,
        keys: Iterable[str] | None = None,
        *,
        overcommit: bool = False,
        dedup: bool = True,
        stack: frames.Stack | Mapping[str, frames.Stack] | None = None,
        max_bytes: SupportsIndex | None = None,
        alpha: float | None = None,
        eps: float | None = None,
        n_step: SupportsIndex = 1,
        gamma: float | None = None,
        sampler: Any = None,
        unit: Any = None,
    ) -> Self:
        """The options that a caller gives; raises InvalidValueError or InvalidTypeError, naming the argument."""
        rows = checked_integer("capacity", capacity, 1, arguments.MOST_ROWS)
        names = None if keys is None else arguments.checked_keys(keys)
        if max_bytes is not None:
            max_bytes = checked_integer("max_bytes", max_bytes, 1, arguments.MAX_BYTES)
        sampler, alpha, eps = _checked_sampler(alpha, eps, sampler)
        unit, n_step, gamma = _checked_unit(n_step, gamma, unit)
        overcommit, dedup = checked_bool("overcommit", overcommit), checked_bool("dedup", dedup)
        options = cls(rows, names, overcommit, dedup, stack, max_bytes, alpha, eps, n_step, gamma, sampler, unit)
        if options.keys is not None:
            options.make_unit().check_keys(options.keys)
        return options

    def make_sampler(self) -> Sampler:
        """A sampler of these options."""
        prioritized = None if self.alpha is None else ("prioritized", {"alpha": self.alpha, "eps": self.eps})
        return made("sampler", self.sampler or prioritized or ("uniform", {}), SAMPLERS)

    def make_unit(self) -> SampleUnit:
        """A sample unit of these options."""
        steps = None if self.n_step == 1 else ("n_step", {"n_step": self.n_step, "gamma": self.gamma})
        return made("unit", self.unit or steps or ("transition", {}), UNITS)

    def plan(self, spec: Spec) -> list[frames.Sharing]:
        """Which columns of this schema share frames."""
        return frames.plan(spec, self.stack) if self.dedup else []

    def laid_out_as(self, stacks: Mapping[str, frames.Stack]) -> Self:
        """These options for a buffer that exists, whose columns share frames with these stacks."""
        return replace(self, dedup=bool(stacks), stack=stacks or None)

    def to_dict(self) -> dict[str, Any]:
        """Name -> value, as a constructor takes them; `sampler` and `unit` only if they are given."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if name not in ("sampler", "unit") or value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The options that `to_dict` gave, also after a way through JSON, which has lists in place of tuples."""
        found = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        stack = found.get("stack")
        if isinstance(stack, Mapping):
            found["stack"] = {key: tuple(part) for key, part in stack.items()}
        elif stack is not None:
            found["stack"] = tuple(stack)
        return cls(**found)


PRIORITIZED: dict[str, Any] = {"alpha": 0.6, "eps": EPS}


def _checked_sampler(alpha: Any, eps: Any, given: Any) -> tuple[Kind | None, float | None, float | None]:
    """`sampler`, `alpha` and `eps` of the options for those that a caller gives."""
    if given is None and alpha is None and eps is None:
        return None, None, None
    kind = None if given is None else kind_of("sampler", given, SAMPLERS)
    if kind is not None and alpha is not None:
        raise InvalidValueError(f"sampler: expected none with alpha={alpha!r}, which makes one, got {given!r}")
    if kind is not None and kind[0] == "prioritized":
        merged = _merged("sampler", given, kind, {"alpha": None, "eps": eps}, PRIORITIZED)
        return None, merged["alpha"], merged["eps"]
    if alpha is not None:
        return None, alpha, checked_number("eps", EPS if eps is None else eps, 0, math.inf)
    if eps is not None:
        raise InvalidValueError(f"eps: expected none without alpha, which alone would use it, got {eps!r}")
    if kind is None or kind == ("uniform", {}):
        return None, None, None
    return (kind[0], made("sampler", kind, SAMPLERS).options()), None, None


def _checked_unit(num_steps: Any, gamma: Any, given: Any) -> tuple[Kind | None, int, float | None]:
    """`unit`, `n_step` and `gamma` of the options for those that a caller gives."""
    kind = None if given is None else kind_of("unit", given, UNITS)
    if kind is not None and kind[0] == "n_step":
        own = {"n_step": None if num_steps == 1 else num_steps, "gamma": gamma}
        merged = _merged("unit", given, kind, own, {"n_step": num_steps, "gamma": gamma})
        return None, *n_step.checked(**merged)
    num, discount = n_step.checked(num_steps, gamma)
    if kind is not None and num > 1:
        raise InvalidValueError(f"unit: expected none with n_step={num}, which makes one, got {given!r}")
    if kind is None or kind == ("transition", {}):
        return None, num, discount
    return (kind[0], made("unit", kind, UNITS).options()), num, discount


def _merged(
    what: str, given: Any, kind: Kind, arguments: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a sampler or unit that has arguments of its own. Raises an error if an option is given twice."""
    name, options = kind
    if not set(options) <= set(defaults):
        raise InvalidTypeError(f"{what}: expected options of {name!r} ({', '.join(defaults)}), got {options}")
    separate = {key: value for key, value in arguments.items() if value is not None}
    for key in separate:
        if key in options:
            raise InvalidValueError(f"{key}: expected none with that of {what}={given!r}, got {separate[key]!r}")
    return {**defaults, **separate, **options}
