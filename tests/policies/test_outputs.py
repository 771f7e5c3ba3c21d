"""Output forms: which shapes and types of a model's outputs are accepted, and what becomes of them."""

import ml_dtypes
import numpy as np
import pytest
from gymnasium import spaces

from really.errors import ModelError
from really.policies.outputs import OutputForms, as_numbers
from really.policies.policy import make_policy

BOX_1, BOX_3 = spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (3,))
NORMAL = "continuous_normal_diagonal"
# Sampling type, action space, and the outputs for n states, each in full and as a squeezing model gives it.
CASES = {
    "q_values": ("thompson", spaces.Discrete(3), {"q_values": (3,)}),
    "one action": ("epsilon_greedy", spaces.Discrete(1), {"q_values": (1,)}),
    "logits": ("discrete_policy", spaces.MultiDiscrete([2, 3]), {"policy": (5,)}),
    "bits": ("discrete_policy", spaces.MultiBinary((2, 3)), {"policy": (2, 3)}),
    "one number": (NORMAL, BOX_1, {"mu": (1,), "sigma": (1,)}),
    "numbers": (NORMAL, BOX_3, {"mu": (3,), "sigma": (3,)}),
    "two axes": (NORMAL, spaces.Box(-1, 1, (2, 1)), {"mu": (2, 1), "sigma": (2, 1)}),
    "no axis": (NORMAL, spaces.Box(-1, 1, ()), {"mu": (), "sigma": ()}),
    "a value": ("thompson", spaces.Discrete(2), {"q_values": (2,), "v_estimate": (1,)}),
}


def outputs_for(shapes, rows):
    """Distinct positive numbers of each shape for `rows` states; those of the first states do not depend on `rows`."""
    return {
        name: 1 + np.arange(rows * max(1, int(np.prod(shape))), dtype=np.float32).reshape(rows, *shape)
        for name, shape in shapes.items()
    }


