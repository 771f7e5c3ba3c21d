"""Mixture: batches with a share of rows from each of several buffers, such as offline and online data."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.names import OF_BUFFERS, tells_names
from really.data.schema import ColumnSpec, Spec
from really.errors import EmptyBufferError, InvalidTypeError, InvalidValueError
from really.replay import arguments, engine, tf_datasets
from really.replay._ring import MixedCounts, MixedRings
from really.replay.batches import Batches
from really.replay.drawn import DrawnRows
from really.replay.mixed_parts import MixedParts
from really.replay.samplers import INDEX, WEIGHT, PrioritizedSampler, Sampler, refuse_beta
from really.replay.shares import Shares, Weight
from really.replay.units import Batch

log = logging.getLogger("really")


@tells_names(OF_BUFFERS)
class Mixture:
    """Draws batches of which each buffer gives a share, by its own sampler and as its own sample unit.

    RLPD (Ball et al. 2023, arXiv:2302.02948, section 4.1) draws half of each batch from prior data and half from the
    rows of the run. A batch has the columns that all buffers have, the rows of one buffer after those of the other, in
    the order of `parts`, and two or three columns more, in place of columns of the same names that a buffer has:

    - `source`, int64: the position of the row's buffer in `parts`;
    - if a buffer is prioritized, `index`, int64, for `update_priorities` of this mixture, and `weight`, float32: those
      of the row's own buffer, and 1 for rows of others.

    Any number of threads may draw. A buffer may be in memory, on disk or in shards, of any capacity, and go on
    receiving rows.

    Args:
        parts: buffer -> weight, or pairs of them; a batch has n w / (sum of w) rows of a buffer of weight w. A weight
            may be a function from the number of the batch (0, 1, ...) to it, such as one that anneals it.
        counts: "exact" rounds these numbers up or down, at random so that each is right on average; "binomial" draws
            the buffer of each row by itself.
        keys: the columns of a batch; by default all that every buffer has. The others are named once, in the log.
        source: the name of the column `source`; None leaves it out.
        seed: seeds the rounding and the drawing of buffers.

    Raises:
        InvalidValueError, InvalidTypeError: an argument cannot be used; or buffers whose schemas are known have no
            column in common, or one of different dtype or shape.
    """

    def __init__(
        self,
        parts: Mapping[Any, Weight] | Iterable[tuple[DrawnRows, Weight]],
        *,
        counts: str = "exact",
        keys: Iterable[str] | None = None,
        source: str | None = "source",
        seed: arguments.Seed = None,
    ) -> None:
        pairs = _checked_parts(parts)
        self._buffers = tuple(buffer for buffer, _ in pairs)
        self._shares = Shares([weight for _, weight in pairs], counts, seed)
        self._source = source
        self._keys = None if keys is None else arguments.checked_keys(keys)
        self._priority_keys = (INDEX, WEIGHT) if any(buffer.is_prioritized for buffer, _ in pairs) else ()
        if source in self._priority_keys:
            raise InvalidValueError(f"source: expected another name than those of priorities, got {source!r}")
        self._spec: Spec | None = None
        self._parts: MixedParts | None = None
        self._rings: MixedRings | None = None
        self._counts: MixedCounts | None = None
        if self.batch_spec is not None:
            self._note_missing()

    @property
    def buffers(self) -> tuple[DrawnRows, ...]:
        """The buffers; a row's `source` is its buffer's position here."""
        return self._buffers

    @property
    def batch_spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row) of a batch; None as long as a buffer that may give rows has no schema."""
        if self._spec is None and not self._without_schema():
            self._spec = self._common_spec()
        return self._spec

    spec = batch_spec
    """The same: a mixture has no rows of its own."""

    @property
    def sampler(self) -> Sampler:
        """Checks the arguments of a draw."""
        return _PartsSampler([buffer.sampler for buffer in self._buffers])

    @property
    def missing(self) -> dict[str, list[int]]:
        """Key -> positions of the buffers that lack this column, which batches therefore do not have."""
        specs = self._known_specs()
        return {
            key: [at for at, spec in specs.items() if key not in spec]
            for key in dict.fromkeys(key for spec in specs.values() for key in spec)
            if any(key not in spec for spec in specs.values())
        }

    def __len__(self) -> int:
        """Rows held by all buffers."""
        return sum(map(len, self._buffers))

    def __repr__(self) -> str:
        parts = list(zip(self._buffers, self._shares.weights, strict=True))
        return f"Mixture({parts}, counts={self._shares.counts!r})"

    def shares_of(self, number: int) -> NDArray[np.float64]:
        """The share of each buffer in batch `number`, [buffer] float64, of sum 1.

        Raises InvalidValueError if a weight is negative or not finite, if their sum is not finite, or if all are 0.
        """
        return self._shares.of(number)

    @engine.draws_in_rings
    def sample(self, n: arguments.Size, *, replace: bool = True, beta: float | None = None, as_: None = None) -> Batch:
        """A batch, key -> [n, ...], or [k, n, ...] for `n` = (k, n): 64-byte-aligned arrays, the caller's to keep.

        Args:
            n: how many rows, or (k, n) for k batches, each with its own number and shares.
            replace: False draws no row twice within a batch.
            beta: importance-sampling exponent of the buffers that are prioritized.
            as_: None; tensors are what `batches(n, as_=...)` gives.

        Raises:
            EmptyBufferError: a buffer that gives rows has none.
            InvalidValueError, InvalidTypeError: an argument cannot be used.
            NotEnoughMemoryError: the batch would not fit in the memory that is left.
        """
        if as_ is not None:
            arguments.refuse_library(as_)
        if replace is not True or beta is not None:
            self.sampler.check(replace, beta)
        parts = self._parts or self._known_parts()
        num, num_batches = arguments.checked_size(n)
        if (total := num * max(num_batches, 1)) > parts.max_unchecked_rows:
            arguments.refuse_big_batch("a batch", total, self._spec)
        return parts.sample(num, num_batches, self._shares.next_counts(num, max(num_batches, 1)), replace, beta)

    def update_priorities(self, index: Any, priorities: Any) -> int:
        """Sets priorities of rows in the buffers that they came from; `index` is that of a batch.

        Rows of buffers that are not prioritized are ignored. Returns how many of the other rows are still held.

        Raises InvalidValueError or InvalidTypeError as `ReplayBuffer.update_priorities`; then no buffer is changed
        whose rows come after those of the buffer that refuses.
        """
        numbers, given = np.asarray(index), np.asarray(priorities)
        if not any(buffer.is_prioritized for buffer in self._buffers):
            raise InvalidValueError("update_priorities: expected a mixture with a prioritized buffer, got none")
        if numbers.dtype.kind not in "iu" or given.shape != numbers.shape:
            raise InvalidValueError(
                f"update_priorities: expected integers and as many priorities, got {numbers.dtype} of shape "
                f"{list(numbers.shape)} and priorities of {list(given.shape)}"
            )
        own, sources = np.divmod(numbers, len(self._buffers))
        num = 0
        for at, buffer in enumerate(self._buffers):
            if buffer.is_prioritized and (rows := sources == at).any():
                num += buffer.update_priorities(own[rows], given[rows])
        return num

    def batches(self, n: arguments.Size, prefetch: int = 2, **options: Any) -> Batches:
        """An endless iterator over what `sample(n)` gives, as `ReplayBuffer.batches`; options are those."""
        return Batches(self, n, prefetch, **options)

    def dataset(self, n: arguments.Size, prefetch: int = 2, **options: Any) -> Any:
        """An endless `tf.data.Dataset` of what `sample(n)` gives, as `ReplayBuffer.dataset`; options are those."""
        return tf_datasets.sampled_dataset(self, n, prefetch, **options)

    def check_open(self, what: str) -> None:
        """Raises ClosedError, naming `what`, if a buffer is on disk and closed."""
        for buffer in self._buffers:
            buffer.check_open(what)

    def state_dict(self) -> dict[str, Any]:
        """All that the next batches depend on, apart from the rows: the generators of all buffers included."""
        parts = {str(at): buffer.state_dict() for at, buffer in enumerate(self._buffers)}
        return self._shares.state_dict() | {"parts": parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave; raises InvalidValueError for anything else."""
        before = self.state_dict()
        try:
            self._set_states(state)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            self._set_states(before)
            raise InvalidValueError(f"state: expected what a mixture's state_dict gave, got {state!r}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Buffers, weights and generator, for a pickle."""
        return self.__dict__ | {"_parts": None, "_rings": None, "_counts": None}

    def _set_states(self, state: Mapping[str, Any]) -> None:
        for at, buffer in enumerate(self._buffers):
            buffer.load_state_dict(state["parts"][str(at)])
        self._shares.load_state_dict(state)

    def _known_parts(self) -> MixedParts:
        spec = self.batch_spec
        if spec is None:
            at = self._without_schema()[0]
            self._buffers[at].check_open("sample")
            raise EmptyBufferError(f"sample: expected buffers that hold rows, got buffer {at} empty; put some first")
        self._parts = MixedParts(self._buffers, spec, self._source, bool(self._priority_keys))
        self._rings, self._counts = self._parts.rings, self._shares.compiled
        return self._parts

    def _complete(self, batch: Batch, left: list[tuple[int, int, int]]) -> None:
        assert self._parts is not None
        self._parts.complete(batch, left)

    def _without_schema(self) -> list[int]:
        """The buffers that have no schema yet and may give rows: their weight is not 0 for good."""
        return [
            at
            for at, (buffer, weight) in enumerate(zip(self._buffers, self._shares.weights, strict=True))
            if buffer.batch_spec is None and (callable(weight) or weight > 0)
        ]

    def _known_specs(self) -> dict[int, Spec]:
        """Position of each buffer whose schema is known -> its columns, without those of its priorities."""
        found = {}
        for at, buffer in enumerate(self._buffers):
            if (spec := buffer.batch_spec) is not None:
                added = self._priority_keys if buffer.is_prioritized else ()
                found[at] = {key: kind for key, kind in spec.items() if key not in added}
        return found

    def _common_spec(self) -> Spec:
        """The columns that all buffers have, and those that the mixture adds."""
        by_buffer = self._known_specs()
        specs = list(by_buffer.values())
        common = [key for key in specs[0] if all(key in spec for spec in specs)]
        wanted = [key for key in self._keys or common if key not in self._priority_keys]
        for key in wanted:
            if lacking := [at for at, spec in by_buffer.items() if key not in spec]:
                raise InvalidValueError(
                    f"keys: expected columns of all buffers, got {key!r}, which buffers {lacking} lack"
                )
        if not wanted:
            raise InvalidValueError(f"Mixture: expected buffers with a column in common, got {[*map(list, specs)]}")
        for key in wanted:
            if len({spec[key] for spec in specs}) > 1:
                kinds = ", ".join(f"{spec[key][0]} of shape {list(spec[key][1])}" for spec in specs)
                raise InvalidValueError(
                    f"Mixture: key {key!r}: expected one dtype and shape in all buffers, got {kinds}"
                )
        return {key: specs[0][key] for key in wanted} | self._added_spec(wanted)

    def _added_spec(self, keys: list[str]) -> Spec:
        kinds = {INDEX: ColumnSpec(np.dtype(np.int64)), WEIGHT: ColumnSpec(np.dtype(np.float32))}
        added: Spec = {key: kinds[key] for key in self._priority_keys}
        if self._source is not None:
            added |= {self._source: ColumnSpec(np.dtype(np.int64))}
        if taken := [key for key in added if key in keys]:
            raise InvalidValueError(
                f"Mixture: expected no columns {taken}, which batches add, got {keys}; source= renames one of them"
            )
        return added

    def _note_missing(self) -> None:
        if self._keys is None and self.missing:
            lacks = "; ".join(f"{key!r}, which buffers {at} lack" for key, at in self.missing.items())
            log.warning("Mixture: batches leave out %s", lacks)


class _PartsSampler(Sampler):
    """The samplers of several buffers, for the checks of arguments."""

    def __init__(self, parts: list[Sampler]) -> None:
        self._parts = parts

    def check(self, replace: bool, beta: Any) -> None:
        """Refuses what one of the samplers refuses; only prioritized ones take beta."""
        prioritized = [isinstance(part, PrioritizedSampler) for part in self._parts]
        if beta is not None and not any(prioritized):
            refuse_beta(beta)
        for part, takes_beta in zip(self._parts, prioritized, strict=True):
            part.check(replace, beta if takes_beta else None)


def _checked_parts(parts: Any) -> list[tuple[DrawnRows, Weight]]:
    try:
        pairs = [(buffer, weight) for buffer, weight in (parts.items() if isinstance(parts, Mapping) else parts)]
    except (TypeError, ValueError):
        raise InvalidTypeError(f"Mixture: expected buffer -> weight, or pairs of them, got {parts!r}") from None
    if not pairs:
        raise InvalidValueError("Mixture: expected one buffer or more, got none")
    for buffer, _ in pairs:
        if not isinstance(buffer, DrawnRows):
            raise InvalidTypeError(f"Mixture: expected buffers with weights, got {buffer!r}")
    if len({id(buffer) for buffer, _ in pairs}) < len(pairs):
        raise InvalidValueError("Mixture: expected each buffer once, got one twice; add its weights")
    return pairs
