"""ReceivedObservations: what environments return, converted to the dtypes that their space declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from really._utils._step import convert, is_finite
from really._utils.checks import as_array
from really.data.spaces import NUMBERS, action_bounds, dtype_of, flatten, leaf_spaces, observation_leaves

# Up to this number of integers, lists are faster to compare than arrays.
SHORT = 64


class LostValueError(ValueError):
    """An observation has a value that the dtype of its space cannot hold. `env` is the environment's number."""

    def __init__(self, env: int, message: str) -> None:
        super().__init__(message)
        self.env = env


class ReceivedObservations:
    """The current observation of each environment, in the dtype that it has and in the dtype that is declared.

    An environment that returns the declared dtype writes straight into `shown`. For one that returns another dtype,
    such as float64 for a float32 space, `convert` converts the observations of all environments at once and finds
    values that the conversion would change: whole numbers have to stay equal, floats may only be rounded.

    Attributes:
        shown: for each leaf `[env, ...]`, the observations in the declared dtypes, once `convert` has run.
        converts: whether `convert` has something to do.
        path: (array, dtype, shape): the array `[env, ...]` takes a plain observation of this dtype and shape. Each is
            None if `write` has to check every observation.
    """

    def __init__(self, space: spaces.Space[Any], example: Any, num_envs: int) -> None:
        self._space = space
        self._leaves = observation_leaves(space)
        self._bounds = [
            None if isinstance(leaf, spaces.Box) else action_bounds(leaf) for leaf in leaf_spaces(space).values()
        ]
        self.shown = [np.zeros((num_envs, *leaf.shape), leaf.dtype) for leaf in self._leaves.values()]
        self._given = list(self.shown)
        self.path: tuple[NDArray[Any] | None, np.dtype[Any] | None, tuple[int, ...] | None]
        self._range: tuple[int, int] | None = None
        if isinstance(space, spaces.Discrete):
            self._range = int(space.start), int(space.start + space.n) - 1
        self._choose_path()
        for at, part in enumerate(flatten(space, example)):
            self._given[at] = self._given[at].astype(as_numbers("", part).dtype)
        self._choose_path()

    def write(self, env: int, observation: Any) -> None:
        """Takes an observation of any type for one environment.

        Raises:
            TypeError: it does not consist of real numbers.
            ValueError: it has another shape, masked values, or numbers that a discrete space does not have.
        """
        if self._range is not None and type(observation) is int and self._range[0] <= observation <= self._range[1]:
            self._given[0][env] = observation
            return
        parts = self._parts(observation)
        for at, ((name, leaf), bounds) in enumerate(zip(self._leaves.items(), self._bounds, strict=True)):
            got = as_numbers(name, parts[at])
            if got.shape != leaf.shape:
                raise ValueError(
                    f"observation{name}: expected shape {leaf.shape}, got {got.shape} of dtype {got.dtype}"
                )
            if bounds is not None:
                _check_choices(name, got, *bounds)
            self._widen(at, got.dtype)
            self._given[at][env] = got

    def convert(self) -> None:
        """Converts what was written. Raises LostValueError for a value that the declared dtype cannot hold."""
        for name, conversion in self._conversions:
            lost = conversion.first_lost()
            if lost is not None:
                given = conversion.given
                values = given.astype(np.float64) if given.dtype == np.longdouble else given
                raise _lost(name, self._leaves[name].dtype, values, lost)

    def _parts(self, observation: Any) -> list[Any]:
        try:
            return flatten(self._space, observation)
        except (KeyError, IndexError, TypeError) as error:
            got = f"keys {list(observation)}" if isinstance(observation, Mapping) else f"{type(observation)}"
            raise ValueError(f"observation: expected the parts of {self._space}, got {got}") from error

    def _widen(self, at: int, dtype: np.dtype[Any]) -> None:
        """Makes leaf `at` able to hold values of `dtype` as they are."""
        held = self._given[at]
        common = np.promote_types(held.dtype, dtype)
        if (
            common.kind == "f"
            and {held.dtype.kind, dtype.kind} != {"f"}
            and self.shown[at].dtype in (np.int64, np.uint64)
        ):
            common = np.promote_types(common, np.longdouble)  # float64 rounds such integers
        if common != held.dtype:
            self._given[at] = held.astype(common)
            self._choose_path()

    def _choose_path(self) -> None:
        for at, shown in enumerate(self.shown):
            if self._given[at].dtype == shown.dtype:
                self._given[at] = shown
        self._conversions = [
            (name, _Conversion(shown, given))
            for name, shown, given in zip(self._leaves, self.shown, self._given, strict=True)
            if shown is not given
        ]
        self.converts = bool(self._conversions)
        self.path = None, None, None
        if isinstance(self._space, spaces.Box):
            self.path = self._given[0], self._given[0].dtype, self._given[0].shape[1:]


