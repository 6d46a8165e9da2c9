"""Which objects a compiled guard check binds, and which it walks to in each call."""

from __future__ import annotations

import weakref
from types import FunctionType, ModuleType
from typing import Any

import torch

from tracejit.runtime.guards import GuardSet
from tracejit.runtime.paths import static

_WALKABLE = frozenset(("container", "kwargs"))
_LEAVES = frozenset(("const", "kind", "exists", "tensor", "absent", "empty", "same", "memory"))


def placement(guards: GuardSet, values: list[Any], walked: set[int]) -> list[str]:
    """For each node: "leaf" (no object is kept), "walk", "bound", or "weak" (bound and held
    weakly).
    """
    places: list[str] = []
    for index, node in enumerate(guards.nodes):
        above = places[node.parent] if node.parent >= 0 else ""
        if node.check in _LEAVES:
            places.append("leaf")
        elif (
            node.step in ("args", "kwargs")
            or index in walked
            or above == "walk"
            and node.check in _WALKABLE
            and node.step == "item"
        ):
            places.append("walk")
        elif node.step == "ref" or (
            _top(guards, places, index) and _weakly_held(values[index], node.check)
        ):
            places.append("weak")
        else:
            places.append("bound")
    return places


def _top(guards: GuardSet, places: list[str], index: int) -> bool:
    """Whether no object that the check holds strongly, other than globals, leads to this one."""
    node = guards.nodes[index]
    if node.step in ("fn", "globals", "class", "dict"):
        return False
    if node.parent < 0:
        return True
    return places[node.parent] == "walk" or guards.nodes[node.parent].step == "globals"


def _weakly_held(value: Any, check: str) -> bool:
    if check not in ("type", "is", "rng"):
        return False
    try:
        weakref.ref(value)
    except TypeError:
        return False
    return True


def dict_may_change(value: Any) -> bool:
    """Whether `value.__dict__` can be another dict later, and looking at it runs no Python."""
    kind = type(value)
    plain = "__dict__" in dir(kind) and not isinstance(value, (type, ModuleType, FunctionType))
    return plain and static(kind, "__getattribute__") is object.__getattribute__


def looks_at_dict(value: Any) -> bool:
    """Whether a check looks for another `__dict__` each time. Below the topmost object not in
    modules.

    It takes 40 ns a module because of nn.Module's `__getattr__`, and only `module.__dict__ = …` on
    a submodule in use would show: the one change that a check in the process does not notice.
    """
    return dict_may_change(value) and not isinstance(value, torch.nn.Module)
