"""The loop that benchmarks compare with others does the same work as they do."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
from bench.frameworks import one_vector, torch_module  # noqa: E402


def test_one_vector_is_trained_as_the_parameters_are():
    plain = torch_module(4, 8, 8, 2)
    joined = copy.deepcopy(plain)
    vector = one_vector(joined)
    first, second = torch.optim.Adam(plain.parameters(), lr=0.01), torch.optim.Adam([vector], lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        states = torch.randn(16, 4, generator=generator)
        first.zero_grad()
        plain(states)["q_values"].square().sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(list(plain.parameters()), 0.01)
        assert norm > 0.01
        first.step()
        vector.grad.zero_()
        joined(states)["q_values"].square().sum().backward()
        vector.grad *= (0.01 / (vector.grad.norm() + 1e-6)).clamp(max=1.0)
        second.step()
    for one, other in zip(plain.parameters(), joined.parameters(), strict=True):
        torch.testing.assert_close(one, other)
