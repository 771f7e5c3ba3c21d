"""Lending: gives every name an agent of its own, and the same variables to an agent that is got again each epoch.

An agent that was lent chooses its model when it is used first. In `agent = manager.get_agent()` that is after the name
has left its old agent, whose model is free by then. So one optimizer can train `agent` although it is got again and
again, and a `target` that was got beside it never shares a variable with it.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import sys
import threading
import weakref
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np

from really.agents.agent import Agent
from really.agents.seeding import seeded_initialisers
from really.policies.states import has_arrays

# Models that nobody uses and that are kept for agents to come, besides the owner's.
MAX_IDLE = 4


class Loan:
    """What a lent agent is to have, and the agent whose model it uses once it has chosen.

    Attributes:
        lender: who lent it.
        weights, epoch, normalization: those of the owner when the agent was lent.
        site: the place in the program that asked for it.
        body: the agent whose attributes it shares, or None before the choice.
        heir_of: the body of the agent whose name it took over, or None.
    """

    def __init__(self, lender: Lender, own: Agent, site: Hashable) -> None:
        self.lender, self.site = lender, site
        self.body: Agent | None = None
        self.heir_of: Agent | None = None
        self.take_over(own)

    def take_over(self, own: Agent) -> None:
        """Takes the weights that the owner has now."""
        self.weights, self.epoch, self.normalization = own.get_weights(), own.epoch, own.normalization

    @property
    def held(self) -> Agent | None:
        """The body that no other agent may choose."""
        return self.body or self.heir_of


class LentAgent(Agent):
    """An agent of a `Lender`: it has no attributes before its first use, and then shares those of its body."""

    __slots__ = ("loan",)

    def __init__(self, loan: Loan) -> None:
        object.__setattr__(self, "loan", loan)

    def __getattr__(self, name: str) -> Any:
        # Python calls this only for attributes that are missing.
        if self.__dict__ or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._choose()
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not self.__dict__:
            self._choose()
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        # Before the first use it is described by an agent like it: to be printed is no use.
        return super().__repr__() if self.__dict__ else repr(self.loan.body or self.loan.lender.own)

    def get_weights(self) -> Any:
        """As `Agent.get_weights`; before the first use no model is needed for it."""
        weights = None if self.__dict__ else self.loan.lender.peek(self.loan)
        return super().get_weights() if weights is None else weights

    @property
    def _body(self) -> Agent:
        return self._choose()

    def _choose(self) -> Agent:
        loan: Loan = self.loan
        if (body := loan.body) is None:
            with _outside_of_graphs():
                body = loan.lender.choose(loan)
        object.__setattr__(self, "__dict__", body.__dict__)
        return body


def _outside_of_graphs() -> contextlib.AbstractContextManager[None]:
    """Leaves the graph that TensorFlow traces, if there is one: an agent that is used there first compares weights."""
    init_scope = getattr(sys.modules.get("tensorflow"), "init_scope", contextlib.nullcontext)
    return init_scope()


class Lender:
    """Lends agents with the weights of one that it owns.

    - An agent chooses its model at its first use: the one of the agent whose name it took over, else the owner's if no
      living agent has it, else another that no living agent has, else a copy. It then has the weights of the moment in
      which it was lent.
    - An agent that lives keeps its model and its weights, whatever happens to the owner's: if the owner gets other
      weights than a living agent with its model has, it moves to another model.
    - `open` gives the owner's agent itself. Then it stays where it is, and whoever has its model sees each change.
    """

    def __init__(self, own: Agent) -> None:
        self._own, self._is_open = own, False
        self._idle: list[Agent] = [own]
        self._living: list[Loan] = []
        # Loans that began (True) and ended (False), in order. The end is noted while Python frees an agent, in any
        # thread: nothing else may happen there.
        self._events: collections.deque[tuple[Loan, bool]] = collections.deque()
        self._last_used: weakref.WeakKeyDictionary[Agent, tuple[int, Hashable]] = weakref.WeakKeyDictionary()
        self._uses = 0
        self._lock = threading.RLock()

    @property
    def own(self) -> Agent:
        """The owner's agent. Its model may be a lent agent's too, and another one after `set_weights`."""
        return self._own

    def open(self) -> Agent:
        """The owner's agent, which keeps its model from now on; the agent that has or gets that model shares it."""
        self._is_open = True
        return self._own

    def lend(self, site: Hashable = None) -> Agent:
        """An agent with the owner's weights of this moment; `site` tells places in the program apart."""
        loan, events = Loan(self, self._own, site), self._events
        agent = LentAgent(loan)
        events.append((loan, True))
        weakref.finalize(agent, events.append, (loan, False)).atexit = False
        return agent

    def choose(self, loan: Loan, but_own: bool = False) -> Agent:
        """Gives a body to an agent that is used first; with `but_own`, another than the owner's."""
        with self._lock:
            self._settle()
            if loan.heir_of is self._own and (but_own or not self._own_fits(loan)):
                self._idle.append(self._own)
                loan.heir_of = None
            if loan.heir_of is not None and loan.heir_of.architecture is not self._own.architecture:
                loan.heir_of = None
            body = loan.heir_of or self._idle_body(loan, but_own) or self._copy()
            loan.body, loan.heir_of = body, None
            if body in self._idle:
                self._idle.remove(body)
            self._uses += 1
            self._last_used[body] = self._uses, loan.site
            body.greedy = False
            if body is not self._own:
                self._fill(body, loan)
            return body

    def peek(self, loan: Loan) -> Any:
        """Copies of the weights that an agent will have which was not used yet; None if it may see others then."""
        with self._lock:
            self._settle()
            is_free = loan.heir_of is self._own or (loan.heir_of is None and self._own in self._idle)
            return None if self._is_open and is_free else copy.deepcopy(loan.weights)

    def set_weights(self, weights: Any) -> None:
        """Sets the owner's weights; lent agents that live and were used keep theirs.

        Raises:
            ModelError: the number of arrays or a shape is not the model's; nothing is changed then.
        """
        with self._lock:
            self._settle()
            own = self._own
            state = own.state
            weights = state.in_order(weights)
            bodies = [loan.body for loan in self._living if loan.body is not None]
            # A look at the weights costs some of setting them; if nobody has a model, nothing depends on it.
            if (self._is_open or bodies or own not in self._idle) and has_arrays(state, weights):
                return
            if not self._is_open:
                trained = next((body for body in bodies if has_arrays(body.state, weights)), None)
                if trained is not None:
                    self._move(trained)
                    return
                if own not in self._idle:
                    state.check(weights)
                    self.leave()
                    state = self._own.state
            state.set(weights)

    def leave(self) -> None:
        """Moves the owner to a model that no living agent has, with the same weights, if one has its model."""
        with self._lock:
            self._settle()
            if self._is_open or self._own in self._idle:
                return
            own = self._own
            body = next((body for body in self._idle if body.architecture is own.architecture), None) or self._copy()
            body.set_weights(own.get_weights())
            self._idle = [body, *(other for other in self._idle if other is not body)]
            self._move(body)

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[Agent]:
        """As `leave`; if the block raises, the owner has the model again that it had before."""
        before = self._own
        self.leave()
        try:
            yield self._own
        except BaseException:
            self._own = before
            raise

    def leave_to(self, targets: Iterable[Any]) -> None:
        """Makes sure that none of these agents has the owner's model: they are saved and loaded apart from it."""
        with self._lock:
            self._settle()
            loans = [target.loan for target in targets if isinstance(target, LentAgent)]
            for loan in loans:
                if loan.lender is self and loan.body is None:
                    self.choose(loan, but_own=True)
            if self._is_open or all(loan.body is not self._own for loan in loans):
                return
            others = [loan.body for loan in self._living if loan.body is not None and loan not in loans]
            if len(others) == 1:
                self._move(others[0])
            else:
                self.leave()

    def refresh(self) -> None:
        """Gives lent agents that were not used yet the owner's weights of this moment."""
        with self._lock:
            self._settle()
            for loan in self._living:
                if loan.body is None:
                    loan.take_over(self._own)

    def _settle(self) -> None:
        """Takes account of agents that were lent and freed; the body of a freed one goes to the agent lent last."""
        while self._events:
            loan, has_begun = self._events.popleft()
            if has_begun:
                self._living.append(loan)
                continue
            self._living.remove(loan)
            body, loan.body, loan.heir_of = loan.held, None, None
            if body is None:
                continue
            heir = next((other for other in reversed(self._living) if other.held is None), None)
            if heir is not None:
                heir.heir_of = body
            else:
                self._idle.append(body)
        while len(self._idle) > MAX_IDLE + 1:
            self._idle.remove(next(body for body in self._idle if body is not self._own))

    def _idle_body(self, loan: Loan, but_own: bool) -> Agent | None:
        """A body that no living agent has: last used from the same place in the program, or the owner's, or an old one.

        The owner's is none if the owner has got other weights since. A model of another kind is none either.
        """

        def rank(body: Agent) -> tuple[bool, bool, int]:
            uses, site = self._last_used.get(body, (0, None))
            return site != loan.site or loan.site is None, body is not self._own, uses

        own = self._own
        self._idle = [body for body in self._idle if body.architecture is own.architecture]
        found = [body for body in self._idle if body is not own or (not but_own and self._own_fits(loan))]
        return min(found, key=rank, default=None)

    def _own_fits(self, loan: Loan) -> bool:
        return self._is_open or has_arrays(self._own.state, loan.weights)

    def _copy(self) -> Agent:
        # The initial weights are overwritten: they must not cost the program's generator anything.
        with seeded_initialisers(np.random.SeedSequence(0)):
            return self._own.copy()

    def _move(self, body: Agent) -> None:
        body.epoch, body.normalization = self._own.epoch, self._own.normalization
        self._own = body

    def _fill(self, body: Agent, loan: Loan) -> None:
        """Gives a body what its agent is to have."""
        if not has_arrays(body.state, loan.weights):
            body.set_weights(loan.weights)
        body.epoch, body.normalization = loan.epoch, loan.normalization
        body.policy.epsilon, body.policy.temperature = self._own.policy.epsilon, self._own.policy.temperature
