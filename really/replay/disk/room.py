"""The room that is left to return to the last checkpoint, and the warnings when it is used up."""

from __future__ import annotations

import logging
from pathlib import Path

from really.replay._ring import Ring
from really.replay.disk.cursor_page import NO_ROW
from really.replay.disk.schema import FolderSchema

log = logging.getLogger("really")

NO_END = NO_ROW
"""A row number that is never reached."""


class RoomWatch:
    """Warns once of a put that leaves little room: an eighth of the spare rows.

    Attributes:
        warn_at: puts of rows from this number on call `check`; until then they cost nothing.
    """

    def __init__(self, path: Path) -> None:
        self.warn_at = NO_END
        self._path, self._warned = path, False

    def start(self, ring: Ring, schema: FolderSchema) -> None:
        """Watches the room of the checkpoint that the ring keeps rows for now."""
        if ring.kept_from != NO_ROW and not self._warned:
            self.warn_at = ring.kept_from + schema.num_slots - max(1, schema.spare // 8)

    def check(self, ring: Ring, schema: FolderSchema, num_rows: int) -> None:
        """Warns if the put of these rows leaves little room."""
        if ring.num_put + num_rows <= self.warn_at:
            return
        left = max(0, ring.kept_from + schema.num_slots - ring.num_put - num_rows)
        self.warn_at, self._warned = NO_END, True
        log.warning(
            "%s: after %s more rows the buffer can no longer return to its last checkpoint; save checkpoints more "
            "often, or make the buffer with spare= at least the rows from one checkpoint to the next",
            self._path,
            f"{left:,}",
        )

    def frames_given_up(self) -> None:
        """Warns that the frames of a put took the room of frames that only a checkpoint needed."""
        log.warning(
            "%s: frames of new rows needed the room of rows that are no longer held, so the buffer can no longer "
            "return to its last checkpoint; save another one",
            self._path,
        )
