"""The lifetime of a SampleManager: it starts its runners, keeps its agent as its settings say, and closes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Self

from really._utils.notebook import Shown
from really._utils.progress import steps_of
from really._utils.published import PublishedManager
from really.collectors.background import BackgroundCollection
from really.collectors.episodes import EpisodeLog
from really.collectors.messages import PolicySettings
from really.errors import InvalidStateError
from really.manager import cells
from really.manager.arguments import Settings
from really.manager.buffers import Buffer
from really.manager.building import Builder
from really.manager.current_agent import CurrentAgent
from really.manager.summary import Summary
from really.policies.policy import fitting_sampling_types
from really.replay import engine

log = logging.getLogger("really")

# Settings that one sampling type alone uses: their defaults, and that type.
USED_BY = {"epsilon": (0.95, "epsilon_greedy"), "temperature": (1.0, "thompson")}
# Seconds in which background collection ends after the fleet's patience with its last chunks is over.
END_MARGIN = 5.0


class Lifetime(PublishedManager, Shown):
    """What `SampleManager` inherits: the parts that it builds from its settings, and their start and end."""

    kwargs: Settings
    buffer: Buffer | None
    _background: BackgroundCollection | None

    def _start(self, report: Callable[[str], None]) -> None:
        """The slow part of the constructor; `report` is called with the name of each step."""
        report("inspecting the environment")
        self._builder = Builder(self.kwargs)
        self._statistics = self._builder.statistics()
        self._episodes = EpisodeLog()
        self._told = set[str]()
        report("starting runners")
        self._fleet = self._builder.fleet()
        try:
            parts = (self._fleet, self._statistics, self._episodes)
            self._current = CurrentAgent(self._builder, self.kwargs, *parts, report)
            self._start_collector()
            self._tell_chosen_type()
        except BaseException:
            self.close()
            raise

    def _start_collector(self) -> None:
        """Makes a new collector. A change of `model_kwargs` keeps it, and with it the numbers of pending orders."""
        self._collector = self._builder.collector(self._fleet, self._statistics, self._episodes, self._current.columns)

    def __repr__(self) -> str:
        if "_current" not in vars(self):
            return "SampleManager(not started)"
        size = ", ".join(f"{name}={self.kwargs[name]}" for name in ("num_parallel", "total_steps"))
        rows = "no buffer" if self.buffer is None else f"{len(self.buffer)} of {self.buffer.capacity} rows"
        return f"SampleManager({self._builder.probe.name!r}, {size}, policy_version={self._fleet.version}, {rows})"

    def info(self) -> Summary:
        """Describes the manager and its runners, as a dict that prints well. It calls every runner, which is slow."""
        return Summary(
            {
                **self._current.info(),
                "buffer_bytes": 0 if self.buffer is None else self.buffer.nbytes,
                "processor": engine.CPU_LEVEL,
                "policy_version": self._fleet.version,
                **self._episodes.info(),
                **self._statistics.info(),
                "runners": self._fleet.info(),
                **self._collector.info(),
                **(self._background.info() if self._background else {}),
            }
        )

    def _shown(self) -> Mapping[str, Any]:
        """What a notebook shows: it asks no runner."""
        settings, buffer = self.kwargs, self.buffer
        about = {name: value for name, value in self._current.info().items() if not isinstance(value, Mapping)}
        length = {name: settings[name] for name in ("num_steps", "num_episodes") if settings[name] is not None}
        return {
            **about,
            **{name: settings[name] for name in ("num_parallel", "total_steps")},
            **length,
            "policy_version": self._fleet.version,
            **self._episodes.info(),
            "buffer": "none" if buffer is None else f"{len(buffer):,} of {buffer.capacity:,} rows",
        }

    def close(self) -> None:
        """Releases the runners and their processes; the buffer and the agent stay usable.

        Background collection ends first, as with its `stop()`, but chunks that take longer than half a minute to arrive
        from the runners' processes are given up.
        """
        try:
            if self._background is not None and self._background.running:
                patience = self._fleet.end_patience
                self._background.stop(None if patience is None else patience + END_MARGIN)
        finally:
            cells.forget(self)
            self._close_env_instance()
            self._fleet.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _sync(self) -> PolicySettings:
        """Applies the settings that were changed since the last call; returns those of the policy."""
        if self._current.is_outdated:
            self._refuse_background("a change of model_kwargs")
            with steps_of("model_kwargs") as report:
                self._current.build(report)
        self._warn_of_ignored_settings()
        return self._current.apply_settings()

    def _tell_chosen_type(self) -> None:
        """Warns which sampling type was taken by default, if others fit the model's outputs as well."""
        fitting = fitting_sampling_types(self._current.agent.output_names)
        if self.kwargs["action_sampling_type"] is None and len(fitting) > 1:
            log.warning(
                "action_sampling_type: expected one of %s, as the model's outputs fit them, got none; %r is taken",
                ", ".join(map(repr, fitting)),
                self._current.exported.sampling_type,
            )

    def _warn_of_ignored_settings(self) -> None:
        """Warns once of each setting that was given and that the sampling type does not use."""
        kind = self._current.exported.sampling_type
        for name, (default, user) in USED_BY.items():
            if kind != user and self.kwargs[name] != default and name not in self._told:
                self._told.add(name)
                log.warning(
                    "%s: expected action_sampling_type=%r, which uses it, got %r, which ignores it", name, user, kind
                )

    def _refuse_background(self, what: str) -> None:
        """Raises InvalidStateError if background collection runs."""
        if self._background is not None and self._background.running:
            raise InvalidStateError(f"{what}: expected no collection in the background; call stop() of it first")
