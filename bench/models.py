"""The models of the collection benchmarks, and their forward pass in a runner."""

from __future__ import annotations

from typing import Any


def q_network() -> Any:
    """A 64-64 MLP for CartPole."""
    import keras

    state = keras.Input((4,))
    hidden = keras.layers.Dense(64, activation="relu")(state)
    hidden = keras.layers.Dense(64, activation="relu")(hidden)
    return keras.Model(state, {"q_values": keras.layers.Dense(2)(hidden)})


def pong_network() -> Any:
    """The network of Mnih et al. 2015 on frame stacks `[4, 84, 84] uint8`."""
    import keras

    frames = keras.Input((4, 84, 84), dtype="uint8")
    pixels = keras.ops.transpose(keras.ops.cast(frames, "float32") / 255.0, (0, 2, 3, 1))
    return keras.Model(frames, {"q_values": nature_head(pixels, 6)})


def nature_head(pixels: Any, num_actions: int, dtype: str = "float32") -> Any:
    """Q-values `[row, action]` of pixels `[row, height, width, frame]`; `dtype` is the policy of hidden layers."""
    import keras

    x, layers = pixels, keras.layers
    for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        x = layers.Conv2D(filters, size, stride, activation="relu", dtype=dtype)(x)
    x = layers.Dense(512, activation="relu", dtype=dtype)(layers.Flatten()(x))
    return layers.Dense(num_actions, dtype="float32")(x)


def actor() -> Any:
    """A 64-64 tanh MLP with a diagonal Gaussian for HalfCheetah."""
    import keras

    state = keras.Input((17,))
    hidden = keras.layers.Dense(64, activation="tanh")(state)
    hidden = keras.layers.Dense(64, activation="tanh")(hidden)
    sigma = keras.layers.Dense(6, activation="softplus")(hidden)
    return keras.Model(state, {"mu": keras.layers.Dense(6)(hidden), "sigma": sigma})


def forward_of(model: Any, environment: Any, batch_size: int) -> Any:
    """The forward pass that a runner uses for this model."""
    from really.agents.models import ModelBuilder
    from really.agents.tensorflow.export import export
    from really.envs.spec import EnvironmentSpec
    from really.policies.inference import load

    space = EnvironmentSpec(environment).probe().observation_space
    forward = load(export(model, space, batch_size, ModelBuilder(lambda: model, {}, None, space)), batch_size)
    forward.set_weights(model.get_weights())
    return forward
