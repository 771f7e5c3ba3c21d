"""Action masks in policies: distributions, exact log-probabilities, the best allowed action; and what a mask may be."""

import math

import numpy as np
import pytest
from gymnasium import spaces
from scipy import stats

from really.data.masks import ActionMasks
from really.policies.policy import make_policy

ROWS = 40_000
Q = np.array([[0.3, -1.0, 1.2, 0.9, 0.1]], np.float32)
LOGITS = np.array([[0.1, 2.0, -1.0, 0.5, 0.0]], np.float32)
BITS = np.array([[0.4, -2.0, 1.0]], np.float32)
FIVE, PARTS, BINARY = spaces.Discrete(5, start=3), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3)
# Sampling type, action space, output, and a mask that forbids the best action.
CASES = [
    ("epsilon_greedy", FIVE, {"q_values": Q}, [1, 1, 0, 0, 1]),
    ("thompson", FIVE, {"q_values": Q}, [1, 1, 0, 0, 1]),
    ("discrete_policy", FIVE, {"policy": Q}, [0, 1, 0, 1, 1]),
    ("discrete_policy", FIVE, {"policy": Q}, [0, 1, 0, 0, 0]),
    ("discrete_policy", PARTS, {"policy": LOGITS}, [1, 0, 1, 1, 1]),
    ("discrete_policy", BINARY, {"policy": BITS}, [1, 0, 1, 1, 0, 1]),
]
IDS = [f"{kind}-{type(space).__name__}-{sum(mask)}" for kind, space, _, mask in CASES]


def masks_of(space):
    return ActionMasks.of("", spaces.Box(0, 1, (1,)), space, np.ones(6 if space is BINARY else 5))


def outputs_under(policy, outputs, mask, rows):
    repeated = {name: np.repeat(values, rows, axis=0) for name, values in outputs.items()}
    return policy.masked(repeated, np.repeat(np.array([mask], np.bool_), rows, axis=0))


def chances_of(values, mask):
    """softmax over the allowed values."""
    weights = [math.exp(value) * allowed for value, allowed in zip(values.tolist(), mask, strict=True)]
    return np.array(weights) / sum(weights)


def expected_chances(policy, space, outputs, mask):
    """Probability of each action of the space, from the formulae in plain Python; a dict by stored action."""
    if isinstance(space, spaces.Discrete):
        (values,) = outputs.values()
        chances = chances_of(values[0] / (policy.temperature if policy.sampling_type == "thompson" else 1), mask)
        if policy.sampling_type == "epsilon_greedy":
            best = max(np.flatnonzero(mask), key=lambda at: values[0, at])
            chances = policy.epsilon * np.array(mask) / sum(mask)
            chances[best] += 1 - policy.epsilon
        return {(action + 3,): chance for action, chance in enumerate(chances)}
    if space is PARTS:
        first, second = chances_of(LOGITS[0, :3], mask[:3]), chances_of(LOGITS[0, 3:], mask[3:])
        return {(i, j): first[i] * second[j] for i in range(3) for j in range(2)}
    bits = [chances_of(np.array([0, logit]), mask[2 * at : 2 * at + 2]) for at, logit in enumerate(BITS[0])]
    return {(i, j, k): bits[0][i] * bits[1][j] * bits[2][k] for i in range(2) for j in range(2) for k in range(2)}


def policy_for(kind, space):
    return make_policy(kind, space, epsilon=0.4, temperature=0.5, has_masks=True)


@pytest.mark.parametrize(("kind", "space", "outputs", "mask"), CASES, ids=IDS)
def test_log_prob_is_exact_and_minus_infinity_for_actions_that_are_not_allowed(kind, space, outputs, mask):
    policy = policy_for(kind, space)
    chances = expected_chances(policy, space, outputs, mask)
    actions = np.array(list(chances)).reshape(len(chances), *policy.action_shape)
    got = policy.log_prob(outputs_under(policy, outputs, mask, len(chances)), actions)
    assert got.dtype == np.float32
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(got, np.log(list(chances.values())), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("kind", "space", "outputs", "mask"), CASES, ids=IDS)
def test_actions_have_the_masked_distribution(kind, space, outputs, mask, seed):
    policy = policy_for(kind, space)
    chances = expected_chances(policy, space, outputs, mask)
    noise = policy.noise(np.random.default_rng(seed), ROWS)
    actions = policy.sample(outputs_under(policy, outputs, mask, ROWS), noise)
    assert actions.dtype == policy.action_dtype
    kinds, counts = np.unique(actions.reshape(ROWS, -1), axis=0, return_counts=True)
    found = {tuple(action): count for action, count in zip(kinds.tolist(), counts, strict=True)}
    possible = [action for action, chance in chances.items() if chance > 0]
    assert set(found) <= set(possible)
    if len(possible) > 1:
        expected = [chances[action] * ROWS for action in possible]
        assert stats.chisquare([found.get(action, 0) for action in possible], expected).pvalue > 1e-6


