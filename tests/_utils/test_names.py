"""Unknown arguments: the error has the name that is here, that of another package's argument included."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from really import Mixture, ReplayBuffer, SampleManager
from really._utils import names
from really.errors import InvalidTypeError
from really.learners import A2CLearner, DQNLearner, PPOLearner, SACLearner
from tests.environments import Counter
from tests.models import QNet

# Arguments of the constructors DQN, PPO, SAC, A2C and TD3, of learn, make_vec_env, SubprocVecEnv, VecFrameStack,
# EvalCallback and CheckpointCallback of Stable-Baselines3 2.9.
OF_SB3 = """
policy env learning_rate buffer_size learning_starts batch_size tau gamma train_freq gradient_steps replay_buffer_class
replay_buffer_kwargs optimize_memory_usage n_steps target_update_interval exploration_fraction exploration_initial_eps
exploration_final_eps max_grad_norm stats_window_size tensorboard_log policy_kwargs verbose seed device n_epochs
gae_lambda clip_range clip_range_vf normalize_advantage ent_coef vf_coef use_sde sde_sample_freq target_kl action_noise
target_entropy use_sde_at_warmup rms_prop_eps use_rms_prop policy_delay target_policy_noise target_noise_clip env_id
n_envs monitor_dir wrapper_class env_kwargs vec_env_cls rollout_buffer_class rollout_buffer_kwargs total_timesteps
callback log_interval tb_log_name reset_num_timesteps progress_bar start_index vec_env_kwargs monitor_kwargs
wrapper_kwargs env_fns start_method n_stack eval_env eval_freq n_eval_episodes best_model_save_path deterministic
save_freq save_path name_prefix
"""


def manager_of() -> SampleManager:
    return SampleManager(QNet, Counter, 2, 20, use_ray=False, num_steps=5, action_sampling_type="epsilon_greedy")


@pytest.mark.parametrize("name", OF_SB3.split())
def test_each_name_of_stable_baselines3_has_its_place(name: str) -> None:
    if name not in inspect.signature(SampleManager.__init__).parameters:
        with pytest.raises(
            InvalidTypeError,
            match=rf"^SampleManager: got an unknown argument '{name}'; (here it is|it has no counterpart)",
        ):
            SampleManager(QNet, Counter, 2, 20, **{name: 3})


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: ReplayBuffer(buffer_size=3),
            r"ReplayBuffer: .*'buffer_size'; here it is called capacity",
        ),
        (
            lambda: ReplayBuffer(3, n_stpes=3),
            r"ReplayBuffer: .*'n_stpes'\. Did you mean 'n_step'.*",
        ),
        (lambda: ReplayBuffer(3, alfa=0.6), r"ReplayBuffer: .*'alfa'\. Did you mean 'alpha'\?"),
        (
            lambda: ReplayBuffer(3, n_envs=3),
            r"ReplayBuffer: .*'n_envs'; it has no counterpart: put takes the rows of .*",
        ),
        (
            lambda: DQNLearner(None, None, use_sde=1),
            r"DQNLearner: .*'use_sde'; it has no counte.*",
        ),
        (lambda: ReplayBuffer(3, zzz=3), r"ReplayBuffer: got an unknown argument 'zzz'"),
        (lambda: Mixture([], seeed=3), r"Mixture: .*'seeed'\. Did you mean 'seed'\?"),
        (
            lambda: DQNLearner(None, None, tau=0.1),
            r"DQNLearner: .*'tau'; here it is called target_rate",
        ),
        (
            lambda: SACLearner(None, None, ent_coef=0.1),
            r"SACLearner: .*'ent_coef'; here it is called temperature",
        ),
        (
            lambda: PPOLearner(None, None, n_epochs=3),
            r"PPOLearner: .*'n_epochs'; here it is called epochs",
        ),
        (
            lambda: A2CLearner(None, None, max_grad_norm=1),
            r"A2CLearner: .*'max_grad_norm'; here it is called max_gradient_norm",
        ),
    ],
)
def test_constructors_name_the_argument_that_is_meant(call: Callable[[], Any], told: str) -> None:
    with pytest.raises(InvalidTypeError, match=f"^{told}$"):
        call()


def test_verbs_of_a_manager_name_the_argument_that_is_meant() -> None:
    with manager_of() as manager:
        for verb, given, told in [
            (
                manager.get_data,
                {"total_step": 3},
                r"get_data: .*'total_step'\. Did you mean 'total_steps'\?",
            ),
            (manager.collect, {"stpes": 3}, r"collect: .*'stpes'\. Did you mean 'steps'\?"),
            (
                manager.test,
                {"n_eval_episodes": 3},
                r"test: .*'n_eval_episodes'; here it is called test_episodes",
            ),
            (
                manager.initialize_buffer,
                {"alhpa": 3},
                r"ReplayBuffer: .*'alhpa'\. Did you mean 'alpha'\?",
            ),
            (
                manager.initialize_aggregator,
                {"saving_afer": 3},
                r"initialize_aggregator: .* Did you mean 'sav.*",
            ),
        ]:
            with pytest.raises(InvalidTypeError, match=f"^{told}$"):
                verb(5, **given)


def test_errors_of_the_call_itself_and_of_its_body_stay_as_they_are() -> None:
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'capacity'"):
        ReplayBuffer()
    with pytest.raises(InvalidTypeError, match=r"^capacity: expected an integer"):
        ReplayBuffer("many")


def test_the_signature_is_that_of_the_constructor() -> None:
    assert "capacity" in inspect.signature(ReplayBuffer).parameters
    assert "total_steps" in inspect.signature(SampleManager.get_data).parameters


def test_what_is_named_is_there() -> None:
    for cls, named in [
        (ReplayBuffer, names.OF_BUFFERS),
        (DQNLearner, names.OF_LEARNERS),
        (SACLearner, names.OF_LEARNERS),
        (PPOLearner, names.OF_POLICY_LEARNERS),
        (SampleManager, names.OF_MANAGERS),
    ]:
        assert not set(named) & set(inspect.signature(cls).parameters) - {"env_kwargs"}, cls


@pytest.mark.parametrize("verb", names.VERBS_OF_BUFFERS)
def test_a_verb_of_another_package_is_told_in_a_buffer(verb: str) -> None:
    buffer = ReplayBuffer(3, spec={"a": "f4"})
    for of in (buffer, copy.copy(buffer), pickle.loads(pickle.dumps(buffer))):
        with pytest.raises(AttributeError, match=rf"^ReplayBuffer has no attribute '{verb}'\. Here it is .*\.$"):
            getattr(of, verb)
        assert not hasattr(of, verb)
    assert verb not in dir(buffer)
    assert "put" in dir(buffer)


def test_a_verb_of_another_package_is_told_in_a_manager() -> None:
    with manager_of() as manager:
        for verb, here in names.VERBS_OF_MANAGERS.items():
            with pytest.raises(AttributeError) as raised:
                getattr(manager, verb)
            assert str(raised.value) == f"SampleManager has no attribute {verb!r}. Here it is {here}."
            assert verb not in dir(manager)
        manager.train = "mine"
        assert manager.train == "mine"
        with pytest.raises(AttributeError, match=r"^'SampleManager' object has no attribute 'colect'$"):
            manager.colect()


def test_a_verb_of_another_package_may_be_that_of_a_subclass() -> None:
    class Own(ReplayBuffer):
        def add(self, rows: Any) -> None:
            self.put(rows)

    buffer = Own(3)
    buffer.add({"a": [1.0]})
    assert len(buffer) == 1
    assert "add" in dir(buffer)