def as_numbers(name: str, part: Any) -> NDArray[Any]:
    """A leaf of an observation as an array of real numbers or bool; `name` is that of the leaf, for messages.

    Raises TypeError for other values, and ValueError for masked ones and for lists that make no array.
    """
    if isinstance(part, np.ma.MaskedArray) and np.ma.getmaskarray(part).any():
        raise ValueError(f"observation{name}: expected numbers, got masked values in {part!r}")
    array = as_array(f"observation{name}", part)
    if array.dtype.kind == "O":
        array = np.asarray(array.tolist())
    if array.dtype.kind not in NUMBERS:
        raise TypeError(f"observation{name}: expected real numbers, got {part!r} of dtype {array.dtype}")
    return array


def converted(name: str, space: spaces.Space[Any], values: Any) -> NDArray[Any]:
    """Observations `[env, ...]` of the leaf `space`, whose name is `name`, in the dtype that it declares.

    An array of this dtype is returned as it is. Raises the errors of `ReceivedObservations`.
    """
    array, dtype = as_numbers(name, values), dtype_of(space)
    bounds = None if isinstance(space, spaces.Box) else action_bounds(space)
    if bounds is not None:
        _check_choices(name, array, *bounds)
    if array.dtype == dtype:
        return array
    target = np.empty(array.shape, dtype)
    lost = _Conversion(target, array).first_lost()
    if lost is not None:
        raise _lost(name, dtype, array, lost)
    return target


def _lost(name: str, dtype: np.dtype[Any], values: NDArray[Any], at: tuple[int, ...]) -> LostValueError:
    """The error for the value at `at` `(env, ...)`, which `dtype` cannot hold."""
    return LostValueError(
        at[0],
        f"observation{name}: expected values that the declared dtype {dtype} can hold, got {values[at]} of dtype "
        f"{values.dtype}; let the space declare the dtype that the environment returns, or convert both with "
        f"gymnasium.wrappers.DtypeObservation",
    )


def _check_choices(name: str, got: NDArray[Any], low: NDArray[np.int64], high: NDArray[np.int64]) -> None:
    valid: NDArray[np.bool_] = np.asarray((got >= low) & (got <= high))
    if got.dtype.kind == "f":
        valid &= got == np.floor(got)
    if not valid.all():
        expected = f"{low.min()} to {high.max()}" if low.min() == low.max() and high.min() == high.max() else None
        expected = expected or f"{low.tolist()} to {high.tolist()}"
        raise ValueError(
            f"observation{name}: expected whole numbers from {expected}, as declared, got {got[~valid].flat[0]} "
            f"of dtype {got.dtype}"
        )


class _Conversion:
    """The conversion of one leaf `[env, ...]`, which finds values that the declared dtype cannot hold."""

    def __init__(self, shown: NDArray[Any], given: NDArray[Any]) -> None:
        self.given = given
        self._shown = shown
        self._rounds = shown.dtype.kind == "f"
        self._is_short = shown.size <= SHORT

    def first_lost(self) -> tuple[int, ...] | None:
        """Converts. Returns the place `(env, ...)` of the first value that is lost, or None."""
        convert(self._shown, self.given)
        if not self._may_have_lost():
            return None
        if self._rounds:
            lost = np.isinf(self._shown) & np.isfinite(self.given)
        else:
            lost = self._shown != self.given
        return tuple(int(at[0]) for at in lost.nonzero()) if lost.any() else None

    def _may_have_lost(self) -> bool:
        """Tells in less than a microsecond for a few numbers that nothing is lost, as is usual."""
        if self._rounds:
            return not is_finite(self._shown)
        return not self._is_short or self._shown.tolist() != self.given.tolist()
