"""BufferOptions: all that is needed to make a buffer again, apart from its rows, its seed and its place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self, SupportsIndex

from really._utils.checks import checked_integer, checked_number
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
        max_bytes: SupportsIndex | None = None,
        sampler: Any = None,
        unit: Any = None,
        **others: Any,
    ) -> Self:
        """The options that a caller gives; raises InvalidValueError or InvalidTypeError, naming the argument."""
        options = cls(
            checked_integer("capacity", capacity, 1, arguments.MOST_ROWS),
            None if keys is None else arguments.checked_keys(keys),
            bool(overcommit),
            bool(dedup),
            max_bytes=None if max_bytes is None else checked_integer("max_bytes", max_bytes, 1, arguments.MAX_BYTES),
            **others,
        )
        return options._with_sampler(sampler)._with_unit(unit)

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

    def _with_sampler(self, given: Any) -> Self:
        kind = None if given is None else kind_of("sampler", given, SAMPLERS)
        if kind is not None and self.alpha is not None:
            raise InvalidValueError(f"sampler: expected none with alpha={self.alpha!r}, which makes one, got {given!r}")
        if kind is not None and kind[0] == "prioritized":
            return replace(self, **_merged("sampler", given, kind, {"alpha": None, "eps": self.eps}, PRIORITIZED))
        if self.alpha is None and self.eps is not None:
            raise InvalidValueError(f"eps: expected none without alpha, which alone would use it, got {self.eps!r}")
        if self.alpha is not None:
            return replace(self, eps=checked_number("eps", EPS if self.eps is None else self.eps, 0, math.inf))
        if kind is None or kind == ("uniform", {}):
            return replace(self, sampler=None)
        return replace(self, sampler=(kind[0], made("sampler", kind, SAMPLERS).options()))

    def _with_unit(self, given: Any) -> Self:
        kind = None if given is None else kind_of("unit", given, UNITS)
        steps: dict[str, Any] = {"n_step": self.n_step, "gamma": self.gamma}
        if kind is not None and kind[0] == "n_step":
            own = {"n_step": None if self.n_step == 1 else self.n_step, "gamma": self.gamma}
            steps, kind = _merged("unit", given, kind, own, steps), None
        num, gamma = n_step.checked(**steps)
        if kind is not None and num > 1:
            raise InvalidValueError(f"unit: expected none with n_step={num}, which makes one, got {given!r}")
        if kind is not None:
            kind = None if kind == ("transition", {}) else (kind[0], made("unit", kind, UNITS).options())
        options = replace(self, n_step=num, gamma=gamma, unit=kind)
        if self.keys is not None:
            options.make_unit().check_keys(self.keys)
        return options


PRIORITIZED: dict[str, Any] = {"alpha": 0.6, "eps": EPS}


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
