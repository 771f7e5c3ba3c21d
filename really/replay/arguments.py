"""Checks of a buffer's arguments: batch sizes, keys, schema, output arrays, indices, seeds."""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, SupportsIndex, cast

import numpy as np
from numpy.random.bit_generator import ISpawnableSeedSequence
from numpy.typing import NDArray

from really._utils.checks import checked_integer
from really._utils.memory_limits import refuse_if_too_big
from really.data.schema import ColumnSpec, Spec, check_axes, normal_dtype, row_nbytes
from really.errors import EmptyBufferError, InvalidTypeError, InvalidValueError

MAX_ROWS = 1 << 40
MOST_ROWS = MAX_ROWS - 1
"""Of a buffer or a batch."""
MAX_BYTES = 1 << 62
"""Bytes of a buffer at most, in memory or in a file."""
INDEX_NBYTES = 8
QUICK_NBYTES = 1 << 20
"""A batch of fewer bytes is made without a check of the memory that is left."""
UNCHECKED_NBYTES = 1 << 27
"""Of the rows of a batch that is made without a look at the memory that is left, as in the ring."""
Size = SupportsIndex | tuple[SupportsIndex, SupportsIndex]
"""Rows of a batch, or (batches, rows of each batch)."""
Seed = SupportsIndex | np.random.SeedSequence | np.random.BitGenerator | np.random.Generator | None
SEEDS = "an integer >= 0, a SeedSequence or a generator"


def checked_size(n: Any) -> tuple[int, int]:
    """(rows, batches) of `n` rows or of (batches, rows); 0 batches if there is no such axis."""
    if not isinstance(n, tuple):
        return checked_integer("n", n, 1, MOST_ROWS), 0
    if len(n) != 2:
        raise InvalidValueError(f"n: expected a number of rows or (batches, rows), got {n!r}")
    return checked_integer("n[1]", n[1], 1, MOST_ROWS), checked_integer("n[0]", n[0], 1, MOST_ROWS)


def sizes_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, batches) of a checked shape [n] or [k, n]; 0 batches if there is no such axis."""
    return shape[-1], shape[0] if len(shape) == 2 else 0


def checked_indices(indices: Any) -> NDArray[np.int64]:
    """The indices [n] or [k, n] as int64; raises InvalidTypeError or InvalidValueError."""
    if isinstance(indices, slice):
        raise InvalidTypeError(
            f"take: expected indices [n] or [k, n] of integers, got {indices}; numpy.arange makes indices of a range"
        )
    try:
        ages = np.asarray(indices)
    except ValueError as error:
        raise InvalidValueError(
            f"take: expected indices [n] or [k, n] of integers, got ragged ones: {error}"
        ) from error
    if (ages.size and ages.dtype.kind not in "iu") or ages.ndim not in (1, 2):
        hint = "; numpy.flatnonzero makes indices of a mask" if ages.dtype == np.bool_ else ""
        raise InvalidTypeError(
            f"take: expected indices [n] or [k, n] of integers, got {ages.dtype} of shape {list(ages.shape)}{hint}"
        )
    if ages.ndim == 2 and ages.size == 0:
        raise InvalidValueError(f"take: expected indices [n] or [k, n], got none of shape {list(ages.shape)}")
    refuse_big_batch("take: indices", ages.size)
    if ages.dtype == np.uint64:
        ages = np.minimum(ages, np.uint64(MAX_BYTES))  # no row has such an index, and int64 has it
    return np.ascontiguousarray(ages, dtype=np.int64)


def outsiders(ages: NDArray[np.int64], num_held: int) -> str:
    """The indices that have no row, for an error message."""
    wrong = ages[(ages < 0) | (ages >= num_held)]
    if not wrong.size:
        return "some that another thread dropped meanwhile"
    hint = f"; indices are ages from the oldest row on, and {num_held - 1} is the newest" if (wrong < 0).any() else ""
    return f"{wrong[0]}, one of {wrong.size}{hint}"


def refuse_library(as_: Any) -> NoReturn:
    """Raises InvalidTypeError: `sample` gives arrays, and names what gives tensors."""
    raise InvalidTypeError(
        f"sample: expected no as_, as it gives arrays of NumPy, got {as_!r}; batches(n, as_={as_!r}) gives tensors"
    )


def refuse_few(what: str, num: int, num_held: int, replace: bool) -> NoReturn:
    """Raises the error for an empty draw: more rows asked for than are held, or another thread dropped them."""
    if replace or num <= num_held:
        raise EmptyBufferError(
            f"{what}: expected rows that stay while they are drawn, but another thread dropped them; try again"
        )
    raise InvalidValueError(f"n: expected at most {num_held} rows with replace=False, got {num}")


def checked_keys(keys: Iterable[str]) -> tuple[str, ...]:
    """The keys as a tuple: one name or more, each once."""
    if isinstance(keys, str | bytes):
        raise InvalidTypeError(f"keys: expected several names, got the one name {keys!r}; write [{keys!r}]")
    try:
        names = tuple(keys)
    except TypeError as error:
        raise InvalidTypeError(f"keys: expected several names, got {keys!r}") from error
    for name in names:
        if not isinstance(name, str):
            raise InvalidTypeError(f"keys: expected names of type str, got {name!r}")
    if not names or len(set(names)) != len(names):
        raise InvalidValueError(f"keys: expected one name or more, each once, got {list(names)}")
    return names


def checked_spec(spec: Mapping[str, Any], keys: tuple[str, ...] | None) -> Spec:
    """Key -> (dtype, shape) from key -> (dtype, shape), dtype, dtype with a shape of its own, or space of gymnasium.

    A Dict or Tuple space gives a column for each part, `key.part`.
    """
    if not isinstance(spec, Mapping):
        raise InvalidTypeError(f"spec: expected a mapping from key to (dtype, shape), got {spec!r}")
    spec = _without_spaces(spec)
    names = checked_keys(spec)
    if keys is not None and set(names) != set(keys):
        raise InvalidValueError(f"spec: expected the keys {list(keys)}, got {list(names)}")
    return {key: _checked_column(key, spec[key]) for key in keys or names}


def _without_spaces(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same with (dtype, shape) in place of spaces; gymnasium is not imported for that."""
    gymnasium = sys.modules.get("gymnasium.spaces")
    if gymnasium is None:
        return spec
    found: dict[str, Any] = {}
    for key, column in spec.items():
        if isinstance(column, gymnasium.Space):
            from really.data.spaces import observation_leaves

            found |= {f"{key}{name}": tuple(leaf) for name, leaf in observation_leaves(column).items()}
        else:
            found[key] = column
    return found


