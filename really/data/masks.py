"""ActionMasks: how an environment tells which actions a state allows, and the masks as rows of booleans."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from really.data.schema import ColumnSpec, Spec
from really.data.spaces import observation_leaves

log = logging.getLogger("really")

KEY = "action_mask"
"""Name of a mask: a part of the observation, or a key of `info`; and of the column of masks that come with `info`."""
KEY_NEW = "action_mask_new"
"""Name of the column with the masks of the next states."""


@dataclass(frozen=True)
class ActionMasks:
    """The masks of an environment. A mask has one boolean for each choice of each part of an action; True allows it.

    A Discrete action is one part, and a MultiDiscrete one has a part for each number. Each part of a MultiBinary action
    is a choice of 0 and 1, as in sb3-contrib.

    Attributes:
        sizes: number of choices of each part.
        leaf: number of the observation's leaf that is the mask; None if masks come with `info`.
    """

    sizes: tuple[int, ...]
    leaf: int | None

    @classmethod
    def of(
        cls, name: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], mask: Any
    ) -> ActionMasks | None:
        """The masks of environment `name`, which gave `mask` beside its first observation; None if it has none.

        A mask that does not fit the actions is not used, with a warning.
        """
        sizes = _sizes(action_space)
        if sizes is None:
            return None
        leaves = list(observation_leaves(observation_space).items())
        for at, (leaf, spec) in enumerate(leaves):
            if leaf.endswith(f".{KEY}") and cls(sizes, at)._fits(name, f"'state{leaf}'", np.empty(spec.shape)):
                return cls(sizes, at)
        found = cls(sizes, None)
        return found if mask is not None and found._fits(name, f"info[{KEY!r}]", mask) else None

    @property
    def width(self) -> int:
        """Number of booleans of a mask."""
        return sum(self.sizes)

    @property
    def columns(self) -> Spec:
        """The columns that are delivered besides those of the observation."""
        mask = ColumnSpec(np.dtype(np.bool_), (self.width,))
        return {KEY: mask, KEY_NEW: mask} if self.leaf is None else {}

    def row(self, mask: Any) -> NDArray[np.bool_]:
        """A mask as `[width]`; parts may come one by one. Raises ValueError for a mask of another size."""
        if isinstance(mask, tuple | list) and len(mask) == len(self.sizes) > 1 and np.ndim(mask[0]) == 1:
            mask = np.concatenate([np.ravel(part) for part in mask])
        values = np.ravel(np.asarray(mask))
        if values.shape != (self.width,) or values.dtype.kind not in "biuf":
            raise ValueError(f"{KEY}: expected {self.width} booleans, got {values.dtype}{list(np.shape(mask))}")
        allowed: NDArray[np.bool_] = values != 0
        return allowed

    def rows(self, masks: NDArray[Any]) -> NDArray[np.bool_]:
        """The masks of n states as `[n, width]`."""
        allowed: NDArray[np.bool_] = masks.reshape(-1, self.width) != 0
        return allowed

    def without_choice(self, masks: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Numbers of the masks `[n, width]` that allow no choice of some part."""
        if len(self.sizes) == 1:
            return np.flatnonzero(~masks.any(axis=1))
        starts = np.cumsum((0, *self.sizes[:-1]))
        return np.flatnonzero(~np.logical_or.reduceat(masks, starts, axis=1).all(axis=1))

    def _fits(self, name: str, where: str, mask: Any) -> bool:
        try:
            self.row(mask)
        except ValueError as error:
            log.warning("environment %r: %s is not used as a mask of its actions: %s", name, where, error)
            return False
        return True


def mask_in(info: Any) -> Any:
    """The mask in an environment's `info`, or None."""
    return info.get(KEY) if isinstance(info, Mapping) else None


def _sizes(space: spaces.Space[Any]) -> tuple[int, ...] | None:
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(np.ravel(space.nvec).tolist())
    return (2,) * int(np.prod(space.shape)) if isinstance(space, spaces.MultiBinary) else None
