"""ActionNoise: the random numbers of the agents' next actions, drawn for many steps at once in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from really.policies.policy import Policy, Sampler

# Steps of a block. Few enough for the numbers of most policies to stay in cache.
BLOCK_STEPS = 256
# Bytes of the numbers that are held at once. A policy with many actions draws a block in pieces of fewer steps.
MAX_BYTES = 8 << 20


class ActionNoise:
    """Draws the numbers of each agent from its own random stream.

    An agent that starts a block uses up the numbers of the whole block, or those of its `remaining` steps. So its
    stream does not depend on the pieces in which a block is drawn.

    Attributes:
        piece: steps whose numbers are held at once.
    """

    def __init__(self, policy: Policy, rngs: Sequence[np.random.Generator]) -> None:
        self._policy, self._rngs = policy, rngs
        self.piece = min(BLOCK_STEPS, max(1, MAX_BYTES // (8 * len(rngs) * max(1, policy.noise_width))))
        self._numbers = np.zeros((len(rngs), self.piece, policy.noise_width))
        # Steps of the block whose numbers an agent has not drawn yet.
        self._owed = np.zeros(len(rngs), np.intp)

    def starts_piece(self, step: int) -> bool:
        """Whether `sampler` must be called before this step."""
        return not step % BLOCK_STEPS % self.piece

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The parts of the steps `start` to `stop` that are in one piece each, as pairs of first step and end."""
        while start < stop:
            in_block = start % BLOCK_STEPS
            left = min(BLOCK_STEPS - in_block, self.piece - in_block % self.piece)
            yield start, min(stop, start + left)
            start += left

    def sampler(self, step: int, active: NDArray[np.intp], remaining: NDArray[np.int_]) -> Sampler:
        """Draws the numbers for the piece that starts at `step`; the function that it returns takes `step - start`.

        Args:
            step: a step of the rollout for which `starts_piece` is true.
            active: the agents that step.
            remaining: `[agent]`, how many steps each of them has yet to take.
        """
        if not step % BLOCK_STEPS:
            self.settle()
            self._owed[active] = np.minimum(remaining[active], BLOCK_STEPS)
        for agent in active:
            steps = min(self.piece, int(self._owed[agent]))
            self._numbers[agent, :steps] = self._policy.noise(self._rngs[agent], steps)
            self._owed[agent] -= steps
        return self._policy.sampler(self._numbers)

    def settle(self) -> None:
        """Advances the streams of agents that stopped within the block past the numbers that they did not draw."""
        for agent in np.flatnonzero(self._owed).tolist():
            self._policy.skip(self._rngs[agent], int(self._owed[agent]))
        self._owed[:] = 0
