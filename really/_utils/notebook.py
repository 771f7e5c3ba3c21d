"""Notebooks: objects as tables, files as figures and films, and cells that run again."""

from __future__ import annotations

import base64
import html
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_INLINE = 20 << 20
"""Most bytes of a file that is shown within a page."""
TAGS = {
    ".png": '<img src="data:image/png;base64,{}">',
    ".gif": '<img src="data:image/gif;base64,{}">',
    ".mp4": '<video controls loop src="data:video/mp4;base64,{}"></video>',
}


def shell() -> Any:
    """The IPython shell of a notebook's kernel; None elsewhere, as in a terminal. Imports nothing."""
    ipython = sys.modules.get("IPython")
    found = None if ipython is None else ipython.get_ipython()
    return found if hasattr(found, "kernel") else None


def show(thing: Any) -> None:
    """Shows an object below the running cell of a notebook."""
    if shell() is not None:
        from IPython.display import display

        display(thing)


class ShownFile(type(Path())):  # type: ignore[misc]
    """A path that a notebook shows as the figure or film that it is; everywhere else it is a path like others."""

    def _repr_html_(self) -> str | None:
        tag = TAGS.get(self.suffix.lower())
        try:
            if tag is None or self.stat().st_size > MOST_INLINE:
                return None
            return tag.format(base64.b64encode(self.read_bytes()).decode())
        except OSError:
            return None


class Shown:
    """Base of objects that a notebook shows as a table of what `_shown` says."""

    def _title(self) -> str:
        """What stands above the table."""
        return type(self).__name__

    def _shown(self) -> Mapping[str, Any]:
        """What the table says: name and value of each line."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        lines = "".join(
            f'<tr><th style="text-align:left">{html.escape(str(name))}</th>'
            f'<td style="text-align:left">{html.escape(str(value))}</td></tr>'
            for name, value in self._shown().items()
        )
        return f"<table><caption><b>{html.escape(self._title())}</b></caption><tbody>{lines}</tbody></table>"
