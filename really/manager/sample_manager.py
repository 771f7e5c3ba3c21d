"""SampleManager, the face of the package: checks its arguments and passes the work on to the other wings."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from numpy.typing import NDArray

from really._utils.array_pool import ArrayPool
from really._utils.checks import checked_bool, checked_integer
from really._utils.names import OF_MANAGERS, VERBS_OF_MANAGERS, tells_names, tells_verbs
from really._utils.progress import steps_of
from really.checkpoints import training_state
from really.collectors.seeds import BUFFER_STREAM
from really.data.schema import HAS_STATE, RECURRENT_STATE
from really.data.transitions import Columns
from really.errors import InvalidValueError
from really.manager import cells
from really.manager.arguments import Settings, checked
from really.manager.buffers import Buffer, made_buffer
from really.manager.collecting import Collecting
from really.manager.evaluating import Evaluating
from really.manager.tracking import Tracking
from really.replay import n_step
from really.replay.arguments import refuse_library
from really.replay.batches import Batches
from really.replay.moments import RolledBack
from really.replay.tf_datasets import sampled_dataset

if TYPE_CHECKING:
    from really.agents.agent import Agent

# The column of action masks that belongs to a column of states.
MASK_OF = {"state": "action_mask", "state_new": "action_mask_new"}
DEFAULT_KEYS = ("state", "action", "reward", "state_new", "terminal")


@tells_names(OF_MANAGERS)
@tells_verbs(VERBS_OF_MANAGERS)
class SampleManager(Collecting, Evaluating, Tracking):
    """Collects experience with parallel runners, stores it, samples it, and keeps the current agent.

    Args:
        model: `tf.keras.Model` class (or function returning a model, or a model); its call returns a dict with
            `q_values`, `policy` (unnormalised logits), or `mu` and `sigma`, optionally `v_estimate`.
        environment: id of gymnasium or of the older `gym`, or an environment's class, factory or instance.
        num_parallel: number of agents that run in parallel.
        total_steps: minimum number of rows that `get_data` delivers.
        returns: extra columns: `value_estimate`, `log_prob`, `monte_carlo`, `advantage` (float32 [n]); `truncated`,
            `episode_end` (1 at the last row of an episode or of a result), `policy_version`, `agent`; and
            `recurrent_state`, with which a recurrent model acted.
        action_sampling_type: `epsilon_greedy`, `thompson`, `discrete_policy`, `continuous_normal_diagonal` (also
            spelled `continous_normal_diagonal`) or `continuous_squashed_normal`; by default the one that fits the
            model's outputs, of the last two the first.
            `actin_sampling_type` is another spelling of this argument.
        model_kwargs: arguments of the model.
        weights: initial weights, as `model.get_weights()` returns them.
        input_shape: shape of one observation, by default that of the environment's. Observations of as many numbers
            are delivered in it. The model is called first on it; False for a model that needs no such call.
        is_tf: False for a model that is no TensorFlow model: it has its weights without a call, as with
            `input_shape=False`.
        env_config: arguments of the environment. `env_kwargs` is another name of this argument.
        num_episodes: whole episodes per result of an agent, by default 1.
        num_steps: steps per result of an agent, whose episode continues in the next result. Not with `num_episodes`.
        gamma: discount of `monte_carlo` and `advantage`.
        gae_lambda: lambda of generalised advantage estimation (`advantage`).
        recurrent_state_every: k gives every k-th step of an episode, from the first on, a recurrent state of its own.
            Rows between repeat it, and the column `has_recurrent_state` is 0 there. A buffer stores a repeated state
            once.
        temperature: temperature of `thompson`, which is Boltzmann sampling: softmax(q / temperature).
        epsilon: probability of a *random* action in `epsilon_greedy` (0.95 is mostly random).
        remote_min_returns: minimum number of agents whose results a call waits for; by default 10 % of
            `num_parallel` and at least 1, or all agents if `seed` is given.
        remote_time_out: seconds without a message of a runner after which a call continues without that runner, or
            fails if it has none.
        max_staleness: by how many policy versions a late result may be older than the weights to be delivered; by
            default 0 if `returns` has `log_prob`, `monte_carlo` or `advantage`, and unlimited otherwise.
        seed: makes data and batches repeatable from run to run, for any number of processes. Processes of runners
            also seed `random` and `numpy.random`; environments that draw from them repeat for the same `num_workers`.
        num_workers: number of processes; by default min(num_parallel, CPUs of the Ray cluster).
        use_ray: False steps the environments in this process.
        num_gpus: GPUs of each process, in which several may share one, as with 0.5.
        resources: Ray's custom resources of each process, as in {"licence": 1}.
        runtime_env: Ray's runtime environment of the processes.
        max_runner_memory: bytes that a process may hold; one that holds more after a chunk is replaced. No row is
            lost, and its environments begin new episodes.
        vector: `auto` uses an id's own vector implementation if it gives the same transitions and is faster,
            `plain` never uses it, `native` uses it whenever there is one.
        normalize_observations: runners act on and deliver normalised observations: each number of a floating-point
            leaf, minus its running mean, divided by its running standard deviation. New statistics take effect with
            the next change of weights.
        observation_clip: bound c to which normalised observations are clipped, as in (-c, c); by default 10.
        normalize_rewards: delivered rewards are divided by the running standard deviation of the discounted return.
        reward_scale: factor of delivered rewards, normalised or not.
        reward_clip: bounds to which scaled rewards are clipped: c for (-c, c), or (low, high); by default 10 if
            rewards are normalised, and none otherwise.
        action_masks: False ignores the masks with which an environment tells which actions a state allows: a part
            `action_mask` of its observations, `info["action_mask"]`, or what its method `action_masks` returns.
        reward_shape: shape of one reward, such as (2,) for two objectives: the column `reward` is then `[n, 2]`. By
            default a reward is one number, and `monte_carlo`, `advantage`, `normalize_rewards`, `n_step`, hindsight and
            the learners take only that. Returns of episodes add all numbers up; `test` gives the sum of each.
        device: where the learner's model is, as "cuda:0": of PyTorch or JAX. Runners act on the CPU all the same.
        others: none; an unknown name is an InvalidTypeError that names the argument it may be.

    Attributes:
        kwargs: the arguments as settings; some of them may be changed between calls.
        buffer: the replay buffer, or None before `initialize_buffer`.
        aggregator: the aggregator, or None before `initialize_aggregator`.
        film: path of the last film that `test` made, or None.
        rolled_back: how many rows of a buffer on disk the last `load_checkpoint` dropped (`rows_dropped`) or missed
            (`rows_missing`), or None before.

    Raises:
        ReallyError: an argument cannot be used; the message says where, what was expected, and what was given.
    """

    def __init__(
        self,
        model: Any,
        environment: Any,
        num_parallel: int,
        total_steps: int,
        returns: Sequence[str] = (),
        action_sampling_type: str | None = None,
        *,
        actin_sampling_type: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        weights: Sequence[NDArray[Any]] | None = None,
        input_shape: Sequence[int] | bool | None = None,
        is_tf: bool = True,
        env_config: Mapping[str, Any] | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        num_episodes: int | None = None,
        num_steps: int | None = None,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        recurrent_state_every: int = 1,
        temperature: float = 1.0,
        epsilon: float = 0.95,
        remote_min_returns: int | None = None,
        remote_time_out: float | None = None,
        max_staleness: float | None = None,
        seed: int | None = None,
        num_workers: int | None = None,
        use_ray: bool = True,
        num_gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        max_runner_memory: float | None = None,
        vector: str = "auto",
        normalize_observations: bool = False,
        observation_clip: float | None = None,
        normalize_rewards: bool = False,
        reward_scale: float = 1.0,
        reward_clip: float | tuple[float, float] | None = None,
        action_masks: bool = True,
        reward_shape: Sequence[int] | int = (),
        device: Any = None,
        **others: Any,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name != "self"}
        self.kwargs = Settings(checked(arguments))
        place = sys._getframe(2)  # past the frame of `tells_names`
        cell = cells.cell_of(place.f_code.co_filename, place.f_lineno)
        cells.close_earlier(cell)
        self.buffer = None
        self.aggregator = None
        self.film: Path | None = None
        self.rolled_back: RolledBack | None = None
        self._background = None
        self._pool = ArrayPool()
        with steps_of("SampleManager") as report:
            self._start(report)
        cells.note(self, cell)

    # ------------------------------------------------------------------------------------------ the buffer

    def initilize_buffer(
        self,
        buffer_size: int,
        optim_keys: Sequence[str] = DEFAULT_KEYS,
        path: str | os.PathLike[str] | None = None,
        shards: int | str | Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        """Makes the buffer: `buffer_size` rows of the columns `optim_keys`, first in, first out.

        If observations are a Dict or Tuple, `state` and `state_new` stand for all of their leaves; if masks of actions
        come with `info`, also for `action_mask` and `action_mask_new`. With `path` the rows
        live in files in that folder; if the folder holds such a buffer already, that buffer is opened. With `shards`
        they live in shards, "nodes" for one on each node of the Ray cluster (`ShardedBuffer`). Other options
        are those of `ReplayBuffer`: `alpha` for prioritized replay, `dedup`, `stack`, `max_bytes`, ... With
        `n_step`, `gamma` is the manager's.
        """
        self._refuse_background("initialize_buffer()")
        options = n_step.with_gamma(options, self.kwargs["gamma"])
        keys = self._column_names(optim_keys)
        self.buffer = made_buffer(buffer_size, keys, self._builder.seed(BUFFER_STREAM), path, shards, options)
        self._builder.notice_unit(self._current.agent, options.get("unit"))

    initialize_buffer = initilize_buffer

    def store_in_buffer(self, data: Mapping[str, Any]) -> None:
        """Stores rows: a dict of lists, arrays or tensors `[row, ...]`, or an Arrow record batch or table."""
        self._buffer().put(data)

    def sample(
        self, sample_size: int, from_buffer: bool = True, beta: float | None = None, as_: None = None
    ) -> Columns:
        """Samples `sample_size` rows from the buffer (`ReplayBuffer.sample`), or collects new ones with the agent."""
        if as_ is not None:
            refuse_library(as_)
        if checked_bool("from_buffer", from_buffer):
            self._before_sample(sample_size)
            return self._buffer().sample(sample_size, beta=beta)
        if beta is not None:
            raise InvalidValueError(f"beta: expected none with from_buffer=False, got {beta!r}")
        size = checked_integer("sample_size", sample_size)
        return {name: rows[:size] for name, rows in self.get_data(total_steps=size).items()}

    def batches(self, n: Any, prefetch: int = 2, **options: Any) -> Batches:
        """An endless iterator over batches of `sample(n)`, drawn up to `prefetch` batches ahead (`Batches`).

        During background collection the rate limiter counts a batch when it is drawn. Options: `as_`, `replace`,
        `device` and `pin_memory`, and `beta` of prioritized replay.
        """
        return Batches(self._buffer(), n, prefetch, before=self._before_sample, **options)

    def dataset(self, n: Any, prefetch: int = 2, **options: Any) -> Any:
        """An endless `tf.data.Dataset` of batches of `sample(n)` (`sampled_dataset`).

        The rate limiter counts its batches as those of `batches`. Options: `replace`, `batches_per_call`, and `beta` of
        prioritized replay.
        """
        return sampled_dataset(self._buffer(), n, prefetch, before=self._before_sample, **options)

    # ------------------------------------------------------------------------------------------ the agent

    def get_agent(self, test: bool = False) -> Agent:
        """An agent of its own each time, with the weights that the manager's agent has in the moment of the call.

        An agent gets its model at its first use. If its variable held an agent before, as in a loop with
        `agent = manager.get_agent()`, it takes over that one's model, so that the variables stay the same. Otherwise it
        has the manager's own model, or a copy while another living agent has that. So agents in two variables share
        nothing. With `test` it is a copy that acts greedily.
        """
        self._sync()
        place = sys._getframe(1)
        lender, is_copy = self._current.lender, checked_bool("test", test)
        return self._current.agent.greedy_copy() if is_copy else lender.lend((place.f_code, place.f_lineno))

    @property
    def agent(self) -> Agent:
        """The manager's own agent, which learners train. What its model learns, the first of `get_agent` sees too."""
        self._sync()
        return self._current.lender.open()

    def set_agent(self, weights: Sequence[NDArray[Any]]) -> None:
        """Sets the weights of the manager's agent; runners act with them for the rows collected from now on.

        Agents that `get_agent` gave and that were used keep their own.
        If observations or rewards are normalised, the statistics measured so far take effect at the same time.
        """
        self._current.set_weights(weights)

    def save_model(self, path: str | os.PathLike[str], epoch: int, model_name: str = "model") -> str:
        """Saves the current model in a new folder `<path>/<model_name>_<epoch>_<time>`; returns its path."""
        return str(self._current.save(path, epoch, model_name))

    def load_model(
        self,
        path: str | os.PathLike[str],
        model_name: str | None = None,
        compile: bool = False,  # noqa: A002
    ) -> Agent:
        """Loads the newest model saved in `path` for the manager and its runners; returns an agent with its epoch.

        With `model_name` it is the newest that was saved under this name, or the one whose folder has this name.
        `compile` is ignored, because the agent keeps its own model.

        A manager that normalises also takes over the statistics that were saved with the model.
        """
        return self._current.load(path, model_name)

    def save_checkpoint(
        self,
        path: str | os.PathLike[str],
        *,
        target: Any = None,
        optimizer: Any = None,
        counters: Mapping[str, Any] | None = None,
        keep: int | None = None,
    ) -> str:
        """Saves the state of the training run in a new folder `<path>/checkpoint_<time>`; returns its path.

        The state is the agent's weights, the buffer, the aggregator's curves, the settings in `kwargs` that may change,
        the manager's counts, random streams and statistics, and the arguments of this call. Rows that runners have not
        delivered yet are not part of it. The folder appears complete or not at all. A buffer on disk is flushed, and
        the checkpoint refers to it without a copy.

        Args:
            path: folder of all checkpoints of a run.
            target: an agent or model besides the agent, or a dict of several; parameters of JAX as a `Pytree`.
            optimizer: one of Keras, PyTorch or flax, or a dict of several; the state of one of optax as a `Pytree`.
            counters: numbers of the caller, such as steps and updates so far.
            keep: how many checkpoints to keep in `path`, including this one; by default all.
        """
        self._sync()
        return str(training_state.save(self._parts(target, optimizer), path, self._current.state(), counters, keep))

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        *,
        target: Any = None,
        optimizer: Any = None,
        buffer_path: str | os.PathLike[str] | None = None,
        missing: str = "error",
    ) -> dict[str, int | float]:
        """Resumes the run of the newest checkpoint in `path`; returns the counters that were saved with it.

        The settings in `kwargs` that may change, and the optimizer's learning rate, are set to their saved values.
        `manager.buffer` becomes another object, unless the saved buffer lives on disk and is open already. A buffer on
        disk returns to the rows, the priorities and the generator of the checkpoint: rows that were put since are
        dropped, and `manager.rolled_back` counts them. New episodes start, with random streams that the run has not
        used yet. A checkpoint that is damaged, or of another model, environment or buffer, or runners that do not
        start, raise an error, and the manager stays as it is.

        Args:
            path: folder of all checkpoints, or of one.
            target, optimizer: the objects to load into, in the same form as when they were saved.
            buffer_path: the folder of a buffer on disk, if it was moved after the checkpoint.
            missing: what happens if rows of a buffer on disk are gone because others took their place: "error"
                raises InvalidValueError, "accept" goes on with the rows that are left.
        """
        self._refuse_background("load_checkpoint()")
        self._fleet.check()
        self._sync()
        restored = training_state.read(self._parts(target, optimizer), path, buffer_path, missing)
        with self._current.resuming(restored) as aggregator:
            self.rolled_back = restored.buffer.resume()
            self.buffer, self.aggregator = cast(Buffer | None, restored.buffer.buffer), aggregator
            self._start_collector()
        return restored.counters

    def _parts(self, target: Any, optimizer: Any) -> training_state.RunParts:
        """The parts of the run that a checkpoint saves."""
        own = {"buffer": self.buffer, "aggregator": self.aggregator, "statistics": self._statistics}
        self._current.lender.leave_to(target.values() if isinstance(target, Mapping) else [target])
        return training_state.RunParts.of(self._current.agent, self._builder.probe.name, target, optimizer, **own)

    def _column_names(self, keys: Sequence[str]) -> list[str]:
        """The columns that keys stand for: themselves or their leaves, and their companions.

        A Dict or Tuple observation and a recurrent state have leaves. Companions are action masks, and whether a row
        has a recurrent state.
        """
        columns, found = self._current.columns, list[str]()
        for key in ("state_new" if key == "new_state" else key for key in keys):
            leaves = [name for name in columns if name.startswith(f"{key}.")]
            companion = HAS_STATE if key.split(".")[0] == RECURRENT_STATE else MASK_OF.get(key)
            more = [] if companion not in columns else [companion]
            found += [name for name in [*(leaves or [key]), *more] if name == key or name not in [*keys, *found]]
        return found
