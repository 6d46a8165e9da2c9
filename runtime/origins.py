"""Whose code it is: the interpreter's and torch's, an installed library's, or the user's.

Library code is covered by the library's version, user code by its hash.
"""

from __future__ import annotations

import functools
import os
import sys
from types import CodeType
from typing import Any

import torch

CORE, OWN, LIBRARY, USER = "core", "own", "library", "user"

TORCH = os.path.dirname(os.path.realpath(torch.__file__)) + os.sep
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OWN = tuple(
    {_HERE + os.sep}
    | {os.path.realpath(os.path.join(_HERE, part)) + os.sep for part in ("", "runtime", "codegen")}
)
_MODELS = os.path.join(_HERE, "benchmarks") + os.sep  # what is compiled, not what compiles it
# Not by sysconfig, whose tables take 1.5 ms of a warm start to load.
STDLIB = os.path.dirname(os.path.realpath(os.__file__)) + os.sep
_SITE = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@functools.lru_cache(maxsize=4096)
def origin_of_file(filename: str) -> str:
    """CORE, OWN, LIBRARY or USER for a code object's `co_filename`."""
    if filename.startswith("<frozen "):
        return CORE
    if filename.startswith(_OWN) and not filename.startswith(_MODELS):
        return OWN
    path = os.path.realpath(filename)
    if path.startswith(TORCH) or filename.startswith(TORCH):
        return CORE
    if path.startswith(STDLIB) and not any(mark in path for mark in _SITE):
        return CORE
    return LIBRARY if package_of_file(path) else USER


def package_of_file(filename: str) -> str:
    """The top-level package of a file that was installed; empty elsewhere or if it states no
    version."""
    name = _installed(filename)
    return name if getattr(sys.modules.get(name), "__version__", "") else ""


def _installed(path: str) -> str:
    """The top-level name of a file under site-packages, or of one that pip wrote elsewhere
    (`pip install --target`); empty for others."""
    for mark in _SITE:
        _, found, rest = path.rpartition(mark)
        if found:
            return _top(rest)
    for folder in map(_real, sys.path):
        if path.startswith(folder) and (name := _top(path[len(folder) :])) in _recorded(folder):
            return name
    return ""


@functools.lru_cache(maxsize=64)
def _real(folder: str) -> str:
    return os.path.join(os.path.realpath(folder), "")


def _top(path: str) -> str:
    """The module or package that a file under a folder of sys.path belongs to."""
    return path.partition(os.sep)[0].removesuffix(".py")


@functools.lru_cache(maxsize=64)
def _recorded(folder: str) -> frozenset[str]:
    """The names that pip wrote into a folder, by the records it leaves beside them."""
    found: set[str] = set()
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        record = os.path.join(folder, name, "RECORD")
        if name.endswith(".dist-info") and os.path.isfile(record):
            with open(record, encoding="utf-8") as lines:
                found.update(_top(line.partition(",")[0]) for line in lines)
    return frozenset(found)


def origin_of_code(code: CodeType) -> str:
    """CORE, OWN, LIBRARY or USER for the file that a code object was compiled from."""
    return origin_of_file(code.co_filename)


def is_user_code(value: Any) -> bool:
    """Whether a function or class was written outside torch, the standard library and installed
    packages."""
    code = getattr(value, "__code__", None)
    if isinstance(code, CodeType):
        return origin_of_code(code) == USER
    module = sys.modules.get(getattr(value, "__module__", None) or "builtins")
    file = getattr(module, "__file__", None)
    return origin_of_file(file) == USER if file else getattr(module, "__name__", "") == "__main__"
