"""viewer_of: chooses the viewer for the argument `render`: none, a window or a film."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np

from really.errors import InvalidTypeError
from really.evaluation.film import EXPECTED, Film
from really.evaluation.viewer import Viewer
from really.evaluation.window import Window, has_display

log = logging.getLogger("really")


def viewer_of(render: Any, name: str) -> Viewer:
    """The viewer for the argument `render`.

    Args:
        render: True or False; 'gif', 'mp4', or a path that ends in .gif or .mp4.
        name: name of the environment; 'gif' makes the film `<name>.gif` in the current folder.

    Raises:
        InvalidTypeError, InvalidValueError: `render` is none of these, or the film cannot be written there.
    """
    if render is None or isinstance(render, bool | int | np.bool_):
        if render and not has_display():
            where = f"{os.environ['DISPLAY']!r} does not answer" if os.environ.get("DISPLAY") else "DISPLAY is not set"
            log.warning("render=True: expected a display, there is none (%s); episodes are not shown.", where)
            return Viewer()
        return Window() if render else Viewer()
    if isinstance(render, str | os.PathLike):
        return Film(render, name)
    raise InvalidTypeError(f"render: {EXPECTED}, got {render!r}")
