"""Moments of a sharded buffer on disk: a checkpoint keeps one, and the buffer can return to it as long as rows last.

The learner's part is the ledger, and each shard's part is a moment of its own (`replay.moments`), all taken between the
same two puts. Shards are known by the identity of their folders, so they may be on other nodes when the buffer returns.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from really.errors import InvalidValueError, RunnerError, one_of
from really.replay.moments import MISSING, Moment, RolledBack
from really.service.distribution import Distribution
from really.service.history import History
from really.service.ledger import Ledger
from really.service.lock import BufferLock
from really.service.shards import PATIENCE, START_SECONDS, Shards

log = logging.getLogger("really")


@dataclass(frozen=True)
class ShardedMoment:
    """Which rows a sharded buffer held, and all that its next batches depend on.

    Attributes:
        names: what each shard was called.
        shards: the moment of each shard; None of one that did not answer, whose rows are left out.
        places: the place after the last row of each shard.
        runs: the rows, [run, 4] int64, as `Ledger.runs`.
        first, num_put: number of the oldest of the newest `capacity` rows, and of the next row.
        unended: the shard of an episode that goes on; None without.
        generator: `ShardedBuffer.state_dict`.
        priorities: `Priorities.state_dict` of the rows; None if they are not drawn by priority.
    """

    names: list[str]
    shards: list[Moment | None]
    places: list[int]
    runs: NDArray[np.int64]
    first: int
    num_put: int
    unended: int | None
    generator: dict[str, Any]
    priorities: dict[str, Any] | None = None

    @property
    def ledger(self) -> Ledger:
        """The rows that a shard holds of which there is a moment."""
        return Ledger.of(len(self.names), self.runs)

    def to_json(self) -> dict[str, Any]:
        """All but the priorities, for the description of a checkpoint."""
        own = {name: value for name, value in vars(self).items() if name not in ("shards", "priorities")}
        return own | {"shards": [None if shard is None else shard.to_json() for shard in self.shards]}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any], priorities: dict[str, Any] | None) -> Self:
        """The moment that `to_json` gave, after a way through JSON."""
        shards = [None if shard is None else Moment(**shard) for shard in saved["shards"]]
        runs = np.asarray(saved["runs"], np.int64).reshape(-1, 4)
        return cls(**{**saved, "shards": shards, "runs": runs}, priorities=priorities)


class Left(NamedTuple):
    """What is left of a moment.

    Attributes:
        ledger: the rows, by the shards that are there now.
        matches: shard -> the shard of the moment that it is; shards that had no part in the moment are not in it.
        gone: name of a shard, and how many of its rows are missing and why.
        ends: shard -> the place after the last row that it has from the moment, of those in `matches`.
    """

    ledger: Ledger
    matches: dict[int, int]
    gone: dict[str, tuple[int, str]]
    ends: dict[int, int]


class ShardedMoments:
    """Takes moments of a sharded buffer on disk and returns to them.

    Args:
        path: the folder, on each node.
        shards, rows, history, lock: those of the buffer.
    """

    def __init__(self, path: Any, shards: Shards, rows: Distribution, history: History, lock: BufferLock) -> None:
        self._path, self._shards, self._rows, self._history, self._lock = path, shards, rows, history, lock

    def read(self, saved: Mapping[str, Any], priorities: dict[str, Any] | None) -> ShardedMoment:
        """The moment of which `ShardedMoment.to_json` gave `saved`."""
        return ShardedMoment.from_json(saved, priorities)

    def take(self, generator: Mapping[str, Any]) -> ShardedMoment:
        """This moment, whose rows are then safe from a loss of power; `generator` is the buffer's `state_dict`.

        Rows of shards that do not answer are left out, with a warning.
        """
        rows, numbering = self._rows, self._rows.numbering
        with numbering.without_puts():
            first, num_put = numbering.held()
            priorities = numbering.priorities(first, num_put)
            with self._lock:
                rows.settle(self._history)
                places = [(int(place),) for place in rows.ledger.oldest_places()]
                taken = self._shards.each("take_moment", places, PATIENCE)
                rows.settle(self._history)  # of puts that were on their way; a node may join, which has no rows yet
                ledger = Ledger.of(len(taken), rows.ledger.runs)
                next_places, unended = rows.next_places[: len(taken)], rows.unended
        if priorities is not None:
            priorities |= {"generator": generator["priorities"]}
        self._shards.each("make_durable", [None if one is None else () for one in taken], PATIENCE)
        for shard, one in enumerate(taken):
            if one is None and (num := int(ledger.counts[shard])):
                ledger.lose(shard)
                name = self._shards.names[shard]
                log.warning("%s does not answer: the checkpoint leaves out its %d rows.", name, num)
        names = self._shards.names[: len(taken)]
        return ShardedMoment(
            names, taken, next_places, ledger.runs, first, num_put, unended, dict(generator), priorities
        )

    def keep(self, moment: ShardedMoment) -> None:
        """Keeps the rows of this moment as long as `spare` lasts, and no longer those of moments before it."""
        self._shards.each("keep_moment", [None if one is None else (one,) for one in moment.shards])

    def check(self, moment: ShardedMoment, missing: str = "error") -> RolledBack:
        """What `roll_back` would do.

        Raises InvalidValueError if no shard of the moment is there; or, unless `missing` is "accept", if rows of the
        moment are missing: it names the shards that had them.
        """
        if missing not in MISSING:
            raise InvalidValueError(one_of("missing", missing, MISSING))
        with self._lock:
            self._rows.settle(self._history)
            return self._checked(moment, self._left(moment), missing)

    def roll_back(self, moment: ShardedMoment, missing: str = "error") -> RolledBack:
        """Returns to a moment: rows that were put since are dropped, generator and priorities are those of the moment.

        A kill leaves each shard as before or as at the moment; the return can be repeated then.

        Raises:
            InvalidValueError: as `check` does.
            RunnerError: a shard was lost meanwhile. The buffer is not usable; make it anew, and return again.
        """
        rows, numbering = self._rows, self._rows.numbering
        with numbering.room_for(numbering.ring.capacity), self._lock:
            rows.settle(self._history)
            left = self._left(moment)
            done = self._checked(moment, left, missing)
            places = self._return(moment, left)
            rows.settle(self._history)
            numbering.restart(moment.first, moment.num_put, moment.priorities)
            match = {old: shard for shard, old in left.matches.items()}
            unended = None if moment.unended is None else match.get(moment.unended)
            rows.return_to(self._with_removed(left.ledger, moment), places, unended)
        self._tell(done)
        return done

    def _left(self, moment: ShardedMoment) -> Left:
        """What is left of a moment. The caller has settled."""
        known = {one.identity: old for old, one in enumerate(moment.shards) if one is not None}
        matches = {
            shard: known[about[0]]
            for shard, about in enumerate(self._shards.each("about"))
            if about is not None and about[0] in known
        }
        moments = [self._part(moment, matches.get(shard)) for shard in range(len(self._shards.names))]
        found = self._shards.each("left_of", moments)
        new_of = {old: shard for shard, old in matches.items() if found[shard] is not None}
        gone, runs = dict[str, tuple[int, str]](), list[list[int]]()
        ledger = moment.ledger
        for old, name in enumerate(moment.names):
            before = int(ledger.counts[old])
            if old in new_of:
                first, end = found[new_of[old]]
                ledger.lose(old, 0, first)
                ledger.lose(old, end, None)
            elif before:
                ledger.lose(old)
            if num := before - int(ledger.counts[old]):
                reason = "other rows took their place" if old in new_of else "it is not there"
                gone[name] = (num, reason)
        for number, old, place, length in ledger.runs.tolist():
            runs.append([number, new_of[old], place, length])
        present = Ledger.of(len(self._shards.names), np.array(runs, np.int64).reshape(-1, 4))
        for shard in np.flatnonzero(self._rows.ledger.away).tolist():
            present.set_away(shard, True)
        ends = {shard: found[shard][1] for shard in new_of.values()}
        return Left(present, {shard: old for old, shard in new_of.items()}, gone, ends)

    @staticmethod
    def _part(moment: ShardedMoment, old: int | None) -> tuple[Any, ...] | None:
        return None if old is None else (moment.shards[old],)

    def _checked(self, moment: ShardedMoment, left: Left, missing: str) -> RolledBack:
        num_rows, num_left = moment.ledger.num_rows, left.ledger.num_rows
        if moment.shards and not left.matches:
            raise InvalidValueError(
                f"{self._path}: expected shards of the checkpoint ({', '.join(moment.names)}), got none of them: they "
                f"are of another buffer, or their folders are elsewhere"
            )
        if left.gone and missing == "error":
            told = "; ".join(f"{num:,} of {name}: {reason}" for name, (num, reason) in left.gone.items())
            raise InvalidValueError(
                f"{self._path}: expected the {num_rows:,} rows that the shards held at the checkpoint, got "
                f"{num_left:,}. Missing are {told}; missing='accept' goes on with the rows that are left"
            )
        return RolledBack(self._num_later(moment, left), num_rows - num_left)

    def _num_later(self, moment: ShardedMoment, left: Left) -> int:
        """How many rows are held that were put after a moment.

        Numbers alone do not tell: they start lower where a shard of the moment is missing, and again after a return.
        """
        ledger, num = self._rows.ledger, 0
        away = ledger.away
        for number, shard, place, length in ledger.all_runs.tolist():
            if shard in left.ends:
                first_later = max(0, left.ends[shard] - place)
            else:
                first_later = max(0, moment.num_put - number) if away[shard] else 0
            num += max(0, length - first_later)
        return num

    def _with_removed(self, ledger: Ledger, moment: ShardedMoment) -> Ledger:
        """The ledger, and the rows of shards that were removed before the moment, as removed ones."""
        runs = [ledger.runs]
        for shard, removed in enumerate(self._shards.each("removed_at")):
            if removed is not None:
                known = (removed[:, 0] >= moment.first) & (removed[:, 0] < moment.num_put)
                number, place = removed[known].T
                runs.append(np.stack([number, np.full_like(number, shard), place, np.ones_like(number)], axis=1))
        table = np.concatenate(runs)
        found = Ledger.of(len(self._shards.names), table[np.argsort(table[:, 0])])
        found.remove(np.sort(np.concatenate([part[:, 0] for part in runs[1:]] or [runs[0][:0, 0]])))
        for shard in np.flatnonzero(ledger.away).tolist():
            found.set_away(shard, True)
        return found

    def _return(self, moment: ShardedMoment, left: Left) -> list[int]:
        """Makes the shards return; gives the place after the last row of each."""
        places = self._rows.next_places
        moments: list[tuple[Any, ...] | None] = []
        others: list[tuple[Any, ...] | None] = []
        for shard in range(len(self._shards.names)):
            old = left.matches.get(shard)
            moments.append(None if old is None else (moment.shards[old], moment.places[old], moment.num_put))
            others.append((places[shard], moment.num_put) if old is None else None)
        # Rows of shards that had no part in the moment have numbers that come again.
        self._shards.each("forget", others)
        self._repeat("return_to", moments)
        return [places[s] if s not in left.matches else moment.places[left.matches[s]] for s in range(len(places))]

    def _repeat(self, method: str, arguments: Sequence[tuple[Any, ...] | None]) -> None:
        """Calls a method of shards, again if one is started again meanwhile."""
        failed = list(arguments)
        for _ in range(2):
            done = self._shards.each(method, failed, PATIENCE)
            failed = [None if one is not None else given for one, given in zip(done, failed, strict=True)]
            if all(given is None for given in failed):
                return
            self._await_back(failed)
        names = ", ".join(self._shards.names[shard] for shard, given in enumerate(failed) if given is not None)
        raise RunnerError(
            f"load_checkpoint: expected all shards to return to the checkpoint, but {names} did not answer; make the "
            f"buffer anew, and load the checkpoint again"
        )

    def _await_back(self, failed: Sequence[Any]) -> None:
        """Waits until those of the shards that are away have started again, at most for `START_SECONDS`."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            self._rows.settle(self._history)
            away = self._rows.ledger.away
            if not any(given is not None and away[shard] for shard, given in enumerate(failed)):
                return
            time.sleep(0.05)

    def _tell(self, done: RolledBack) -> None:
        for number, what in (
            (done.rows_dropped, "that were put after the checkpoint are dropped"),
            (done.rows_missing, "of the checkpoint are missing"),
        ):
            if number:
                log.warning("%s: %s rows %s", self._path, f"{number:,}", what)
