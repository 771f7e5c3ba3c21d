"""The loop that benchmarks compare with others does the same work as they do."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
from bench.frameworks import OneVector, torch_module  # noqa: E402


@pytest.mark.parametrize("norm", [0.01, 1e3])
def test_one_vector_is_trained_as_the_parameters_are(norm):
    plain = torch_module(4, 8, 8, 2)
    joined = copy.deepcopy(plain)
    first, second = torch.optim.Adam(plain.parameters(), lr=0.01), OneVector(joined)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        states = torch.randn(16, 4, generator=generator)
        first.zero_grad()
        plain(states)["q_values"].square().sum().backward()
        found = torch.nn.utils.clip_grad_norm_(list(plain.parameters()), norm)
        assert (found > norm) == (norm == 0.01)
        first.step()
        second.train(joined(states)["q_values"].square().sum(), 0.01, norm)
    for one, other in zip(plain.parameters(), joined.parameters(), strict=True):
        torch.testing.assert_close(one, other)
