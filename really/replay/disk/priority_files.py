"""The file of a buffer's priorities in its folder. `flush`, `close` and a process's ordinary end write it.

It is an Arrow IPC file with one column, the values (priority + eps)^alpha of the newest rows. The schema's metadata has
the rest as JSON, and a CRC-32 of both. After a kill the priorities are those written last; rows put later get the
largest priority.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.atomic_files import described, leftovers_of, replacing, starts_with
from really._utils.checks import checked_integer, checked_number
from really._utils.file_formats import ARROW_MAGIC, array_to_json, arrow_path, json_object
from really._utils.input_files import reading
from really.errors import InvalidFileError, InvalidValueError
from really.replay.priorities import NO_END
from really.replay.samplers import VALUE, PrioritizedSampler

NAME = "priorities"
PARTIAL = leftovers_of(NAME)
"""What a kill leaves of one that was being written."""
ABOUT, CHECK = b"really.priorities", b"really.crc32"
WHAT = "the priorities of a buffer"


def keep(folder: Path, sampler: PrioritizedSampler) -> None:
    """Writes the priorities to the buffer's folder; raises FileError if that fails, and leaves the file before it."""
    write(folder / NAME, sampler.priorities.state_dict())


def write(path: Path, priorities: dict[str, Any]) -> None:
    """Writes what `Priorities.state_dict` gave; raises FileError if that fails, and leaves the file before it."""
    import pyarrow as pa

    state = dict(priorities)
    values = state.pop("values")
    text = json.dumps(state, default=array_to_json).encode()
    metadata = {ABOUT: text, CHECK: str(_crc32(text, values)).encode()}
    batch = pa.record_batch({VALUE: values}).replace_schema_metadata(metadata)
    # Not into the file: pyarrow, which asks a file of Python whether it is open, takes an interrupt for an answer.
    content = pa.BufferOutputStream()
    with pa.ipc.new_file(content, batch.schema) as writer:
        writer.write_batch(batch)
    with replacing(path, ARROW_MAGIC, WHAT) as file:
        file.write(content.getvalue())


def resume(
    sampler: PrioritizedSampler | None, state: dict[str, Any], folder: Path, num_put: int, with_generator: bool
) -> None:
    """Gives the rows before number `num_put` the priorities that `read` found in the folder.

    Raises:
        InvalidValueError: they are of another alpha or eps, or `sampler` is None.
        InvalidFileError: the file has a state that no generator has.
    """
    got = None if sampler is None else sampler.priorities
    for name in ("alpha", "eps"):
        if (given := getattr(got, name, None)) != state[name]:
            raise InvalidValueError(f"{name}: expected {state[name]}, as the buffer at {folder} has, got {given}")
    if sampler is not None and got is not None:
        num_lost = max(0, state["newest"] - num_put)  # rows lost with the power
        values = state["values"][: max(0, len(state["values"]) - num_lost)]
        generator = state["generator"] if with_generator else got.generator_state()
        kept = state | {"newest": state["newest"] - num_lost, "values": values, "generator": generator}
        with reading(folder / NAME, f"{WHAT} that are whole"):
            sampler.load_priorities(kept)


def read(folder: Path, expected: bool) -> dict[str, Any] | None:
    """What `keep` wrote, as `Priorities.load_state_dict` takes it; None if there is no file and none is expected."""
    path = folder / NAME
    if path.exists():
        return read_file(path)
    if expected:
        raise InvalidFileError(f"{path}: expected {WHAT} that was made with alpha, got no such file")
    return None


def read_file(path: Path) -> dict[str, Any]:
    """What `write` wrote; raises InvalidFileError if it is damaged."""
    import pyarrow as pa

    if not starts_with(path, ARROW_MAGIC):
        raise InvalidFileError(f"{path}: expected {WHAT}, got {described(path)}")
    with (
        reading(path, f"{WHAT} that are whole"),
        pa.memory_map(arrow_path(path)) as source,
        pa.ipc.open_file(source) as file,
    ):
        metadata, batch = file.schema.metadata or {}, file.get_batch(0)
        batch.validate(full=True)
        values, text, check = batch.column(VALUE).to_numpy(), metadata[ABOUT], metadata[CHECK]
        if check != str(_crc32(text, values)).encode():
            raise InvalidFileError(f"{path}: expected {WHAT} as they were written, got damaged ones")
        return _checked(json_object(text, arrays=True) | {"values": values})


def _checked(state: dict[str, Any]) -> dict[str, Any]:
    """The state; raises ValueError, TypeError or KeyError if priorities cannot have it."""
    for name in ("alpha", "eps", "highest"):
        checked_number(name, state[name], 0, math.inf)
    checked_integer("newest", state["newest"], len(state["values"]), NO_END)
    if state["values"].dtype != np.float64 or not isinstance(state["generator"], dict):
        raise InvalidValueError(f"values: expected float64 and a generator, got {state['values'].dtype}")
    return state


def _crc32(text: bytes, values: NDArray[np.float64]) -> int:
    return zlib.crc32(values.data, zlib.crc32(text))
