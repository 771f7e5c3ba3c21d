"""What streams and files ask of a buffer: that it reads its rows in order, and describes itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from really.data.frames import Sharing
from really.data.schema import Spec
from really.replay.options import BufferOptions


class RowReader(Protocol):
    """Reads the rows of a buffer, oldest first, in a `with`."""

    @property
    def num_rows(self) -> int:
        """Rows to read in all."""

    @property
    def num_left(self) -> int:
        """Rows not read yet."""

    def row_nbytes(self, keys: Iterable[str] | None = None) -> int:
        """Bytes of a row of these keys, by default of all. At least 1."""

    def read(self, num: int, keys: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """The next `num` rows (fewer at the end), key -> [n, ...]."""

    def __enter__(self) -> Self:
        """Begins a `with`."""

    def __exit__(self, *error: object) -> None:
        """Ends reading."""


class SavedReader(RowReader, Protocol):
    """A reader of the rows of one moment, for files that keep each frame once."""

    @property
    def num_read(self) -> int:
        """Rows read so far."""

    def read_shared(self, num: int) -> dict[str, Any]:
        """The next `num` rows, or fewer, with a `FrameColumn` for each key that shares frames."""


class SavedMoment(Protocol):
    """The rows of one moment and how to make the buffer again (`Snapshot`). Puts wait until the `with` ends."""

    @property
    def options(self) -> BufferOptions:
        """The buffer's options."""

    @property
    def generator(self) -> dict[str, Any]:
        """`ReplayBuffer.state_dict`."""

    @property
    def spec(self) -> Spec | None:
        """The schema."""

    @property
    def first_number(self) -> int:
        """Number of the oldest row."""

    @property
    def priorities(self) -> dict[str, Any] | None:
        """Priorities of the rows."""

    @property
    def removed(self) -> str:
        """Which rows are removed."""

    @property
    def sharings(self) -> Sequence[Sharing]:
        """Which columns share frames."""

    @property
    def row_nbytes(self) -> int:
        """Memory that a row takes in the buffer, frames included."""

    @property
    def num_rows(self) -> int:
        """How many rows there are, removed ones included."""

    @property
    def reader(self) -> SavedReader:
        """Reads the rows, removed ones included."""

    def __enter__(self) -> Self:
        """Begins a `with`."""

    def __exit__(self, *error: object) -> None:
        """Ends reading."""


class Saved(Protocol):
    """What `save` writes to a file."""

    def check_open(self, what: str) -> None:
        """Raises ClosedError if the buffer is closed."""

    def snapshot(self, what: str = "snapshot") -> SavedMoment:
        """The rows of this moment."""


class Streamed(Protocol):
    """What streams of Arrow are read from."""

    @property
    def spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row)."""

    def check_open(self, what: str) -> None:
        """Raises ClosedError if the buffer is closed."""

    def open_reader(self, *, keeps: bool = False) -> RowReader:
        """Reads the rows that are held now; with `keeps`, puts wait for it."""


class Counted(Streamed, Protocol):
    """A stream whose number of rows is known."""

    def __len__(self) -> int:
        """How many rows can be read."""
