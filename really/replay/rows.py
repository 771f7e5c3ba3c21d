"""Rows: what a replay buffer offers to the modules around it. I/O, batches and datasets are typed against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, Self, runtime_checkable

from really.data.schema import Spec
from really.replay.options import BufferOptions
from really.replay.readers import Reader
from really.replay.samplers import Sampler
from really.replay.snapshot import Description, Snapshot
from really.replay.units import Batch


class Appended(Protocol):
    """What rows can be put into."""

    def put(self, data: Any) -> None:
        """Appends rows."""


class Filled(Appended, Protocol):
    """What files and data sets are read into: a buffer of any kind, made with a capacity and its own options."""

    def __init__(self, capacity: int, **options: Any) -> None:
        """Makes an empty buffer."""


class Sampled(Protocol):
    """What batches and data sets are drawn from: a buffer, or a mixture of several."""

    def check_open(self, what: str) -> None:
        """Raises ClosedError, naming `what`, if a buffer on disk is closed."""

    @property
    def spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row)."""

    @property
    def batch_spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row) of a batch."""

    @property
    def sampler(self) -> Sampler:
        """What picks the rows of a batch."""

    def sample(self, n: Any, *, replace: bool = True, beta: float | None = None) -> Batch:
        """A batch."""

    def state_dict(self) -> dict[str, Any]:
        """The state of the generators."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Sets the state of the generators."""


@runtime_checkable
class AskedAhead(Protocol):
    """A buffer whose rows may be on other nodes: several batches can be on their way."""

    def ask_sample(self, n: Any, *, replace: bool = True, beta: float | None = None) -> Callable[[], Batch]:
        """Draws a batch, and returns what waits for its rows."""


class Rows(Sampled, Protocol):
    """Rows that are put in order and sampled. `ReplayBuffer` documents each method."""

    def __init__(self, capacity: int, **options: Any) -> None:
        """Makes an empty buffer."""

    @classmethod
    def restore(cls, description: Description, parts: Iterable[dict[str, Any]]) -> Self:
        """The buffer that a snapshot was made of."""

    @property
    def options(self) -> BufferOptions:
        """What the buffer was made with."""

    def __len__(self) -> int:
        """How many rows are held."""

    def put(self, data: Any) -> None:
        """Appends rows."""

    def take(self, indices: Any) -> Batch:
        """The rows of these indices by age."""

    def open_reader(self, *, keeps: bool = False) -> Reader:
        """Reads the rows that are held now."""

    def snapshot(self, what: str = "snapshot") -> Snapshot:
        """The rows of this moment, and how to make the buffer again."""
