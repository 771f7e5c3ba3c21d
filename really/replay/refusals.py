"""What a buffer says when its ring has no room for the frames of the rows that were put."""

from __future__ import annotations

from really.errors import DiskFullError, NotEnoughMemoryError
from really.replay._ring import FrameDiskError, FramesTooManyError, Ring


def no_room(ring: Ring, error: FramesTooManyError | FrameDiskError) -> NotEnoughMemoryError | DiskFullError:
    """The error that names the column, how many of its rows share nothing, and how many rows are in."""
    if isinstance(error, FrameDiskError):
        refused: DiskFullError = ring.storage.refuse_frames(*error.args)
        return refused
    key, num_alone, num_rows, num_in = error.args
    block = next(ring.frame_tables[at][0] for at, sharing in enumerate(ring.shared) if key in sharing[0])
    return NotEnoughMemoryError(
        f"put: key {ring.names[key]!r}: expected rows whose frames fit in max_bytes={ring.max_bytes:,}, of which "
        f"{ring.frames_nbytes:,} are taken (in blocks of {block:,}), but {num_alone:,} of {num_rows:,} rows go on from "
        f"no earlier one; {f'{num_in:,} rows before them are' if num_in else 'none is'} in"
    )
