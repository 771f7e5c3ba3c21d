"""What a sharded buffer tells of its shards: rows, memory, what was lost."""

from __future__ import annotations

from typing import Any

import numpy as np

from really.data.schema import row_nbytes
from really.replay.disk.verification import Verification
from really.service.shards import NOTHING, PATIENCE
from really.service.stored import StoredShards


class ToldShards(StoredShards):
    """What `ShardedBuffer` inherits: figures of its shards."""

    def memory(self) -> dict[str, float]:
        """`held`: bytes that the rows of all shards take now; `naive`: bytes of all rows stored whole; `ratio`."""
        shards = self._memory()
        held_bytes = sum(shard["held"] for shard in shards)
        naive = len(self) * (0 if self._spec is None else row_nbytes(self._spec))
        return {"held": held_bytes, "naive": naive, "ratio": naive / held_bytes if held_bytes else 1.0}

    def info(self) -> dict[str, Any]:
        """What each shard has: its name, rows and bytes, and whether it is away; and how many rows were lost.

        `lost` counts rows that were gone with their shard, and `refused` those that a shard on another node refused.
        """
        with self._lock:
            self._rows.settle(self._history)
            counts, away, memory = self._rows.ledger.counts, self._rows.ledger.away, self._memory()
            shards = [
                {"shard": name, "rows": int(rows), "bytes": part["held"], "away": bool(is_away)}
                for name, rows, part, is_away in zip(self._shards.names, counts, memory, away, strict=True)
            ]
            return {"rows": len(self), "shards": shards, "moved": self._rows.moved, **self._history.counts}

    def verify(self) -> Verification:
        """Reads the rows of all shards and says which may be damaged on the disks of their nodes.

        As of `ReplayBuffer.verify`; `files` are named with their shard. Rows of a shard that is away are left out.
        """
        self.check_open("verify")
        end = self.numbered_rows()[1]
        names = list(self._shards.names)  # those of now: a node may join meanwhile
        found = dict(zip(names, self._shards.each("verify_at", [()] * len(names), PATIENCE), strict=True))
        answers = {name: answer for name, answer in found.items() if answer is not None}
        nothing = np.zeros(0, np.int64)
        damaged, unchecked = (np.concatenate([nothing, *(one[at] for one in answers.values())]) for at in (0, 1))
        with self._lock:
            self._rows.settle(self._history)
            ledger = self._rows.ledger
            numbers = ledger.numbers_at(np.arange(ledger.num_rows)) if ledger.num_rows else nothing
        is_unchecked = np.isin(numbers, unchecked) | (numbers >= end)
        files = tuple(f"{name}: {file}" for name, one in answers.items() for file in one[2])
        return Verification(
            len(numbers), np.flatnonzero(np.isin(numbers, damaged)), np.flatnonzero(is_unchecked), files
        )

    def _memory(self) -> list[dict[str, float]]:
        """`ReplayBuffer.memory` of each shard."""
        return [one or NOTHING for one in self._shards.each("memory")]
