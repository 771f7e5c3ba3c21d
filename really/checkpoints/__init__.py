"""Checkpoints: saved models, and the saved state of training runs."""

from __future__ import annotations

from really._utils.public import publish as _publish
from really.checkpoints.pytrees import Pytree
from really.checkpoints.saved_models import all_subdirs_of, load_model, newest_checkpoint, save_model

__all__ = ["Pytree", "all_subdirs_of", "load_model", "newest_checkpoint", "save_model"]

_publish(globals())
