"""MaskedBatch: plain instances that tell beside each observation which actions it allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.data.masks import KEY
from really.envs.batch import PlainBatch
from really.envs.results import StepResult
from really.envs.spec import EnvironmentSpec


class MaskedBatch(PlainBatch):
    """Plain instances with action masks in `info`, or from a method `action_masks`. Batches without masks pay nothing.

    The mask of an episode's last state has no True if the environment gives none.
    """

    def __init__(
        self, spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], render_mode: str | None = None
    ) -> None:
        super().__init__(spec, seeds, render_mode)
        assert self.masks is not None
        self._row = self.masks.row
        self._shown_masks = np.zeros((self.num_envs, self.masks.width), np.bool_)
        self._last_masks = self._shown_masks.copy()
        self._final_masks = self._shown_masks
        self._update_steps()

    @property
    def action_masks(self) -> NDArray[np.bool_]:
        """`[env, width]`, the masks of the current observations."""
        return self._shown_masks

    @property
    def final_action_masks(self) -> NDArray[np.bool_]:
        """`[env, width]`, the masks of the final observations."""
        return self._final_masks

    def step(self, actions: NDArray[Any], active: NDArray[np.intp] | None = None) -> None:
        """Steps the environments, and takes over their masks."""
        self._final_masks = self._shown_masks
        super().step(actions, active)

    def _update_steps(self) -> None:
        super()._update_steps()
        self._loop.steps = [self._keeping_mask(i, step) for i, step in enumerate(self._loop.steps)]

    def _keeping_mask(self, i: int, step: Callable[[Any], StepResult]) -> Callable[[Any], StepResult]:
        def stepped(action: Any) -> StepResult:
            result = step(action)
            self._keep_mask(i, result[4], is_over=bool(result[2] or result[3]))
            return result

        return stepped

    def _keep_mask(self, i: int, info: Any, is_over: bool) -> None:
        mask = self._environments[i].action_mask(info)
        if mask is None and not is_over:
            raise ValueError(f"info: expected {KEY!r}, as the first reset gave one, got {info!r}")
        self._shown_masks[i] = False if mask is None else self._row(mask)

    def _end(self, ended: list[int]) -> None:
        np.copyto(self._last_masks, self._shown_masks)
        self._final_masks = self._last_masks
        super()._end(ended)

    def _begin(self, which: Iterable[int]) -> None:
        super()._begin(which)
        for i in which:
            try:
                self._keep_mask(i, self._environments[i].info, is_over=False)
            except Exception as error:
                raise self._failed("reset", i, error) from error
