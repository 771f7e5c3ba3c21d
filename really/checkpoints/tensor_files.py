"""Arrays in a file of safetensors, by their names: the format of PyTorch and JAX in which nothing is unpickled.

`safetensors.torch.load_file` reads such a file of a model as its `state_dict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.input_files import open_regular, reading
from really._utils.packages import needed
from really.checkpoints.array_files import Described
from really.errors import InvalidFileError

SUFFIX = ".safetensors"


def write(path: Path, variables: Sequence[Any], described: Sequence[Described]) -> None:
    """Writes the described arrays to a new file."""
    with needed(str(path), "safetensors", "torch"):
        from safetensors import numpy as safetensors

    pairs = zip(described, variables, strict=True)
    path.write_bytes(safetensors.save({about["name"]: np.array(array, order="C") for about, array in pairs}))


def read(path: Path, described: Sequence[Described]) -> list[NDArray[Any]]:
    """Reads the described arrays from a file; raises InvalidFileError unless it has them as described."""
    with needed(str(path), "safetensors", "torch"):
        import safetensors
        from safetensors import numpy as arrays_of

    with reading(path, f"{len(described)} arrays"), open(open_regular(path), "rb") as content:
        try:
            found = arrays_of.load(content.read())
        except (safetensors.SafetensorError, KeyError) as error:
            raise InvalidFileError(f"{path}: expected a file of safetensors, got {error}") from error
    expected = {about["name"]: (about["dtype"], list(about["shape"])) for about in described}
    got = {name: (str(array.dtype), list(array.shape)) for name, array in found.items()}
    if got != expected:
        name = next(name for name in {**expected, **got} if expected.get(name) != got.get(name))
        raise InvalidFileError(
            f"{path}: {name}: expected {expected.get(name, 'nothing')}, got {got.get(name, 'nothing')}"
        )
    # Arrays over the bytes of the file are read-only.
    return [np.array(found[about["name"]]) for about in described]
