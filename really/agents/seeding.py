"""Random generators of the process from which frameworks draw initial weights, seeded for a while."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

# Held while a switch or a generator of the whole process is changed for a while.
PROCESS_STATE = threading.RLock()


@contextlib.contextmanager
def seeded_initialisers(seed: np.random.SeedSequence | None) -> Iterator[None]:
    """Makes initial weights repeatable, and restores the generators afterwards; threads take turns.

    Keras seeds its initialisers from Python's global generator, and modules of PyTorch draw from that of PyTorch.
    Without a seed nothing happens.
    """
    if seed is None:
        yield
        return
    # A module of PyTorch cannot be made before PyTorch was imported.
    torch: Any = sys.modules.get("torch")
    number = int(seed.generate_state(1)[0])
    with PROCESS_STATE:
        before, torch_before = random.getstate(), torch and torch.get_rng_state()
        random.seed(number)
        if torch:
            torch.manual_seed(number)
        try:
            yield
        finally:
            random.setstate(before)
            if torch:
                torch.set_rng_state(torch_before)
