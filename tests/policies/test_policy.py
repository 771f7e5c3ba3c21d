"""Policies: distributions, exact log-probabilities against slow references, noise, and refused arguments."""

import math

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from really.errors import InvalidValueError, ModelError
from really.policies.policy import (
    SAMPLING_TYPES,
    canonical_sampling_type,
    check_finite,
    infer_sampling_type,
    make_policy,
)

ROWS = 40_000
GAUSSIAN = {"mu": np.array([[0.5, -0.2]], np.float32), "sigma": np.array([[0.7, 2.0]], np.float32)}
SKEW = spaces.Box(np.array([-1.0, 2.0], np.float32), np.array([3.0, 2.5], np.float32))
Q = np.array([[0.3, -1.0, 1.2, 0.9]], np.float32)
CASES = [
    ("epsilon_greedy", spaces.Discrete(4), {"q_values": Q}),
    ("thompson", spaces.Discrete(4, start=7), {"q_values": Q}),
    ("discrete_policy", spaces.Discrete(4, start=-2), {"policy": Q}),
    (
        "discrete_policy",
        spaces.MultiDiscrete([3, 2]),
        {"policy": np.array([[0.1, 2.0, -1, 0.5, 0]], np.float32)},
    ),
    ("discrete_policy", spaces.MultiBinary(3), {"policy": np.array([[0.4, -2.0, 1.0]], np.float32)}),
    ("continuous_normal_diagonal", spaces.Box(-1, 1, (2,)), GAUSSIAN),
    ("continuous_squashed_normal", SKEW, GAUSSIAN),
]
IDS = [f"{kind}-{type(space).__name__}" for kind, space, _ in CASES]


def repeated(outputs, rows):
    return {name: np.repeat(values, rows, axis=0) for name, values in outputs.items()}


def softmax(z):
    exponentials = [math.exp(float(x)) for x in z]
    return [x / sum(exponentials) for x in exponentials]


def normal_log_prob(action, mu, sigma, low, high):
    return stats.norm.logpdf(action, mu, sigma)


def squashed_log_prob(action, mu, sigma, low, high):
    """The change of variables by hand: N(u) / |da/du| for a = low + (high - low) (tanh u + 1) / 2."""
    fraction = 2 * (action - low) / (high - low) - 1
    slope = 0.5 * (high - low) * (1 - fraction**2)
    return stats.norm.logpdf(math.atanh(fraction), mu, sigma) - math.log(slope)


def slow_log_prob(policy, space, outputs, action):
    """Log-probability of one row, computed from the formulae in plain Python."""
    if policy.sampling_type == "epsilon_greedy":
        q = outputs["q_values"][0].tolist()
        greedy = action - space.start == q.index(max(q))
        return math.log((1 - policy.epsilon) * greedy + policy.epsilon / len(q))
    if policy.sampling_type == "thompson":
        return math.log(softmax(outputs["q_values"][0] / policy.temperature)[action - space.start])
    if isinstance(space, spaces.Box):
        squashed = policy.sampling_type == "continuous_squashed_normal"
        parameters = zip(action, outputs["mu"][0], outputs["sigma"][0], space.low, space.high, strict=True)
        return sum((squashed_log_prob if squashed else normal_log_prob)(*map(float, each)) for each in parameters)
    logits = outputs["policy"][0]
    if isinstance(space, spaces.Discrete):
        return math.log(softmax(logits)[action - space.start])
    if isinstance(space, spaces.MultiDiscrete):
        first, second = logits[: space.nvec[0]], logits[space.nvec[0] :]
        return math.log(softmax(first)[action[0]]) + math.log(softmax(second)[action[1]])
    return sum(math.log(1 / (1 + math.exp(-x if a else x))) for x, a in zip(logits, action, strict=True))


