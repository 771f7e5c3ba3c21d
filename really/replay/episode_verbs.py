"""The verbs of a buffer that know which row follows which: the table of its episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from really._utils.checks import checked_bool
from really.replay._ring import Ring
from really.replay.columns import spec_of
from really.replay.episodes import episode_table, refuse_empty
from really.replay.trajectories import Trajectories, TrajectoryColumns

if TYPE_CHECKING:
    import pyarrow as pa


class EpisodeRows:
    """What `ReplayBuffer` and `ShardedBuffer` inherit: their rows as episodes."""

    _ring: Ring | None
    """The rows; those of a sharded buffer only answer as a ring does."""
    _known_episodes: tuple[TrajectoryColumns, Trajectories] | None = None

    def check_open(self, what: str) -> None:
        """Raises ClosedError if the buffer is closed."""
        raise NotImplementedError

    def episodes(self, *, agent: str | Sequence[str] | None = None, checks_states: bool = True) -> pa.Table:
        """The episodes that have rows, in the order of their first rows held, as an Arrow table of one row each.

        Columns: `first` and `last`, int64 numbers of the first and the last row held; `length`, int64 rows held;
        `return`, float64 sum of their `reward`, if there is that column; the columns that name the agent; `begins` and
        `ends`, whether the episode's first row is held, and whether it ended; `whole`, both of it.

        The number of a row is how many rows the buffer had taken before it. The first call reads the columns of all
        rows, a later one those of rows that were put since.

        Args:
            agent: columns that tell agents apart; by default the column "agent", if there is one.
            checks_states: False trusts the order of an agent's rows (`Sequences`).

        Raises:
            EmptyBufferError: there is no schema yet.
            InvalidValueError: a column is missing.
        """
        self.check_open("episodes")
        ring = self._ring
        if ring is None:
            raise refuse_empty("episodes")
        named = (agent,) if isinstance(agent, str) else agent
        checked_bool("checks_states", checks_states)
        columns = TrajectoryColumns.of(spec_of(ring), what="episodes", agent=named, checks_states=checks_states)
        if self._known_episodes is None or self._known_episodes[0] != columns:
            self._known_episodes = columns, Trajectories(ring, columns)
        return episode_table(self._known_episodes[1], ring, columns)
