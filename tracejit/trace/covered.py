"""Which code ran in a call, and from where: each function that runs needs a guard on the place it
was found.

A frame does not say which function it belongs to. It is found by its code: among functions already
reached, in the classes of the frame's first argument, or under its qualified name in its module.
Functions that the call itself defined need no guard; a library's are covered by version.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from types import CodeType, FrameType, FunctionType
from typing import Any

from tracejit.runtime.constants import MISSING, is_constant
from tracejit.runtime.origins import CORE, LIBRARY, USER, is_user_code
from tracejit.runtime.paths import STEPS, instance_dict, static
from tracejit.trace.plans import Plan
from tracejit.trace.reach import Reach


class Coverage:
    """The code objects that ran in one call."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        self.justified: set[Any] = set()
        self.expanded: set[int] = set()  # nodes of functions that were opened
        self.inside: set[int] = set()  # code of functions that functions of this call define
        self.packages: dict[str, None] = {}
        self.uncovered: dict[int, CodeType] = {}

    def ran(self, plan: Plan, frame: FrameType, local: dict[str, Any]) -> None:
        """A frame of the plan's code starts: find its function, guard where it was found, open what
        it holds.
        """
        code = plan.code
        first = local.get(plan.first) if plan.first else None
        cells = tuple([id(local.get(name)) for name in plan.cells])
        key = (id(code), id(first if isinstance(first, type) else type(first)), cells)
        if key in self.justified:
            if first is not None:
                self.shadow(code.co_name, first)
            return
        self.justified.add(key)
        self.inside.update(plan.nested)
        found = self.find(plan, frame, first, local)
        if found is not None:
            function, node = found
            if node >= 0:
                self.opened(function, node, plan)
            self.watch_cells(plan, function, node)
            if first is not None:
                self.shadow(code.co_name, first)
        elif plan.origin == USER and id(code) not in self.inside:
            self.uncovered[id(code)] = code
        if plan.origin == LIBRARY:
            self.packages[plan.package] = None

    def opened(self, function: FunctionType, node: int, plan: Plan) -> None:
        """What a function that runs holds: closure cells and defaults."""
        if node in self.expanded:
            return
        self.expanded.add(node)
        user = is_user_code(function)
        for name in function.__code__.co_freevars:
            found = STEPS["cell"](function, name)
            if plan.reads is not None and name in plan.reads.counts and type(found) is int:
                continue
            if name != "__class__" and found is not MISSING and (user or not is_constant(found)):
                self.reach.step(plan, node, "cell", name, found, 0)
        if not user:
            return  # its defaults are covered by version
        for position, found in enumerate(function.__defaults__ or ()):
            self.reach.step(plan, node, "default", position, found, 0)
        for name, found in (function.__kwdefaults__ or {}).items():
            self.reach.step(plan, node, "kwdefault", name, found, 0)

    def watch_cells(self, plan: Plan, function: FunctionType, node: int) -> None:
        """Variables of enclosing functions that the code stores to."""
        reads = plan.reads
        assert reads is not None
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            if name in reads.cell_stores:
                read = functools.partial(STEPS["cell"], function, name)
                counted = name in reads.counts
                self.reach.effects.add(node, "cell", name, read, plan.code, id(cell), counted)

    def find(
        self, plan: Plan, frame: FrameType, first: Any, local: dict[str, Any]
    ) -> tuple[FunctionType, int] | None:
        """The function that runs and its node, if it can be found."""
        code = plan.code
        for function, node in self.reach.functions.get(id(code), ()):
            if _is_running(function, code, local):
                return function, node
        if id(code) in self.reach.library:
            parent, name, function = self.reach.library[id(code)]
            return function, self.reach.child(parent, "item", name, function)
        if first is not None:
            found = self.in_classes(code, first, local)
            if found is not None:
                return found
        if plan.origin != CORE and id(code) not in self.inside:
            return self.in_module(frame, code, local)
        return None

    def in_classes(
        self, code: CodeType, first: Any, local: dict[str, Any]
    ) -> tuple[FunctionType, int] | None:
        """Look in the classes of a frame's first argument."""
        kind = first if isinstance(first, type) else type(first)
        for base, name in _candidates(kind, code):
            stored = base.__dict__[name]
            for steps, function in unwrap(stored):
                if _is_running(function, code, local):
                    node = self.class_node(kind if static(kind, name) is stored else base, first)
                    return function, self.along(node, "static", name, stored, steps)
        return None

    def along(self, node: int, step: str, name: str, stored: Any, steps: tuple[str, ...]) -> int:
        """Nodes from a class or module to a function stored in it, through property, staticmethod
        and the like.
        """
        if node < 0:
            return -1
        node = self.reach.child(node, step, name, stored)
        for inner in steps:
            stored = STEPS[inner](stored, None)
            node = self.reach.child(node, inner, None, stored)
        return node

    def class_node(self, kind: type, instance: Any) -> int:
        """A node for a class: by the type of a reached object, or by its name; -1 if neither."""
        tree = self.reach.tree
        known = tree.known.get(id(kind))
        if known is not None:
            return known
        parent = tree.known.get(id(instance), -1)
        if parent >= 0 and tree.nodes[parent].step != "ref" and not isinstance(instance, type):
            own = self.reach.child(parent, "class", None, type(instance))
            if kind is type(instance):
                return own
            return self.reach.child(own, "base", type(instance).__mro__.index(kind), kind)
        return self.by_name(kind.__module__, kind.__qualname__, kind)

    def by_name(self, module: str, qualname: str, wanted: Any) -> int:
        """A node for what a module holds under a qualified name, if that is `wanted`; or -1."""
        first, *rest = qualname.split(".")
        loaded = sys.modules.get(module)
        if loaded is None or "<locals>" in rest:
            return -1
        chain = [instance_dict(loaded).get(first, MISSING)]
        for name in rest:
            chain.append(static(chain[-1], name) if isinstance(chain[-1], type) else MISSING)
        if chain[-1] is not wanted:
            return -1
        node = self.reach.child(self.reach.tree.module(module), "item", first, chain[0])
        for name, value in zip(rest, chain[1:]):
            node = self.reach.child(node, "static", name, value)
        return node

    def in_module(
        self, frame: FrameType, code: CodeType, local: dict[str, Any]
    ) -> tuple[FunctionType, int] | None:
        """Look under the code's qualified name in its module, and in decorated functions there."""
        module = frame.f_globals.get("__name__")
        qualname = getattr(code, "co_qualname", code.co_name)
        if not isinstance(module, str) or "." in qualname:
            return None
        if instance_dict(sys.modules.get(module)) is not frame.f_globals:
            return None
        stored = frame.f_globals.get(qualname, MISSING)
        for steps, function in unwrap(stored):
            if _is_running(function, code, local):
                node = self.reach.tree.module(module)
                return function, self.along(node, "item", qualname, stored, steps)
        return None

    def shadow(self, name: str, first: Any) -> None:
        """A method that runs is found in the class only while the instance has no attribute of its
        name.
        """
        if name.startswith("__") or isinstance(first, type):
            return
        node = self.reach.tree.known.get(id(first), -1)
        if node < 0 or self.reach.tree.nodes[node].check != "type":
            return
        found = static(type(first), name)
        if isinstance(found, FunctionType) and name not in instance_dict(first):
            self.reach.tree.child(node, "attr", name, MISSING)


