"""A replay buffer in several shards, which may be on several hosts."""

from __future__ import annotations

from really._utils.public import publish as _publish
from really.service.sharded_buffer import ShardedBuffer

__all__ = ["ShardedBuffer"]

_publish(globals())