@pytest.mark.parametrize(("kind", "space", "outputs"), CASES, ids=IDS)
def test_log_prob_equals_slow_reference(kind, space, outputs):
    policy = make_policy(kind, space, epsilon=0.3, temperature=0.5)
    rows = repeated(outputs, 200)
    actions = policy.sample(rows, policy.noise(np.random.default_rng(1), 200))
    got = policy.log_prob(rows, actions)
    assert got.dtype == np.float32
    assert got.shape == (200,)
    expected = [slow_log_prob(policy, space, outputs, a) for a in actions]
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("kind", "space", "outputs"), CASES[:5], ids=IDS[:5])
def test_sampled_frequencies_follow_log_prob(kind, space, outputs, seed):
    policy = make_policy(kind, space, epsilon=0.4, temperature=0.5)
    actions = policy.sample(repeated(outputs, ROWS), policy.noise(np.random.default_rng(seed), ROWS))
    kinds, counts = np.unique(actions, axis=0, return_counts=True)
    expected = np.exp(policy.log_prob(repeated(outputs, len(kinds)), kinds).astype(np.float64)) * ROWS
    assert expected.sum() == pytest.approx(ROWS, rel=1e-4)
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-6


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_normal_actions_have_the_normal_distribution(seed):
    kind, space, outputs = CASES[-2]
    policy = make_policy(kind, space)
    actions = policy.sample(repeated(outputs, ROWS), policy.noise(np.random.default_rng(seed), ROWS))
    for at in range(2):
        normal = stats.norm(outputs["mu"][0, at], outputs["sigma"][0, at])
        assert stats.kstest(actions[:, at].astype(np.float64), normal.cdf).pvalue > 1e-6
    assert abs(stats.pearsonr(actions[:, 0], actions[:, 1]).statistic) < 0.03


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_squashed_actions_have_the_distribution_of_tanh_of_a_normal_number(seed):
    policy = make_policy("continuous_squashed_normal", SKEW)
    actions = policy.sample(repeated(GAUSSIAN, ROWS), policy.noise(np.random.default_rng(seed), ROWS))
    for at in range(2):
        fraction = 2 * (actions[:, at].astype(np.float64) - SKEW.low[at]) / (SKEW.high[at] - SKEW.low[at]) - 1
        normal = stats.norm(GAUSSIAN["mu"][0, at], GAUSSIAN["sigma"][0, at])
        assert stats.kstest(np.arctanh(np.clip(fraction, -1 + 1e-7, 1 - 1e-7)), normal.cdf).pvalue > 1e-6


def test_squashed_actions_at_a_bound_have_a_finite_density_and_the_greedy_action_is_that_of_the_mean():
    policy = make_policy("continuous_squashed_normal", SKEW)
    far = {"mu": np.array([[40.0, -40.0]], np.float32), "sigma": np.ones((1, 2), np.float32)}
    (action,) = policy.greedy(far)
    np.testing.assert_array_equal(action, [SKEW.high[0], SKEW.low[1]])
    assert np.isfinite(policy.log_prob(far, action[None])).all()
    expected = [1 + 2 * np.tanh(0.5), 2.25 + 0.25 * np.tanh(-0.2)]
    np.testing.assert_allclose(policy.greedy(GAUSSIAN)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("space", [spaces.Box(-np.inf, 1, (2,)), spaces.Box(0, np.inf, (1,)), spaces.Box(1, 1, (1,))])
def test_squashed_actions_need_finite_bounds(space):
    with pytest.raises(
        InvalidValueError, match=r"'continuous_squashed_normal': expected a Box with finite bounds, low"
    ):
        make_policy("continuous_squashed_normal", space)


@pytest.mark.parametrize(("kind", "space", "outputs"), CASES, ids=IDS)
def test_actions_belong_to_the_space_as_stored(kind, space, outputs):
    policy = make_policy(kind, space, epsilon=0.5)
    rows = repeated(outputs, 64)
    for actions in (policy.sample(rows, policy.noise(np.random.default_rng(0), 64)), policy.greedy(rows)):
        assert actions.shape == (64, *policy.action_shape)
        assert actions.dtype == policy.action_dtype
        for action in policy.to_environment(actions):
            assert space.contains(action)


@pytest.mark.parametrize(("kind", "space", "outputs"), CASES, ids=IDS)
@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_noise_does_not_depend_on_how_it_is_split_into_calls(kind, space, outputs, cuts):
    policy = make_policy(kind, space)
    rng, whole = np.random.default_rng(3), np.random.default_rng(3)
    chunks = np.concatenate([policy.noise(rng, rows) for rows in cuts])
    assert chunks.shape == (sum(cuts), policy.noise_width)
    np.testing.assert_array_equal(chunks, policy.noise(whole, sum(cuts)))


@pytest.mark.parametrize(("kind", "space", "outputs"), CASES, ids=IDS)
def test_a_row_does_not_depend_on_other_rows(kind, space, outputs):
    policy = make_policy(kind, space, epsilon=0.5)
    noise = policy.noise(np.random.default_rng(5), 32)
    together = policy.sample(repeated(outputs, 32), noise)
    alone = [policy.sample(outputs, noise[at : at + 1])[0] for at in range(32)]
    np.testing.assert_array_equal(together, alone)


def test_epsilon_is_the_probability_of_a_random_action_and_may_change():
    policy = make_policy("epsilon_greedy", spaces.Discrete(4))
    rows, noise = repeated({"q_values": Q}, ROWS), policy.noise(np.random.default_rng(0), ROWS)
    assert policy.epsilon == 0.95
    for epsilon in (0.0, 0.2, 0.95, 1.0):
        policy.epsilon = epsilon
        best = (policy.sample(rows, noise) == 2).mean()
        assert best == pytest.approx(1 - epsilon + epsilon / 4, abs=0.01)
    assert policy.log_prob({"q_values": Q}, np.array([0]))[0] == pytest.approx(math.log(0.25))


def test_without_exploration_other_actions_have_probability_zero():
    policy = make_policy("epsilon_greedy", spaces.Discrete(4), epsilon=0.0)
    got = policy.log_prob(repeated({"q_values": Q}, 2), np.array([2, 0]))
    np.testing.assert_array_equal(got, [0, -np.inf])


def test_temperature_zero_is_the_greedy_limit():
    policy = make_policy("thompson", spaces.Discrete(4, start=7), temperature=0.0)
    rows = repeated({"q_values": Q}, 50)
    actions = policy.sample(rows, policy.noise(np.random.default_rng(0), 50))
    np.testing.assert_array_equal(actions, policy.greedy(rows))
    np.testing.assert_array_equal(policy.log_prob(rows, actions), np.zeros(50))
    assert policy.log_prob({"q_values": Q}, np.array([7]))[0] == -np.inf


def test_boltzmann_log_prob_is_finite_for_large_q_values():
    policy = make_policy("thompson", spaces.Discrete(2), temperature=0.01)
    q = {"q_values": np.array([[1e4, 1e4 - 1]], np.float32)}
    assert policy.log_prob(q, np.array([1]))[0] == pytest.approx(-100, rel=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (1, 2), (5, 2)])
