"""TensorFlow: Keras 3 on TensorFlow, Keras 2, and any callable that holds variables of TensorFlow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from really.agents.frameworks.protocol import ChoosesDevice, ExportRequest, Framework, Interface, Network
from really.agents.recurrent import FromStart
from really.agents.tensorflow.copying import copy_model, pickled
from really.agents.tensorflow.export import export
from really.agents.tensorflow.switches import undecorated
from really.policies.inference import Exported
from really.policies.model_state import ModelState


class TensorFlow(ChoosesDevice):
    """The adapter of TensorFlow."""

    name = "tensorflow"
    models, chooses = "a model of TensorFlow", "it makes variables on a GPU if it sees one, or in tf.device"
    copy = staticmethod(copy_model)
    pickled = staticmethod(pickled)

    def building(self) -> AbstractContextManager[None]:
        """A decorated `call` that is traced while the weights are created would keep their first values for ever."""
        return undecorated()

    def call(self, model: Any, observation: Any) -> Any:
        """What the model returns for an observation."""
        return model(observation)

    def first_call(self, model: Any, observation: Any) -> Any:
        """Calls a model, again if a layer such as `Normalization` was built in a graph, which it cannot leave."""
        try:
            return model(observation)
        except Exception:
            if not (state := ModelState(model.model if isinstance(model, FromStart) else model)).has_finalized:
                raise
            state.finalize()
            return model(observation)

    def acting(self, model: Any) -> Callable[[Any], Mapping[str, Any]]:
        """The model itself."""
        return model  # type: ignore[no-any-return]

    def prepare_runner(self) -> None:
        """One thread, unless TensorFlow has run in this process: its threads cannot be changed any more."""
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)

    def settings(self) -> dict[str, Any]:
        """A model of Keras brings its dtypes."""
        return {}

    def use(self, settings: Mapping[str, Any]) -> None:
        """There are no settings."""

    def network(self, model: Any, interface: Interface) -> Network:
        """What an agent computes from the model."""
        # This import starts TensorFlow, whose number of threads a runner sets first.
        from really.agents.tensorflow.network import TensorFlowNetwork

        return TensorFlowNetwork(model, interface)

    def export(self, model: Any, request: ExportRequest) -> Exported:
        """The model through LiteRT or a graph of TensorFlow if that agrees, or else as Python."""
        return export(model, **vars(request))


FRAMEWORK: Framework = TensorFlow()
