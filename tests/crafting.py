"""Files whose checksums are right and whose content is not: what a person could make, and chance could not."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from really.checkpoints import description
from really.replay.disk.schema import SCHEMA

WEIGHTS, META = "model.weights.h5", "meta.json"
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 1 << 70, 1.5, -1e300),
    *("", "x", "nan", "../x", [], [1], [[]], {}, {"a": 1}),
)
"""What a place of a description may have instead."""


def measure_again(folder: Path, change: Callable[[dict[str, Any]], object] = lambda meta: None) -> None:
    """Changes the description of a saved model, and gives it the checksums of what is there."""
    meta = json.loads((folder / META).read_text())
    del meta["crc32"]
    meta["files"] = {WEIGHTS: description.measured(folder / WEIGHTS)}
    change(meta)
    meta["crc32"] = zlib.crc32(json.dumps(meta, sort_keys=True).encode())
    (folder / META).write_text(json.dumps(meta))


def change_schema(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes what `schema.json` of a buffer on disk says, and its checksum."""
    text = json.loads((folder / SCHEMA).read_text())
    change(text["buffer"])
    text["crc32"] = zlib.crc32(json.dumps(text["buffer"], sort_keys=True).encode())
    (folder / SCHEMA).write_text(json.dumps(text))


def change_checkpoint(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the description of a checkpoint, and gives it the checksums of what is there."""
    meta = json.loads((folder / META).read_text())
    meta["about"]["files"] = {
        name: description.measured(folder / name) for name in meta["about"]["files"] if (folder / name).exists()
    }
    change(meta["about"])
    meta["crc32"] = zlib.crc32(json.dumps(meta["about"], sort_keys=True).encode())
    (folder / META).write_text(json.dumps(meta))


def change_anything(tree: Any, rng: np.random.Generator) -> None:
    """Gives one place of a tree of JSON another value or name, or removes it."""
    place, key = tree, None
    while isinstance(place, dict | list) and len(place) and (key is None or rng.random() < 0.8):
        parent, key = place, _some(list(place) if isinstance(place, dict) else range(len(place)), rng)
        place = parent[key]
    if key is None:
        return
    value = parent.pop(key)
    if rng.random() < 0.7:
        other = VALUES[int(rng.integers(len(VALUES)))]
        parent.insert(key, other) if isinstance(parent, list) else parent.update({key: other})
    elif isinstance(parent, dict) and rng.random() < 0.5:
        parent[f"{key}2"] = value


def _some(keys: Any, rng: np.random.Generator) -> Any:
    return keys[int(rng.integers(len(keys)))]
