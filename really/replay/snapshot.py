"""Snapshot: a buffer's rows at one moment, with all that is needed to make the buffer again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from really.data.frames import Sharing
from really.data.schema import Spec
from really.errors import InvalidStateError
from really.replay.options import BufferOptions
from really.replay.readers import Reader


@dataclass(frozen=True)
class Description:
    """What a saved buffer or a pickle says of a buffer besides its rows.

    Attributes:
        options: the buffer's options.
        generator: `ReplayBuffer.state_dict`.
        spec: the schema; None if no row has been put yet.
        first_number: number of the oldest row.
        priorities: `Priorities.state_dict` of the rows; None if they are not drawn by priority.
        removed: places, from the oldest row on, of the rows that are removed (`removed_rows.to_text`).
        lost: which of them are rows of zeros, as they went with the shard that held them.
    """

    options: BufferOptions
    generator: dict[str, Any]
    spec: Spec | None = None
    first_number: int = 0
    priorities: dict[str, Any] | None = None
    removed: str = ""
    lost: str = ""


class RowReader(Protocol):
    """Reads rows of one moment."""

    @property
    def num_rows(self) -> int:
        """How many rows it has."""

    def close(self) -> None:
        """Ends reading."""


R = TypeVar("R", bound=RowReader)


@dataclass(frozen=True)
class SnapshotOf(Description, Generic[R]):
    """A description, and a reader of the rows of the same moment. Puts wait for it until the `with` block ends.

    Attributes:
        sharings: which columns share frames.
        row_nbytes: memory that a row takes in the buffer, frames included.
        opened: the reader; None if there is no schema.
    """

    sharings: Sequence[Sharing] = ()
    row_nbytes: int = 0
    opened: R | None = None

    @property
    def num_rows(self) -> int:
        """How many rows it has."""
        return 0 if self.opened is None else self.opened.num_rows

    @property
    def reader(self) -> R:
        """Reads the rows, oldest first; raises InvalidStateError if there is no schema."""
        if self.opened is None:
            raise InvalidStateError("snapshot: expected a buffer whose schema is known, got one without")
        return self.opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.opened is not None:
            self.opened.close()


class Snapshot(SnapshotOf[Reader]):
    """The rows of a buffer at one moment."""
