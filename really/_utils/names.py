"""Names of arguments and verbs: the error for an unknown one says what it is called here, or which one it may be."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from really.errors import InvalidTypeError, did_you_mean

Class = TypeVar("Class", bound=type)

NONE = "no counterpart"
# Arguments of other packages, Stable-Baselines3 above all, and what is here in their place.
ANYWHERE = {"learning_rate": "the optimizer's learning rate", "lr": "the optimizer's learning rate"}
ANYWHERE |= dict.fromkeys(("use_rms_prop", "rms_prop_eps"), "the optimizer")
ABSENT = ("use_sde", "sde_sample_freq", "use_sde_at_warmup", "clip_range_vf", "target_kl", "policy_delay")
ANYWHERE |= dict.fromkeys((*ABSENT, "target_policy_noise", "target_noise_clip"), NONE)
OF_MANAGERS = {
    **ANYWHERE,
    "n_envs": "num_parallel",
    "num_envs": "num_parallel",
    "env": "environment",
    "env_id": "environment",
    "env_kwargs": "env_config",
    "render_mode": "env_config={'render_mode': ...}",
    "policy": "model",
    "policy_kwargs": "model_kwargs",
    "n_steps": "num_steps",
    "total_timesteps": "total_steps",
    "exploration_initial_eps": "epsilon",
    "exploration_rate": "epsilon",
    "exploration_fraction": "manager.set_epsilon(epsilon), in the loop",
    "exploration_final_eps": "manager.set_epsilon(epsilon), in the loop",
    "action_noise": "action_sampling_type",
    "norm_obs": "normalize_observations",
    "norm_reward": "normalize_rewards",
    "clip_obs": "observation_clip",
    "clip_reward": "reward_clip",
    "buffer_size": "manager.initialize_buffer(buffer_size)",
    "replay_buffer_class": "manager.initialize_buffer(buffer_size)",
    "replay_buffer_kwargs": "manager.initialize_buffer(buffer_size)",
    "optimize_memory_usage": "initialize_buffer(dedup=), which is on by default",
    "batch_size": "manager.sample(batch_size)",
    "n_epochs": "PPOLearner(epochs=)",
    "max_grad_norm": "PPOLearner(max_gradient_norm=), or the optimizer's global_clipnorm",
    "ent_coef": "entropy_coefficient of PPOLearner and A2CLearner",
    "vf_coef": "value_coefficient of PPOLearner and A2CLearner",
    "clip_range": "PPOLearner(clip_range=)",
    "normalize_advantage": "PPOLearner(normalize_advantages=)",
    "target_entropy": "SACLearner(target_entropy=)",
    "tau": "target_rate of DQNLearner and SACLearner",
    "target_update_interval": "DQNLearner(target_every=), which counts updates and not steps",
    "learning_starts": "a manager.collect(rows) before the loop",
    "train_freq": "the loop, which is yours: rows of a call and updates after it",
    "gradient_steps": "the loop, which is yours: updates after a call",
    "callback": "the loop, which is yours",
    **dict.fromkeys(("eval_env", "eval_freq"), "manager.evaluate_best(path), or manager.test(max_steps), in the loop"),
    "n_eval_episodes": "manager.evaluate_best(path, test_episodes=)",
    "best_model_save_path": "manager.evaluate_best(path)",
    "deterministic": "agent.act(state, greedy=True); evaluation is greedy",
    **dict.fromkeys(("save_freq", "save_path", "name_prefix"), "manager.save_checkpoint(path), in the loop"),
    **dict.fromkeys(("rollout_buffer_class", "rollout_buffer_kwargs"), f"{NONE}: get_data returns a rollout"),
    "stats_window_size": "manager.episodes",
    "wrapper_class": "environment, a function that makes and wraps one",
    "wrapper_kwargs": "environment, a function that makes and wraps one",
    "env_fns": "environment, and num_parallel of it",
    **dict.fromkeys(("vec_env_cls", "vec_env_kwargs"), "use_ray and num_workers"),
    "start_method": f"{NONE}: Ray starts the processes",
    "start_index": f"{NONE}: seed gives each environment its own",
    "n_stack": "really.atari, or environment, a function that wraps one",
    **dict.fromkeys(("monitor_dir", "monitor_kwargs"), "manager.episodes"),
    "progress_bar": "get_data(progress=True)",
    "log_interval": "manager.initialize_aggregator(path, saving_after=)",
    "verbose": "get_data(do_print=True)",
    **dict.fromkeys(("tensorboard_log", "tb_log_name"), "manager.initialize_aggregator(path, tensorboard=True)"),
    "reset_num_timesteps": f"{NONE}: manager.steps counts all that it collected",
}
OF_EVALUATION = {
    "n_eval_episodes": "test_episodes",
    "deterministic": f"{NONE}: evaluation is greedy",
    "best_model_save_path": "path of evaluate_best",
}
OF_BUFFERS = {
    "buffer_size": "capacity",
    "max_size": "capacity",
    "size": "capacity",
    "env_dict": "spec",
    "observation_space": "spec",
    "action_space": "spec",
    "Nstep": "n_step",
    "batch_size": "sample(batch_size)",
    "beta": "sample(n, beta=)",
    "n_envs": f"{NONE}: put takes the rows of any number of environments",
    "optimize_memory_usage": "dedup, which is on by default",
    "handle_timeout_termination": "the column 'terminal', which a time limit leaves 0",
    "device": f"{NONE}: batches are arrays of NumPy, or tensors by batches(n, device=)",
}
OF_LEARNERS = {
    **ANYWHERE,
    "policy": "the manager's model",
    "env": "the manager's environment",
    "tau": "target_rate",
    "target_update_interval": "target_every, which counts updates and not steps",
    "max_grad_norm": "the optimizer's global_clipnorm",
    "n_steps": "n_step",
    "buffer_size": "manager.initialize_buffer(buffer_size)",
    "batch_size": "manager.sample(batch_size)",
    "ent_coef": "temperature",
    "gae_lambda": "SampleManager(gae_lambda=)",
}
OF_POLICY_LEARNERS = OF_LEARNERS | {
    "max_grad_norm": "max_gradient_norm",
    "n_steps": "SampleManager(num_steps=)",
    "n_epochs": "epochs",
    "batch_size": "minibatch_size",
    "ent_coef": "entropy_coefficient",
    "vf_coef": "value_coefficient",
    "normalize_advantage": "normalize_advantages",
    "gamma": "SampleManager(gamma=)",
}

# Verbs of other packages, and what is here in their place.
LOOP = "a loop of yours: manager.collect(rows), learner.update(manager.sample(n)), manager.set_agent(weights)"
VERBS_OF_MANAGERS = {
    **dict.fromkeys(("learn", "train", "fit"), LOOP),
    "predict": "manager.get_agent().act(states)",
    "evaluate": "manager.test(max_steps)",
    "save": "manager.save_checkpoint(path), or save_model(path, epoch) for the model alone",
    "load": "manager.load_checkpoint(path), or load_model(path) for the model alone",
}
PUT = "put(rows), with a mapping from keys to rows or to the values of one row"
VERBS_OF_BUFFERS = {
    **dict.fromkeys(("add", "push", "append", "extend", "insert", "store"), PUT),
    "get_all_transitions": "take(range(len(buffer)))",
    "get_stored_size": "len(buffer)",
}


def check_names(where: str, given: Iterable[str], known: Iterable[str], elsewhere: Mapping[str, str]) -> None:
    """Raises InvalidTypeError for the first name that is not known.

    Args:
        where: what was called.
        given: names of the arguments.
        known: names that there are.
        elsewhere: names of other packages, and what is here in their place.
    """
    known = tuple(known)
    for name in given:
        if name not in known:
            hint = _counterpart(elsewhere[name]) if name in elsewhere else f".{did_you_mean(name, known)}".rstrip(".")
            raise InvalidTypeError(f"{where}: got an unknown argument {name!r}{hint}")


def _counterpart(here: str) -> str:
    """What is here in an argument's place: an argument, an expression, or none."""
    if here.startswith(NONE):
        return f"; it has {here}"
    return f"; here it is called {here}" if here.isidentifier() else f"; here it is {here}"


