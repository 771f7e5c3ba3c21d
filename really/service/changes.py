"""The verbs of a sharded buffer that change rows it holds, or pass over all of them: the learner asks each shard."""

from __future__ import annotations

from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from really.errors import RunnerError
from really.replay._ring import Ring
from really.replay.changes import RowChanges
from really.replay.epochs import Epochs
from really.replay.rows import Rows
from really.service.contents import ToldShards
from really.service.distribution import silent_in
from really.service.learner_rows import LearnerRows

Numbers = NDArray[np.int64]


class ChangedShards(ToldShards, RowChanges):
    """What `ShardedBuffer` inherits: it writes columns of rows, removes rows, and has epochs."""

    @property
    def known_ring(self) -> Ring:
        """What answers as a ring of all rows does; the schema is known."""
        assert self._ring is not None, "the schema is known"
        return self._ring

    def epochs(self, batch_size: SupportsIndex, epochs: SupportsIndex | None = 1, **options: Any) -> Epochs:
        """Batches in which each row held now comes once an epoch (`Epochs`).

        Options: `as_`, `drop_last` and `seed`.
        """
        return Epochs(cast(Rows, self), batch_size, epochs, **options)

    def _check_writable(self, what: str) -> None:
        self.check_writable(what)

    def _remove_rows(self, ring: Ring, numbers: Numbers) -> int:
        with self._rows.numbering.without_puts(), self._lock:
            self._rows.settle(self._history)
            num, silent = self._rows.remove(numbers)
            self._refuse_silent("remove", silent)
            return num

    def _update_rows(self, ring: Ring, numbers: Numbers, columns: dict[str, NDArray[Any]]) -> int:
        with self._lock:
            self._rows.settle(self._history)
            ledger = self._rows.ledger
            chosen = np.flatnonzero(ledger.can_be_had(numbers))
            owners, places = ledger.locate(numbers[chosen])

            def part(at: Numbers) -> tuple[Any, ...]:
                return places[at], {key: column[chosen[at]] for key, column in columns.items()}

            try:
                answers = self._rows.ask_owners("update_at", owners, part)
            finally:
                cast(LearnerRows, ring).note_update(columns)
            self._refuse_silent("update", silent_in(answers))
            return sum(one.value for one in answers)

    def _refuse_silent(self, what: str, silent: list[int]) -> None:
        if silent:
            names = ", ".join(self._shards.names[shard] for shard in silent)
            raise RunnerError(
                f"{what}: expected all shards to answer, got no answer of {names}; rows of the others are changed"
            )
