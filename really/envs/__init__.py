"""Environments of any API as batches that runners step."""

from __future__ import annotations

from really.envs.atari import atari

__all__ = ["atari"]
