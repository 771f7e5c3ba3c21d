"""The verbs of a buffer that hand out its rows or take them in: epochs, files, Arrow, pickles."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from really.replay.drawn import DrawnRows
from really.replay.epochs import Epochs
from really.replay.io import interchange, minari, pickling, saving
from really.replay.rows import Appended, Rows
from really.replay.streams import Saved, Streamed

if TYPE_CHECKING:
    import pyarrow as pa


class RowsOut(DrawnRows, Streamed, Saved, Appended):
    """What `ReplayBuffer` and `ShardedBuffer` inherit: saved buffers, Arrow, Parquet, Minari."""

    def __init__(self, capacity: Any, **options: Any) -> None:
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str], *, compression: str = "zstd") -> None:
        """Writes rows, order, generator and arguments to one file, while others may put and sample (`saving.save`)."""
        saving.save(self, path, compression=compression)

    def to_arrow(self, keys: Sequence[str] | None = None, *, float16: str = "float16") -> pa.RecordBatchReader:
        """The rows as a stream of record batches, oldest first, made as they are asked for (`interchange.to_arrow`)."""
        return interchange.to_arrow(self, keys, float16=float16)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The rows for whatever reads Arrow streams: DuckDB, Polars, pandas. Opening one is free and locks nothing."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_parquet(
        self,
        path: str | os.PathLike[str],
        keys: Sequence[str] | None = None,
        *,
        float16: str = "float16",
        compression: str = "zstd",
    ) -> None:
        """Writes the rows to one Parquet file (`interchange.to_parquet`)."""
        interchange.to_parquet(self, path, keys, float16=float16, compression=compression)

    @classmethod
    def from_arrow(cls, source: Any, capacity: int | None = None, **options: Any) -> Self:
        """A buffer with the rows of an Arrow table, stream or what gives one (`interchange.from_arrow`)."""
        return interchange.from_arrow(cls, source, capacity, **options)

    @classmethod
    def from_parquet(cls, path: str | os.PathLike[str], capacity: int | None = None, **options: Any) -> Self:
        """A buffer with the rows of a Parquet file (`interchange.from_parquet`)."""
        return interchange.from_parquet(cls, path, capacity, **options)

    def to_minari(self, dataset_id: str, **options: Any) -> Any:
        """Writes the rows as episodes to a new Minari data set (`minari.to_minari`)."""
        return minari.to_minari(self, dataset_id, **options)

    @classmethod
    def from_minari(cls, dataset: Any, capacity: int | None = None, **options: Any) -> Self:
        """A buffer with the steps of a Minari data set (`minari.from_minari`)."""
        return minari.from_minari(cls, dataset, capacity, **options)


class RowsInAndOut(RowsOut, Rows):
    """What `ReplayBuffer` inherits besides: epochs, saved buffers read, pickles."""

    def _warn_of_twin(self, what: str) -> None:
        """Warns once in a forked process that draws the same rows as another one."""
        raise NotImplementedError

    def epochs(self, batch_size: SupportsIndex, epochs: SupportsIndex | None = 1, **options: Any) -> Epochs:
        """Batches in which each row that is held now comes exactly once an epoch, shuffled (`epochs.Epochs`).

        Options: `as_`, `drop_last`, and `seed`.
        """
        if options.get("seed") is None:
            self._warn_of_twin("epochs")
        return Epochs(self, batch_size, epochs, **options)

    def loaded(self, path: str | os.PathLike[str]) -> Self:
        """A new buffer of this class in memory, of what `save` wrote."""
        return type(self).load(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The buffer that `save` wrote (`saving.load`)."""
        return saving.load(cls.restore, path)

    @classmethod
    def _unpickle(cls, about: tuple[Any, ...], layout: Any, rows: Iterable[Any]) -> Self:
        """The buffer of a pickle, which names this method."""
        return cls.restore(pickling.description(about), pickling.parts(about, layout, rows))

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Rows, oldest first, schema and generator (`pickling.reduce`)."""
        return type(self)._unpickle, pickling.reduce(self, int(protocol))
