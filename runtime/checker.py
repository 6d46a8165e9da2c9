"""Guards in the process: one generated straight-line function, bound to the objects that the guards
reached.

Objects that live on between calls (modules, configurations, functions, dicts) are bound once: the
function compares identities, `d7['p'] is c7`. What a caller builds anew for each call (argument
lists and dicts) is walked instead. A miss of an identity says nothing yet: the guards are evaluated
one by one (`GuardSet.values`), and if they hold the function is bound to the new objects; an object
that changes its identity again and again is walked from then on.

When the guards hold, the function goes on with an ending (runtime.ending): the plan of the call.

The topmost bound objects are held weakly, so that a check keeps no model alive; a full garbage
collection drops all bindings first, so that models in reference cycles die too.
"""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

from tracejit.runtime import forks, log
from tracejit.runtime.checktext import Text
from tracejit.runtime.ending import INPUTS, MISS, Ending
from tracejit.runtime.errors import CompilerWarning
from tracejit.runtime.guards import GuardSet
from tracejit.runtime.reasons import Failure

Function = Callable[[tuple[Any, ...], dict[str, Any]], Any]
MOST_CHURN = 2  # changes of one object's identity after which it is walked
FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "<guards>")  # it is code of ours
CHURNING = frozenset(("type", "container", "rng"))  # checks of objects that can be walked
MOST_BINDINGS = 4  # object graphs (two models, alternating) that stay bound


def _unbound(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return MISS


class Nobody:
    """Stands for a checker where there is none: nothing fits."""

    fast: Function = staticmethod(_unbound)


class Binding:
    """A generated check and the weak references that end it."""

    __slots__ = ("function", "refs", "values")

    def __init__(self, checker: Checker, text: Text, code: CodeType) -> None:
        self.function: Function = FunctionType(code, text.names)
        owner = weakref.ref(checker)

        def dead(_: Any) -> None:
            found = owner()
            if found is not None:
                found.forget(self)

        self.refs = [weakref.ref(value, dead) for value in text.weak]
        # Which object stood where, by id only: compared after a miss to find what keeps changing.
        self.values = [id(value) for value in text.values]


class Checker:
    """The check of one guard set for one function, and what follows it: the inputs of the program
    unless `end` says otherwise."""

    def __init__(self, guards: GuardSet, fn: Any) -> None:
        self.guards = guards
        self.fn = fn
        self.ending = INPUTS
        self.fast: Function = _unbound  # the result of the ending, or MISS: see `closely`
        self.bindings: tuple[Binding, ...] = ()
        self.walked: set[int] = set()
        self.churn: dict[int, int] = {}
        self.codes: dict[str, CodeType] = {}  # text -> code: binding again does not compile again
        self.held = 0  # evaluations that held
        self.suspect: Failure | None = None  # what failed last: likely to fail again
        self.lock = forks.Lock()
        _live.add(self)

    def closely(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the ending gives for a call that `fast` is not bound to: try the other bindings,
        then evaluate guard by guard and bind anew. MISS if a guard does not hold."""
        for binding in self.bindings:
            if binding.function is not self.fast:
                found = binding.function(args, kwargs)
                if found is not MISS:
                    self.prefer(binding)
                    return found
        if self.suspect is not None and self.guards.fails(self.suspect, self.fn, args, kwargs):
            return MISS
        values = self.guards.values(self.fn, args, kwargs)
        if isinstance(values, Failure):
            self.suspect = values
            return MISS
        self.held += 1
        if self.held > 1:  # a call that comes once is not worth a compiled check (5 ms for a model)
            with self.lock:
                self.try_bind(values)
        held = tuple(values[index] for index in self.guards.held_nodes)
        return self.ending.function(args, kwargs, self.guards.given(values), held)

    def end(self, ending: Ending) -> None:
        """From now on do this when the guards hold."""
        with self.lock:
            self.ending = ending
            self.drop()

    def prefer(self, binding: Binding) -> None:
        """Try this binding first, unless another thread has just dropped it."""
        self.fast = binding.function
        if binding not in self.bindings:
            self.fast = _unbound

    def try_bind(self, values: list[Any]) -> None:
        """Bind; if that fails, which is a fault of ours, go on evaluating guard by guard."""
        try:
            self.bind(values)
        except Exception as problem:  # ours: the guards still hold or not
            text = f"guards could not be compiled and are evaluated one by one: {problem!r}"
            log.warn_once(text, CompilerWarning)

    def bind(self, values: list[Any]) -> None:
        """Make a check for these objects the first one tried."""
        self.notice_churn(values)
        text = Text(self.guards, values, self.walked, self.ending)
        source = text.generate()
        code = self.codes.get(source)
        if code is None:
            code = self.codes[source] = _compile(source)
        binding = Binding(self, text, code)
        self.bindings = (binding, *self.bindings[: MOST_BINDINGS - 1])
        self.fast = binding.function

    def notice_churn(self, values: list[Any]) -> None:
        """Count the objects that are others than in the last binding; walk those that change again
        and again."""
        if not self.bindings:
            return
        for index, old in enumerate(self.bindings[0].values):
            if old != id(values[index]) and self.guards.nodes[index].check in CHURNING:
                self.churn[index] = self.churn.get(index, 0) + 1
                if self.churn[index] > MOST_CHURN + MOST_BINDINGS:
                    self.walked.add(index)
                    self.bindings = ()

    def forget(self, binding: Binding) -> None:
        """An object of a binding died."""
        self.bindings = tuple(other for other in self.bindings if other is not binding)
        self.fast = self.bindings[0].function if self.bindings else _unbound

    def drop(self) -> None:
        """Forget all bindings; the next call evaluates and binds again."""
        self.bindings, self.fast = (), _unbound


def _compile(source: str) -> CodeType:
    """The code of the generated function."""
    module = compile(source, FILE, "exec")
    return next(constant for constant in module.co_consts if isinstance(constant, CodeType))


_live: weakref.WeakSet[Checker] = weakref.WeakSet()


def _before_collection(phase: str, info: dict[str, int]) -> None:
    """Before a full collection drop what the checks hold, so that models in reference cycles can be
    collected."""
    if phase == "start" and info["generation"] == 2:
        for checker in list(_live):
            checker.drop()


gc.callbacks.append(_before_collection)
