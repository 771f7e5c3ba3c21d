"""Environments of any API, made from what the user gave, and stepped as batches."""

from __future__ import annotations

from really.envs.atari import atari
from really.envs.envpool import envpool

__all__ = ["atari", "envpool"]