def squeezed(outputs):
    return {name: values.squeeze() for name, values in outputs.items()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_squeezed_outputs_give_the_arrays_of_full_ones(name, rows):
    kind, space, shapes = CASES[name]
    policy = make_policy(kind, space)
    full = OutputForms.of(policy, outputs_for(shapes, 1), outputs_for(shapes, 2))
    short = OutputForms.of(policy, squeezed(outputs_for(shapes, 1)), squeezed(outputs_for(shapes, 2)))
    assert full == short
    assert (full.one_by_one, full.shared, full.refused) == (False, frozenset(), {})
    expected = outputs_for(shapes, rows)
    for given in (expected, squeezed(expected)):
        for output, values in short.arrays(given, rows, shapes).items():
            width = () if output == "v_estimate" else (int(np.prod(shapes[output])),)
            assert values.shape == (rows, *width)
            np.testing.assert_array_equal(values.ravel(), expected[output].ravel())
    noise = policy.noise(np.random.default_rng(0), rows)
    assert policy.sample(short.arrays(squeezed(expected), rows, policy.required_outputs), noise).shape[0] == rows


@pytest.mark.parametrize(
    ("shape", "form", "is_shared"),
    [
        ((), (1,), True),
        ((1,), (1,), True),
        ((3,), (3,), True),
        ((1, 3), (3,), True),
        (("n",), (1,), False),
        (("n", 1), (1,), False),
        (("n", 3), (3,), False),
    ],
)
def test_a_sigma_is_shared_by_all_states_or_one_for_each(shape, form, is_shared):
    def outputs(rows):
        return {"mu": np.zeros((rows, 3)), "sigma": np.full([rows if size == "n" else size for size in shape], 0.5)}

    policy = make_policy(NORMAL, BOX_3)
    forms = OutputForms.of(policy, outputs(1), outputs(2))
    assert forms.shapes["sigma"] == form
    assert ("sigma" in forms.shared) == is_shared
    for rows in (1, 3, 4):
        arrays = forms.arrays(outputs(rows), rows, policy.required_outputs)
        actions = policy.sample(arrays, np.ones((rows, 3)))
        np.testing.assert_array_equal(actions, np.full((rows, 3), 0.5))
        assert policy.log_prob(arrays, actions).shape == (rows,)


@pytest.mark.parametrize("two", [None, {"q_values": np.zeros(3), "v_estimate": 0.5}])
def test_a_model_that_gives_one_row_for_two_states_takes_one_state_at_a_time(two):
    forms = OutputForms.of(make_policy("thompson", spaces.Discrete(3)), {"q_values": [1, 2, 3], "v_estimate": 0.5}, two)
    assert forms.one_by_one
    assert forms.shapes == {"q_values": (3,), "v_estimate": ()}
    np.testing.assert_array_equal(forms.arrays({"q_values": [1, 2, 3]}, 1, ["q_values"])["q_values"], [[1, 2, 3]])


@pytest.mark.parametrize(
    ("kind", "space", "one", "two", "message"),
    [
        ("thompson", spaces.Discrete(3), {"v": 1}, {}, "expected 'q_values' for 'thompson', got 'v'"),
        ("thompson", spaces.Discrete(3), {"q_values": (1, 2)}, {"q_values": (2, 2)}, r"\[1, 3\], got \[1, 2\]"),
        ("thompson", spaces.Discrete(3), {"q_values": (3,)}, {"q_values": (3, 2)}, r"\[2, 3\], got \[3, 2\]"),
        ("thompson", spaces.Discrete(3), {"q_values": (3,)}, {"q_values": (4,)}, r"\[2, 3\], got \[4\]"),
        (NORMAL, BOX_3, {"mu": (1,), "sigma": (3,)}, {"mu": (2,), "sigma": (3,)}, r"'mu'.*\[1, 3\], got \[1\]"),
        (NORMAL, BOX_3, {"mu": (3,), "sigma": (2,)}, {"mu": (2, 3), "sigma": (2,)}, r"'sigma'.*\[1, 3\], got \[2\]"),
    ],
)
def test_shapes_that_fit_neither_one_state_nor_two_are_refused(kind, space, one, two, message):
    def zeros(shapes):
        return {name: np.zeros(shape) for name, shape in shapes.items()}

    with pytest.raises(ModelError, match=message):
        OutputForms.of(make_policy(kind, space), zeros(one), zeros(two))


ODD = {
    "text": "dqn",
    "nothing": None,
    "dict": {"a": 1},
    "ragged": [[1], [2, 3]],
    "bytes": b"dqn",
    "complex": 1j,
    "array of text": np.array(["a"]),
    "object": object(),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_outputs_that_are_no_numbers_are_named_if_they_are_needed(odd):
    policy, q = make_policy("thompson", spaces.Discrete(2)), np.zeros((2, 2))
    with pytest.raises(ModelError, match=r"model output 'q_values': expected an array of real numbers, got \S+ .*"):
        OutputForms.of(policy, {"q_values": odd}, {"q_values": odd})
    forms = OutputForms.of(policy, {"q_values": q[:1], "name": odd, "v_estimate": odd}, {"q_values": q})
    assert forms.shapes == {"q_values": (2,)}
    assert "'v_estimate': expected an array of real numbers" in forms.refused["v_estimate"]
    with pytest.raises(ModelError, match="'v_estimate'"):
        forms.arrays({"q_values": q}, 2, ["v_estimate"])


def test_an_output_of_another_size_in_a_later_call_is_named():
    forms = OutputForms({"q_values": (2,)}, frozenset(), False, {})
    with pytest.raises(ModelError, match=r"'q_values': expected shape \[3, 2\], got \[2, 2\]"):
        forms.arrays({"q_values": np.zeros((2, 2))}, 3, ["q_values"])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float16, np.float32),
        (ml_dtypes.bfloat16, np.float32),
        (ml_dtypes.float8_e4m3fn, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.int64, np.int64),
    ],
)
def test_half_precision_becomes_float32_and_other_numbers_stay(dtype, expected):
    values = np.array([[0.5, -2.0]]).astype(dtype)
    got = as_numbers("q_values", values)
    assert got.dtype == expected
    np.testing.assert_array_equal(got, values.astype(expected))
