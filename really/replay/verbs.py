"""The verbs of a buffer that hand out its rows or take them in: epochs, files, Arrow, pickles."""

from __future__ import annotations

import os
from collections.abc import Iterable
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
        """Writes rows, order, generator, schema and options to one file, which `load` reads.

        The rows are those held when it begins. Other threads may put and sample meanwhile; a put that would drop a row
        not yet written waits. The file gets its name when it is whole and on disk. It takes less than 20 MB of memory,
        whatever the buffer's size.

        Args:
            path: the file; a saved buffer there is replaced.
            compression: "zstd", "lz4" or "none".

        Raises:
            InvalidValueError: an unknown compression, or `path` holds something else.
            FileError: the file cannot be written.
        """
        saving.save(self, path, compression=compression)

    def to_arrow(self, keys: Iterable[str] | None = None, *, float16: str = "float16") -> pa.RecordBatchReader:
        """The rows as a stream of record batches, oldest first; each batch is made when it is read.

        Args:
            keys: which columns; by default all.
            float16: "float32" writes halves as singles, for readers that have no halves, such as DuckDB.

        Raises:
            InvalidValueError: there is no schema yet, or a key that the buffer does not have.
            OvertakenError: puts dropped rows before they were read. DuckDB and others raise their own error with its
                text.
        """
        return interchange.to_arrow(self, keys, float16=float16)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The rows for whatever reads Arrow streams: DuckDB, Polars, pandas. Opening one is free and locks nothing."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_parquet(
        self,
        path: str | os.PathLike[str],
        keys: Iterable[str] | None = None,
        *,
        float16: str = "float16",
        compression: str = "zstd",
    ) -> None:
        """Writes the rows to one Parquet file, under a temporary name until it is whole.

        Puts that would drop rows not yet written wait. It takes about 70 MB of memory, whatever the buffer's size.

        Args:
            path: the file; a Parquet file there is replaced.
            keys, float16: as of `to_arrow`.
            compression: of Parquet, such as "zstd", "snappy" or "none".

        Raises:
            InvalidValueError: no schema yet, an unknown key or compression, a path that holds something else.
            FileError: the file cannot be written.
        """
        interchange.to_parquet(self, path, keys, float16=float16, compression=compression)

    @classmethod
    def from_arrow(cls, source: Any, capacity: int | None = None, **options: Any) -> Self:
        """A buffer with the rows of `source`, put batch by batch.

        Args:
            source: an Arrow RecordBatch, Table or RecordBatchReader, or an object with `__arrow_c_stream__`: a Polars
                frame, a DuckDB relation, a buffer.
            capacity: how many rows the buffer keeps; None keeps all, if the source knows its length.
            **options: of the buffer; `keys` chooses columns, `spec` their dtypes.

        Raises:
            InvalidValueError, InvalidTypeError: `source` is no Arrow data, does not know its length, or has nulls or
                columns that a buffer cannot hold.
        """
        return interchange.from_arrow(cls, source, capacity, **options)

    @classmethod
    def from_parquet(cls, path: str | os.PathLike[str], capacity: int | None = None, **options: Any) -> Self:
        """A buffer with the rows of Parquet files, put chunk by chunk.

        Args:
            path: a file; a folder, of which the files `*.parquet` are read by name; a pattern such as "rows/*.parquet";
                or a list of files, read in its order.
            capacity: how many rows the buffer keeps; None keeps all.
            **options: as of `from_arrow`.

        Raises:
            InvalidFileError: `path` is no Parquet file, or one that is damaged. Pages have checksums, and a file of
                `to_parquet` also has those of whole columns and of its schema.
            InvalidValueError, InvalidTypeError: an argument, or a column, cannot be used; there is no file.
        """
        return interchange.from_parquet(cls, path, capacity, **options)

    def to_minari(self, dataset_id: str, **options: Any) -> Any:
        """Writes the rows as episodes to a new local Minari data set, one episode at a time, and loads it.

        Rows have columns `state`, `action`, `reward`, `state_new` and `terminal` or `not_done`. Truncation is read from
        `truncated`, or from `terminal` with `not_done` or `episode_end`, if those are there. Puts that would drop rows
        not yet written wait. Memory holds the episodes that have not ended: one for each agent. The data set gets its
        name when it is whole. Images are stored as they are, not as JPEG.

        Args:
            dataset_id: `name-v0`, or `folder/name-v0`.
            **options: `env`, the environment, which gives the spaces and which the data set can recover. Without it,
                `observation_space` and `action_space`; by default unbounded boxes of the columns' dtypes, and of
                integer actions a Discrete of those that occur. And metadata of the data set: `algorithm_name`,
                `author`, `author_email`, `code_permalink`, `description`.

        Returns:
            The minari.MinariDataset.

        Raises:
            EmptyBufferError: no rows are held.
            InvalidValueError: a column is missing or does not fit its space; the data set exists already.
            FileError: the files cannot be written.
        """
        return minari.to_minari(self, dataset_id, **options)

    @classmethod
    def from_minari(cls, dataset: Any, capacity: int | None = None, **options: Any) -> Self:
        """A buffer with the steps of a Minari data set, episode by episode.

        It has `state`, `action`, `state_new`, and as float32 `reward`, `not_done`, `terminal` and `truncated`, or those
        of them in `keys`; an observation of several arrays has a column for each, `state.key`. With `n_step` or `unit`,
        which follow episodes, there is `episode_end`, too: 1 for the last step of each episode.

        Args:
            dataset: a minari.MinariDataset, or the id of a local one.
            capacity: how many rows the buffer keeps; None keeps all.
            **options: of the buffer.

        Raises:
            InvalidValueError: there is no such data set.
            InvalidTypeError: its spaces are not arrays of numbers.
        """
        return minari.from_minari(cls, dataset, capacity, **options)


class RowsInAndOut(RowsOut, Rows):
    """What `ReplayBuffer` inherits besides: epochs, saved buffers read, pickles."""

    def _warn_of_twin(self, what: str) -> None:
        """Warns once in a forked process that draws the same rows as another one."""
        raise NotImplementedError

    def epochs(self, batch_size: SupportsIndex, epochs: SupportsIndex | None = 1, **options: Any) -> Epochs:
        """Batches in which each row that is held now comes exactly once an epoch, shuffled (`Epochs`).

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
        """The buffer that `save` wrote: the same rows in the same order, and the same batches from then on.

        Raises:
            InvalidFileError: `path` is no saved buffer, or one that is cut short, damaged or of another version.
            NotEnoughMemoryError: its capacity does not fit in the memory that is left.
        """
        return saving.load(cls.restore, path)

    @classmethod
    def _unpickle(cls, about: tuple[Any, ...], layout: Any, rows: Iterable[Any]) -> Self:
        """The buffer of a pickle, which names this method."""
        return cls.restore(pickling.description(about), pickling.parts(about, layout, rows))

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Rows, oldest first, schema and generator (`pickling.reduce`)."""
        return type(self)._unpickle, pickling.reduce(self, int(protocol))
