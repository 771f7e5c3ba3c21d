"""What happened to the shards of a buffer, counted and said once."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from really.service.shards import Event

log = logging.getLogger("really")


class History:
    """Counts the rows that were lost or refused, and warns.

    Args:
        names: what each shard is called.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._lost = self._refused = 0
        self._has_warned = False
        self._error: Exception | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Rows that were lost with their shard, and those that a shard refused."""
        return {"lost": self._lost, "refused": self._refused}

    def note(self, event: Event, num_rows: int) -> None:
        """Notes an event that concerns so many rows."""
        name = self._names[event.shard]
        if event.kind == "lost":
            self._lost += num_rows
            log.warning("%s was lost, and %d rows with it: batches come from the others.", name, num_rows)
        elif event.kind == "away":
            log.warning("%s does not answer: batches leave out its %d rows until it does.", name, num_rows)
        elif event.kind == "back":
            log.warning("%s answers again: batches have its %d rows again.", name, num_rows)
        elif event.kind == "joined":
            log.info("%s joined: it takes its share from now on.", name)
        else:
            self._refused += num_rows
            self._error = self._error or event.error
            if event.error is None:
                log.warning("%s: a put did not arrive: its %d rows are lost.", name, num_rows)

    def note_redraw(self) -> None:
        """Warns, once, that a batch is drawn again."""
        if not self._has_warned:
            self._has_warned = True
            log.warning("A shard had not all rows of a batch, which is drawn again: a seeded run will not repeat.")

    def raise_refusal(self) -> None:
        """Raises the error of a put that was refused since the last call, if one was."""
        error, self._error = self._error, None
        if error is not None:
            raise error