def _checked_column(key: str, column: Any) -> ColumnSpec:
    dtype, shape = column if isinstance(column, tuple) and len(column) == 2 else (column, ())
    if type(shape) is not tuple and isinstance(shape, int | np.integer):
        shape = (shape,)
    try:
        axes = tuple(map(operator.index, shape))
    except TypeError as error:
        raise InvalidTypeError(f"spec: key {key!r}: expected (dtype, shape), got {column!r}") from error
    if dtype is None:
        raise InvalidTypeError(f"spec: key {key!r}: expected (dtype, shape), got {column!r}")
    found = normal_dtype(key, dtype)
    axes += found.shape
    if axes and not 0 <= min(axes) <= max(axes) < MAX_BYTES:
        raise InvalidValueError(f"spec: key {key!r}: expected axes from 0 to {MAX_BYTES - 1}, got {list(axes)}")
    check_axes("spec", key, axes)
    return ColumnSpec(found.base, axes)


def unchecked_rows(spec: Spec) -> int:
    """How many rows of this schema are at most `UNCHECKED_NBYTES`."""
    return UNCHECKED_NBYTES // max(1, row_nbytes(spec))


def refuse_big_batch(what: str, num_rows: int, spec: Spec | None = None) -> None:
    """Raises NotEnoughMemoryError if memory has no room for a batch of rows, or for indices alone without `spec`."""
    needed = num_rows * (INDEX_NBYTES + (0 if spec is None else row_nbytes(spec)))
    if needed > QUICK_NBYTES:
        refuse_if_too_big(f"{what} of {num_rows:,} rows", needed)


def checked_out(out: dict[str, NDArray[Any]], spec: Spec, lead: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """The caller's arrays, if each can be written to as rows [*lead, ...] of its key."""
    if type(out) is not dict:
        raise InvalidTypeError(f"out: expected a dict of arrays, got {type(out).__name__}")
    for name, (dtype, shape) in spec.items():
        array = out.get(name)
        expected = f"out[{name!r}]: expected a writable C-contiguous {dtype} array of shape {[*lead, *shape]}"
        if not isinstance(array, np.ndarray):
            raise InvalidTypeError(f"{expected}, got {type(array).__name__}")
        if array.dtype != dtype or array.shape != (*lead, *shape):
            raise InvalidValueError(f"{expected}, got {array.dtype} of shape {list(array.shape)}")
        if not array.flags.c_contiguous or not array.flags.writeable:
            raise InvalidValueError(f"{expected}, got one that is read-only or not contiguous")
    return out


class SystemSeed(ISpawnableSeedSequence):
    """What a generator without a seed starts from: random words of the system, which need no mixing as a seed does."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """Random words, other ones at each call."""
        return np.frombuffer(os.urandom(n_words * np.dtype(dtype).itemsize), dtype)

    def spawn(self, n_children: int) -> list[Any]:
        """Random seeds, other ones at each call."""
        return np.random.SeedSequence().spawn(n_children)


_SYSTEM_SEED: Any = SystemSeed()


def bit_generator(seed: Seed) -> np.random.BitGenerator:
    """A new generator for the buffer; a generator given as seed is not used, a child of its seed is."""
    if seed is None:
        return np.random.SFC64(_SYSTEM_SEED)
    if isinstance(seed, np.random.Generator):
        seed = seed.bit_generator
    if isinstance(seed, np.random.BitGenerator):
        sequence = getattr(seed, "seed_seq", None)
        if sequence is None:
            raise InvalidValueError(f"seed: expected {SEEDS}, got a generator made without a SeedSequence, {seed!r}")
        seed = cast(np.random.SeedSequence, sequence).spawn(1)[0]
    if isinstance(seed, bool):
        raise InvalidTypeError(f"seed: expected {SEEDS}, got {seed!r}")
    try:
        return np.random.SFC64(cast("int | np.random.SeedSequence", seed))
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"seed: expected {SEEDS}, got {seed!r}") from error
