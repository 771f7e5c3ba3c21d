"""The writer of programs takes a ReLU into the layer before it only where the result is the same."""

from __future__ import annotations

import numpy as np
import pytest

from really.agents.frameworks.programs import ProgramWriter
from really.policies.array_program import Evaluator


@pytest.mark.parametrize(
    ("zeros", "dtype", "is_taken"), [((1,), "float32", True), ((1, 5), "float32", False), ((1,), "float64", False)]
)
def test_a_maximum_with_zeros_keeps_the_shape_and_dtype_of_its_result(zeros, dtype, is_taken):
    states, weights = np.array([[1, -2], [-3, 1], [2, 2]], np.float32), np.ones((2, 1), np.float32)
    writer = ProgramWriter([states[0]], [weights])
    layer = writer.product(*writer.inputs)
    result = writer.step("max", [layer, writer.constant(np.zeros(zeros, dtype))], (), (-1, zeros[-1]), dtype)
    program = writer.program([result])
    evaluator = Evaluator(program, 3)
    evaluator.set_weights([weights])
    (found,) = evaluator([states])
    np.testing.assert_array_equal(found, np.broadcast_to([[0], [0], [4]], (3, zeros[-1])))
    assert found.dtype == dtype
    assert any(step.operation == "max" for step in program.steps) is not is_taken


def test_layers_that_follow_each_other_are_one_step_unless_a_result_between_them_is_wanted():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(3, 4)).astype(np.float32)
    weights = [rng.normal(size=size).astype(np.float32) for size in ((4, 8), (8, 8), (8, 2), (8, 1))]
    writer = ProgramWriter([states[0]], weights)
    given, first, second, *heads = writer.inputs
    features = writer.product(given, first)
    hidden = writer.step("copy", [writer.product(features, second)], (), (-1, 8), "float32")
    results = [*(writer.product(hidden, head) for head in heads), features]
    program = writer.program(results)
    assert "copy" not in {step.operation for step in program.steps}
    evaluator = Evaluator(program, 3)
    evaluator.set_weights(weights)
    found = evaluator([states])
    expected = states @ weights[0]
    for got, wanted in zip(found, [expected @ weights[1] @ head for head in weights[2:]] + [expected], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4)
