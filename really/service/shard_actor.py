"""A shard in a process of its own: the class of its actor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.data.schema import Spec
from really.errors import ReallyError
from really.replay.units import Batch
from really.service.shard import Shard
from really.service.shards import Found


class ShardActor:
    """Carries out the calls of one learner, in their order. Errors that a learner expects are returned, not raised."""

    def __init__(self) -> None:
        self._shard: Shard | None = None

    def start(self, options: Mapping[str, Any], spec: Spec | None, path: Path | None) -> Found | ReallyError:
        """Makes the shard, or opens its folder; returns what it has, or the error that its constructor raises."""
        try:
            self.close()
            self._shard = Shard(**options, spec=spec, path=path)
        except ReallyError as error:
            return error
        return Found.of(self._shard)

    def put_at(self, place: int, number: int, rows: Any) -> ReallyError | None:
        """`Shard.put_at`; returns the error with which the rows are refused."""
        assert self._shard is not None
        try:
            self._shard.put_at(place, number, rows)
        except ReallyError as error:
            return error
        return None

    def put_part(self, place: int, number: int, batch: Any, start: int, num: int) -> ReallyError | None:
        """`put_at` of a part of a record batch, which Ray fetches if it is on another node."""
        return self.put_at(place, number, batch.slice(start, num))

    def take_at(self, places: NDArray[np.int64]) -> Batch | ReallyError | None:
        """`Shard.take_at`; returns an error of the rows."""
        assert self._shard is not None
        try:
            return self._shard.take_at(places)
        except ReallyError as error:
            return error

    def have(self, places: list[int], padding: NDArray[np.uint8]) -> tuple[list[bool], NDArray[np.uint8]]:
        """Whether there is a row at each of these places, or was one; the padding returns as it came."""
        return [self._shard is not None and self._shard.has(place) for place in places], padding

    def do(self, method: str, *arguments: Any) -> Any:
        """What this method of the shard gives, or the error that it raises; None if there is no shard yet."""
        try:
            return None if self._shard is None else getattr(self._shard, method)(*arguments)
        except ReallyError as error:
            return error

    def close(self) -> None:
        """Closes the shard."""
        if self._shard is not None:
            self._shard.close()
