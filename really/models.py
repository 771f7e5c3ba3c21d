"""Models to start with: a multilayer perceptron, and the network of the published DQN for Atari.

Each function makes a model, so that `SampleManager(mlp, ..., model_kwargs={...})` works. TensorFlow, or PyTorch with
`framework="torch"`, is imported when a model is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from really._utils.checks import checked_integer
from really._utils.packages import needed
from really._utils.public import list_public as _list_public
from really._utils.quiet import tensorflow
from really.errors import InvalidTypeError, InvalidValueError, one_of

__all__ = ["mlp", "nature_cnn"]

_list_public(globals())

OUTPUTS = ("mu", "policy", "q_values", "sigma", "v_estimate", "value_estimate")
VALUES = ("v_estimate", "value_estimate")
FRAMEWORKS = ("tensorflow", "torch")
LEAST_SIGMA = 1e-3
# Mnih et al. 2015, Methods: filters, size and stride of each convolution, and units of the layer after them.
CONVOLUTIONS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
UNITS = 512


def mlp(
    observation: Any,
    outputs: int | Mapping[str, int],
    hidden: Sequence[int] = (64, 64),
    activation: str = "relu",
    framework: str = "tensorflow",
) -> Any:
    """A multilayer perceptron: dense layers, then one linear layer for each output.

    Args:
        observation: how many numbers an observation has, or the Box or Discrete space of it. A Discrete observation
            goes through an embedding, which is a dense layer on its one-hot code.
        outputs: name and width of each output, as in {"q_values": 2}; a number is the width of `q_values`. A value
            (`v_estimate`) is [batch], of width 1. `sigma` is made positive by a softplus.
        hidden: units of the hidden layers.
        activation: "relu", "tanh" or "elu", after each hidden layer.
        framework: "tensorflow" for a Keras model, or "torch" for a module of PyTorch.

    Raises:
        InvalidValueError, InvalidTypeError: an argument is none of these.
        MissingPackageError: the framework is not installed.
    """
    heads = _checked_outputs(outputs)
    if activation not in ("relu", "tanh", "elu"):
        raise InvalidValueError(one_of("activation", activation, ("relu", "tanh", "elu")))
    if isinstance(hidden, int):
        raise InvalidTypeError(f"hidden: expected the units of each hidden layer, got {hidden}; write ({hidden},)")
    units = [checked_integer("hidden", size) for size in hidden]
    shape, num_tokens = _observed(observation, units)
    if _checked_framework(framework) == "torch":
        return _torch_mlp(shape, num_tokens, units, activation, heads)
    tf = _tensorflow("mlp")
    layers = tf.keras.layers
    if num_tokens:
        state = tf.keras.Input((), dtype="int64")
        x = layers.Activation(activation)(layers.Embedding(num_tokens, units[0])(state))
        units = units[1:]
    else:
        state = tf.keras.Input(shape)
        x = layers.Flatten()(state) if len(shape) > 1 else state
    for size in units:
        x = layers.Dense(size, activation=activation)(x)
    return tf.keras.Model(state, _keras_heads(layers, x, heads))


def nature_cnn(
    outputs: int | Mapping[str, int], observation: Sequence[int] = (4, 84, 84), framework: str = "tensorflow"
) -> Any:
    """The network of the published DQN (Mnih et al. 2015, Methods), for observations of `really.atari`.

    Args:
        outputs: as in `mlp`.
        observation: shape of the uint8 observations, [stack, height, width].
        framework: as in `mlp`.

    Raises:
        InvalidValueError, InvalidTypeError: an argument is none of these.
        MissingPackageError: the framework is not installed.
    """
    heads = _checked_outputs(outputs)
    shape = tuple(checked_integer("observation", size) for size in observation)
    if len(shape) != 3 or min(shape[1:]) < 36:
        raise InvalidValueError(
            f"observation: expected (stack, height, width) with at least 36 x 36 pixels, got {list(shape)}"
        )
    if _checked_framework(framework) == "torch":
        return _torch_cnn(shape, heads)
    tf = _tensorflow("nature_cnn")
    layers = tf.keras.layers
    state = tf.keras.Input(shape, dtype="uint8")
    x = layers.Permute((2, 3, 1))(layers.Rescaling(1 / 255)(state))
    for filters, size, stride in CONVOLUTIONS:
        x = layers.Conv2D(filters, size, stride, activation="relu")(x)
    x = layers.Dense(UNITS, activation="relu")(layers.Flatten()(x))
    return tf.keras.Model(state, _keras_heads(layers, x, heads))


def _checked_outputs(outputs: int | Mapping[str, int]) -> dict[str, int]:
    heads = dict(outputs) if isinstance(outputs, Mapping) else {"q_values": outputs}
    if not heads:
        raise InvalidValueError("outputs: expected one output or more, got none")
    for name, width in heads.items():
        if name not in OUTPUTS:
            raise InvalidValueError(one_of("outputs", name, OUTPUTS))
        if checked_integer(f"outputs[{name!r}]", width) != 1 and name in VALUES:
            raise InvalidValueError(f"outputs[{name!r}]: expected 1, as a state has one value, got {width}")
    return heads


def _checked_framework(framework: str) -> str:
    if framework not in FRAMEWORKS:
        raise InvalidValueError(one_of("framework", framework, FRAMEWORKS))
    return framework


def _observed(observation: Any, units: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Shape of an observation, and how many a Discrete space has, or 0."""
    if isinstance(observation, int):
        return (checked_integer("observation", observation),), 0
    kind = type(observation).__name__
    if kind == "Box":
        return tuple(observation.shape), 0
    if kind != "Discrete":
        raise InvalidTypeError(f"observation: expected a number, or a Box or Discrete space, got {observation!r}")
    if observation.start != 0 or not units:
        raise InvalidValueError(
            f"observation: expected a Discrete space from 0 on and hidden layers, got {observation}"
        )
    return (), int(observation.n)


