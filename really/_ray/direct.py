"""Answers of actors that come over the connection to their process, and not through Ray's object stores.

Ray sends answers of up to 100 kB so. A longer one it copies into the store of the actor's node, and asks a directory
where it is; then one raylet sends it to the other, in pieces, and that one copies it into its store.
"""

from __future__ import annotations

from typing import Any

LONGEST = 32 << 20
"""Bytes of an answer that comes directly, at most. Ray refuses messages of 512 MB."""


def answers_directly() -> dict[str, Any]:
    """Options of an actor whose answers come directly; where Ray does not know them, answers come as before."""
    limits = {
        "RAY_max_direct_call_object_size": str(LONGEST),
        "RAY_task_rpc_inlined_bytes_limit": str(2 * LONGEST),
    }
    return {"runtime_env": {"env_vars": limits}}
