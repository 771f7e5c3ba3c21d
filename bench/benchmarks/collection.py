"""Collection: the cost of a warm `get_data()`, and the start of a manager, in this process and with Ray."""

import os

from really import SampleManager

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROWS = 8192


def q_network():
    import keras

    keras.utils.set_random_seed(0)  # the lengths of episodes depend on the weights
    state = keras.Input((4,))
    hidden = keras.layers.Dense(64, activation="relu")(state)
    hidden = keras.layers.Dense(64, activation="relu")(hidden)
    return keras.Model(state, {"q_values": keras.layers.Dense(2)(hidden)})


def make(number, use_ray, **more):
    options = {"num_steps": 128, "action_sampling_type": "epsilon_greedy", "epsilon": 0.1, "use_ray": use_ray, **more}
    if use_ray:
        import ray

        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    return SampleManager(q_network, "CartPole-v1", number, ROWS, **options)


class Collect:
    """Runners live as long as the manager, so a call costs its steps and hardly anything else.

    1 and 4 environments are plain instances in a runner, 8 and more go through gymnasium's vector implementation.
    """

    params = ([1, 4, 16, 64], [False, True])
    param_names = ("num_parallel", "use_ray")

    def setup(self, num_parallel, use_ray):
        self.manager = make(num_parallel, use_ray)
        self.manager.initialize_buffer(100_000)
        self.manager.get_data()

    def teardown(self, num_parallel, use_ray):
        self.manager.close()

    def time_get_data(self, num_parallel, use_ray):
        self.manager.get_data()

    def time_collect(self, num_parallel, use_ray):
        self.manager.collect()

    def time_test_20_episodes(self, num_parallel, use_ray):
        self.manager.test(500, test_episodes=20)

    def time_set_agent(self, num_parallel, use_ray):
        self.manager.set_agent([weight + 1e-6 for weight in self.manager.get_agent().get_weights()])


class Normalise:
    """Normalisation costs a few NumPy calls a step and a pass over each chunk; without it, nothing."""

    params = ([1, 8, 64], [False, True])
    param_names = ("num_parallel", "normalize")

    def setup(self, num_parallel, normalize):
        options = {"normalize_observations": normalize, "normalize_rewards": normalize}
        self.manager = make(num_parallel, use_ray=False, **options)
        self.manager.get_data()
        self.manager.set_agent([weight + 1e-6 for weight in self.manager.get_agent().get_weights()])

    def teardown(self, num_parallel, normalize):
        self.manager.close()

    def time_get_data(self, num_parallel, normalize):
        self.manager.get_data()


class Start:
    """With Ray up, a manager delivers its first row in well under 2.5 s."""

    params = ([2, 64],)
    param_names = ("num_parallel",)

    def setup(self, num_parallel):
        make(num_parallel, use_ray=True).close()

    def time_first_data(self, num_parallel):
        with make(num_parallel, use_ray=True) as manager:
            manager.get_data()
