"""Distribution: which shard takes the rows of a put, where they are, and what becomes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from really._ray.remote_rows import RemoteRows
from really.errors import InvalidFileError, RunnerError
from really.replay.n_step import END
from really.replay.options import BufferOptions
from really.service.allotment import Allotment
from really.service.history import History
from really.service.ledger import NOWHERE, Ledger
from really.service.numbering import Numbering
from really.service.resuming import identity_of, ledger_of
from really.service.shard import Owner, num_rows_of, piece_of
from really.service.shards import Event, Found, Shards, ask_one

log = logging.getLogger("really")


class OwnerAnswer(NamedTuple):
    """What a shard gives for its rows: the positions of these among all, and its value; None if it does not answer."""

    shard: int
    positions: NDArray[np.int64]
    value: Any


def silent_in(parts: Sequence[OwnerAnswer]) -> list[int]:
    """The shards that do not answer."""
    return [part.shard for part in parts if part.value is None]


class Distribution:
    """The rows of a buffer over its shards. The caller holds the buffer's lock.

    Attributes:
        shards: where the rows are.
        ledger: which of them has which row.
        numbering: the numbers of the rows.
        moved: rows that a full shard left to another, although they were made on its node.
        num_changes: how often rows that are held have changed, other than by puts.

    Args:
        shards: the shards.
        options: of the whole buffer.
        numbering: the numbers of the rows.
    """

    def __init__(self, shards: Shards, options: BufferOptions, numbering: Numbering) -> None:
        num = len(shards.names)
        self.shards, self.ledger = shards, Ledger(num)
        self._options, self.numbering = options, numbering
        self._allotment = Allotment(options.capacity, num)
        self._next = np.zeros(num, np.int64)
        self._owner = Owner("", options.capacity)
        self._continues, self.moved, self.num_changes = False, 0, 0
        self._broken_off = set[int]()  # shards whose last episode went on in another: they were away, or full

    def resume(self, found: Sequence[Found]) -> None:
        """Takes the rows that the shards have, and warns if some of the newest are not there.

        Raises InvalidFileError if they are of different buffers, or have too little room.
        """
        if self.shards.writable:
            self._check_room(min(one.room for one in found))
        self._next[:] = [one.next_place for one in found]
        self.num_changes += 1
        self._owner = owner = Owner(identity_of(found, self.shards.names), self._options.capacity)
        ledger = ledger_of(found, self.shards.names)
        self.shards.each("belong_to", [None if one.owner == owner else (owner,) for one in found])
        if ledger is not None:
            self.ledger = ledger
            last_shard = ledger.last_shard
            self.numbering.begin(*ledger.bounds)
            oldest, newest = self.numbering.held()
            ledger.drop_before(oldest)
            if ledger.num_rows < newest - oldest:
                missing = newest - oldest - ledger.num_rows
                log.warning("path: %d of the newest %d rows are in no shard that is here.", missing, newest - oldest)
            removed = np.sort(np.concatenate([one.removed[:, 0] for one in found]))
            ledger.remove(removed)
            if len(removed):
                self.numbering.ring.set_removed(removed)
            self._allotment.resume_in(last_shard)
            self._continues = self._options.n_step > 1  # whether the last episode has ended is not known

    def _check_room(self, least: int) -> None:
        """Raises InvalidFileError if shards, each with room for at least so many rows, cannot take all puts."""
        capacity, room = self._options.capacity, int(self.shards.rooms.sum())
        if self._options.n_step > 1 and least < capacity:
            raise InvalidFileError(
                f"path: expected folders of shards with room for {capacity:,} rows each, as a put goes whole to one "
                f"shard with n_step, got {least:,}: they were made for a smaller buffer"
            )
        if room < capacity:
            raise InvalidFileError(
                f"path: expected folders of shards with room for {capacity:,} rows, got {room:,}: they were made for a "
                f"smaller buffer, or for more shards"
            )

    @property
    def next_places(self) -> list[int]:
        """The place after the last row of each shard."""
        return [int(place) for place in self._next]

    @property
    def unended(self) -> int | None:
        """The shard of an episode that goes on in the next put and has to stay in one shard; None without."""
        return self._allotment.shard if self._continues else None

    def return_to(self, ledger: Ledger, places: Sequence[int], unended: int | None) -> None:
        """Makes these rows and places those of the buffer, whose numbers are those of the ledger already.

        Shards that joined meanwhile have no rows.
        """
        while len(ledger.counts) < len(self._next):
            ledger.grow()
        self.ledger = ledger
        self.num_changes += 1
        self._broken_off.clear()
        self.numbering.mark_missing(ledger)
        self._next[: len(places)] = places
        self._continues = unended is not None
        if unended is not None:
            self._allotment.resume_in(unended)

    def settle(self, history: History) -> None:
        """Takes note of what happened to the shards since the last call."""
        for event in self.shards.settle():
            if event.kind == "joined":
                self._join(event)
                history.note(event, 0)
                continue
            gone = np.empty((0, 2), np.int64)
            if is_gone := event.kind in ("lost", "refused"):
                gone = self.ledger.lose(event.shard, event.start, event.end)
            if event.kind != "refused":
                self.ledger.set_away(event.shard, event.kind != "back")
            self.num_changes += 1
            held_there = int(self.ledger.counts[event.shard])
            history.note(event, int((gone[:, 1] - gone[:, 0]).sum()) if is_gone else held_there)
            if event.kind == "refused":
                self._end_steps(event.shard, event.start - 1)
            elif event.kind == "back":
                self._end_broken_off(event.shard)
            elif event.kind == "lost":
                self._broken_off.discard(event.shard)

    def _end_broken_off(self, shard: int) -> None:
        """Removes the last row of a shard if its episode went on in another."""
        if shard in self._broken_off:
            self._broken_off.discard(shard)
            self._end_steps(shard, int(self._next[shard]) - 1)

    def _end_steps(self, shard: int, place: int) -> None:
        """Removes the row at this place of a shard, unless an episode ends there.

        The shard's next row does not continue that episode, and n-step returns would go on into it.
        """
        number = self.ledger.number_at(shard, place)
        if self._options.n_step == 1 or number == NOWHERE:
            return
        found = ask_one(self.shards, shard, "columns_at", np.array([place]), [END])
        if found is not None and not found[END][0]:
            self.remove(np.array([number]))

    def _join(self, event: Event) -> None:
        """Takes a new shard, which gives up rows of its folder: the ledger counted them as lost."""
        self.ledger.grow()
        self._next = np.append(self._next, event.start)
        ask_one(self.shards, event.shard, "forget", event.start, self.numbering.held()[1])
        ask_one(self.shards, event.shard, "belong_to", self._owner)

    def put(self, rows: Mapping[str, Any] | RemoteRows) -> None:
        """Puts columns [n, ...] that fit the schema, or rows of runners, into the shard of their node.

        Raises what a shard raises; the rows are not in then, but numbers of those that other shards took are used up.
        """
        total, capacity = num_rows_of(rows), self._options.capacity
        num = min(total, capacity, self._most_rows())
        skipped = total - num  # rows that are numbered, and dropped at once
        oldest, newest = self.numbering.held()
        oldest, rooms = self._with_room(max(oldest, newest + total - capacity), num)
        maker = self._maker(rows)
        home, unended = self._home(maker, num, rooms), self.unended
        if num and home is not None:
            self._end_broken_off(home)
        pieces = self._allotment.pieces(num, rooms, home)
        places = []
        for piece in pieces:
            places.append(int(self._next[piece.shard]))
            first = skipped + piece.start
            try:
                self.shards.put(piece.shard, places[-1], newest + first, piece_of(rows, first, skipped + piece.stop))
            except BaseException:
                self.use_up(first if piece.start else 0)
                raise
            self._next[piece.shard] += piece.stop - piece.start
        for piece, place in zip(pieces, places, strict=True):
            self.ledger.add(newest + skipped + piece.start, piece.shard, place, piece.stop - piece.start)
            self.moved += 0 if maker in (None, piece.shard) else piece.stop - piece.start
        self.numbering.advance(total)
        self.ledger.drop_before(oldest)
        if num and unended is not None and unended != home:
            self._broken_off.add(unended)
        if num and self._options.n_step > 1:
            # Rows of runners are whole results, of which the last one is an end.
            self._continues = not isinstance(rows, RemoteRows) and not rows[END][-1]

    def remove(self, numbers: NDArray[np.int64]) -> tuple[int, list[int]]:
        """Removes those of these rows that can be had; returns how many, and the shards that do not answer.

        No rows are put meanwhile.
        """
        left = np.unique(numbers[self.ledger.can_be_had(numbers)])
        owners, places = self.ledger.locate(left)
        parts = self.ask_owners("remove_at", owners, lambda chosen: (places[chosen],))
        silent = silent_in(parts)
        done = left[~np.isin(owners, silent)]
        self.ledger.remove(done)
        self.numbering.ring.remove(done)
        return len(done), silent

    def ask_owners(
        self, method: str, owners: NDArray[np.int64], arguments: Callable[[NDArray[np.int64]], tuple[Any, ...]]
    ) -> list[OwnerAnswer]:
        """Calls a method of each shard that owns rows, with the arguments for their positions."""
        positions = [np.flatnonzero(owners == shard) for shard in range(len(self.shards.names))]
        answers = self.shards.each(method, [arguments(chosen) if len(chosen) else None for chosen in positions])
        return [
            OwnerAnswer(shard, chosen, answer)
            for shard, (chosen, answer) in enumerate(zip(positions, answers, strict=True))
            if len(chosen)
        ]

    def clear(self) -> None:
        """Drops all rows."""
        self.numbering.clear()
        self.ledger.clear()
        self._broken_off.clear()
        self.shards.each("clear")

    def use_up(self, num: int) -> None:
        """Skips numbers of rows that no put has: no two rows may have one number."""
        if num:
            self.numbering.advance(num)
            self.ledger.drop_before(self.numbering.held()[0])

    def _maker(self, rows: Mapping[str, Any] | RemoteRows) -> int | None:
        """The shard of the rows' node, which takes them if it can; None if they are not to stay where they are."""
        if not self._continues and isinstance(rows, RemoteRows) and rows.node in self.shards.nodes:
            return self.shards.nodes.index(rows.node)
        return None

    def _home(self, maker: int | None, num: int, rooms: NDArray[np.int64]) -> int | None:
        """The shard that takes the rows; None if any may.

        It is that of their node. If batches have several steps, it is one that can take all of them, and that of an
        episode that has not ended before others.
        """
        if self._options.n_step == 1:
            return maker
        wanted = self._allotment.shard if self._continues else maker
        if wanted is not None and rooms[wanted] >= min(num, rooms.max()):
            return wanted
        return self._allotment.next_shard(num, self.ledger.counts, rooms)

    def _rooms(self, oldest: int) -> NDArray[np.int64]:
        """For how many rows each shard has room once the rows before number `oldest` are dropped, [shard]."""
        places = self.ledger.oldest_places(oldest)
        used = np.where(places == NOWHERE, 0, self._next - places)
        return np.maximum(self.shards.rooms - used, 0)

    def _most_rows(self) -> int:
        """For how many rows there is room; raises RunnerError if no shard can take any."""
        most = int(self.shards.rooms.sum())
        if most == 0:
            raise RunnerError("put: expected a shard that can be reached, got none: all are lost or away")
        return most

    def _with_room(self, oldest: int, num: int) -> tuple[int, NDArray[np.int64]]:
        """Number of the oldest row to keep and the rooms then, which are at least `num` in all.

        Shards have room for `capacity` rows unless some are lost or away. Then the oldest rows drop out early.
        """
        rooms = self._rooms(oldest)
        while rooms.sum() < num:
            oldest = self.ledger.nth_from(oldest, num - int(rooms.sum()))
            rooms = self._rooms(oldest)
        return oldest, rooms
