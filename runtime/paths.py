"""Access paths: how a guard reaches a value, one step from its parent's value at a time.

A step is a name and a key, `("attr", "scale")`. Steps never run user code: no property, no
`__getattr__`, no `__getitem__` of a user's class. A step that finds nothing gives MISSING.
"""

from __future__ import annotations

import contextvars
import logging
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tracejit.runtime import aliases, private, settings
from tracejit.runtime.constants import MISSING, decode

_own_dict = object.__getattribute__
AROUND = "memory around "  # how the path of a span begins
# Steps into the dicts that an nn.Module keeps its content in.
TABLES = {"module": "_modules", "param": "_parameters", "buffer": "_buffers"}


def instance_dict(value: Any) -> dict[str, Any]:
    """The `__dict__` of an object, past any `__getattribute__` of its class; an empty one if it has
    none."""
    try:
        found = _own_dict(value, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def static(kind: type, name: str) -> Any:
    """What the classes of `kind`'s method resolution order hold under `name`, as it is stored
    there."""
    for base in type.mro(kind) if kind is type else kind.__mro__:
        found = base.__dict__.get(name, MISSING)
        if found is not MISSING:
            return found
    return MISSING


def _held(table: str) -> Callable[[Any, str], Any]:
    """A step into one of the three dicts of an nn.Module."""

    def step(value: Any, name: str) -> Any:
        return (instance_dict(value).get(table) or {}).get(name, MISSING)

    return step


def _slot(value: Any, name: str) -> Any:
    """A `__slots__` member, or an attribute that C code keeps (`tensor.grad`): its descriptor runs
    no Python."""
    descriptor = static(type(value), name)
    if descriptor is MISSING:
        return MISSING
    try:
        return descriptor.__get__(value, type(value))
    except AttributeError:
        return MISSING


def _item(value: Any, key: Any) -> Any:
    """An element of a list, tuple, deque or dict (or a subclass), by the base's own lookup."""
    key = decode(key)
    try:
        if isinstance(value, dict):
            return dict.get(value, key, MISSING)
        if isinstance(value, tuple):
            return tuple.__getitem__(value, key)
        return list.__getitem__(value, key) if isinstance(value, list) else value[key]
    except (IndexError, KeyError, TypeError):
        return MISSING


def _nth(kind: Callable[[dict[Any, Any]], Any]) -> Callable[[Any, int], Any]:
    def step(value: Any, index: int) -> Any:
        found = list(kind(value)) if isinstance(value, dict) else []
        return found[index] if index < len(found) else MISSING

    return step


def _cell(value: Any, name: str) -> Any:
    """What a function's closure holds for one of its free variables."""
    code, closure = getattr(value, "__code__", None), getattr(value, "__closure__", None) or ()
    names = code.co_freevars if code is not None else ()
    try:
        return closure[names.index(name)].cell_contents
    except (ValueError, IndexError):
        return MISSING


def _base(value: Any, index: int) -> Any:
    return value.__mro__[index] if isinstance(value, type) else MISSING


def _default(value: Any, index: int) -> Any:
    found = getattr(value, "__defaults__", None) or ()
    return found[index] if index < len(found) else MISSING


def _attribute(name: str) -> Callable[[Any, Any], Any]:
    """A step along a fixed attribute of a built-in type (`__func__` of a method, `args` of a
    partial)."""

    def step(value: Any, key: Any) -> Any:
        return getattr(value, name, MISSING)

    return step


def _globals(value: Any, module: str) -> Any:
    found = sys.modules.get(module)
    return MISSING if found is None else instance_dict(found)


def _context(value: Any, key: Any) -> Any:
    return value.get(MISSING) if isinstance(value, contextvars.ContextVar) else MISSING


def _deref(value: Any, key: Any) -> Any:
    return value() if isinstance(value, weakref.ref) else MISSING


def _misplaced(value: Any, count: int) -> Any:
    """How many elements after a multiple of `count` a tensor begins in its memory."""
    return value.storage_offset() % count if isinstance(value, torch.Tensor) else MISSING


def _logs(value: Any, key: list[Any]) -> Any:
    name, level = key
    return logging.getLogger(name).isEnabledFor(level)


def around(value: torch.Tensor, key: Sequence[int]) -> Any:
    """The memory around a strided tensor as a flat one: `[offset, size]` in elements, from its
    first. MISSING where there is none."""
    offset, size = key
    start = value.storage_offset() + offset
    if start < 0 or (start + size) * value.element_size() > value.untyped_storage().nbytes():
        return MISSING
    return private.reinterpret_tensor()(value, (size,), (1,), offset)


def _root(value: Any, key: Any) -> Any:
    raise AssertionError("roots are given, not reached")


def _kwdefault(value: Any, name: str) -> Any:
    return (getattr(value, "__kwdefaults__", None) or {}).get(name, MISSING)


def _attr(value: Any, name: str) -> Any:
    return instance_dict(value).get(name, MISSING)


_NAMED = "{parent}.{key}"
# Each step: how it is taken, and how a person writes it.
_ROWS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    # roots
    "args": (_root, "args"),
    "kwargs": (_root, "kwargs"),
    "fn": (_root, "{key}"),
    "ref": (_root, "object {key}"),  # an object that no path reaches, held by this process
    "globals": (_globals, "{key}"),  # a module's dict, by the module's name
    "env": (lambda value, name: os.environ.get(name, MISSING), "environment variable {key}"),
    "logs": (_logs, "logger {key[0]} enabled for level {key[1]}"),
    "setting": (lambda value, name: settings.read(name), "torch's setting {key}"),
    "class": (lambda value, name: type(value), "type({parent})"),
    "base": (_base, "type({parent}).__mro__[{key}]"),
    # into an object
    "attr": (_attr, _NAMED),
    **{step: (_held(table), _NAMED) for step, table in TABLES.items()},
    "slot": (_slot, _NAMED),
    "dict": (lambda value, key: instance_dict(value), "vars({parent})"),
    "hooks": (_attr, _NAMED),
    # into a container
    "item": (_item, "{parent}[{key}]"),
    "nthkey": (_nth(dict.keys), "key {key} of {parent}"),
    "nthvalue": (_nth(dict.values), "value {key} of {parent}"),
    # into a class
    "static": (static, _NAMED),
    # into a function, method, descriptor or partial
    "cell": (_cell, "closure {key} of {parent}"),
    "default": (_default, "default {key} of {parent}"),
    "kwdefault": (_kwdefault, "default {key} of {parent}"),
    "func": (_attribute("__func__"), "{parent}.__func__"),
    "self": (_attribute("__self__"), "{parent}.__self__"),
    "fget": (_attribute("fget"), "{parent}.fget"),
    "wrapped": (_attribute("__wrapped__"), "{parent}.__wrapped__"),
    "partialfunc": (_attribute("func"), "{parent}.func"),
    "partialargs": (_attribute("args"), "{parent}.args"),
    "partialkeywords": (_attribute("keywords"), "{parent}.keywords"),
    "namespace": (_attribute("__globals__"), "globals of {parent}"),
    "factory": (_attribute("default_factory"), "{parent}.default_factory"),
    # into a tensor
    "physical": (lambda value, key: aliases.physical(value), "memory of {parent}"),
    "misplaced": (_misplaced, "{parent}.storage_offset() % {key}"),
    # into the rest
    "deref": (_deref, "{parent}()"),
    "context": (_context, "{parent}.get()"),
    # from a tensor
    "around": (around, AROUND + "{parent}"),
}
STEPS: dict[str, Callable[[Any, Any], Any]] = {step: take for step, (take, _) in _ROWS.items()}


def print_step(parent: str, step: str, key: Any) -> str:
    """The path `parent` with one more step, as a person writes it."""
    _, words = _ROWS[step]
    if step == "item":
        key = repr(decode(key))
    elif words is _NAMED and str(key).isdigit():
        return f"{parent}[{key}]"
    return words.format(parent=parent, key=key)
