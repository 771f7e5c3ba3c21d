"""Action sampling and exact log-probabilities in NumPy: one small class for each sampling type and action space.

A policy holds no random generator. `noise` takes one and returns the random numbers for some rows of actions. `sample`
is a function of the model's outputs and this noise, so a runner can draw the noise of many steps at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from really._utils import published
from really._utils._step import DiscreteSampler, is_finite
from really.errors import InvalidValueError, ModelError, one_of

if TYPE_CHECKING:
    from gymnasium import spaces

Outputs = Mapping[str, NDArray[Any]]
Sampler = Callable[[Outputs, int], NDArray[Any]]

SAMPLING_TYPES = (
    "epsilon_greedy",
    "thompson",
    "discrete_policy",
    "continuous_normal_diagonal",
    "continuous_squashed_normal",
)
ALIASES = {"continous_normal_diagonal": "continuous_normal_diagonal"}
VALUE_OUTPUTS = published.VALUE_OUTPUTS

_REQUIRED = {
    "epsilon_greedy": ("q_values",),
    "thompson": ("q_values",),
    "discrete_policy": ("policy",),
    "continuous_normal_diagonal": ("mu", "sigma"),
    "continuous_squashed_normal": ("mu", "sigma"),
}
_CONTINUOUS = ("continuous_normal_diagonal", "continuous_squashed_normal")
# Numbers that are drawn at once only to pass over them.
SKIPPED_NUMBERS = 1 << 18
_LOG_2PI = math.log(2.0 * math.pi)
# Least distance of an action of `continuous_squashed_normal` to a bound in log-densities, in halves of the Box.
LEAST_DISTANCE = 2.0**-23


@functools.cache
def normal_quadrature() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Nodes and weights of Gauss-Hermite quadrature: the mean of f(z) for z ~ Normal(0, 1) is sum(weight * f(node)).

    The sum has 32 terms. It is exact if f is a polynomial of degree 63 or less.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    return nodes.astype(np.float32), (weights / weights.sum()).astype(np.float32)


def canonical_sampling_type(name: str) -> str:
    """The name in `SAMPLING_TYPES` that `name` or its alias stands for; raises InvalidValueError if there is none."""
    canonical = ALIASES.get(name, name)
    if canonical not in SAMPLING_TYPES:
        raise InvalidValueError(one_of("action_sampling_type", name, (*SAMPLING_TYPES, *ALIASES)))
    return canonical


def infer_sampling_type(output_names: Iterable[str]) -> str:
    """The default sampling type for a model with these outputs.

    The first that applies: `thompson` for `q_values` (as in the published code of this API), `discrete_policy` for
    `policy`, `continuous_normal_diagonal` for `mu` and `sigma`. Raises ModelError if the model has none of these.
    """
    names = set(output_names)
    for sampling_type in ("thompson", "discrete_policy", "continuous_normal_diagonal"):
        if names.issuperset(_REQUIRED[sampling_type]):
            return sampling_type
    raise ModelError(f"model output: expected 'q_values', or 'policy', or 'mu' and 'sigma', got {listed(names)}")


def fitting_sampling_types(output_names: Iterable[str]) -> list[str]:
    """The sampling types that a model with these outputs serves."""
    names = set(output_names)
    return [name for name in SAMPLING_TYPES if names.issuperset(_REQUIRED[name])]


def make_policy(
    sampling_type: str,
    action_space: spaces.Space[Any],
    epsilon: float = 0.95,
    temperature: float = 1.0,
    has_masks: bool = False,
) -> Policy:
    """Makes the policy that samples actions of `action_space` by `sampling_type`.

    `has_masks` tells whether it will get the results of `masked` as outputs.

    Raises:
        InvalidValueError: the sampling type is unknown or gives no actions of this space, epsilon is outside
            [0, 1], or temperature is negative.
    """
    from gymnasium import spaces

    kind = canonical_sampling_type(sampling_type)
    policy: Policy | None = None
    if isinstance(action_space, spaces.Discrete):
        policy = _for_discrete(kind, action_space, has_masks)
    elif isinstance(action_space, spaces.MultiDiscrete) and kind == "discrete_policy":
        policy = _MultiCategorical(action_space)
    elif isinstance(action_space, spaces.MultiBinary) and kind == "discrete_policy":
        policy = _Bernoulli(action_space)
    elif isinstance(action_space, spaces.Box) and kind in _CONTINUOUS:
        policy = _DiagonalNormal(action_space) if kind == "continuous_normal_diagonal" else SquashedNormal(action_space)
    if policy is None:
        raise InvalidValueError(_no_policy_message(kind, action_space))
    policy.epsilon, policy.temperature = epsilon, temperature
    return policy


def check_finite(outputs: Outputs, names: Iterable[str]) -> None:
    """Raises ModelError, naming the output, if one of the outputs `names` holds NaN or infinity."""
    for name in names:
        values = outputs[name]
        if not is_finite(values) and not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0]) if values.ndim else 0
            value = values[~np.isfinite(values)].ravel()[0]
            raise ModelError(f"model output {name!r}: expected finite numbers, got {value} in row {row}")


class Policy:
    """Samples actions from a model's outputs.

    Attributes:
        sampling_type: one of `SAMPLING_TYPES`.
        required_outputs: names of the model outputs that the policy reads.
        output_shapes: shape of each of them for one state.
        shared_outputs: those of them that may lack the batch axis, or be one number.
        optional_outputs: other outputs that an agent can read -> shape for one state; None for any.
        action_shape: shape of one action as it is stored.
        action_dtype: dtype of an action as it is stored.
        noise_width: number of random numbers that one action needs.
        draws_doubles: whether `noise` takes exactly one double from the generator for each number.
    """

    sampling_type: str
    required_outputs: tuple[str, ...]
    output_shapes: dict[str, tuple[int, ...]]
    shared_outputs: tuple[str, ...] = ()
    optional_outputs: Mapping[str, tuple[int, ...] | None] = {**dict.fromkeys(VALUE_OUTPUTS, ()), "q_values": None}
    action_shape: tuple[int, ...] = ()
    action_dtype: np.dtype[Any] = np.dtype(np.int64)
    noise_width: int
    draws_doubles = True

    _epsilon = 0.95
    _temperature = 1.0

    @property
    def epsilon(self) -> float:
        """Probability of a uniformly random action, in [0, 1]; only `epsilon_greedy` reads it."""
        return self._epsilon

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        if not 0.0 <= value <= 1.0:
            raise InvalidValueError(f"epsilon: expected a probability in [0, 1], got {value!r}")
        self._epsilon = float(value)
        self._settings_changed()

    @property
    def temperature(self) -> float:
        """Temperature of `thompson`, ≥ 0; 0 is the greedy limit. Only `thompson` reads it."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        if not 0.0 <= value < math.inf:
            raise InvalidValueError(f"temperature: expected a finite number >= 0, got {value!r}")
        self._temperature = float(value)
        self._settings_changed()

    def noise(self, rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
        """Draws all random numbers of `rows` actions, [rows, noise_width] float64.

        Numbers are drawn row by row: calls for a rows and then b rows give the same numbers as one call for a + b rows.
        """
        raise NotImplementedError

    def skip(self, rng: np.random.Generator, rows: int) -> None:
        """Leaves `rng` as `noise(rng, rows)` would, in little memory."""
        if self.draws_doubles and hasattr(rng.bit_generator, "advance"):
            rng.bit_generator.advance(rows * self.noise_width)
            return
        piece = max(1, SKIPPED_NUMBERS // max(1, self.noise_width))
        for start in range(0, rows, piece):
            self.noise(rng, min(piece, rows - start))

    def sample(self, outputs: Outputs, noise: NDArray[np.float64]) -> NDArray[Any]:
        """Actions [env, *action_shape] as they are stored, from outputs [env, ...] and noise [env, noise_width]."""
        raise NotImplementedError

    def sampler(self, noise: NDArray[np.float64]) -> Sampler:
        """Returns `sample` for many steps: a function of outputs and a step's index in noise [env, time, noise_width].

        Terms that depend only on the noise and the settings are computed here, for all steps at once.
        """
        return lambda outputs, step: self.sample(outputs, noise[:, step])

    def greedy(self, outputs: Outputs) -> NDArray[Any]:
        """The most probable actions, [env, *action_shape] as they are stored; the first one among equals."""
        raise NotImplementedError

    def log_prob(self, outputs: Outputs, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Exact log-probability of stored actions under this policy (for a Box, log-density), [env] float32."""
        raise NotImplementedError

    def to_environment(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Actions as the environment takes them: those of a Box are clipped to its bounds, others are unchanged."""
        return actions

    def masked(self, outputs: Outputs, masks: NDArray[np.bool_]) -> Outputs:
        """Outputs under which the policy takes only allowed actions, for masks [env, width] as `ActionMasks` has them.

        Values of other actions become minus infinity.
        """
        name = self.required_outputs[0]
        return {**outputs, name: np.where(masks, outputs[name], -np.inf)}

    def check_values(self, outputs: Outputs) -> None:
        """Raises ModelError if a required output holds NaN, infinity, or a number that the policy cannot use."""
        check_finite(outputs, self.required_outputs)

    def _settings_changed(self) -> None:
        """Recomputes the values that sampling derives from epsilon and temperature."""


class _DiscretePolicy(Policy):
    """Policies for a Discrete space: an action is one of `actions` numbers from `start` on."""

    def __init__(self, space: spaces.Discrete) -> None:
        self.actions = int(space.n)
        self.start = int(space.start)
        self.noise_width = self.actions
        self._output = self.required_outputs[0]
        self.output_shapes = {self._output: (self.actions,)}
        self.optional_outputs = {**self.optional_outputs, "q_values": (self.actions,)}

    def noise(self, rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
        return rng.gumbel(size=(rows, self.actions))

    def greedy(self, outputs: Outputs) -> NDArray[Any]:
        best: NDArray[np.int64] = outputs[self._output].argmax(1)
        return best + self.start if self.start else best

    def _compiled(self, noise: NDArray[np.float64], scale: float, explores: bool) -> Sampler:
        """A `sampler` in C, which leaves outputs that are neither float32 nor float64 to `sample`."""
        otherwise = super().sampler(noise)
        return DiscreteSampler(self._output, self.start, noise, scale, explores, self.actions, otherwise)


class _EpsilonGreedy(_DiscretePolicy):
    """A uniformly random action with probability epsilon, otherwise the greedy one.

    π(a) = (1 - ε)·1[a = argmax q] + ε/|A| (Sutton & Barto 2018, section 2.2).
    """

    sampling_type = "epsilon_greedy"
    required_outputs = _REQUIRED[sampling_type]

    def __init__(self, space: spaces.Discrete) -> None:
        super().__init__(space)
        self.noise_width = 1
        self._settings_changed()

    def noise(self, rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
        return rng.random((rows, 1))

    def sample(self, outputs: Outputs, noise: NDArray[np.float64]) -> NDArray[Any]:
        # An agent explores if u < ε, and u/ε is then uniform in [0, 1): one random number gives both decisions.
        actions = self.greedy(outputs)
        explores = np.flatnonzero(noise[:, 0] < self._epsilon)
        if explores.size:
            scaled = noise[explores, 0] * self._noise_scale
            chosen = scaled < self.actions
            actions[explores[chosen]] = scaled[chosen].astype(np.int64) + self.start
        return actions

    def sampler(self, noise: NDArray[np.float64]) -> Sampler:
        return self._compiled(noise, self._noise_scale, explores=True)

    def log_prob(self, outputs: Outputs, actions: NDArray[Any]) -> NDArray[np.float32]:
        return np.where(actions == self.greedy(outputs), self._log_greedy, self._log_random)

    def _settings_changed(self) -> None:
        random = self._epsilon / self.actions
        self._noise_scale = self.actions / self._epsilon if self._epsilon else math.inf
        self._log_random = np.float32(math.log(random) if random else -math.inf)
        self._log_greedy = np.float32(math.log(1.0 - self._epsilon + random))


class _MaskedEpsilonGreedy(_EpsilonGreedy):
    """A uniformly random one of the allowed actions A(s) with probability epsilon, otherwise the greedy one.

    π(a) = (1 - ε)·1[a = argmax q] + ε/|A(s)|. Actions that are not allowed have q-value minus infinity.
    """

    def sample(self, outputs: Outputs, noise: NDArray[np.float64]) -> NDArray[Any]:
        return self.sampler(noise[:, None])(outputs, 0)

    def sampler(self, noise: NDArray[np.float64]) -> Sampler:
        draws = noise[..., 0]
        scaled = draws / self._epsilon if self._epsilon else np.full(draws.shape, np.inf)

        def sample(outputs: Outputs, step: int) -> NDArray[Any]:
            actions = self.greedy(outputs)
            explores = np.flatnonzero(scaled[:, step] < 1.0)
            if explores.size:
                allowed = outputs[self._output][explores] > -np.inf
                # The action before which there are as many allowed ones as drawn.
                chosen = (scaled[explores, step] * allowed.sum(1)).astype(np.int64)
                actions[explores] = (allowed.cumsum(1) > chosen[:, None]).argmax(1) + self.start
            return actions

        return sample

    def log_prob(self, outputs: Outputs, actions: NDArray[Any]) -> NDArray[np.float32]:
        allowed = outputs[self._output] > -np.inf
        random = self._epsilon * allowed[np.arange(len(actions)), actions - self.start] / allowed.sum(1)
        probability = random + (1.0 - self._epsilon) * (actions == self.greedy(outputs))
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(probability), np.float32)


class _Boltzmann(_DiscretePolicy):
    """`thompson`: actions from softmax(q / temperature), and the greedy action at temperature 0.

    argmax(q + temperature·Gumbel noise) has exactly this distribution (Maddison et al. 2014).
    """

    sampling_type = "thompson"
    required_outputs = _REQUIRED[sampling_type]

    def sample(self, outputs: Outputs, noise: NDArray[np.float64]) -> NDArray[Any]:
        actions: NDArray[np.int64] = (outputs["q_values"] + self._temperature * noise).argmax(1)
        return actions + self.start if self.start else actions

    def sampler(self, noise: NDArray[np.float64]) -> Sampler:
        return self._compiled(noise, self._temperature, explores=False)

    def log_prob(self, outputs: Outputs, actions: NDArray[Any]) -> NDArray[np.float32]:
        if not self._temperature:
            return np.where(actions == self.greedy(outputs), np.float32(0), np.float32(-np.inf))
        scaled = outputs["q_values"].astype(np.float64) / self._temperature
        return _chosen_log_softmax(scaled, actions - self.start).astype(np.float32)


class _Categorical(_DiscretePolicy):
    """`discrete_policy` on a Discrete: `policy` [env, actions] holds unnormalised logits."""

    sampling_type = "discrete_policy"
    required_outputs = _REQUIRED[sampling_type]

    def sample(self, outputs: Outputs, noise: NDArray[np.float64]) -> NDArray[Any]:
        actions: NDArray[np.int64] = (outputs["policy"] + noise).argmax(1)
        return actions + self.start if self.start else actions

    def sampler(self, noise: NDArray[np.float64]) -> Sampler:
        return self._compiled(noise, 1.0, explores=False)

    def log_prob(self, outputs: Outputs, actions: NDArray[Any]) -> NDArray[np.float32]:
        logits = outputs["policy"].astype(np.float64)
        return _chosen_log_softmax(logits, actions - self.start).astype(np.float32)


class _MultiCategorical(Policy):
    """`discrete_policy` on a MultiDiscrete: `policy` [env, Σ nvec] holds the logits of one part after the other."""

    sampling_type = "discrete_policy"
    required_outputs = _REQUIRED[sampling_type]

    def __init__(self, space: spaces.MultiDiscrete) -> None:
        sizes = [int(size) for size in np.ravel(space.nvec)]
        stops = np.cumsum(sizes).tolist()
        self.parts = [slice(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
        self.start = np.ravel(space.start).astype(space.dtype)
        self.action_shape, self.action_dtype = tuple(space.shape), np.dtype(space.dtype)
        self.noise_width = stops[-1]
        self.output_shapes = {"policy": (self.noise_width,)}

    def noise(self, rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
        return rng.gumbel(size=(rows, self.noise_width))

    def sample(self, outputs: Outputs, noise: NDArray[np.float64]) -> NDArray[Any]:
        return self._best(outputs["policy"] + noise)

    def greedy(self, outputs: Outputs) -> NDArray[Any]:
        return self._best(outputs["policy"])

    def log_prob(self, outputs: Outputs, actions: NDArray[Any]) -> NDArray[np.float32]:
        logits = outputs["policy"].astype(np.float64)
        chosen = actions.reshape(len(actions), -1) - self.start
        parts = [_chosen_log_softmax(logits[:, at], chosen[:, i]) for i, at in enumerate(self.parts)]
        return np.asarray(np.sum(parts, axis=0), np.float32)

    def _best(self, scores: NDArray[Any]) -> NDArray[Any]:
        actions = np.empty((len(scores), len(self.parts)), self.action_dtype)
        for i, at in enumerate(self.parts):
            actions[:, i] = scores[:, at].argmax(1)
        actions += self.start
        return actions.reshape(-1, *self.action_shape)


class _Bernoulli(Policy):
    """`discrete_policy` on a MultiBinary: `policy` [env, *shape] holds the logit of each 1."""

    sampling_type = "discrete_policy"
    required_outputs = _REQUIRED[sampling_type]

    def __init__(self, space: spaces.MultiBinary) -> None:
        self.action_shape, self.action_dtype = tuple(space.shape), np.dtype(space.dtype)
        self.noise_width = math.prod(self.action_shape)
        self.output_shapes = {"policy": self.action_shape}

    def noise(self, rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
        return rng.logistic(size=(rows, self.noise_width))

    def sample(self, outputs: Outputs, noise: NDArray[np.float64]) -> NDArray[Any]:
        return self._stored(outputs["policy"].reshape(noise.shape) + noise > 0)

    def greedy(self, outputs: Outputs) -> NDArray[Any]:
        return self._stored(outputs["policy"] > 0)

    def masked(self, outputs: Outputs, masks: NDArray[np.bool_]) -> Outputs:
        """Outputs under which the policy takes only allowed actions; the only choice of a part has probability 1."""
        zero, one = masks[:, ::2], masks[:, 1::2]
        logits = outputs["policy"].reshape(zero.shape)
        return {**outputs, "policy": np.where(zero & one, logits, np.where(one, np.inf, -np.inf))}

    def log_prob(self, outputs: Outputs, actions: NDArray[Any]) -> NDArray[np.float32]:
        rows = len(actions)
        logits = outputs["policy"].astype(np.float64).reshape(rows, -1)
        against = np.where(actions.reshape(rows, -1) > 0, -logits, logits)
        return np.asarray(-np.logaddexp(0.0, against).sum(1), np.float32)

    def _stored(self, actions: NDArray[np.bool_]) -> NDArray[Any]:
        return actions.astype(self.action_dtype).reshape(-1, *self.action_shape)


class _DiagonalNormal(Policy):
    """`continuous_normal_diagonal` on a Box: a ~ Normal(mu, sigma²), independently in each dimension.

    `mu` is [env, *shape] or [env, prod(shape)]. `sigma` has the same shape, or lacks the batch axis, or is one number.
    Actions are stored as they are drawn; only `to_environment` clips them. The log-density is the sum over dimensions
    of -½((a - mu)/sigma)² - log sigma - ½ log 2π.
    """

    sampling_type = "continuous_normal_diagonal"
    required_outputs = _REQUIRED[sampling_type]
    shared_outputs = ("sigma",)
    draws_doubles = False

    def __init__(self, space: spaces.Box) -> None:
        if not np.issubdtype(space.dtype, np.floating):
            raise InvalidValueError(
                f"action_sampling_type {self.sampling_type!r}: expected a Box of floats, got {space}, "
                f"whose {space.dtype} cannot hold samples of a normal distribution"
            )
        self.action_shape, self.action_dtype = tuple(space.shape), np.dtype(space.dtype)
        self.noise_width = math.prod(self.action_shape)
        self.output_shapes = dict.fromkeys(self.required_outputs, self.action_shape)
        self._low, self._high = space.low, space.high
        self._bounded = bool(np.isfinite(space.low).any() or np.isfinite(space.high).any())

    def noise(self, rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
        return rng.standard_normal((rows, self.noise_width))

    def sample(self, outputs: Outputs, noise: NDArray[np.float64]) -> NDArray[Any]:
        mu, sigma = self._mu_sigma(outputs)
        return (mu + sigma * noise).astype(self.action_dtype).reshape(-1, *self.action_shape)

    def greedy(self, outputs: Outputs) -> NDArray[Any]:
        return outputs["mu"].reshape(-1, *self.action_shape).astype(self.action_dtype)

    def log_prob(self, outputs: Outputs, actions: NDArray[Any]) -> NDArray[np.float32]:
        mu, sigma = self._mu_sigma(outputs)
        sigma = np.broadcast_to(sigma, mu.shape).astype(np.float64)
        if not sigma.min() > 0:
            raise ModelError(f"model output 'sigma': expected numbers > 0, got {sigma.min()}")
        z = (actions.reshape(mu.shape) - mu) / sigma
        density = -0.5 * z * z - np.log(sigma) - 0.5 * _LOG_2PI
        return np.asarray(density.sum(1), np.float32)

    def to_environment(self, actions: NDArray[Any]) -> NDArray[Any]:
        return np.minimum(np.maximum(actions, self._low), self._high) if self._bounded else actions

    def _mu_sigma(self, outputs: Outputs) -> tuple[NDArray[Any], NDArray[Any]]:
        mu, sigma = outputs["mu"].reshape(-1, self.noise_width), outputs["sigma"]
        return mu, sigma.reshape(mu.shape) if sigma.size == mu.size else sigma

    def check_values(self, outputs: Outputs) -> None:
        super().check_values(outputs)
        if not outputs["sigma"].min() > 0:
            raise ModelError(f"model output 'sigma': expected numbers > 0, got {outputs['sigma'].min()}")


class SquashedNormal(_DiagonalNormal):
    """`continuous_squashed_normal` on a bounded Box: a = center + half_range * tanh(u), with u ~ Normal(mu, sigma²).

    The log-density is that of u, minus the sum over dimensions of log(1 - tanh(u)²) and of log half_range (Haarnoja et
    al. 2018, appendix C). With the distances d = (a - low) / half_range and e = (high - a) / half_range of an action to
    the bounds, u is ½ log d - ½ log e, and log(1 - tanh(u)²) is log d + log e. A stored action tells them up to its
    rounding; at a bound, where u would be infinite, 2^-23 stands for 0. The greedy action is that of u = mu.

    Attributes:
        low, high: bounds of the Box, float32 `[prod(shape)]`.
        half_range: half of its size, float32 `[prod(shape)]`.
    """

    sampling_type = "continuous_squashed_normal"
    required_outputs = _REQUIRED[sampling_type]

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        if not (np.isfinite(space.low) & np.isfinite(space.high) & (space.low < space.high)).all():
            raise InvalidValueError(
                f"action_sampling_type {self.sampling_type!r}: expected a Box with finite bounds, low < high, "
                f"got {space}"
            )
        self.low, self.high = space.low.ravel().astype(np.float32), space.high.ravel().astype(np.float32)
        self.half_range: NDArray[np.float32] = 0.5 * (self.high - self.low)
        self._center = self.low + self.half_range

    def sample(self, outputs: Outputs, noise: NDArray[np.float64]) -> NDArray[Any]:
        """Actions [env, *action_shape] of u = mu + sigma * noise, in the Box."""
        mu, sigma = self._mu_sigma(outputs)
        return self._squashed(mu + sigma * noise)

    def greedy(self, outputs: Outputs) -> NDArray[Any]:
        """Actions [env, *action_shape] of u = mu, in the Box."""
        return self._squashed(self._mu_sigma(outputs)[0])

    def log_prob(self, outputs: Outputs, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Log-density of stored actions in the Box, [env] float32."""
        parts = actions.reshape(-1, self.noise_width).astype(np.float64)
        distances = np.stack([parts - self.low, self.high - parts]) / self.half_range
        lower, upper = np.log(np.maximum(distances, LEAST_DISTANCE))
        volume = (lower + upper + np.log(self.half_range)).sum(1)
        return np.asarray(super().log_prob(outputs, 0.5 * (lower - upper)) - volume, np.float32)

    def _squashed(self, values: NDArray[Any]) -> NDArray[Any]:
        actions = (self._center + self.half_range * np.tanh(values)).astype(self.action_dtype)
        return self.to_environment(actions.reshape(-1, *self.action_shape))


def _for_discrete(kind: str, space: spaces.Discrete, has_masks: bool) -> Policy | None:
    epsilon_greedy = _MaskedEpsilonGreedy if has_masks else _EpsilonGreedy
    classes = {"epsilon_greedy": epsilon_greedy, "thompson": _Boltzmann, "discrete_policy": _Categorical}
    return classes[kind](space) if kind in classes else None


def _no_policy_message(kind: str, space: spaces.Space[Any]) -> str:
    needed = {
        "epsilon_greedy": "Discrete (it chooses among q-values)",
        "thompson": "Discrete (it chooses among q-values)",
        "discrete_policy": "Discrete, MultiDiscrete or MultiBinary (it chooses among logits)",
        **dict.fromkeys(_CONTINUOUS, "Box (it draws real numbers)"),
    }
    return f"action_sampling_type {kind!r}: expected an action space of type {needed[kind]}, got {space}"


def _chosen_log_softmax(logits: NDArray[np.float64], chosen: NDArray[Any]) -> NDArray[np.float64]:
    """log softmax(logits)[row, chosen[row]], [rows] float64."""
    shifted = logits - logits.max(1, keepdims=True)
    picked: NDArray[np.float64] = shifted[np.arange(len(shifted)), chosen]
    picked -= np.log(np.exp(shifted).sum(1))
    return picked


def listed(names: Iterable[str]) -> str:
    """Names in quotes and in order, for messages."""
    return ", ".join(repr(name) for name in sorted(names)) or "nothing"