def test_sigma_may_lack_the_batch_axis(shape):
    policy = make_policy("continuous_normal_diagonal", spaces.Box(-1, 1, (2,)))
    mu = np.zeros((5, 2), np.float32)
    outputs = {"mu": mu, "sigma": np.full(shape, 0.5, np.float32)}
    noise = policy.noise(np.random.default_rng(0), 5)
    actions = policy.sample(outputs, noise)
    np.testing.assert_allclose(actions, 0.5 * noise, rtol=1e-6)
    np.testing.assert_allclose(policy.log_prob(outputs, actions), stats.norm.logpdf(actions, 0, 0.5).sum(1), rtol=1e-5)


@pytest.mark.parametrize("sigma", [[0.5, 1.0, 2.0], [[0.5], [1.0], [2.0]]])
def test_an_action_of_one_dimension_may_have_a_sigma_per_row(sigma):
    policy = make_policy("continuous_normal_diagonal", spaces.Box(-1, 1, (1,)))
    outputs = {"mu": np.zeros((3, 1), np.float32), "sigma": np.array(sigma, np.float32)}
    actions = policy.sample(outputs, np.ones((3, 1)))
    np.testing.assert_array_equal(actions, [[0.5], [1.0], [2.0]])


def test_box_actions_are_stored_unclipped_and_clipped_for_the_environment():
    space = spaces.Box(np.array([-1, -np.inf], np.float32), np.array([1, 0.5], np.float32))
    policy = make_policy("continuous_normal_diagonal", space)
    outputs = {"mu": np.array([[5, -9]], np.float32), "sigma": np.ones(2, np.float32)}
    actions = policy.greedy(outputs)
    np.testing.assert_array_equal(actions, [[5, -9]])
    np.testing.assert_array_equal(policy.to_environment(actions), [[1, -9]])


def test_box_of_two_axes_and_multidiscrete_of_two_axes_keep_their_shape():
    box = make_policy("continuous_normal_diagonal", spaces.Box(-1, 1, (2, 3)))
    outputs = {"mu": np.zeros((4, 2, 3), np.float32), "sigma": np.ones((1, 6), np.float32)}
    actions = box.sample(outputs, box.noise(np.random.default_rng(0), 4))
    assert actions.shape == (4, 2, 3)
    assert box.log_prob(outputs, actions).shape == (4,)
    space = spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[1, 0], [0, 9]]))
    grid = make_policy("discrete_policy", space)
    logits = {"policy": np.zeros((4, 14), np.float32)}
    actions = grid.sample(logits, grid.noise(np.random.default_rng(0), 4))
    assert all(space.contains(action) for action in actions)
    np.testing.assert_allclose(grid.log_prob(logits, actions), -math.log(2 * 3 * 4 * 5), rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["v_estimate", "q_values"], "thompson"),
        (["policy"], "discrete_policy"),
        (["sigma", "mu", "value_estimate"], "continuous_normal_diagonal"),
    ],
)
def test_sampling_type_follows_from_the_outputs(names, expected):
    assert infer_sampling_type(names) == expected


