"""Environments of any API, made from what the user gave, and stepped as batches."""

from __future__ import annotations

from really._utils.public import list_public as _list_public
from really.envs.atari import atari
from really.envs.envpool import envpool

__all__ = ["atari", "envpool"]

_list_public(globals())
