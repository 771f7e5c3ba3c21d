"""Whereabouts: asks late runners where they are without keeping the call waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from weakref import WeakKeyDictionary

from really.collectors.orders import PendingOrder, Worker

UNKNOWN = "an unknown place: it has not answered"


class Whereabouts:
    """Asks runners in threads, since one that stands still, or whose host is cut off, answers late or never.

    Args:
        where: asks one runner.
    """

    def __init__(self, where: Callable[[Worker], str]) -> None:
        self._where = where
        self._answers: WeakKeyDictionary[PendingOrder, Future[str]] = WeakKeyDictionary()

    def ask(self, workers: Iterable[Worker]) -> None:
        """Asks each of these workers, once for its oldest order."""
        for worker in workers:
            if worker.pending[0] not in self._answers:
                answer = self._answers[worker.pending[0]] = Future()
                threading.Thread(target=self._fill, args=(answer, worker), name="really-where", daemon=True).start()

    def tell(self, workers: Iterable[Worker], patience: float) -> str:
        """Describes where these workers are; waits up to `patience` seconds for all answers together."""
        workers = list(workers)
        self.ask(workers)
        answers = [self._answers[worker.pending[0]] for worker in workers]
        wait(answers, patience)
        places = (answer.result() if answer.done() else UNKNOWN for answer in answers)
        return "; ".join(f"{worker}: in {place}" for worker, place in zip(workers, places, strict=True))

    def _fill(self, answer: Future[str], worker: Worker) -> None:
        try:
            answer.set_result(self._where(worker))
        except Exception as error:  # Ray may be shut down meanwhile
            answer.set_result(f"{UNKNOWN} ({type(error).__name__})")