def test_outputs_that_fit_no_sampling_type_are_listed():
    with pytest.raises(ModelError, match=r"expected 'q_values', or 'policy', or 'mu' and 'sigma', got 'mu'"):
        infer_sampling_type(["mu"])


def test_both_spellings_of_the_normal_type_are_the_same():
    assert canonical_sampling_type("continous_normal_diagonal") == "continuous_normal_diagonal"
    assert all(canonical_sampling_type(name) == name for name in SAMPLING_TYPES)


def test_an_unknown_sampling_type_suggests_a_similar_one():
    with pytest.raises(InvalidValueError, match=r"action_sampling_type: .*Did you mean 'thompson'"):
        make_policy("thomson", spaces.Discrete(2))


@pytest.mark.parametrize(
    ("kind", "space"),
    [
        ("epsilon_greedy", spaces.Box(-1, 1, (2,))),
        ("thompson", spaces.MultiDiscrete([2, 2])),
        ("thompson", spaces.MultiBinary(2)),
        ("discrete_policy", spaces.Box(-1, 1, (2,))),
        ("continuous_normal_diagonal", spaces.Discrete(2)),
        ("continuous_normal_diagonal", spaces.Dict(a=spaces.Discrete(2))),
        ("continuous_normal_diagonal", spaces.Box(0, 255, (2,), np.uint8)),
    ],
)
def test_sampling_types_that_do_not_fit_the_space_are_refused(kind, space):
    with pytest.raises(InvalidValueError, match=rf"action_sampling_type '{kind}': expected .* got"):
        make_policy(kind, space)


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, math.nan])
def test_epsilon_outside_of_a_probability_is_refused(epsilon):
    with pytest.raises(InvalidValueError, match="epsilon: expected a probability"):
        make_policy("epsilon_greedy", spaces.Discrete(2), epsilon=epsilon)


@pytest.mark.parametrize("temperature", [-1, math.nan, math.inf])
def test_temperature_below_zero_is_refused(temperature):
    with pytest.raises(InvalidValueError, match="temperature: expected a finite number"):
        make_policy("thompson", spaces.Discrete(2), temperature=temperature)


def test_a_sigma_that_is_not_positive_is_refused():
    policy = make_policy("continuous_normal_diagonal", spaces.Box(-1, 1, (2,)))
    mu, ones = np.zeros((3, 2), np.float32), np.ones(2, np.float32)
    policy.check_values({"mu": mu, "sigma": ones})
    with pytest.raises(ModelError, match=r"'sigma': expected numbers > 0, got 0"):
        policy.check_values({"mu": mu, "sigma": ones * 0})
    with pytest.raises(ModelError, match=r"'sigma': expected finite numbers, got nan"):
        policy.check_values({"mu": mu, "sigma": ones * np.nan})
    with pytest.raises(ModelError, match=r"'sigma': expected numbers > 0"):
        policy.log_prob({"mu": mu, "sigma": -ones}, mu)


def test_check_finite_accepts_values_whose_square_overflows():
    large = np.full((2, 3), 1e30, np.float32)
    check_finite({"q_values": large}, ["q_values"])
    large[1, 2] = np.inf
    with pytest.raises(ModelError, match="'q_values': expected finite numbers, got inf in row 1"):
        check_finite({"q_values": large}, ["q_values"])


@pytest.mark.parametrize("maker", [np.random.PCG64, np.random.MT19937], ids=lambda maker: maker.__name__)
@pytest.mark.parametrize(("kind", "space", "outputs"), CASES, ids=IDS)
def test_skipped_noise_leaves_the_generator_where_drawn_noise_does(monkeypatch, kind, space, outputs, maker):
    monkeypatch.setattr("really.policies.policy.SKIPPED_NUMBERS", 16)
    policy = make_policy(kind, space)
    skipped, drawn = np.random.Generator(maker(3)), np.random.Generator(maker(3))
    policy.skip(skipped, 100)
    policy.noise(drawn, 100)
    np.testing.assert_array_equal(policy.noise(skipped, 3), policy.noise(drawn, 3))
