"""The generator that a buffer draws from. The ring uses it under its lock; its state is read and set there, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from really.errors import InvalidValueError
from really.replay import arguments
from really.replay._ring import Ring
from really.replay.samplers import Sampler


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

    def state_with(self, sampler: Sampler, ring: Ring | None) -> dict[str, Any]:
        """What `ReplayBuffer.state_dict` gives: this state, and that of the sampler's own generators."""
        state, added = self.state(ring), sampler.state_dict()
        return state | added if added else state

    def set_state_with(self, sampler: Sampler, ring: Ring | None, state: Mapping[str, Any]) -> None:
        """Sets both to what `state_with` gave; raises InvalidValueError, with nothing changed, for anything else."""
        before = self.state_with(sampler, ring)
        try:
            self._set_both(sampler, ring, state)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            self._set_both(sampler, ring, before)
            raise InvalidValueError(f"state: expected what a buffer's state_dict gave, got {state!r}") from error

    def _set_both(self, sampler: Sampler, ring: Ring | None, state: Mapping[str, Any]) -> None:
        self.set_state(state, ring)
        sampler.load_state_dict(state)
