"""Kinds of objects, as the observer tells them apart, and what classes hold besides methods."""

from __future__ import annotations

import array
import collections
import contextvars
import datetime
import enum
import functools
import gc
import io
import numbers
import threading
import types
import weakref
from types import FunctionType
from typing import Any

import torch

from tracejit.runtime.constants import MISSING, is_constant
from tracejit.runtime.origins import is_user_code
from tracejit.runtime.paths import static
from tracejit.trace.plans import Plan
from tracejit.trace.purity import is_binding
from tracejit.trace.tree import CONTAINERS

# Modules whose whole content is their children.
HOLDERS = (
    torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Sequential, torch.nn.ParameterList,
    torch.nn.ParameterDict,
)  # fmt: skip
# Objects with a position that no guard describes.
WATCHED_ITERATORS = (types.GeneratorType, types.CoroutineType, io.IOBase)
ITERATORS: tuple[type, ...] = (*WATCHED_ITERATORS, type(iter([])), zip, map, enumerate, filter)
# Objects whose content is neither an attribute nor an item. Those of exactly these types that are
# immutable are constants; what remains are subclasses and buffers.
VALUES: tuple[type, ...] = (numbers.Number, str, bytes, bytearray, memoryview, array.array)
VALUES += (datetime.date, datetime.time, datetime.timedelta)
REMEMBERING = type(functools.lru_cache(len))  # functions that keep their results
# Classes in C whose objects hold what guards see, or nothing.
SEEN: tuple[type, ...] = (
    type, BaseException, list, tuple, dict, set, frozenset, collections.deque,
    torch.Tensor, torch.Generator, torch.nn.Module, functools.partial, weakref.ref,
    REMEMBERING, type(threading.Lock()), type(threading.RLock()),
    types.SimpleNamespace, types.ModuleType, types.MethodType, types.GenericAlias, types.UnionType,
    contextvars.ContextVar, enum.Enum,
)  # fmt: skip
_HEAP, _IMMUTABLE = 1 << 9, 1 << 8  # Py_TPFLAGS_HEAPTYPE, Py_TPFLAGS_IMMUTABLETYPE
# What classes and modules hold as code.
ROUTINES: tuple[type, ...] = (
    FunctionType, property, staticmethod, classmethod, functools.cached_property,
    functools.partialmethod, types.BuiltinFunctionType, types.MethodDescriptorType,
    types.ClassMethodDescriptorType, types.WrapperDescriptorType, types.GetSetDescriptorType,
)  # fmt: skip


def is_descriptor(value: Any) -> bool:
    """Whether a class attribute computes what an instance shows (its `__get__`, if Python, is a
    frame of its own).
    """
    return static(type(value), "__get__") is not MISSING


def is_iterator(value: Any) -> bool:
    """Whether a value is an iterator in C, or a generator."""
    step = static(type(value), "__next__")
    return isinstance(value, ITERATORS) or not (step is MISSING or isinstance(step, FunctionType))


def content_unseen(value: Any) -> str:
    """What of an object no guard describes: "position" of an iterator in C, "content" of a mapping
    seen through a proxy, "value" of a number's or string's subclass; empty if all can be seen.
    """
    if is_iterator(value):
        return "position"
    if isinstance(value, VALUES):
        return "value"
    return "content" if any(map(_is_opaque, type(value).__mro__)) else ""


def is_of_c(kind: type) -> bool:
    """Whether a class is written in C."""
    return not kind.__flags__ & _HEAP or bool(kind.__flags__ & _IMMUTABLE)


@functools.lru_cache(maxsize=4096)
def _is_opaque(kind: type) -> bool:
    """Whether a class in C keeps something that is neither an attribute nor an item."""
    if issubclass(kind, (*SEEN, *ROUTINES)):
        return False
    in_c = is_of_c(kind)
    bound = type(kind).__name__ == "pybind11_type" and kind.__module__.partition(".")[0]
    return (in_c and kind is not object) or bound not in (False, "torch", "pybind11_builtins")


_INTO: tuple[tuple[type, tuple[str, ...]], ...] = (
    (types.MethodType, ("self", "func")),
    (functools.partial, ("partialfunc", "partialargs", "partialkeywords")),
    (weakref.ref, ("deref",)),
)


def steps_into(value: Any) -> tuple[str, ...]:
    """The steps to all that an object of C's is made of: a bound method, a partial, a weak
    reference. None of others, nor of C functions of a module or class.
    """
    if isinstance(value, types.BuiltinFunctionType):
        owner = value.__self__
        loose = owner is None or is_binding(owner) or isinstance(owner, (types.ModuleType, type))
        return () if loose else ("self",)
    return next((steps for kind, steps in _INTO if isinstance(value, kind)), ())


def default_of(variable: contextvars.ContextVar[Any]) -> Any:
    """What a context variable gives where nothing was set; None if it raises."""
    try:
        return variable.get()
    except LookupError:
        return None


def has_fallback(kind: type) -> bool:
    """Whether a user's `__getattr__` answers for attributes that are absent."""
    found = static(kind, "__getattr__")
    return isinstance(found, FunctionType) and is_user_code(found)


def is_borrowed(kind: type, name: str, value: Any) -> bool:
    """Whether a user's class holds a routine that is guarded where it is read: when it runs, no
    frame of its own tells where it was found.
    """
    if isinstance(value, (staticmethod, classmethod)):
        pass
    elif isinstance(value, FunctionType):
        if is_user_code(value):
            return False
    elif not isinstance(value, types.BuiltinFunctionType):
        return False
    return is_user_code(next(base for base in kind.__mro__ if name in base.__dict__))


def class_names(kind: type, plan: Plan, computed: bool) -> tuple[str, ...]:
    """Names that a plan's code loads and that `kind` holds as data, slots or cached properties, not
    as methods.
    """
    names: set[str] = set(plan.loads)
    if computed:
        names.update(name for base in kind.__mro__ for name in base.__dict__ if is_user_code(base))
    found: list[str] = []
    for name in sorted(names):
        value = static(kind, name)
        kept = isinstance(value, (types.MemberDescriptorType, functools.cached_property))
        if kept or is_borrowed(kind, name, value):
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


def parts_of(value: Any) -> list[Any]:
    """What an object of C's without a path keeps out of sight: views of dicts, exceptions."""
    if not isinstance(value, BaseException) and not is_of_c(type(value)):
        return []
    parts = gc.get_referents(value)
    return [part for part in parts if not isinstance(part, (type, *_OF_CODE))]


_OF_CODE: tuple[type, ...] = (
    types.ModuleType, types.FrameType, types.TracebackType, types.CodeType,
    contextvars.Context,  # a token has it, and does not show it
)  # fmt: skip


def under(value: Any) -> list[Any]:
    """What an iterator in C walks: containers, other iterators, an object with `__getitem__`. Of a
    generator, whose own frame is looked at when it runs, and of a file the containers."""
    parts = gc.get_referents(value)
    if isinstance(value, WATCHED_ITERATORS):
        return [part for part in parts if isinstance(part, CONTAINERS) or is_iterator(part)]
    return parts
