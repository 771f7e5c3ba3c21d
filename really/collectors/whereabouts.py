"""Whereabouts: asks late runners where they are without keeping the call waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import NamedTuple
from weakref import WeakKeyDictionary

from really.collectors.orders import PendingOrder, Worker

UNKNOWN = "an unknown place: it has not answered"


class Question(NamedTuple):
    """What one runner was asked, for one order.

    Attributes:
        asked_at: the time at which it was asked.
        answer: where it is.
    """

    asked_at: float
    answer: Future[str]


class Whereabouts:
    """Asks runners in threads, since one that stands still, or whose host is cut off, answers late or never.

    Args:
        where: asks one runner.
    """

    def __init__(self, where: Callable[[Worker], str]) -> None:
        self._where = where
        self._questions: WeakKeyDictionary[PendingOrder, Question] = WeakKeyDictionary()

    def ask(self, workers: Iterable[Worker]) -> None:
        """Asks each of these workers, once for its oldest order."""
        for worker in workers:
            if worker.pending[0] not in self._questions:
                question = self._questions[worker.pending[0]] = Question(time.monotonic(), Future())
                arguments = (question.answer, worker)
                threading.Thread(target=self._fill, args=arguments, name="really-where", daemon=True).start()

    def tell(self, workers: Iterable[Worker], patience: float) -> str:
        """Describes where these workers are; waits for their answers until `patience` seconds after the questions."""
        workers = list(workers)
        self.ask(workers)
        questions = [self._questions[worker.pending[0]] for worker in workers]
        answers = [question.answer for question in questions]
        wait(answers, max([0.0, *(question.asked_at + patience - time.monotonic() for question in questions)]))
        places = (answer.result() if answer.done() else UNKNOWN for answer in answers)
        return "; ".join(f"{worker}: in {place}" for worker, place in zip(workers, places, strict=True))

    def _fill(self, answer: Future[str], worker: Worker) -> None:
        try:
            answer.set_result(self._where(worker))
        except Exception as error:  # Ray may be shut down meanwhile
            answer.set_result(f"{UNKNOWN} ({type(error).__name__})")
