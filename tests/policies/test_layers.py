"""Dense layers that are compiled: those of NumPy, with the same bits for any number of rows and any instructions."""

from __future__ import annotations

import numpy as np
import pytest

from really.policies import _layers
from really.policies._layers import CPU_LEVELS, Dense, Layers, padded

SIZES = [(1, 1), (4, 64), (64, 2), (7, 17), (33, 80), (9, 120), (256, 16)]


@pytest.fixture
def levels():
    """Leaves the highest level behind."""
    yield range(len(CPU_LEVELS))
    _layers.use_level(len(CPU_LEVELS) - 1)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_a_layer_has_the_same_bits_for_any_number_of_rows_and_any_instructions(inputs, outputs, rectified, levels):
    rng = np.random.default_rng(0)
    states, bias = rng.normal(size=(14, inputs)).astype(np.float32), rng.normal(size=outputs).astype(np.float32)
    weights = rng.normal(size=(inputs, outputs)).astype(np.float32)
    expected = states.astype(np.float64) @ weights + bias
    expected = np.maximum(expected, 0) if rectified else expected
    first = Dense(14, outputs, rectified)(states, padded(weights), padded(bias)).copy()
    np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-4)
    for level in levels:
        _layers.use_level(level)
        for rows in (1, 3, 4, 8, 13, 14):
            layer = Dense(rows, outputs, rectified)
            np.testing.assert_array_equal(layer(states[:rows], padded(weights), padded(bias)), first[:rows])


def test_layers_in_one_call_have_the_results_of_one_call_each():
    rng = np.random.default_rng(0)
    layers = [Dense(9, outputs, outputs > 3) for outputs in (20, 64, 3)]
    sizes = [(4, 20), (20, 64), (64, 3)]
    weights = [padded(rng.normal(size=shape)) for size in sizes for shape in (size, size[1:])]
    states = found = rng.normal(size=(9, 4)).astype(np.float32)
    for at, layer in enumerate(layers):
        found = layer(found, *weights[2 * at : 2 * at + 2])
    joined, expected = Layers(*layers), found.copy()
    with pytest.raises(ValueError, match="dense: expected weights and a bias before the first states"):
        Layers(Dense(9, 20, True))(states)
    joined.use(*weights)
    np.testing.assert_array_equal(joined(states), expected)
    with pytest.raises(ValueError, match=r"dense: expected states \[9, 4\] for weights \[4, 32\], got \[8, 4\]"):
        joined(states[:8])
    with pytest.raises(ValueError, match="expected weights and a bias for each of 3, got 5"):
        joined.use(*weights[:5])
    with pytest.raises(ValueError, match="dense: expected weights of two axes and a bias of one"):
        joined.use(*weights[:5], None)
    with pytest.raises(TypeError, match="expected each to be a Dense, got None"):
        Layers(layers[0], None)


def test_nan_stays_and_other_layouts_are_taken():
    layer, bias = Dense(2, 3, True), padded(np.zeros(3))
    assert np.isnan(layer(np.full((2, 2), np.nan), padded(np.ones((2, 3))), bias)).all()
    found = layer(np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]), padded(np.ones((3, 2)).T), bias)
    np.testing.assert_array_equal(found, [[3, 3, 3], [7, 7, 7]])


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"padded: expected weights .* or a bias .*, got the number 1\.0"):
        padded(1)
    layer = Dense(2, 3, False)
    weights, bias = padded(np.ones((4, 3))), padded(np.ones(3))
    with pytest.raises(ValueError, match=r"dense: expected states \[2, 4\] for weights \[4, 16\]"):
        layer(np.ones((3, 4), np.float32), weights, bias)
    with pytest.raises(ValueError, match="padded for 3 outputs"):
        layer(np.ones((2, 4), np.float32), padded(np.ones((4, 17))), padded(np.ones(17)))
    with pytest.raises(ValueError, match="a bias of one"):
        layer(np.ones((2, 4), np.float32), weights, weights)
