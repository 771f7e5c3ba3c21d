"""Columns of a message encoded as frames: a runner sends each frame once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.data.frames import plan
from really.data.schema import spec_of_columns
from really.replay import engine


def encode(columns: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """The same columns [row, ...], with a `FrameColumn` for each that may share frames: the rows of one message."""
    spec = spec_of_columns(columns)
    sharings = plan(spec)
    num = len(next(iter(columns.values())))
    if not sharings or num == 0:
        return dict(columns)
    names = [list(spec)[at] for sharing in sharings for at in sharing.columns]
    numbers = iter(range(len(names)))
    local = [sharing._replace(columns=tuple(next(numbers) for _ in sharing.columns)) for sharing in sharings]
    ring = engine.make_ring(num, {name: spec[name] for name in names}, np.random.SFC64(0), local)
    if not ring.put({name: columns[name] for name in names}):
        raise AssertionError("the ring refused columns of its own schema")
    return dict(columns) | (ring.read(0, num) or {})
