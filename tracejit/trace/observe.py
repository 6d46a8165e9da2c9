"""Observation of one call: which Python objects it reads, what it runs and changes, as guards or a
reason.

A profile hook sees each Python frame start, each return and each C call in this thread.
(`sys.monitoring`, from Python 3.12, is no faster here and is not per thread.) A frame's code
decides what can be read from its arguments, globals and cells (trace.reads, trace.reach); where its
function was found is guarded (trace.covered); C functions must be known to be pure (trace.purity);
at the end, what was reached is compared with what it was (trace.effects).
"""

from __future__ import annotations

import contextvars
import functools
import gc
import re
import sys
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, FrameType, FunctionType, MethodType
from typing import Any, TypeVar

import torch

from tracejit.runtime import private, settings, state
from tracejit.runtime.constants import LEAVES, MISSING, is_constant
from tracejit.runtime.guards import GuardSet, Node, parameter_names
from tracejit.runtime.origins import CORE, LIBRARY, OWN, USER, origin_of_code
from tracejit.runtime.paths import STEPS
from tracejit.runtime.reasons import Reason
from tracejit.trace import conclude, modules, namespaces, purity, young
from tracejit.trace.changes import Change
from tracejit.trace.covered import Coverage
from tracejit.trace.effects import Effects
from tracejit.trace.frames import outward
from tracejit.trace.generators import METHODS
from tracejit.trace.kinds import steps_into
from tracejit.trace.plans import (
    ENVIRON,
    MODULE_CALL,
    MUTE,
    RANDOM,
    REGISTER,
    SCAN,
    SKIP,
    TELLING,
    Plan,
    asked_by,
    is_looked_at,
    is_raising,
    plan_of,
)
from tracejit.trace.reach import Reach
from tracejit.trace.reads import passes_on
from tracejit.trace.recording import Recording, foreign_profiler
from tracejit.trace.tree import Tree, predicate_of

T = TypeVar("T")
FOREIGN = (USER, LIBRARY)  # neither torch's nor the interpreter's, whose calls are known
_verdicts: dict[purity.Key, str | None] = {}


