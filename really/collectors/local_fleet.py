"""LocalFleet: runners in the driver's process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from really._utils.interrupts import is_of_handler
from really.collectors.fleet import Fleet
from really.collectors.messages import Chunk, ExportedPolicy, Order, RunnerSpec, Weights
from really.collectors.orders import Worker
from really.collectors.runner import Runner


@dataclass(eq=False)
class _LocalCall:
    """An order to a runner in this process, which is carried out when its chunk is fetched."""

    runner: Runner
    order: Order
    weights: Weights | None
    policy: ExportedPolicy | None


class LocalFleet(Fleet):
    """Runners in this process that work one after the other, for debugging or to do without Ray."""

    is_local = True

    def __init__(self, spec: RunnerSpec, num_parallel: int, num_workers: int | None) -> None:
        super().__init__(spec, num_parallel, num_workers or 1)

    def _start(self, number: int, agents: Sequence[int], restart: int) -> Runner:
        return Runner(self._spec, agents, restart)

    def _share(self, value: Any) -> Any:
        return value

    def _call(self, runner: Runner, order: Order, weights: Any, policy: Any) -> _LocalCall:
        return _LocalCall(runner, order, weights, policy)

    def _where(self, runner: Runner) -> str:
        return runner.where()

    def _wait(self, handles: list[_LocalCall], timeout: float | None) -> list[_LocalCall]:
        return handles[:1]

    def _get(self, handle: _LocalCall) -> Chunk:
        """The chunk. An exit that an environment raises is its error; that of a signal's handler is the program's.

        A KeyboardInterrupt stays one, since Ctrl-C raises it at any place of this process.
        """
        try:
            return handle.runner.collect(handle.order, handle.weights, handle.policy)
        except (KeyboardInterrupt, Exception):
            raise
        except BaseException as error:
            if is_of_handler(error):
                raise
            raise handle.runner.failure(error) from None

    def _info(self, runner: Runner) -> dict[str, Any]:
        return runner.info()

    def _stop(self, runner: Runner) -> None:
        runner.close()

    def _releaser(self) -> Callable[[list[Worker]], None]:
        return _close_all


def _close_all(workers: list[Worker]) -> None:
    """Closes the runners of a LocalFleet."""
    for worker in workers:
        worker.runner.close()
