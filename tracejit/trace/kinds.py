"""Kinds of objects, as the observer tells them apart, and what classes hold besides methods."""

from __future__ import annotations

import functools
import gc
import io
import types
from types import FunctionType
from typing import Any

import torch

from tracejit.runtime.constants import MISSING, is_constant
from tracejit.runtime.origins import is_user_code
from tracejit.runtime.paths import static
from tracejit.trace.plans import Plan
from tracejit.trace.tree import CONTAINERS

# Modules whose whole content is their children.
HOLDERS = (
    torch.nn.ModuleList,
    torch.nn.ModuleDict,
    torch.nn.Sequential,
    torch.nn.ParameterList,
    torch.nn.ParameterDict,
)
# Objects with a position that no guard describes.
ITERATORS: tuple[type, ...] = (
    types.GeneratorType,
    types.CoroutineType,
    io.IOBase,
    type(iter([])),
    zip,
    map,
    enumerate,
    filter,
)
# What classes and modules hold as code.
ROUTINES: tuple[type, ...] = (
    FunctionType,
    property,
    staticmethod,
    classmethod,
    functools.cached_property,
    functools.partialmethod,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
)


def is_descriptor(value: Any) -> bool:
    """Whether a class attribute computes what an instance shows (its `__get__`, if Python, is a
    frame of its own).
    """
    return static(type(value), "__get__") is not MISSING


def class_names(kind: type, plan: Plan, computed: bool) -> tuple[str, ...]:
    """Names that a plan's code loads and that `kind` holds as data or slots, not as methods."""
    names: set[str] = set(plan.loads)
    if computed:
        names.update(name for base in kind.__mro__ for name in base.__dict__ if is_user_code(base))
    found: list[str] = []
    for name in sorted(names):
        value = static(kind, name)
        if isinstance(value, types.MemberDescriptorType):
            found.append(name)
        elif value is MISSING or name.startswith("__") or isinstance(value, ROUTINES):
            continue
        elif not is_descriptor(value) and not _library_constant(kind, name, value):
            found.append(name)
    return tuple(found)


def _library_constant(kind: type, name: str, value: Any) -> bool:
    """Whether the class that holds a constant belongs to a library: covered by version."""
    owner = next(base for base in kind.__mro__ if name in base.__dict__)
    if not is_constant(value) and not isinstance(value, type):
        return owner.__module__.partition(".")[0] in ("torch", "builtins", "collections")
    return not is_user_code(owner)


def under(value: Any) -> list[Any]:
    """The containers that an iterator walks."""
    return [part for part in gc.get_referents(value) if isinstance(part, (*CONTAINERS, *ITERATORS))]