def unwrap(stored: Any) -> Iterator[tuple[tuple[str, ...], FunctionType]]:
    """Functions in what a class or module stores under a name, with the steps that lead to each."""
    steps: tuple[str, ...] = ()
    for _ in range(4):
        if isinstance(stored, FunctionType):
            yield steps, stored
        if isinstance(stored, (staticmethod, classmethod)):
            step = "func"
        elif isinstance(stored, property):
            step = "fget"
        elif isinstance(stored, (functools.partial, functools.cached_property)):
            step = "partialfunc"
        elif "__wrapped__" in instance_dict(stored):
            step = "wrapped"
        else:
            return
        stored = STEPS[step](stored, None)
        steps = (*steps, step)


def _candidates(kind: type, code: CodeType) -> Iterator[tuple[type, str]]:
    """Where in a class and its bases to look for a code object: under its own name first."""
    for base in kind.__mro__:
        if code.co_name in base.__dict__:
            yield base, code.co_name
    for base in kind.__mro__:
        if base.__module__ != "builtins":
            for name in list(base.__dict__):
                yield base, name


def _is_running(function: FunctionType, code: CodeType, local: dict[str, Any]) -> bool:
    """Whether a frame with this code and these variables is of this function: its free variables
    are the function's."""
    if function.__code__ is not code:
        return False
    for name in code.co_freevars:
        held = STEPS["cell"](function, name)
        if name in local and held is not MISSING and held is not local[name]:
            return False
    return True
