"""The cursor page of a buffer on disk: which rows are held, and the generator's state, in one page mapped shared.

csrc/rows/cursor_page.pxd has the same layout for the ring, which writes all but the head.

    bytes 0 to 32      magic number, version, and the buffer's identity, the same as in schema.json
    bytes 64 to 96     int64: rows put, number of the first row held, rows that puts have ever begun to write, number of
                       the first row that a checkpoint needs
    bytes 96 to 104    int64: how often rows were dropped to return to a checkpoint
    bytes 104 to 112   int64: how often the file of removed rows was replaced
    bytes 112 to 120   int64: 2 for each update of rows that are held; odd while one is written
    bytes 120 to 128   0 if the seal of the file of checksums says what this page is; UNSEALED from when a process opens
                       the buffer for writing until it closes it
    bytes 128 to 136   int64: how many states of the generator were stored; the newest is at its parity
    192 and 256        two places for a state of the generator, 40 bytes each
    bytes 512 to 1552  which rows are of one history (branches.py)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.mapped_files import MappedFile
from really.errors import InvalidFileError, InvalidValueError, ReallyError
from really.replay._ring import Ring
from really.replay.disk.schema import GENERATOR, VERSION, FolderSchema

CURSOR = "cursor"
MAGIC = b"REALLYRB"
HEAD_PARTS = ("at its start", "as version", "as the buffer's identity")
PAGE = 4096
HEAD, NUMBERS, KEPT_FROM, NUM_STATES = slice(0, 32), slice(64, 96), slice(88, 96), slice(128, 136)
STATES = slice(192, 232), slice(256, 296)
MARK, SEALED, UNSEALED = slice(120, 128), bytes(8), b"unsealed"
NO_ROW = (1 << 63) - 1
"""Number of the first row that a checkpoint needs if there is no checkpoint."""


class CursorPage:
    """The page of a folder, mapped; `data` is [4096] uint8."""

    def __init__(self, folder: Path, *, writable: bool, new: bool) -> None:
        self.path = folder / CURSOR
        self.file = MappedFile(self.path, PAGE, writable=writable, new=new)
        if new:
            self.file.allocate(PAGE)
        self.data: NDArray[np.uint8] = self.file.data

    def write_head(self, schema: FolderSchema) -> None:
        """Says which buffer's page this is."""
        self.data[HEAD] = np.frombuffer(_head(schema), np.uint8)
        self.data[KEPT_FROM].view(np.int64)[0] = NO_ROW

    def check(self, schema: FolderSchema) -> None:
        """Raises InvalidFileError if the page is damaged, or another buffer's."""
        parts = zip(HEAD_PARTS, _parts(self.data[HEAD].tobytes()), _parts(_head(schema)), strict=True)
        for what, got, expected in parts:
            if got != expected:
                raise InvalidFileError(
                    f"{self.path}: expected {what} {expected.hex()}, got {got.hex()}: damaged or another's"
                )
        if (mark := self.data[MARK].tobytes()) not in (SEALED, UNSEALED):
            raise InvalidFileError(f"{self.path}: expected zeros or {UNSEALED!r} at byte 120, got {mark!r}: damaged")
        num_put, first, num_begun, kept_from = self.data[NUMBERS].view(np.int64).tolist()
        if not (0 <= first <= num_put < 1 << 60 and 0 <= num_begun <= num_put + schema.num_slots and kept_from >= 0):
            raise InvalidFileError(
                f"{self.path}: expected 0 <= first row <= rows put, got {first} and {num_put} ({num_begun} begun, kept "
                f"from {kept_from}): damaged"
            )

    @property
    def num_put(self) -> int:
        """Number of the next row."""
        return int(self.data[NUMBERS].view(np.int64)[0])

    @property
    def first(self) -> int:
        """Number of the first row after the last clear."""
        return int(self.data[NUMBERS].view(np.int64)[1])

    def set_sealed(self, sealed: bool) -> None:
        """Says whether the seal of the file of checksums is to be compared with the page."""
        self.data[MARK].view(np.int64)[0] = int.from_bytes(SEALED if sealed else UNSEALED, sys.byteorder)

    def content(self) -> tuple[bytes, bool]:
        """The page but for what `set_sealed` sets, and whether it is sealed, both at one moment."""
        page = self.data.tobytes()
        return page[: MARK.start] + SEALED + page[MARK.stop :], page[MARK] == SEALED

    def generator_state(self) -> dict[str, Any]:
        """The state that the generator had after the last draw, as NumPy's SFC64 takes it."""
        num_states = int(self.data[NUM_STATES].view(np.int64)[0])
        words = self.data[STATES[num_states % 2]]
        has_half, half = words[32:40].view(np.uint32).tolist()
        state = {"state": words[:32].view(np.uint64).copy()}
        return {"bit_generator": GENERATOR, "state": state, "has_uint32": has_half, "uinteger": half}


def check_generator(ring: Ring, bit_generator: np.random.BitGenerator) -> None:
    """Raises ReallyError if NumPy keeps the state of an SFC64 otherwise than the page does."""
    if ring.generator_bytes() != _packed(bit_generator.state):
        raise ReallyError(f"{GENERATOR}: expected its state in memory as NumPy 2 has it, got another layout")


def generator_bytes(state: Mapping[str, Any]) -> bytes:
    """A state of an SFC64 as the page has it, 40 bytes.

    Raises InvalidValueError if it is none.
    """
    try:
        generator: Any = np.random.SFC64()
        generator.state = dict(state)
        return _packed(state)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise InvalidValueError(f"generator: expected the state of an {GENERATOR}, got {state!r}") from error


def _packed(state: Mapping[str, Any]) -> bytes:
    words = np.asarray(state["state"]["state"]).astype(np.uint64)
    return words.tobytes() + np.array([state["has_uint32"], state["uinteger"]], np.uint32).tobytes()


def _head(schema: FolderSchema) -> bytes:
    return MAGIC + VERSION.to_bytes(8, sys.byteorder) + bytes.fromhex(schema.identity)


def _parts(head: bytes) -> tuple[bytes, bytes, bytes]:
    return head[:8], head[8:16], head[16:]
