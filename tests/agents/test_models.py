"""What is switched for the whole process while a model is built is as before afterwards, with several threads too."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import tensorflow as tf

from really.agents.seeding import seeded_initialisers
from really.agents.tensorflow.switches import undecorated


@pytest.mark.parametrize(
    ("context", "state"),
    [
        (undecorated, tf.config.functions_run_eagerly),
        (lambda: seeded_initialisers(np.random.SeedSequence(1)), random.getstate),
    ],
    ids=["functions", "generator"],
)
def test_threads_that_build_models_leave_the_process_as_it_was(
    context: Callable[[], AbstractContextManager[None]], state: Callable[[], object]
) -> None:
    """The second thread comes while the first is inside, and leaves after it."""
    before = state()
    second_is_in, first_is_out = threading.Event(), threading.Event()

    def second() -> None:
        with context():
            second_is_in.set()
            assert first_is_out.wait(60)

    thread = threading.Thread(target=second)
    with context():
        thread.start()
        second_is_in.wait(0.5)
    first_is_out.set()
    thread.join()
    assert state() == before
