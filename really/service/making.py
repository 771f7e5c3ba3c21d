"""The shards that an argument `shards` stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from really.replay.disk.schema import FolderOptions
from really.replay.options import BufferOptions
from really.service.arguments import checked_shards
from really.service.opened import OpenedShards
from really.service.ray_shards import RayShards
from really.service.shards import LocalShards, Shards


def make_shards(
    shards: Any, options: BufferOptions, time_out: float, path: Path | None, given: FolderOptions
) -> Shards:
    """Shards in this process for a number, those that are open already, and else shards on nodes of the Ray cluster."""
    if isinstance(shards, OpenedShards):
        return shards
    if isinstance(shards, str | list | tuple):
        made = RayShards(shards, options, time_out, path, given)
        checked_shards(len(made.names), options.capacity)
        return made
    return LocalShards(checked_shards(shards, options.capacity), options, path, given)
