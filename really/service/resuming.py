"""The ledger of a buffer whose shards were opened from their folders."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np

from really.errors import InvalidFileError
from really.service.ledger import LENGTH, NUMBER, SHARD, Ledger
from really.service.shards import Found


def identity_of(found: Sequence[Found], names: Sequence[str]) -> str:
    """What distinguishes the buffer of these shards from all others: that of their folders, or a new one.

    Raises InvalidFileError if they have rows of different buffers.
    """
    known = {one.owner.identity: name for one, name in zip(found, names, strict=True) if one.owner and len(one.runs)}
    if len(known) > 1:
        raise InvalidFileError(
            f"path: expected the shards of one buffer, got those of {len(known)}: "
            f"{' and '.join(known.values())} are of different ones"
        )
    return next(iter(known), None) or uuid.uuid4().hex


def ledger_of(found: Sequence[Found], names: Sequence[str]) -> Ledger | None:
    """The ledger of the rows that the shards have; None if they have none.

    Raises InvalidFileError if two rows have the same number: the shards are of different buffers.
    """
    tables = [np.insert(one.runs, 1, shard, axis=1) for shard, one in enumerate(found)]
    runs = np.concatenate(tables).astype(np.int64)
    runs = runs[np.argsort(runs[:, NUMBER], kind="stable")]
    ends = runs[:, NUMBER] + runs[:, LENGTH]
    if (twice := np.flatnonzero(ends[:-1] > runs[1:, NUMBER])).size:
        one, other = (names[int(runs[at, SHARD])] for at in (twice[0], twice[0] + 1))
        raise InvalidFileError(
            f"path: expected the shards of one buffer, got rows of the same number {runs[twice[0] + 1, NUMBER]} in "
            f"{one} and in {other}"
        )
    return Ledger.of(len(found), runs) if len(runs) else None
