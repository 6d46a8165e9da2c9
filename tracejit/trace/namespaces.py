"""Globals, modules and context variables: which of what they hold under the names that code loads
is guarded, and what is covered by version.
"""

from __future__ import annotations

import contextvars
import functools
import sys
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import torch

from tracejit.runtime.constants import MISSING, is_constant
from tracejit.runtime.origins import CORE, LIBRARY, USER, is_user_code, origin_of_file
from tracejit.runtime.paths import instance_dict
from tracejit.trace import purity
from tracejit.trace.kinds import ROUTINES, default_of
from tracejit.trace.plans import Plan
from tracejit.trace.reads import passes_on
from tracejit.trace.tree import CONTAINERS

if TYPE_CHECKING:
    from tracejit.trace.reach import Reach

TORCH_NAMES = (torch.dtype, torch.layout, torch.memory_format)  # names that nobody gives another


def global_names(reach: Reach, plan: Plan, namespace: dict[str, Any]) -> None:
    """The globals and imported modules that a code object names."""
    reads = plan.reads
    assert reads is not None
    if reads.whole_globals:
        reach.refuse("unguardable", "calls globals()")
    node = home(reach, plan, namespace)
    if node < 0:
        if reads.global_loads:
            reach.refuse("unguardable", "runs code made by exec, whose globals no module holds")
        return
    added = (name for name in reads.global_stores if name in reads.counts)
    added_to = [name for name in added if type(namespace.get(name)) is not int]
    for name in (*reads.global_loads, *added_to):
        global_name(reach, plan, node, name, namespace.get(name, MISSING))
    for name in reads.global_stores:
        read = functools.partial(namespace.get, name, MISSING)
        counted = name in reads.counts
        reach.effects.add(node, "item", name, read, plan.code, id(namespace), counted)
    for name in reads.imports:
        if name in sys.modules:
            loaded(reach, plan, sys.modules[name])


def global_name(reach: Reach, plan: Plan, node: int, name: str, value: Any) -> None:
    """One global that code loads. One that is absent is a builtin, which user code may shadow."""
    if value is MISSING:
        if plan.origin == USER:
            reach.tree.child(node, "item", name, MISSING)
        if name in purity.NOT_PASSED_ON and passes_on(plan.code, name):
            reach.refuse("impure", f"passes {name} on")
    elif plan.versioned.get(name, MISSING) is value or by_version(value, plan.origin):
        plan.versioned[name] = value
        if value is torch.nn.functional:
            functional(reach, plan)
        if isinstance(value, FunctionType):
            reach.library.setdefault(id(value.__code__), (node, name, value))
    else:
        reach.step(plan, node, "item", name, value, 0)


def functional(reach: Reach, plan: Plan) -> None:
    """Functions of torch.nn.functional that code of torch or a library names: people replace
    them."""
    names = plan.loads & vars(torch.nn.functional).keys()
    node = reach.tree.module("torch.nn.functional") if names else -1
    for name in sorted(names):
        found = getattr(torch.nn.functional, name)
        if isinstance(found, (FunctionType, BuiltinFunctionType)):
            reach.child(node, "item", name, found)


def home(reach: Reach, plan: Plan, namespace: dict[str, Any]) -> int:
    """The node of a globals dict: a module's, or a function's own; -1 if neither."""
    known = reach.tree.known.get(id(namespace))
    if known is not None:
        return known
    module = namespace.get("__name__")
    if isinstance(module, str) and instance_dict(sys.modules.get(module)) is namespace:
        return reach.tree.module(module)
    for function, node in reach.functions.get(id(plan.code), ()):
        if function.__globals__ is namespace:
            return reach.tree.child(node, "namespace", None, namespace, predicate=("any", None))
    return -1


def loaded(reach: Reach, plan: Plan, value: ModuleType) -> None:
    """A module that the call imported or looked up: its globals, by its name."""
    if sys.modules.get(value.__name__) is value:
        module_names(reach, plan, value, reach.tree.module(value.__name__), 0, "item")


def module_names(
    reach: Reach, plan: Plan, value: ModuleType, node: int, depth: int, step: str = "attr"
) -> None:
    """`module.name` reads; torch's and the standard library's are covered by version, but for
    functions that user code names: they may be replaced."""
    origin, namespace = origin_of(value), instance_dict(value)
    if origin == CORE and (plan.origin != USER or node < 0):
        return
    for name in sorted(namespace.keys() & plan.loads):
        found = namespace[name]
        if origin != CORE:
            if value.__name__.startswith("numpy.random"):
                reach.refuse("impure", f"uses {value.__name__}.{name}")
            if not by_version(found, origin):
                reach.step(plan, node, step, name, found, depth)
        elif isinstance(found, (FunctionType, type)):
            reach.child(node, step, name, found)
        elif isinstance(found, (BuiltinFunctionType, ModuleType, *CONTAINERS)) or (
            is_constant(found) and not isinstance(found, TORCH_NAMES)
        ):
            reach.step(plan, node, step, name, found, depth)


def origin_of(module: ModuleType) -> str:
    """Whose code a module is; one that is built in is the interpreter's."""
    file = getattr(module, "__file__", None)
    return origin_of_file(file) if isinstance(file, str) else CORE


def by_version(value: Any, origin: str) -> bool:
    """Whether a global of library code, or a library's class anywhere, is covered by the library's
    version.
    """
    if isinstance(value, type):
        return not is_user_code(value)
    if isinstance(value, ROUTINES):
        return origin != USER and not is_user_code(value)  # a user's name may be rebound
    if isinstance(value, ModuleType):
        return origin != USER and origin_of(value) == CORE
    if type(value).__module__ in ("logging", "typing"):
        return True
    if origin != LIBRARY or not isinstance(value, CONTAINERS):
        return False
    # Large tables, and registries of classes that the library itself extends as it goes.
    return len(value) > 64 or (isinstance(value, set) and not all(map(is_constant, value)))


def context(
    reach: Reach, plan: Plan, variable: contextvars.ContextVar[Any], node: int, depth: int
) -> None:
    """What a context variable holds, whoever asks it: C code does so unseen."""
    held = variable.get(MISSING)
    if held is MISSING and not is_constant(default_of(variable)):
        reach.refuse("unguardable", f"the default of {variable.name} is an object")
    reach.step(plan, node, "context", None, held, depth)
