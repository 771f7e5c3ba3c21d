"""The compiled ring seen from Python: the one place that makes rings, lists them, and translates their errors."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from really._utils.forks import LockedGroup, Order
from really.data.frames import FrameColumn, Sharing, field_nbytes, frame_nbytes
from really.data.schema import Spec, row_nbytes
from really.errors import InvalidFileError, InvalidValueError, NotEnoughMemoryError, ReallyError, one_of
from really.replay._ring import (
    CPU_LEVELS,
    AlternatingAgentsError,
    FrameFileError,
    MissingFramesError,
    Ring,
    RingError,
    TooManyFramesError,
    mixed_sample_method,
    put_method,
    row_stride,
    sample_method,
    use_level,
)
from really.replay.arguments import MAX_BYTES, MAX_ROWS
from really.replay.columns import spec_of

CPU_LEVEL = os.environ.get("REALLY_CPU") or CPU_LEVELS[-1]
"""The instructions that the kernels use: those of `REALLY_CPU`, or the highest level that the processor has."""

if CPU_LEVEL not in CPU_LEVELS:
    raise InvalidValueError(one_of("REALLY_CPU, the instructions of this processor", CPU_LEVEL, CPU_LEVELS))
use_level(CPU_LEVELS.index(CPU_LEVEL))

Method = TypeVar("Method", bound=Callable[..., Any])

NO_LIMIT = int(np.iinfo(np.int64).max)

# A child has none of the readers that puts would have to wait for.
_rings: LockedGroup[Ring] = LockedGroup(Order.RINGS, in_child=Ring.pin_from)


def make_ring(
    capacity: int,
    spec: Spec,
    bit_generator: np.random.BitGenerator,
    shared: Sequence[Sharing],
    max_bytes: int = NO_LIMIT,
    files: Any = None,
) -> Ring:
    """A ring of this schema, in memory of its own or in the files of a folder.

    Raises MemoryError if the system has no address space for it.
    """
    # Interned, as the literals of a program are, so that `put` finds its keys by address.
    names = list(map(sys.intern, map(str, spec)))
    dtypes, shapes = [dtype for dtype, _ in spec.values()], [shape for _, shape in spec.values()]
    return Ring(capacity, names, dtypes, shapes, bit_generator, list(shared), max_bytes, files, FrameColumn)


def track(ring: Ring) -> None:
    """Makes forks wait until no thread is inside the ring, and counts the memory that it has yet to take."""
    _rings.add(ring)


def layout_of(ring: Ring) -> tuple[Spec, list[Sharing]]:
    """The ring's schema, and which of its columns share frames."""
    return spec_of(ring), [Sharing(*sharing) for sharing in ring.shared]


def nbytes(ring: Ring, num_rows: int) -> int:
    """Bytes that so many rows of the ring take, if their frames are shared as far as they can be."""
    return int(num_rows * (ring.stride + frame_nbytes(*layout_of(ring))))


def memory(ring: Ring | None) -> dict[str, float]:
    """`held`: bytes that the rows take now; `naive`: bytes of all rows stored whole; `ratio`: naive / held."""
    if ring is None:
        return {"held": 0, "naive": 0, "ratio": 1.0}
    held = ring.num_written * ring.stride + ring.frames_nbytes
    naive = ring.num_held * row_nbytes(spec_of(ring))
    return {"held": held, "naive": naive, "ratio": naive / held if held else 1.0}


def needed(what: str, num_rows: int, spec: Spec, shared: Sequence[Sharing]) -> int:
    """Bytes that a ring of this schema would need; raises NotEnoughMemoryError if they exceed the address space."""
    whole = row_nbytes(spec)
    stride = MAX_BYTES if whole > MAX_ROWS else row_stride(field_nbytes(spec, shared))
    total = int(num_rows * (stride + frame_nbytes(spec, shared)))
    if total >= MAX_BYTES:
        raise NotEnoughMemoryError(f"{what}: rows of {whole:,} bytes are more than an address can tell")
    return total


def promised() -> int:
    """Bytes of memory that all rings of this process have yet to take."""
    return sum(max(0, nbytes(ring, ring.capacity - ring.num_held)) for ring in _rings if ring.storage is None)


def translated(ring: Ring | None, error: RingError) -> ReallyError:
    """The error of `really.errors` that says what an error of the ring means."""
    assert ring is not None, "only a ring raises its errors"
    if isinstance(error, AlternatingAgentsError):
        end, agent = error.args
        return InvalidValueError(
            f"n_step: expected each agent's rows one after the other, with {end!r} 1 at the last one, got rows of "
            f"another {agent!r} where that is 0"
        )
    if isinstance(error, FrameFileError):
        refused: ReallyError = ring.storage.refuse_frames(*error.args)
        return refused
    if isinstance(error, MissingFramesError):
        return InvalidFileError(
            f"{ring.storage.path}: expected rows whose frames are stored, got the number of one that is not: records "
            f"or frames are damaged"
        )
    assert isinstance(error, TooManyFramesError)
    return _too_many_frames(ring, *error.args)


def puts_in_ring(slow: Method) -> Method:
    """Decorates `put` of a buffer: compiled code gives a dict to the ring; `slow` puts what the ring does not take."""
    return cast(Method, functools.wraps(slow)(put_method(slow, translated)))


def draws_in_ring(slow: Method) -> Method:
    """Decorates `sample` of a buffer: compiled code draws a plain batch of a ring; `slow` draws all others."""
    return cast(Method, functools.wraps(slow)(sample_method(slow, translated)))


def draws_in_rings(slow: Method) -> Method:
    """Decorates `sample` of a mixture: compiled code draws a batch of rings alone; `slow` draws all others."""
    return cast(Method, functools.wraps(slow)(mixed_sample_method(slow)))


def _too_many_frames(ring: Ring, key: int, num_alone: int, num_rows: int, num_in: int) -> NotEnoughMemoryError:
    block = next(ring.frame_tables[at][0] for at, sharing in enumerate(ring.shared) if key in sharing[0])
    return NotEnoughMemoryError(
        f"put: key {ring.names[key]!r}: expected rows whose frames fit in max_bytes={ring.max_bytes:,}, of which "
        f"{ring.frames_nbytes:,} are taken (in blocks of {block:,}), but {num_alone:,} of {num_rows:,} rows go on from "
        f"no earlier one; {f'{num_in:,} rows before them are' if num_in else 'none is'} in"
    )
