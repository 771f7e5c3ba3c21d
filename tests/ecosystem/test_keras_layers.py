"""Keras layers with state or randomness: runners act with the numbers of the learner's model, and so do its copies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from really import ReallyError, SampleManager
from tests.ecosystem.kinds import LAYERS, REFUSED
from tests.environments import Counter

pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]
L = keras.layers
SEEN = np.arange(12, dtype=np.float32)[:, None]


class Grid(Counter):
    """Observes a number from 0 to 11 as one feature."""

    def __init__(self) -> None:
        super().__init__(length=11)


class WithLayer(keras.Model):
    """A value from one layer of the named kind, and Q-values."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.before, self.layer, self.after = parts(name)
        self.flat, self.value, self.q = L.Flatten(), L.Dense(1), L.Dense(2)

    def call(self, x: Any, training: bool = False) -> dict[str, Any]:
        inner = self.layer(*self.before(x), **({"training": training} if takes_training(self.layer) else {}))
        hidden = self.flat(tf.cast(self.after(inner), tf.float32))
        return {"q_values": self.q(hidden), "value_estimate": self.value(hidden)}


class WithVariable(keras.Model):
    """A value from a `tf.Variable` that is an attribute of the model."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.shift = tf.Variable([0.0], name="shift")
        self.value, self.q = L.Dense(1), L.Dense(2)

    def call(self, x: Any) -> dict[str, Any]:
        return {"q_values": self.q(x), "value_estimate": self.value(x) + self.shift}


def takes_training(layer: Any) -> bool:
    return bool(getattr(layer, "_call_has_training_arg", False))


def spread(*shape: int) -> Callable[[Any], tuple[Any]]:
    """A function that makes observations `[n, 1]` into `[n, *shape]`: sines of different frequencies."""
    size = int(np.prod(shape))
    return lambda x: (tf.reshape(tf.sin(1.0 + x * tf.range(1.0, size + 1.0) / 3.0), (-1, *shape)),)


def twice(function: Callable[[Any], tuple[Any]]) -> Callable[[Any], tuple[Any, Any]]:
    return lambda x: (function(x)[0], function(x)[0])


def listed(function: Callable[[Any], tuple[Any]]) -> Callable[[Any], tuple[list[Any]]]:
    return lambda x: ([function(x)[0], function(x)[0] * 2.0],)


def quantized() -> Any:
    layer = L.Dense(3)
    layer.build((None, 4))
    layer.quantize("int8")
    return layer


def integers(x: Any) -> tuple[Any]:
    return (tf.cast(x, tf.int32),)


def adapted(layer: Any, dtype: type = np.float32) -> Any:
    layer.adapt(SEEN.astype(dtype))
    return layer


def parts(name: str) -> tuple[Any, Any, Any]:
    """What comes before the layer, the layer, and what comes after it."""
    same, sequence, image, volume = (lambda x: (x,)), spread(5, 3), spread(6, 6, 2), spread(4, 4, 4, 2)
    crossed = lambda x: ((*integers(x), *integers(x + 1)),)  # noqa: E731
    kinds: dict[str, tuple[Any, Callable[[], Any]]] = {
        "AdditiveAttention": (listed(sequence), L.AdditiveAttention),
        "AlphaDropout": (spread(4), lambda: L.AlphaDropout(0.5)),
        "Attention": (listed(sequence), lambda: L.Attention(use_scale=True)),
        "BatchNormalization": (spread(4), L.BatchNormalization),
        "Bidirectional": (sequence, lambda: L.Bidirectional(L.LSTM(3))),
        "CategoryEncoding": (integers, lambda: L.CategoryEncoding(12, output_mode="one_hot")),
        "Conv1D": (sequence, lambda: L.Conv1D(3, 2)),
        "Conv1DTranspose": (sequence, lambda: L.Conv1DTranspose(3, 2)),
        "Conv2D": (image, lambda: L.Conv2D(3, 3)),
        "Conv2DTranspose": (image, lambda: L.Conv2DTranspose(3, 3)),
        "Conv3D": (volume, lambda: L.Conv3D(3, 2)),
        "Conv3DTranspose": (volume, lambda: L.Conv3DTranspose(3, 2)),
        "ConvLSTM1D": (spread(3, 4, 2), lambda: L.ConvLSTM1D(3, 2)),
        "ConvLSTM2D": (spread(3, 4, 4, 2), lambda: L.ConvLSTM2D(3, 2)),
        "Dense, int8": (spread(4), quantized),
        "Dense, LoRA": (spread(4), lambda: L.Dense(3, lora_rank=2)),
        "DepthwiseConv1D": (sequence, lambda: L.DepthwiseConv1D(2)),
        "DepthwiseConv2D": (image, lambda: L.DepthwiseConv2D(3)),
        "Discretization": (same, lambda: L.Discretization([2.0, 5.0, 9.0], output_mode="one_hot")),
        "Discretization, adapt": (same, lambda: adapted(L.Discretization(num_bins=4, output_mode="one_hot"))),
        "Dropout": (spread(4), lambda: L.Dropout(0.5)),
        "EinsumDense": (sequence, lambda: L.EinsumDense("btf,fo->bto", (None, 4))),
        "Embedding": (integers, lambda: L.Embedding(12, 3)),
        "GRU": (sequence, lambda: L.GRU(3)),
        "GaussianDropout": (spread(4), lambda: L.GaussianDropout(0.5)),
        "GaussianNoise": (spread(4), lambda: L.GaussianNoise(0.5)),
        "GroupNormalization": (image, lambda: L.GroupNormalization(2)),
        "GroupQueryAttention": (twice(sequence), lambda: L.GroupQueryAttention(3, 2, 1)),
        "HashedCrossing": (crossed, lambda: L.HashedCrossing(5, output_mode="one_hot")),
        "Hashing": (integers, lambda: L.Hashing(5, output_mode="one_hot")),
        "IntegerLookup": (integers, lambda: L.IntegerLookup(vocabulary=list(range(9)), output_mode="one_hot")),
        "IntegerLookup, adapt": (integers, lambda: adapted(L.IntegerLookup(output_mode="one_hot"), np.int64)),
        "LSTM": (sequence, lambda: L.LSTM(3)),
        "Lambda": (spread(4), lambda: L.Lambda(tf.abs)),
        "LayerNormalization": (spread(4), L.LayerNormalization),
        "MultiHeadAttention": (twice(sequence), lambda: L.MultiHeadAttention(2, 3)),
        "Normalization": (same, lambda: adapted(L.Normalization())),
        "PReLU": (spread(4), L.PReLU),
        "Pipeline": (image, lambda: L.Pipeline([L.RandomFlip(), L.Conv2D(3, 3)])),
        "RMSNormalization": (spread(4), L.RMSNormalization),
        "RNN": (sequence, lambda: L.RNN(L.LSTMCell(3))),
        "RandomBrightness": (image, lambda: L.RandomBrightness(0.5)),
        "RandomContrast": (image, lambda: L.RandomContrast(0.5)),
        "RandomFlip": (image, L.RandomFlip),
        "ReversibleEmbedding": (integers, lambda: L.ReversibleEmbedding(12, 3)),
        "STFTSpectrogram": (spread(64, 1), lambda: L.STFTSpectrogram(frame_length=16, frame_step=8, fft_length=16)),
        "SeparableConv1D": (sequence, lambda: L.SeparableConv1D(3, 2)),
        "SeparableConv2D": (image, lambda: L.SeparableConv2D(3, 3)),
        "SimpleRNN": (sequence, lambda: L.SimpleRNN(3)),
        "SpatialDropout1D": (sequence, lambda: L.SpatialDropout1D(0.5)),
        "SpectralNormalization": (spread(4), lambda: L.SpectralNormalization(L.Dense(3))),
        "StackedRNNCells": (sequence, lambda: L.RNN(L.StackedRNNCells([L.GRUCell(3), L.LSTMCell(2)]))),
        "TimeDistributed": (sequence, lambda: L.TimeDistributed(L.Dense(2))),
        "UnitNormalization": (spread(4), L.UnitNormalization),
    }
    before, make = kinds[name]
    return before, make(), lambda outputs: outputs


def trained(model: Any) -> None:
    """Some steps of training. State that is not trained changes too: that of `adapt`, and the variable."""
    if hasattr(model, "shift"):
        model.shift.assign([2.0])
    elif isinstance(model.layer, L.Normalization):
        model.layer.adapt(SEEN[::2])
    optimizer = keras.optimizers.Adam(0.05)
    for _ in range(3):
        with tf.GradientTape() as tape:
            outputs = model(SEEN, training=True) if isinstance(model, WithLayer) else model(SEEN)
            loss = tf.reduce_mean((outputs["value_estimate"] - 3.0) ** 2) + tf.reduce_mean(outputs["q_values"] ** 2)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str, kind: Callable[..., None], tmp_path: Path) -> None:
    model = WithVariable if name == "tf.Variable attribute" else WithLayer
    options = {"num_steps": 12, "returns": ["value_estimate"], "use_ray": False, "model_kwargs": {"name": name}}
    kind(version=f"Keras {keras.__version__}")
    if name in REFUSED:
        with pytest.raises(ReallyError, match=REFUSED[name]) as refusal:
            SampleManager(model, Grid, 2, 24, **options)
        kind(happened=f"refused: {refusal.value}")
        return
    with SampleManager(model, Grid, 2, 24, **options) as manager:
        agent = manager.get_agent()
        trained(agent.model)
        manager.set_agent(agent.get_weights())
        kind(happened="as Python" if manager.info()["inference"] == "eager" else "compiled")
        data = manager.get_data()
        expected = np.ravel(manager.get_agent().v(data["state"]))
        assert np.ptp(expected) > 1e-3, "the value depends on the state"
        np.testing.assert_allclose(data["value_estimate"], expected, rtol=1e-4, atol=1e-4)
        own = np.ravel(agent.model(SEEN)["value_estimate"])
        manager.save_model(str(tmp_path), 1)
        manager.save_checkpoint(tmp_path / "run", target=agent)
        others = {"a copy": agent.copy(), "a target": manager.get_agent()}
        others["the manager's agent"], others["a loaded model"] = manager.agent, manager.load_model(str(tmp_path))
        compare(others, own)
        weights = agent.get_weights()
    with SampleManager(model, Grid, 2, 24, weights=weights, **options) as given:
        compare({"weights=": given.get_agent()}, own)
    with SampleManager(model, Grid, 2, 24, **options) as resumed:
        target = resumed.get_agent().copy()
        resumed.load_checkpoint(tmp_path / "run", target=target)
        compare({"a checkpoint's agent": resumed.get_agent(), "a checkpoint's target": target}, own)
        data = resumed.get_data()
        expected = np.ravel(resumed.get_agent().v(data["state"]))
        np.testing.assert_allclose(data["value_estimate"], expected, rtol=1e-4, atol=1e-4)
    kind(works="in runners, agents, copies, targets, loaded models, checkpoints and by weights= alike")


def compare(agents: dict[str, Any], values: np.ndarray) -> None:
    """Asserts that each agent gives these values."""
    for what, agent in agents.items():
        np.testing.assert_allclose(np.ravel(agent.v(SEEN)), values, rtol=1e-4, atol=1e-4, err_msg=what)