def tells_names(elsewhere: Mapping[str, str], *methods: str) -> Callable[[Class], Class]:
    """Decorates a class: these methods raise the error of `check_names` for an argument that they do not have.

    Without names of methods it is the constructor. Other calls cost one more call of Python.
    """

    def decorate(cls: Class) -> Class:
        for name in methods or ("__init__",):
            where = name if methods else cls.__name__
            setattr(cls, name, _telling(where, getattr(cls, name), elsewhere))
        return cls

    return decorate


def _telling(where: str, function: Callable[..., Any], elsewhere: Mapping[str, str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **arguments: Any) -> Any:
        try:
            return function(*args, **arguments)
        except TypeError as error:
            # Without a frame below this one, the call itself failed, and none of the function's code ran.
            if error.__traceback__ is None or error.__traceback__.tb_next is None:
                known = [each.name for each in inspect.signature(function).parameters.values() if each.name != "self"]
                check_names(where, arguments, known, elsewhere)
            raise

    return called


class Elsewhere:
    """A verb that only other packages have: its look-up is an AttributeError that says what is here in its place.

    A `__getattr__` would do the same, but with one Python caches no look-up of an attribute, and a draw of 32 rows
    takes a fifth longer.
    """

    def __init__(self, name: str, here: str) -> None:
        self._name, self._here = name, here

    def __get__(self, instance: object, owner: type) -> Elsewhere:
        if instance is None:
            return self
        raise AttributeError(f"{owner.__name__} has no attribute {self._name!r}. Here it is {self._here}.")


def tells_verbs(elsewhere: Mapping[str, str]) -> Callable[[Class], Class]:
    """Decorates a class: a verb of other packages that it lacks is an AttributeError with what is here in its place.

    `hasattr` and `dir` of its instances do not see these names.
    """

    def decorate(cls: Class) -> Class:
        for name in elsewhere.keys() - set(dir(cls)):
            setattr(cls, name, Elsewhere(name, elsewhere[name]))
        setattr(cls, "__dir__", _own_names)  # noqa: B010  (mypy takes no assignment to a method)
        return cls

    return decorate


def _own_names(self: object) -> list[str]:
    names = object.__dir__(self)
    return [name for name in names if not isinstance(inspect.getattr_static(self, name, None), Elsewhere)]
