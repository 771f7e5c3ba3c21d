"""Moments of a buffer on disk: a checkpoint keeps one, and the buffer can return to it as long as its rows last.

Rows that are no longer held stay in the files until puts overwrite them, which takes `spare` rows more than it took to
evict them. So a buffer can return to a checkpoint after up to `spare` further rows, and after more if it was not full.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from really.errors import InvalidValueError, one_of
from really.replay._ring import Ring
from really.replay.disk import branches
from really.replay.disk.cursor_page import NO_ROW, generator_bytes
from really.replay.disk.folder import Folder
from really.replay.disk.rollback import Target
from really.replay.readers import Readers
from really.replay.removed_rows import from_text, removed_rows, to_text
from really.replay.samplers import PrioritizedSampler

log = logging.getLogger("really")

MISSING = ("error", "accept")
SAVED = ("identity", "first", "num_put", "frames", "generator", "removed", "branches")
"""What the description of a checkpoint has of a moment."""


@dataclass(frozen=True)
class Moment:
    """Which rows a buffer on disk held, and all that its next batches depend on.

    Attributes:
        identity: of the buffer's folder, written there when it was made.
        first: number of the oldest row held.
        num_put: number of the next row.
        frames: number of the next frame of each store of shared frames.
        generator: `ReplayBuffer.state_dict`.
        priorities: `Priorities.state_dict` of the rows; None if they are not drawn by priority.
        removed: places, from `first` on, of the rows that are removed (`removed_rows.to_text`).
        branches: those of the rows (`disk.branches`); empty in checkpoints of earlier versions.
    """

    identity: str
    first: int
    num_put: int
    frames: list[int]
    generator: dict[str, Any]
    priorities: dict[str, Any] | None = None
    removed: str = ""
    branches: list[list[int]] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """How many rows were held, removed ones included."""
        return self.num_put - self.first

    def to_json(self) -> dict[str, Any]:
        """All but the priorities, for the description of a checkpoint."""
        return {name: getattr(self, name) for name in SAVED}


@dataclass(frozen=True)
class RolledBack:
    """What a return to a checkpoint did to a buffer on disk.

    Attributes:
        rows_dropped: rows that were put after the checkpoint.
        rows_missing: rows of the checkpoint that are gone.
    """

    rows_dropped: int = 0
    rows_missing: int = 0


class Moments:
    """Takes moments of a buffer on disk and returns to them.

    Args:
        folder: of the buffer.
        ring: of the buffer; None if no row has been put yet.
        sampler: of the buffer, if it draws by priority.
        readers: of the buffer.
    """

    def __init__(self, folder: Folder, ring: Ring | None, sampler: PrioritizedSampler | None, readers: Readers) -> None:
        self._folder, self._ring, self._sampler, self._readers = folder, ring, sampler, readers

    @property
    def identity(self) -> str:
        """What distinguishes the buffer from all others, wherever its folder is now."""
        return self._folder.identity

    def is_of(self, identity: str) -> bool:
        """Whether this is the buffer that has this identity, wherever its folder is now."""
        return self.identity == identity

    def read(self, saved: Mapping[str, Any], priorities: dict[str, Any] | None) -> Moment:
        """The moment of which `Moment.to_json` gave `saved`."""
        return Moment(**saved, priorities=priorities)

    def take(self, generator: Mapping[str, Any], *, durable: bool = True) -> Moment:
        """This moment, whose rows are then safe from a loss of power; `generator` is the buffer's `state_dict`.

        `durable=False` leaves that to a later `flush`.

        Raises ReadOnlyError or ClosedError if the buffer is not open for writing.
        """
        folder, ring = self._folder, self._ring
        folder.check_writable("save_checkpoint")
        if ring is None:
            return Moment(folder.identity, 0, 0, [], dict(generator))
        if ring.kept_from == NO_ROW:
            ring.keep_from(ring.oldest_row)
        priorities = None
        # Puts that would drop a row of the moment wait.
        with self._readers.open(ring, keeps=True, with_removed=True) as reader:
            first, num_put, frames = reader.next_row, reader.end_row, ring.moment()[2]
            if self._sampler is not None:
                own = {"generator": generator["priorities"]}
                priorities = self._sampler.priorities_of(ring, first, num_put) | own
            removed = to_text(removed_rows(ring) - first)
        if durable:
            folder.flush()
        of_rows = branches.of_rows(folder.page, first, num_put)
        return Moment(folder.identity, first, num_put, frames, dict(generator), priorities, removed, of_rows)

    def keep(self, moment: Moment) -> None:
        """Keeps the rows of this moment as long as `spare` lasts, and no longer those of moments before it."""
        if self._ring is not None:
            self._ring.keep_from(moment.first)
            self._folder.watch_room(self._ring)

    def check(self, moment: Moment, missing: str = "error") -> RolledBack:
        """What `roll_back` would do.

        Raises:
            InvalidValueError: this is another buffer; or rows of the moment are missing, unless `missing` is "accept".
            ReadOnlyError, ClosedError: the buffer is not open for writing.
        """
        if missing not in MISSING:
            raise InvalidValueError(one_of("missing", missing, MISSING))
        folder, ring = self._folder, self._ring
        folder.check_writable("load_checkpoint")
        if not self.is_of(moment.identity):
            raise InvalidValueError(
                f"{folder.path}: expected the buffer of the checkpoint, whose identity is {moment.identity}, got "
                f"another one, {folder.identity}; buffer_path= names the folder if it was moved"
            )
        generator_bytes(moment.generator)
        if ring is None:
            return RolledBack(0, moment.num_rows)
        first, end = self.left(moment)
        done = RolledBack(max(0, ring.num_put - max(end, ring.oldest_row)), moment.num_rows - max(0, end - first))
        if done.rows_missing and missing == "error":
            raise InvalidValueError(
                f"{folder.path}: expected the {moment.num_rows:,} rows that the buffer held at the checkpoint, got "
                f"{moment.num_rows - done.rows_missing:,}: {done.rows_missing:,} of them are gone, because "
                f"{self._why_gone(ring, moment, end)}; missing='accept' goes on with the rows that are left"
            )
        return done

    def roll_back(self, moment: Moment, missing: str = "error", *, tells: bool = True) -> RolledBack:
        """Returns to a moment: rows that were put since are dropped, generator and priorities are those of the moment.

        A kill leaves the buffer as before or as at the moment. Waits for readers of other threads that keep rows.
        Processes that read the folder get OvertakenError from then on. A warning says what is dropped, if it `tells`.

        Raises:
            InvalidValueError: as `check` does; or this thread has a reader that keeps rows.
            FileError: the files cannot be written; the buffer is as before.
        """
        ring = self._ring
        done = self.check(moment, missing)
        if ring is not None:
            target = self._target(ring, moment)
            priorities = None if moment.priorities is None else _cut(moment.priorities, target)
            removed = from_text(moment.removed, moment.num_rows) + moment.first
            removed = removed[(removed >= target.first) & (removed < target.num_put)]
            with self._readers.none_keeping(ring):
                self._folder.roll_back(ring, target, priorities, removed if len(removed) or ring.num_removals else None)
            if tells:
                self._tell(done)
        return done

    def left(self, moment: Moment) -> tuple[int, int]:
        """Numbers from the first row of the moment that is left to before the last one."""
        ring = self._ring
        if ring is None:
            return moment.first, moment.first
        end = branches.common_end(moment.branches, branches.read(self._folder.page), moment.first, moment.num_put)
        return max(moment.first, ring.oldest_complete), min(end, ring.num_put)

    def _why_gone(self, ring: Ring, moment: Moment, end: int) -> str:
        """Why rows of a moment are gone of which those before `end` may be left."""
        if end == moment.num_put:
            return f"{ring.num_put - end:,} rows were put since, for which spare={self._folder.spare:,} has no room"
        return "the buffer has returned to an earlier checkpoint since, or its folder is a copy from before this one"

    def _target(self, ring: Ring, moment: Moment) -> Target:
        first, end = self.left(moment)
        if first >= end:
            # Numbers that readers take for overwritten are not used again; priorities depend on the number's slot.
            laps = -(-max(0, ring.oldest_complete - moment.num_put) // ring.capacity)
            first = end = moment.num_put + laps * ring.capacity
        frames = moment.frames or [0] * len(ring.shared)
        return Target(moment.identity, first, end, frames, generator_bytes(moment.generator).hex())

    def _tell(self, done: RolledBack) -> None:
        for number, what in (
            (done.rows_dropped, "that were put after the checkpoint are dropped"),
            (done.rows_missing, "of the checkpoint are gone"),
        ):
            if number:
                log.warning("%s: %s rows %s", self._folder.path, f"{number:,}", what)


def _cut(priorities: dict[str, Any], target: Target) -> dict[str, Any]:
    """The priorities of those rows that are left."""
    values = priorities["values"]
    start = priorities["newest"] - len(values)
    left = values[max(0, target.first - start) : max(0, target.num_put - start)]
    return priorities | {"newest": target.num_put, "values": left}
