"""Which function is called, in words that mean the same in every process: the folder of its
records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch

from tracejit.runtime.cache import environment
from tracejit.runtime.files import digest


def function_key(function: Callable[..., Any], target: str, numerics: str) -> str:
    """The key of a function's records: its module, name and code, and the environment.

    Two functions may share one: the guards of a record say which of them it fits.
    """
    return named_key(describe(function), first_code(function), target, numerics)


def named_key(name: str, code: str, target: str, numerics: str) -> str:
    """`function_key` of the function that `describe` names so, with this `first_code`."""
    return digest(environment(target, numerics), name, code)


def first_code(function: Callable[..., Any]) -> str:
    """The digest of the code that a call runs first; "" if it is not Python."""
    code = code_of(function)
    return code_digest(code) if code else ""


def describe(function: Callable[..., Any]) -> str:
    """`module.qualname` of a function, a bound method's function, or a module's class."""
    if isinstance(function, MethodType):
        function = function.__func__
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def code_of(function: Callable[..., Any]) -> CodeType | None:
    """The code that a call runs first: a function's, a method's, a module's forward; None if it is
    not Python."""
    if isinstance(function, torch.nn.Module):
        function = type(function).forward
    if isinstance(function, MethodType):
        function = function.__func__
    if not isinstance(function, FunctionType):
        function = type(function).__call__
    return getattr(function, "__code__", None)


def defined_at(function: Callable[..., Any]) -> str:
    """file:line where a function, or a module's forward, is defined; "" if it is not Python."""
    code = code_of(function)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def code_digest(code: CodeType) -> str:
    """A hash of what the code does: instructions, constants and names; not where it stands in a
    file."""
    total = hashlib.sha256(code.co_code)
    total.update(repr((code.co_names, code.co_varnames, code.co_freevars, code.co_flags)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            total.update(code_digest(constant).encode())
        elif isinstance(constant, frozenset):
            total.update(repr(sorted(map(repr, constant))).encode())
        else:
            total.update(repr(constant).encode())
    return total.hexdigest()
