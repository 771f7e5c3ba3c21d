"""viewer_of: chooses the viewer for the argument `render`: none, a window, text or a film."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from really.envs.spec import EnvironmentSpec
from really.errors import InvalidTypeError
from really.evaluation.film import EXPECTED, Film
from really.evaluation.text import Text, declares_text
from really.evaluation.viewer import Notices, Viewer
from really.evaluation.window import Window, has_display


def viewer_of(render: Any, name: str, notices: Notices | None = None, spec: EnvironmentSpec | None = None) -> Viewer:
    """The viewer for the argument `render`.

    Args:
        render: True or False; 'gif', 'mp4', or a path that ends in .gif or .mp4.
        name: name of the environment; 'gif' makes the film `<name>.gif` in the current folder.
        notices: logs once, for all viewers that share it, why episodes are not shown.
        spec: the environment; without a display its text is printed, if it has any.

    Raises:
        InvalidTypeError, InvalidValueError: `render` is none of these, or the film cannot be written there.
    """
    if render is None or isinstance(render, bool | int | np.bool_):
        if render and not has_display():
            if spec is not None and declares_text(spec):
                return Text()
            where = f"{os.environ['DISPLAY']!r} does not answer" if os.environ.get("DISPLAY") else "DISPLAY is not set"
            text = f"render=True: expected a display, there is none ({where}); episodes are not shown."
            text += " render='gif' films them."
            (notices or Notices()).warn("display", text)
            return Viewer()
        return Window(notices) if render else Viewer()
    if isinstance(render, str | os.PathLike):
        return Film(render, name)
    raise InvalidTypeError(f"render: {EXPECTED}, got {render!r}")