@pytest.mark.parametrize(("kind", "space", "outputs", "mask"), CASES, ids=IDS)
def test_the_greedy_action_is_the_most_probable_allowed_one(kind, space, outputs, mask):
    policy = policy_for(kind, space)
    chances = expected_chances(policy, space, outputs, mask)
    got = policy.greedy(outputs_under(policy, outputs, mask, 1))
    assert tuple(np.ravel(got).tolist()) == max(chances, key=lambda action: chances[action])
    policy.epsilon = policy.temperature = 0.0
    if kind != "discrete_policy":
        sampled = policy.sample(outputs_under(policy, outputs, mask, 50), policy.noise(np.random.default_rng(0), 50))
        assert set(sampled.tolist()) == set(got.tolist())


@pytest.mark.parametrize(("kind", "space", "outputs", "mask"), CASES[1:], ids=IDS[1:])
def test_a_mask_that_allows_everything_changes_nothing(kind, space, outputs, mask):
    policy = policy_for(kind, space)
    noise = policy.noise(np.random.default_rng(0), 100)
    plain = {name: np.repeat(values, 100, axis=0) for name, values in outputs.items()}
    expected = policy.sample(plain, noise)
    got = outputs_under(policy, outputs, [1] * len(mask), 100)
    np.testing.assert_array_equal(policy.sample(got, noise), expected)
    np.testing.assert_array_equal(policy.log_prob(got, expected), policy.log_prob(plain, expected))


@pytest.mark.parametrize(
    ("space", "mask", "row"),
    [
        (FIVE, [True, False, True, True, False], [1, 0, 1, 1, 0]),
        (FIVE, np.array([[0.0, 1.0, 2.0, 0.0, 1.0]]), [0, 1, 1, 0, 1]),
        (PARTS, np.array([1, 0, 1, 0, 1], np.int8), [1, 0, 1, 0, 1]),
        (PARTS, (np.array([1, 0, 1]), np.array([0, 1])), [1, 0, 1, 0, 1]),
        (BINARY, np.array([[1, 0], [1, 1], [0, 1]]), [1, 0, 1, 1, 0, 1]),
    ],
)
def test_a_mask_may_be_of_any_numbers_and_in_parts(space, mask, row):
    got = masks_of(space).row(mask)
    assert got.dtype == np.bool_
    assert got.tolist() == [bool(number) for number in row]


@pytest.mark.parametrize("mask", [[1, 0], "mask", None, [[1] * 5] * 2, {}])
def test_a_mask_of_another_size_is_refused(mask):
    with pytest.raises(ValueError, match="action_mask: expected 5 booleans, got"):
        masks_of(FIVE).row(mask)


def test_masks_without_a_choice_of_some_part_are_found():
    masks = np.array([[1, 0, 1, 0, 1], [0, 0, 0, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], np.bool_)
    assert masks_of(FIVE).without_choice(masks).tolist() == [3]
    assert masks_of(PARTS).without_choice(masks).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("observations", "actions", "mask", "leaf"),
    [
        (spaces.Dict(a=spaces.Discrete(2), action_mask=spaces.MultiBinary(5)), FIVE, None, 1),
        (spaces.Dict(x=spaces.Dict(action_mask=spaces.Box(0, 1, (5,)), z=spaces.Discrete(2))), FIVE, None, 0),
        (spaces.Dict(action_mask=spaces.MultiBinary(5), b=spaces.Discrete(2)), FIVE, np.ones(5), 0),
        (spaces.Box(0, 1, (2,)), FIVE, np.ones(5), None),
    ],
)
def test_a_part_of_the_observation_comes_before_info(observations, actions, mask, leaf):
    found = ActionMasks.of("", observations, actions, mask)
    assert found == ActionMasks((5,), leaf)
    assert found.columns.keys() == ({"action_mask", "action_mask_new"} if leaf is None else set())


@pytest.mark.parametrize(
    ("observations", "actions", "mask", "warning"),
    [
        (spaces.Box(0, 1, (2,)), FIVE, None, ""),
        (spaces.Box(0, 1, (2,)), spaces.Box(-1, 1, (5,)), np.ones(5), ""),
        (spaces.Box(0, 1, (2,)), FIVE, np.ones(4), "environment 'Game': info['action_mask'] is not used"),
        (spaces.Dict(action_mask=spaces.MultiBinary(3)), FIVE, None, "'state.action_mask' is not used as a mask"),
    ],
)
def test_a_mask_that_does_not_fit_the_actions_is_not_used(observations, actions, mask, warning, caplog):
    assert ActionMasks.of("Game", observations, actions, mask) is None
    assert [warning in message for message in caplog.messages] == [True] * bool(warning)
