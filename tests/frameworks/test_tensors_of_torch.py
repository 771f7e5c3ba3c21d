"""Tensors of PyTorch in a buffer: those that NumPy takes are put, the others are told what to do."""

from __future__ import annotations

import pytest

from really import ReplayBuffer
from really.errors import InvalidValueError

torch = pytest.importorskip("torch")


def test_tensors_with_gradients_and_of_bfloat16_are_told() -> None:
    buffer = ReplayBuffer(8)
    for tensor, told in (
        (torch.zeros(2, 3, requires_grad=True), r"got one that requires it; give tensor\.detach\(\)$"),
        (torch.zeros(2, 3, dtype=torch.bfloat16), r"got torch\.bfloat16; give tensor\.float\(\)$"),
    ):
        for given in (tensor, list(tensor)):
            with pytest.raises(InvalidValueError, match=rf"^put: key 'state': expected a tensor .*{told}"):
                buffer.put({"state": given})
    buffer.put({"state": torch.ones(2, 3, requires_grad=True).detach()})
    assert buffer.take([0])["state"].tolist() == [[1, 1, 1]]
