"""Files whose checksums are right and whose content is not: what a person could make, and chance could not."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from really.checkpoints import description
from really.replay.disk.schema import SCHEMA

WEIGHTS, META = "model.weights.h5", "meta.json"


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
