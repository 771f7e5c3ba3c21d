"""The sampler of ERE: over the updates of a phase, batches come from ever newer rows (Wang and Ross 2019)."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np

from really._utils.checks import checked_integer, checked_number
from really.errors import InvalidValueError
from really.replay import arguments
from really.replay._ring import Ring
from really.replay.samplers import Drawn, MayBeDrawn, Sampler, Shape, UniformSampler, drawn_by_ring, drawn_where
from really.replay.trajectories import Trajectories

UPDATE = "ere_update"
"""The key of `ReplayBuffer.state_dict` that holds how many batches of the phase are drawn."""


class EmphasizedSampler(UniformSampler):
    """Emphasizing recent experience without forgetting the past (ERE): Wang and Ross 2019, arXiv:1906.04009, section 4.

    Training goes in phases of K updates. The k-th batch of a phase, k = 1 to K, is uniform over the newest
    c_k = max(N eta^(1000 k / K), c_min) rows of N that are held. So every batch may have new rows, and only the first
    ones have old rows. Each batch of `sample`, and each of the k batches of `sample((k, n))`, is one update; the next
    phase begins after K of them. The paper does as many updates after an episode as it had steps.

    Args:
        eta: how fast the window shrinks, above 0 and up to 1; 1 draws uniformly. The paper takes 0.994 to 0.999.
        updates: K.
        least: c_min, rows of the smallest window.
        eta_end: eta after `anneal_rows` rows were put; by default `eta`. In between eta is linear in the rows put.
        anneal_rows: how many rows the training will put. It comes together with `eta_end`.
    """

    EMPHASIZED = 3
    """`RecencyKind` of the ring (csrc/rows/recency.pxd)."""

    def __init__(
        self,
        eta: SupportsFloat = 0.996,
        updates: SupportsIndex = 1000,
        least: SupportsIndex = 5000,
        eta_end: SupportsFloat | None = None,
        anneal_rows: SupportsIndex | None = None,
    ) -> None:
        if (eta_end is None) != (anneal_rows is None):
            raise InvalidValueError(
                f"eta_end, anneal_rows: expected both or none, got {eta_end!r} and {anneal_rows!r}; they anneal eta"
            )
        self.eta, self.eta_end = _checked_eta("eta", eta), None if eta_end is None else _checked_eta("eta_end", eta_end)
        self.updates = checked_integer("updates", updates, 1, arguments.MOST_ROWS)
        self.least = checked_integer("least", least, 1, arguments.MOST_ROWS)
        self.anneal_rows = None if anneal_rows is None else checked_integer("anneal_rows", anneal_rows, 1)
        self._update = 0
        self._ring: weakref.ref[Ring] | None = None

    def options(self) -> dict[str, Any]:
        """`eta`, `updates`, `least`, `eta_end` and `anneal_rows`."""
        names = ("eta", "updates", "least", "eta_end", "anneal_rows")
        return {name: getattr(self, name) for name in names}

    def prepare(self, ring: Ring) -> None:
        """Sets the windows of the ring's draws."""
        self._ring = weakref.ref(ring)
        eta_end = self.eta if self.eta_end is None else self.eta_end
        ring.set_recency(
            self.EMPHASIZED, self.least, self.eta, eta_end, self.anneal_rows or 1, self.updates, self._update
        )

    def check(self, replace: bool, beta: Any) -> None:
        """Refuses draws without replacement, and beta."""
        Sampler.check(self, replace, beta)

    def of_batch(self) -> UpdatesOfBatch:
        """Draws the updates that its first draw begins, as often as it is asked."""
        return UpdatesOfBatch(self.updates)

    def draw_among(
        self, ring: Ring, shape: Shape, beta: float | None, starts: Trajectories, replace: bool = True
    ) -> Drawn:
        """Numbers of starts, of each batch in the window of its own update."""
        return self.of_batch().draw_among(ring, shape, beta, starts, replace)

    def state_dict(self) -> dict[str, Any]:
        """`ere_update`: how many batches of the phase are drawn."""
        ring = None if self._ring is None else self._ring()
        return {UPDATE: self._update if ring is None else ring.num_updates_drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues the phase, unless the state is of a buffer that has none."""
        if UPDATE in state:
            self._update = checked_integer(UPDATE, state[UPDATE], 0, self.updates - 1)
            ring = None if self._ring is None else self._ring()
            if ring is not None:
                self.prepare(ring)


class UpdatesOfBatch(Sampler):
    """Draws of `EmphasizedSampler` that belong to the same updates: the next ones at the first draw.

    Args:
        num_updates: K.
    """

    def __init__(self, num_updates: int) -> None:
        self._num_updates = num_updates
        self._first: int | None = None

    def draw(self, ring: Ring, shape: Shape, beta: float | None = None) -> Drawn:
        """Row numbers of each batch in the window of its own update."""
        return drawn_by_ring(ring, shape, self._begun(ring, shape)), {}

    def _drawn_where(self, may_be_drawn: MayBeDrawn, ring: Ring, shape: Shape, beta: Any) -> Drawn | None:
        """Rows of each batch are drawn again in the window of its own update."""
        first, batches = self._begun(ring, shape), []
        for at in range(arguments.sizes_of(shape)[1] or 1):
            draw = partial(self._draw_of_update, ring, (first + at) % self._num_updates)
            if (drawn := drawn_where(may_be_drawn, draw, shape[-1:])) is None:
                return None
            batches.append(drawn[0])
        return np.stack(batches).reshape(shape), {}

    def _begun(self, ring: Ring, shape: Shape) -> int:
        """The first update, which begins with the first call."""
        if self._first is None:
            self._first = ring.begin_updates(arguments.sizes_of(shape)[1] or 1)
        return self._first

    def _draw_of_update(self, ring: Ring, update: int, shape: Shape) -> Drawn:
        return drawn_by_ring(ring, shape, update), {}


def _checked_eta(name: str, value: Any) -> float:
    eta = checked_number(name, value, 0, 1)
    if eta == 0:
        raise InvalidValueError(f"{name}: expected a number above 0, up to 1, got {value!r}")
    return eta
