"""Arguments that are True or False: a text or a number is refused, with the name of the argument."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import Mixture, ReplayBuffer, SampleManager, ShardedBuffer
from really.errors import InvalidTypeError
from tests.environments import Counter
from tests.models import QNet


def manager_of(**arguments: Any) -> SampleManager:
    given = {"use_ray": False, "num_steps": 5, "action_sampling_type": "epsilon_greedy"}
    return SampleManager(QNet, Counter, 2, 20, **(given | arguments))


def filled(kind: type = ReplayBuffer, **options: Any) -> Any:
    buffer = kind(10, **options)
    buffer.put({"reward": np.arange(6.0), "episode_end": np.ones(6)})
    return buffer


OF_BUFFERS: list[tuple[str, Callable[[Any], Any]]] = [
    ("overcommit", lambda value: ReplayBuffer(3, overcommit=value)),
    ("dedup", lambda value: ReplayBuffer(3, dedup=value)),
    ("dedup", lambda value: ShardedBuffer(3, shards=1, dedup=value)),
    ("replace", lambda value: filled().sample(2, replace=value)),
    ("replace", lambda value: filled(alpha=0.6).sample(2, replace=value)),
    ("replace", lambda value: filled(sampler=("half_life", {"half_life": 3})).sample(2, replace=value)),
    ("replace", lambda value: filled(ShardedBuffer, shards=1).sample(2, replace=value)),
    ("replace", lambda value: Mixture([(filled(), 1)]).sample(2, replace=value)),
    ("replace", lambda value: filled().sample_indices(2, replace=value)),
    ("replace", lambda value: filled().batches(2, replace=value)),
    ("keeps", lambda value: filled().open_reader(keeps=value)),
    ("keeps", lambda value: filled(ShardedBuffer, shards=1).open_reader(keeps=value)),
    ("drop_last", lambda value: filled().epochs(2, drop_last=value)),
    ("checks_states", lambda value: filled().episodes(checks_states=value)),
]


@pytest.mark.parametrize("value", ["no", 1, 0, np.array([True])])
@pytest.mark.parametrize(("name", "call"), OF_BUFFERS)
def test_a_buffer_takes_true_and_false_alone(name: str, call: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(InvalidTypeError, match=f"^{name}: expected True or False, got {re.escape(repr(value))}$"):
        call(value)


@pytest.mark.parametrize("value", ["no", 1])
def test_a_manager_takes_true_and_false_alone(value: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidTypeError, match=r"^is_tf: expected True or False"):
        manager_of(is_tf=value)
    with manager_of() as manager:
        manager.initialize_buffer(100)
        manager.collect(20)
        for name, call in (
            ("from_buffer", lambda: manager.sample(5, value)),
            ("test", lambda: manager.get_agent(test=value)),
            ("do_print", lambda: manager.collect(20, do_print=value)),
            ("progress", lambda: manager.collect(20, progress=value)),
            ("do_print", lambda: manager.test(5, 1, do_print=value)),
            ("progress", lambda: manager.test(5, 1, progress=value)),
            ("do_print", lambda: manager.evaluate_best(tmp_path, 5, 1, do_print=value)),
        ):
            with pytest.raises(InvalidTypeError, match=f"^{name}: expected True or False, got {value!r}$"):
                call()
        assert manager.steps == 20


def test_what_numpy_calls_true_and_false_is_taken() -> None:
    buffer = filled(dedup=np.False_, overcommit=np.True_)
    assert sorted(buffer.sample(6, replace=np.False_)["reward"]) == list(range(6))
    assert len(filled(alpha=0.6).sample(2, replace=np.True_)["reward"]) == 2
