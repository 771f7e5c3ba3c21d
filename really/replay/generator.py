"""The generator that a buffer draws from. The ring uses it under its lock; its state is read and set there, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from really.replay import arguments
from really.replay._ring import Ring


class BufferGenerator:
    """A bit generator of the buffer's own; of a generator given as seed, a child."""

    def __init__(self, seed: arguments.Seed) -> None:
        self.bit_generator = arguments.bit_generator(seed)

    def state(self, ring: Ring | None) -> dict[str, Any]:
        """The state, read while no thread draws."""
        if ring is None:
            return dict(self.bit_generator.state)
        return ring.generator_state()

    def set_state(self, state: Mapping[str, Any], ring: Ring | None) -> None:
        """Sets the state while no thread draws, in the files of a buffer on disk, too."""
        if ring is None:
            self.bit_generator.state = dict(state)
        else:
            ring.set_generator_state(dict(state))