class Observer:
    """Observes a call between `__enter__` and `__exit__`; `finish` then says what must hold for it
    to be the same.
    """

    def __init__(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.fn = fn
        self.tree = Tree()
        self.effects = Effects()
        self.reach = Reach(self.tree, self.effects)
        self.coverage = Coverage(self.reach)
        self.reason: Reason | None = None
        self.muted: FrameType | None = None
        self.globals_seen: set[tuple[int, int]] = set()
        self.entered: set[tuple[int, Any]] = set()
        self.contexts: dict[int, tuple[contextvars.ContextVar[Any], Any]] = {}
        self.names = parameter_names(fn)
        self.state = state.capture()
        self.young: set[int] = set()
        self.previous: Any = None
        try:
            self.roots(args, kwargs)
        except Exception as error:  # ours: it must not end the user's call
            self.failed(error)

    def roots(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Nodes for the function and its arguments."""
        tree, fn = self.tree, self.fn
        label = "self" if isinstance(fn, torch.nn.Module) else getattr(fn, "__name__", "fn")
        found = Node(-1, "fn", label, *predicate_of(fn))
        self.root = tree.add(found, fn)
        if isinstance(fn, FunctionType):
            self.reach.functions[id(fn.__code__)] = [(fn, self.root)]
        self.parts(self.root, fn)
        top = tree.add(Node(-1, "args", None, "length", len(args)), args)
        self.items(top, enumerate(args))
        ordered = _collects_keywords(fn)
        names = list(kwargs) if ordered else sorted(kwargs)
        top = tree.add(Node(-1, "kwargs", None, "kwargs", [ordered, names]), kwargs)
        self.items(top, ((name, kwargs[name]) for name in names))

    def parts(self, node: int, fn: Any) -> None:
        """Nodes for what a method or partial, or one in it, is made of."""
        if not isinstance(fn, (MethodType, functools.partial)):
            return
        for step in steps_into(fn):
            value = STEPS[step](fn, None)
            held = self.reach.child(node, step, None, value)
            if step in ("partialargs", "partialkeywords"):
                self.items(held, enumerate(value) if step == "partialargs" else value.items())
            self.parts(held, value)

    def items(self, node: int, pairs: Iterable[tuple[Any, Any]]) -> None:
        """What a container of arguments holds."""
        for key, value in pairs:
            self.reach.child(node, "item", key, value)

    def __enter__(self) -> Observer:
        self.previous = sys.getprofile()
        self.collecting = gc.isenabled()
        hooked = foreign_profiler()
        if hooked is not None:
            self.reason = hooked
            return self
        # What the call makes is what is young at its end, if nothing is moved to an older
        # generation meanwhile.
        gc.collect(0)
        gc.disable()
        sys.setprofile(self.hook)
        return self

    def __exit__(self, *error: object) -> None:
        if sys.getprofile() == self.hook:
            sys.setprofile(self.previous)
        self.young = young.ids()
        if self.collecting:
            gc.enable()
        if error[0] is not None:
            self.release()

    def refuse(self, kind: str, text: str, frame: FrameType | None = None) -> None:
        """The call can only run eagerly: nothing more is looked at."""
        if self.reason is None:
            self.reason = Reason(kind, text, _place(frame))

    def failed(self, error: Exception) -> None:
        """Something was reached that cannot even be looked at, as a parameter without sizes."""
        self.refuse("unguardable", f"observing it failed: {type(error).__name__}: {error}")

    # Events

    def hook(self, frame: FrameType, event: str, arg: Any) -> None:
        """The profile hook."""
        if self.previous is not None:
            self.previous(frame, event, arg)
        if event == "c_return" or self.reason is not None:
            return
        try:
            if self.muted is not None:
                if event == "return" and frame is self.muted:
                    self.muted = None
            elif event == "call":
                plan = plan_of(frame.f_code)
                if plan.treatment == SCAN:
                    self.enter(plan, frame)
                elif plan.treatment != SKIP:
                    self.special(plan, frame)
            elif event == "return":
                if (
                    arg is not None
                    and type(arg) not in LEAVES
                    and not isinstance(arg, torch.Tensor)
                ):
                    self.returned(frame, arg)
                elif arg is None and is_raising(frame) and is_looked_at(frame):
                    self.refuse("unguardable", "looks at an exception that it catches", frame)
            elif event == "c_call":
                key = purity.key_of(arg)
                verdict = _verdicts.get(key, MISSING)
                if verdict is MISSING:
                    verdict = _verdicts[key] = purity.judge(arg)
                if verdict is not None:
                    self.refuse("impure", f"calls {verdict}", frame)
                elif key[0] is contextvars.ContextVar:
                    self.context(arg.__self__, frame)
                elif key[1] in settings.SETTINGS or key[1] in settings.SETS:
                    self.setting(arg, frame)
                elif key[1] in purity.OF_THE_PROCESS:
                    self.of_the_process(key[1], frame)
                elif key == _FORMAT and _PARTS.search(arg.__self__):
                    self.refuse("impure", "formats parts of objects by their names", frame)
        except Exception as error:  # ours: it must not end the user's call
            self.failed(error)

    def special(self, plan: Plan, frame: FrameType) -> None:
        """A frame starts of a function that is looked at as a whole."""
        if plan.treatment == MODULE_CALL:
            modules.called(self.reach, frame.f_locals["self"])
        elif plan.treatment == RANDOM:
            name = f"{frame.f_globals['__name__']}.{plan.code.co_name}"
            self.refuse("random", f"calls {name}", frame)
        elif plan.treatment == TELLING:
            if asked_by(frame) in FOREIGN:
                home = frame.f_globals.get("__name__")
                name = getattr(plan.code, "co_qualname", plan.code.co_name)
                self.refuse("impure", f"runs {home}.{name}", frame)
        elif plan.treatment == REGISTER and not _in_setattr(frame):
            self.enter(plan, frame)
        elif plan.treatment == REGISTER:  # the store in the user's code is watched
            self.muted = frame
        else:
            self.muted = frame
            if plan.treatment != MUTE:
                self.outside(plan, frame.f_locals)

    def enter(self, plan: Plan, frame: FrameType) -> None:
        """A frame starts whose code reads what its arguments, cells and globals lead to."""
        local, number, known = frame.f_locals, id(plan), self.tree.known
        first = local.get(plan.first)
        kind = type(first)
        if plan.is_init:
            self.reach.born(first)
        # An object with a path keeps its id; one without may be another than the last with that id.
        token = (number, kind if kind in LEAVES else id(first))
        stable = kind in LEAVES or id(first) in known
        asks = False
        if not stable or plan.asks_others or plan.cells or token not in self.entered:
            self.entered.add(token)
            self.coverage.ran(plan, frame, local)
            asks = bool(plan.reads and plan.reads.asked)
            if plan.tables and isinstance(first, torch.nn.Module):
                modules.all_parts(self.reach, first)
        seen = self.reach.seen
        for name in plan.args:
            value = local.get(name)
            kind = type(value)
            if kind in LEAVES:
                continue
            if kind is BuiltinFunctionType:
                self.reach.called_elsewhere(plan, name, value)
            if id(value) in known:
                if (number, id(value)) in seen:
                    continue
            elif kind is torch.Tensor:
                continue
            self.reach.visit(plan, value)
        for name in plan.cells:
            if name in local:
                self.reach.visit(plan, local[name])
        mark = (number, id(frame.f_globals))
        if mark not in self.globals_seen:
            self.globals_seen.add(mark)
            self.named(plan, frame)
        if asks:
            self.reach.asked(plan, local, frame.f_globals)
        if self.reach.problem is not None:
            self.refuse(*self.reach.problem, frame)

    def named(self, plan: Plan, frame: FrameType) -> None:
        """What a code object names: globals, and methods that only a call by itself shows."""
        if plan.origin != CORE:
            namespaces.global_names(self.reach, plan, frame.f_globals)
        elif frame.f_globals.get("F") is torch.nn.functional:
            namespaces.functional(self.reach, plan)
        for name in plan.loads & METHODS:
            if passes_on(plan.code, name):  # of a generator, perhaps
                self.refuse("random", f"passes {name} on", frame)

    def outside(self, plan: Plan, local: dict[str, Any]) -> None:
        """Reads of the environment, and of whether a logger would emit."""
        if plan.treatment == ENVIRON:
            key = local["key"]
            if isinstance(key, str):
                self.tree.child(-1, "env", key, STEPS["env"](None, key))
            return
        key = [local["self"].name, local["level"]]
        self.tree.child(-1, "logs", key, STEPS["logs"](None, key))

    def returned(self, frame: FrameType, value: Any) -> None:
        """A function returns an object: its caller's code may read attributes of it."""
        caller = frame.f_back
        if caller is None or plan_of(frame.f_code).origin == OWN:
            return
        plan = plan_of(caller.f_code)
        if plan.reads is not None and plan.treatment != SKIP:
            self.reach.visit(plan, value)
            if self.reach.problem is not None:
                self.refuse(*self.reach.problem, caller)

    def context(self, variable: contextvars.ContextVar[Any], frame: FrameType) -> None:
        """A context variable is read or set: its value is guarded, and must be the same at the
        end."""
        value, plan = variable.get(MISSING), plan_of(frame.f_code)
        self.contexts.setdefault(id(variable), (variable, value))
        if id(variable) not in self.tree.known:
            settings = plan.origin == CORE and (value is MISSING or is_constant(value))  # torch's
            if not settings:
                self.refuse("impure", f"reads context variable {variable.name}", frame)
        elif plan.reads is not None:
            self.reach.visit(plan, variable)
            if self.reach.problem is not None:
                self.refuse(*self.reach.problem, frame)

    def of_the_process(self, name: str, frame: FrameType) -> None:
        """User code asks what differs between processes; `__hash__` may call hash."""
        if plan_of(frame.f_code).origin == USER and frame.f_code.co_name != f"__{name}__":
            self.refuse("impure", f"calls {name}", frame)

    def setting(self, function: Any, frame: FrameType) -> None:
        """A setting of torch's is asked for, or set: what it was is guarded."""
        name = function.__name__
        if private.core_function(name) is not function:
            return
        node = self.tree.module("torch")
        for asked in settings.SETS.get(name, ()):
            read = functools.partial(settings.read, asked)
            self.effects.add(node, "setting", asked, read, frame.f_code, "setting")
        if name in settings.SETTINGS and ("setting", name) not in self.effects.seen:
            self.reach.child(node, "setting", name, settings.read(name))

    # The end

    def changes(self) -> list[Change] | Reason:
        """What the call changed in what it reached, or why a plan cannot do the same."""
        return self._unless_refused(conclude.changes)

    def reached(self) -> dict[int, int]:
        """Objects that were there before the call: their nodes by id."""
        return conclude.reached(self)

    def holds(self, value: Any) -> int:
        """How often an object is held here."""
        there = sum(held is value for held in self.tree.values)
        return there + any(held is value for held, _ in self.tree.generators.values())

    def finish(self, recording: Recording) -> GuardSet | Reason:
        """The guards of the call that was recorded, or why it cannot be guarded. To be called
        once."""
        try:
            return self._unless_refused(conclude.guards, recording)
        finally:
            self.release()

    def _unless_refused(self, conclusion: Callable[..., T], *given: Any) -> T | Reason:
        """What is concluded, or why nothing is."""
        if self.reason is None:
            try:
                return conclusion(self, *given)
            except Exception as error:  # as above
                self.failed(error)
        assert self.reason is not None
        return self.reason

    def release(self) -> None:
        """Let go of all that the call reached."""
        self.tree, self.effects = Tree(), Effects()
        self.reach = Reach(self.tree, self.effects)
        self.coverage = Coverage(self.reach)
        self.contexts.clear()
        self.fn = self.previous = self.muted = None


_FORMAT, _PARTS = (str, "format"), re.compile(r"\{\w*[.\[]")


def _in_setattr(frame: FrameType) -> bool:
    """Whether a frame was called by nn.Module's `__setattr__`."""
    return frame.f_back is not None and frame.f_back.f_code.co_name == "__setattr__"


def _collects_keywords(fn: Any) -> bool:
    """Whether a function has a `**kwargs` parameter, so that the order of keywords can be seen."""
    target = type(fn).forward if isinstance(fn, torch.nn.Module) else fn
    target = getattr(target, "__func__", target)
    code = getattr(target, "__code__", None)
    return code is None or bool(code.co_flags & 0x08)


def _place(frame: FrameType | None) -> str:
    """file:line of the nearest frame of the user's, else of a library's."""
    first = ""
    for each in outward(frame):
        origin = origin_of_code(each.f_code)
        place = f"{each.f_code.co_filename}:{each.f_lineno}"
        if origin == USER:
            return place
        if origin == LIBRARY and not first:
            first = place
    return first