def _tensorflow(where: str) -> Any:
    return tensorflow(where, "TensorFlow for its layers", "framework='torch'")


def _keras_heads(layers: Any, x: Any, heads: Mapping[str, int]) -> dict[str, Any]:
    found = {name: layers.Dense(width)(x) for name, width in heads.items()}
    for name in found.keys() & set(VALUES):
        found[name] = layers.Reshape(())(found[name])
    if "sigma" in found:
        found["sigma"] = layers.Rescaling(1.0, LEAST_SIGMA)(layers.Activation("softplus")(found["sigma"]))
    return found


def _torch_mlp(
    shape: tuple[int, ...], num_tokens: int, units: Sequence[int], activation: str, heads: Mapping[str, int]
) -> Any:
    with needed("mlp", "PyTorch for its layers", "torch"):
        from torch import nn
    act = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}[activation]
    if num_tokens:
        body, width, units = [nn.Embedding(num_tokens, units[0]), act()], units[0], units[1:]
    else:
        body, width = [nn.Flatten()], 1
        for axis in shape:
            width *= axis
    for size in units:
        body += [nn.Linear(width, size), act()]
        width = size
    return _with_torch_heads(nn.Sequential(*body), width, heads, 1.0)


def _torch_cnn(shape: tuple[int, ...], heads: Mapping[str, int]) -> Any:
    with needed("nature_cnn", "PyTorch for its layers", "torch"):
        from torch import nn
    body: list[Any] = []
    channels, *sides = shape
    for filters, size, stride in CONVOLUTIONS:
        body += [nn.Conv2d(channels, filters, size, stride), nn.ReLU()]
        channels, sides = filters, [(side - size) // stride + 1 for side in sides]
    body += [nn.Flatten(), nn.Linear(channels * sides[0] * sides[1], UNITS), nn.ReLU()]
    return _with_torch_heads(nn.Sequential(*body), UNITS, heads, 1 / 255)


def _with_torch_heads(body: Any, width: int, heads: Mapping[str, int], scale: float) -> Any:
    import torch
    from torch import nn

    class Network(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        """Body and heads; integers other than a Discrete observation become scaled floats."""

        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in heads.items()})

        def forward(self, state: Any) -> dict[str, Any]:
            is_token = isinstance(self.body[0], nn.Embedding)
            hidden = self.body(state if is_token else state.float() * scale)
            found = {name: head(hidden) for name, head in self.heads.items()}
            if "sigma" in found:
                found["sigma"] = torch.nn.functional.softplus(found["sigma"]) + LEAST_SIGMA
            return {name: each.squeeze(-1) if name in VALUES else each for name, each in found.items()}

    return Network()
