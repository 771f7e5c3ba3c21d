"""Agent: the model on the driver, with differentiable methods in its framework; it acts as the runners do."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces

from really._utils.notebook import Shown
from really._utils.published import PublishedAgent
from really.agents.frameworks.choice import framework_of
from really.agents.frameworks.protocol import Framework, Interface
from really.agents.loading import load_agent
from really.agents.models import check_same_framework, example_outputs, recurrent_layout
from really.agents.recurrent import called, input_space, output_names
from really.agents.recurrent_agent import RecurrentAgent
from really.data.masks import ActionMasks
from really.data.normalisation import Normalisation
from really.data.spaces import flatten, nest, no_observation, observation_leaves
from really.errors import InvalidTypeError, InvalidValueError
from really.policies.outputs import OutputForms
from really.policies.policy import check_finite, infer_sampling_type, make_policy
from really.policies.states import State, shared_variables, state_of

log = logging.getLogger("really")


class Agent(PublishedAgent, RecurrentAgent, Shown):
    """A model with methods to act and to learn.

    A state is one observation or a batch [n, ...] of observations, in the structure of the observation space, as arrays
    or tensors. One observation gives results without the batch axis. All methods but `act` return tensors of the
    model's framework and pass gradients: those of TensorFlow are compiled with `tf.function`, those of PyTorch are on
    the module's device, and those of a plain Python callable are NumPy arrays without gradients.

    If the manager normalises observations, `act` takes states as the environments show them. All other methods take
    states as the manager delivers them, which is normalised; `normalize` turns the former into the latter.

    With a recurrent model `act` returns a pair: the actions, and the recurrent state for the next call. It begins an
    episode without `recurrent_state`. All other methods need that argument: a nest as the model takes it, such as
    `initial_state` or `recurrent_state` give it.

    Attributes:
        model: the model; its variables are the agent's weights.
        framework: the adapter of the model's framework; `framework.name` is `tensorflow`, `torch`, `jax` or
            `callable`.
        network: what the methods compute from the model, in the framework.
        policy: the policy that samples actions, with `epsilon` and `temperature`.
        output_names: names of the model's outputs.
        forms: how the outputs that are used become arrays with a batch axis.
        rng: the generator from which `act` draws.
        epoch: the epoch with which a loaded model was saved.
        greedy: True makes every `act` take the best action.
        normalization: the normalisation of observations, frozen with the last weights that the manager was given; None
            if observations are not normalised. A copy keeps the one with which it was made.
        masks: how the environment tells which actions it allows; None if it does not. Masks that are a part of the
            states restrict every method. Masks that come with `info` are given as `action_mask`, `[n, width]`, the
            column `action_mask` or `action_mask_new` of data.
        recurrent: how the recurrent state of the model is laid out; None for a model without.
        input_space: the space of what the model is called with.
        architecture: None for a model as it was made; another object each time that a part of the model was replaced.
    """

    def __init__(
        self,
        model: Any,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        sampling_type: str | None = None,
        *,
        epsilon: float = 0.95,
        temperature: float = 1.0,
        rng: np.random.Generator | None = None,
        epoch: int = 0,
        make_model: Callable[[], Any] | None = None,
        normalization: Normalisation | None = None,
        masks: ActionMasks | None = None,
        framework: Framework | None = None,
    ) -> None:
        self.framework = framework_of(model) if framework is None else framework
        self.epoch, self.normalization = epoch, normalization
        self.greedy, self.masks = False, masks
        self._has_warned = False
        self.observation_space, self.action_space = observation_space, action_space
        self._make_model = make_model
        self.rng = np.random.default_rng() if rng is None else rng
        self.recurrent = recurrent_layout(self.framework, model, observation_space)
        self.input_space = input_space(observation_space, self.recurrent)
        examples = example_outputs(self.framework, called(model, self.recurrent), self.input_space, self.recurrent)
        self.output_names = output_names(examples[0], self.recurrent)
        sampling_type = sampling_type or infer_sampling_type(self.output_names)
        self.policy = make_policy(sampling_type, action_space, epsilon, temperature, masks is not None)
        self.forms = OutputForms.of(self.policy, *examples).with_recurrent(self.recurrent)
        self.policy.check_values(self.forms.arrays(examples[0], 1, self.policy.required_outputs))
        interface = Interface(self.input_space, action_space, self.policy, self.output_names, self.forms, masks)
        self._interface = interface
        self.network = self.framework.network(model, interface)
        self.architecture: object | None = None
        self._known = state_of(model)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: Any = None,
        *,
        model_kwargs: Mapping[str, Any] | None = None,
        model_name: str | None = None,
        greedy: bool = True,
        seed: int | None = None,
        device: Any = None,
    ) -> Agent:
        """The agent of a saved model, which needs no manager, environment or Ray.

        Args:
            path: the folder into which `manager.save_model` saved, for the newest model in it; or the folder of one.
            model: the class or function that made the model, as for SampleManager. Models that Keras itself can save
                need none; their file is then read in Keras' safe mode. Give it for files of strangers.
            model_kwargs: arguments of `model`.
            model_name: the newest that was saved under this name.
            greedy: whether `act` takes the best action, or samples as runners do, with the epsilon and the temperature
                of the moment of saving.
            seed: of the sampling.
            device: of PyTorch or JAX, on which the model is to be.

        Raises:
            InvalidValueError: there is no saved model; `model` is needed; an older version saved it; or there is no
                such device.
            InvalidFileError: it is damaged.
            ModelError: it is of another model than this one, or Keras cannot make it.
        """
        agent: Agent = load_agent(cls, path, model, model_kwargs, model_name, greedy, seed, device)
        return agent

    @property
    def model(self) -> Any:
        """The model; its variables are the agent's weights."""
        return self.network.model

    @property
    def compiled(self) -> bool:
        """Whether methods are compiled.

        It is False for a model that must run as Python in each call, and becomes False if compiling fails. Set it to
        False if compiling would go wrong unnoticed, for example if outputs depend on side effects.
        """
        return self.network.compiled

    @compiled.setter
    def compiled(self, value: bool) -> None:
        self.network.compiled = value

    def _title(self) -> str:
        return "Agent"  # also of one that a manager lends

    def _shown(self) -> Mapping[str, Any]:
        return {
            "framework": self.framework.name,
            "model": type(self.model).__name__,
            "outputs": ", ".join(self.output_names),
            "action_sampling_type": self.policy.sampling_type,
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "epoch": self.epoch,
            "greedy": self.greedy,
        }

    def __repr__(self) -> str:
        if "network" not in vars(self):
            return "Agent(no model)"
        model = f"{type(self.model).__name__} of {self.framework.name}"
        return f"Agent({model}, outputs={self.output_names}, action_sampling_type={self.policy.sampling_type!r})"

    def __iter__(self) -> Iterator[Any]:
        """`agent, epoch = manager.load_model(path)`."""
        return iter((self, self.epoch))

    def act(
        self,
        state: Any,
        greedy: bool = False,
        normalized: bool = False,
        action_mask: Any = None,
        recurrent_state: Any = None,
    ) -> Any:
        """Actions as runners sample and store them (not clipped to a Box), NumPy, [n, *action_shape].

        With a recurrent model it returns a pair: actions, and the recurrent state after these observations.

        Args:
            state: as the environment shows it; this method normalises it if necessary.
            greedy: take the best action instead of sampling one.
            normalized: True for a `state` from data that the manager delivered; it is not normalised again.
            action_mask: which actions are allowed, `[n, width]`, if masks come with `info`.
            recurrent_state: what the last call returned; None where an episode begins.
        """
        self._expect_mask("act", action_mask)
        inputs = self._acting_inputs(state if normalized else self.normalize(state), recurrent_state)
        outputs, mask, rows, single = self.network.acting(inputs, action_mask)
        check_finite(outputs, self.policy.required_outputs)
        if mask is not None:
            outputs = dict(self.policy.masked(outputs, mask))
        if greedy or self.greedy:
            actions = self.policy.greedy(outputs)
        else:
            actions = self.policy.sample(outputs, self.policy.noise(self.rng, rows))
        actions = actions[0] if single else actions
        return actions if self.recurrent is None else (actions, self._next_state(outputs, single))

    def normalize(self, state: Any) -> Any:
        """Turns states as the environment shows them into states as the manager delivers them, NumPy.

        Returns `state` itself if the manager does not normalise observations.
        """
        if self.normalization is None:
            return state
        space = self.observation_space
        try:
            given = zip(flatten(space, state), observation_leaves(space).values(), strict=True)
            leaves = [np.asarray(value, leaf.dtype) for value, leaf in given]
        except Exception as error:
            raise no_observation(space, state) from error
        return nest(space, self.normalization.observations(leaves))

    def max_q(self, state: Any, action_mask: Any = None, recurrent_state: Any = None) -> Any:
        """The largest q-value of each state, among the allowed actions, [n] float32."""
        self._expect_mask("max_q", action_mask)
        return self.network.max_q(self._inputs("max_q", state, recurrent_state), action_mask)

    def q_val(self, state: Any, action: Any, recurrent_state: Any = None) -> Any:
        """The q-values of `action`, [n] float32.

        `action` is [n] or [n, 1] as it is stored (a Discrete space's `start` included). Actions outside of the action
        space raise InvalidValueError, except while a `tf.function` is traced and tensors have no values yet.
        """
        return self.network.q_val(self._inputs("q_val", state, recurrent_state), action)

    def v(self, state: Any, action_mask: Any = None, recurrent_state: Any = None) -> Any:
        """The value of each state, [n] float32: the model's value output, or else the largest q-value."""
        return self.network.v(self._inputs("v", state, recurrent_state), action_mask)

    def flowing_log_prob(
        self,
        state: Any,
        action: Any,
        return_entropy: bool = False,
        action_mask: Any = None,
        recurrent_state: Any = None,
    ) -> Any:
        """Log-probability of stored actions, [n] float32, with gradients to the model's weights.

        With `return_entropy` it returns a pair: the log-probability and the policy's entropy, [n] float32. Under
        `epsilon_greedy` both are constant in the weights nearly everywhere: their gradient is zero. A `tf.function` of
        yours keeps the epsilon and temperature with which it was traced.
        """
        if self.policy.sampling_type == "thompson" and not self.policy.temperature:
            raise InvalidValueError("agent.flowing_log_prob: expected a temperature > 0, got 0, which is greedy")
        self._expect_mask("flowing_log_prob", action_mask)
        inputs = self._inputs("flowing_log_prob", state, recurrent_state)
        return self.network.log_prob(inputs, action, action_mask, return_entropy)

    def outputs(self, state: Any, *names: str, recurrent_state: Any = None) -> dict[str, Any]:
        """The model's outputs of these names for states `[n, ...]` in the model's dtypes, float32 `[n, *shape]`.

        `recurrent_state` among the names is the state after these states, as the model returns it.

        It checks and compiles nothing: learners call it within functions that are compiled.

        Raises:
            ModelError: the model has no such output, or it is no array with a row for each state.
        """
        for name in names:
            self._interface.check_output("outputs", (name,))
        if self.recurrent is None:
            return self.network.outputs(state, names)
        return self._with_next_state(self._inputs("outputs", state, recurrent_state), names)

    def q_values(self, state: Any, action_mask: Any = None, recurrent_state: Any = None) -> Any:
        """The q-values of all actions, [n, actions] float32; minus infinity for those that are not allowed.

        It checks and compiles nothing, as `outputs`. A state without an allowed action is not restricted.
        """
        self._interface.check_output("outputs", ("q_values",))
        return self.network.q_values(self._inputs("q_values", state, recurrent_state), action_mask)

    def copy(self) -> Agent:
        """An agent with a model of its own and the same weights, for example as a target network.

        Raises:
            ModelError: the agent has no `make_model`, and Keras cannot copy the model.
        """
        model = self._another_model(self._make_model if self.architecture is None else None)
        state_of(model).set(self.get_weights())
        policy, rng = self.policy, self.rng.spawn(1)[0]
        agent = Agent(
            model,
            self.observation_space,
            self.action_space,
            policy.sampling_type,
            epsilon=policy.epsilon,
            temperature=policy.temperature,
            rng=rng,
            epoch=self.epoch,
            make_model=self._make_model,
            normalization=self.normalization,
            masks=self.masks,
            framework=self.framework,
        )
        agent.architecture, agent.compiled = self.architecture, agent.compiled and self.compiled
        return agent

    def __copy__(self) -> Agent:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Agent:
        return self.copy()

    def __reduce__(self) -> NoReturn:
        raise InvalidTypeError(
            "Agent: expected weights, as agent.get_weights() gives them, or a folder of "
            "manager.save_model(path, epoch), which Agent.load(path) reads in any process, got an agent, which has no "
            "pickle; agent.copy() is a second one in this process"
        )

    def get_weights(self) -> Any:
        """Copies of the model's weights: the list that `model.get_weights()` gives.

        Variables that Keras does not count as weights follow it, such as a `tf.Variable` that is an attribute. What an
        object with `get_weights` of its own gives is given as it is.
        """
        return self.state.get()

    def set_weights(self, weights: Any) -> None:
        """Sets the model's weights, as `get_weights` or `model.get_weights()` gives them, or a `state_dict`.

        Raises:
            ModelError: the number of arrays or a shape is not the model's; nothing is changed then.
        """
        self.state.set(weights)

    def parameters(self) -> Any:
        """The weights in the framework's own form: variables of TensorFlow, a `state_dict` of PyTorch, a pytree of JAX.

        `set_weights` and `manager.set_agent` take a `state_dict` or a pytree too. An optimizer of PyTorch is made with
        `agent.model.parameters()`. One of Keras is made without weights, and gets `agent.trainable_variables` with
        their gradients.
        """
        return self.state.parameters()

    def with_parameters(self, parameters: Any) -> Agent:
        """This agent with other parameters in all of its methods, as a pure function of them: for `jax.grad`.

        For PyTorch the parameters are a `state_dict`, as in `torch.func.functional_call`.

        Raises:
            ModelError: the model is none of JAX or PyTorch.
        """
        network = self.network.with_parameters(parameters)
        agent = Agent.__new__(Agent)
        agent.__dict__.update(self.__dict__, network=network)
        return agent

    @property
    def variables(self) -> list[Any]:
        """The variables of a Keras model in the order of `get_weights`."""
        return self.state.variables

    @property
    def trainable_variables(self) -> list[Any]:
        """The variables to train: `model.trainable_variables`, and those that Keras does not count."""
        return self.state.trainable

    @property
    def state(self) -> State:
        """The model's variables and arrays, for saving and setting them.

        If a part of the model was replaced, what was compiled for it is dropped.
        """
        if self._known.is_current():
            return self._known
        state = state_of(self.model)
        if not state.has_parts_of(self._known):
            self.architecture = object()
            self.network.forget()
        self._known = state
        return state

    def _expect_mask(self, method: str, mask: Any) -> None:
        """Warns once if masks come with `info`, and the caller gives none."""
        if mask is None and self.masks is not None and self.masks.leaf is None and not self._has_warned:
            self._has_warned = True
            log.warning(
                "agent.%s: expected action_mask=, the column 'action_mask' or 'action_mask_new', as the environment "
                "masks actions; got none, so that all actions count as allowed.",
                method,
            )

    def _another_model(self, make_model: Callable[[], Any] | None) -> Any:
        """A model of the same kind that shares no variable with this one: a new one if it can be made, else a copy."""
        new = self.model if make_model is None else make_model()
        check_same_framework(self.framework, new)
        same = shared_variables(new, self.model) or not self.state.is_like(state_of(new))
        return self.framework.copy(self.model) if same else self.framework.beside(new, self.model)
