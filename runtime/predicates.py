"""Predicates of guards: what a reached value must be. Each is a row of one table, with its words
for messages.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch

from tracejit.runtime import private
from tracejit.runtime.constants import MISSING, decode, encode, is_constant, name_of, same
from tracejit.runtime.identity import code_digest
from tracejit.runtime.origins import is_user_code

Predicate = Callable[[Any, Any, list[Any]], bool]


def tensor_meta(tensor: torch.Tensor) -> dict[str, Any]:
    """What a guard compares of a tensor, as JSON: everything but its values."""
    strided = tensor.layout is torch.strided
    return {
        "type": name_of(type(tensor)),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "device": str(tensor.device),
        "sizes": list(tensor.size()),
        "strides": list(tensor.stride()) if strided else None,
        "requires_grad": tensor.requires_grad,
        "layout": str(tensor.layout).removeprefix("torch."),
        "flags": [
            tensor.is_conj(),
            tensor.is_neg(),
            tensor.is_inference(),
            private.is_zero_tensor(tensor),
        ],
    }


@functools.lru_cache(maxsize=4096)
def _digest(code: CodeType) -> str:
    return code_digest(code)


def function_meta(function: FunctionType) -> list[Any]:
    """What a guard compares of a user's function: its code, and how many defaults and which keyword
    defaults."""
    keywords = sorted(function.__kwdefaults__ or ())
    return [
        name_of(function),
        _digest(function.__code__),
        len(function.__defaults__ or ()),
        keywords,
    ]


def container_meta(value: Any) -> list[Any]:
    """Type and length of a sequence; type and keys, in order, of a dict; type and elements of a
    set."""
    kind = name_of(type(value))
    if isinstance(value, dict):
        keys = list(dict.keys(value))
        return [kind, list(map(encode, keys)) if all(map(is_constant, keys)) else len(keys)]
    if isinstance(value, (set, frozenset)):
        if all(map(is_constant, value)):
            return [kind, sorted(map(encode, value), key=json.dumps)]
        return [kind, len(value)]
    return [kind, len(value)]


def is_container(value: Any) -> bool:
    """Whether it is a list, tuple, dict, set or deque, or of a subclass."""
    return isinstance(value, (list, tuple, dict, set, frozenset)) or hasattr(type(value), "popleft")


def _container(value: Any, expected: Any, values: list[Any]) -> bool:
    same_kind = is_container(value) and name_of(type(value)) == expected[0]
    return same_kind and container_meta(value) == expected


def _kwargs(value: Any, expected: Any, values: list[Any]) -> bool:
    """Keyword arguments; their order counts only if the function collects them (`**kwargs`)."""
    ordered, names = expected
    return bool((list(value) if ordered else sorted(value)) == names)


def _lib(value: Any, expected: Any, values: list[Any]) -> bool:
    """A library's function or class under its own name, not replaced by code of the user."""
    return value is not MISSING and name_of(value) == expected and not is_user_code(value)


def _typed(value: Any, expected: Any, values: list[Any]) -> bool:
    return value is not MISSING and name_of(type(value)) == expected


def _function(value: Any, expected: Any, values: list[Any]) -> bool:
    return isinstance(value, FunctionType) and function_meta(value) == expected


def _tensor(value: Any, expected: Any, values: list[Any]) -> bool:
    # The type first: a subclass hears of each question that follows.
    alike = isinstance(value, torch.Tensor) and name_of(type(value)) == expected["type"]
    return alike and tensor_meta(value) == expected


def _rng(value: Any, expected: Any, values: list[Any]) -> bool:
    """A random generator of a device, not the CPU's default one."""
    mine = type(value) is torch.Generator and str(value.device) == expected
    return mine and not private.is_default(value)


def _is_there(value: Any, expected: Any, values: list[Any]) -> bool:
    return value is not MISSING


def _empty(value: Any, expected: Any, values: list[Any]) -> bool:
    return value is not MISSING and not value


def _const(value: Any, expected: Any, values: list[Any]) -> bool:
    return same(value, decode(expected))


def _generator(value: Any, expected: Any, values: list[Any]) -> bool:
    return value is torch.default_generator


def _class(value: Any, expected: Any, values: list[Any]) -> bool:
    return isinstance(value, type) and name_of(value) == expected


def _pymodule(value: Any, expected: Any, values: list[Any]) -> bool:
    return isinstance(value, ModuleType) and value.__name__ == expected


def _name(expected: Any) -> str:
    return str(expected[0] if isinstance(expected, list) else expected).removeprefix("builtins:")


def _instance(expected: Any) -> str:
    return f"a {str(expected).partition(':')[2]}"


def _content(expected: Any) -> str:
    kind, content = expected
    return f"{_instance(kind)} of {content if isinstance(content, int) else len(content)}"


# Each predicate: whether it holds, and what was recorded, in words.
_ROWS: dict[str, tuple[Predicate, Callable[[Any], str]]] = {
    "any": (_is_there, "present".format),
    "exists": (_is_there, "present".format),  # a place that will be written
    "memory": (_is_there, "present".format),
    "absent": (lambda value, expected, values: value is MISSING, "absent".format),
    "empty": (_empty, "empty".format),
    "const": (_const, lambda expected: repr(decode(expected))),
    "type": (_typed, _instance),
    "kind": (_typed, _instance),  # of a value that may be any of its type
    "is": (_typed, _instance),  # the object recorded, by a "ref" node: only true in this process
    "class": (_class, _name),
    "function": (_function, _name),
    "lib": (_lib, _name),
    "pymodule": (_pymodule, _name),
    "container": (_container, _content),
    "kwargs": (_kwargs, str),
    "length": (lambda value, expected, values: len(value) == expected, str),
    "tensor": (_tensor, "a tensor {0[dtype]}{0[sizes]}".format),
    "generator": (_generator, "torch's default generator".format),
    "rng": (_rng, "a random generator of {}".format),
    "same": (lambda value, expected, values: value is values[expected], str),
}
PREDICATES: dict[str, Predicate] = {name: holds for name, (holds, _) in _ROWS.items()}


def words(value: Any) -> str:
    """A value for a message: constants by value, tensors by metadata, other objects by type or
    name."""
    if value is MISSING:
        return "absent"
    if is_constant(value):
        return repr(value)
    if isinstance(value, torch.Tensor):
        return f"a tensor {str(value.dtype).removeprefix('torch.')}{list(value.size())}"
    if isinstance(value, type) or inspect.isroutine(value):
        return name_of(value).removeprefix("builtins:")
    if isinstance(value, (list, tuple, dict, set)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__qualname__}"


def explain(path: str, check: str, expected: Any, value: Any, guards: Any) -> tuple[str, str, str]:
    """Path, recorded and present state of a guard that fails, as finely as can be told."""
    if check == "tensor" and isinstance(value, torch.Tensor):
        if name_of(type(value)) != expected["type"]:
            return f"{path}.type", expected["type"], name_of(type(value))
        return _explain_tensor(path, expected, tensor_meta(value))
    if check == "container" and isinstance(value, (list, tuple, dict, set, frozenset)):
        return _explain_container(path, expected, value)
    if check == "kwargs":
        return ("keyword arguments", ", ".join(expected[1]) or "none", ", ".join(value) or "none")
    if check == "length":
        return f"number of {path}", str(expected), str(len(value))
    if check == "function" and isinstance(value, FunctionType) and expected[0] == name_of(value):
        now = function_meta(value)
        return f"code of {path}", str(expected[1])[:8], str(now[1])[:8]
    if check == "same":
        return path, f"the same object as {guards.path(expected)}", f"another: {words(value)}"
    return path, _ROWS[check][1](expected), words(value)


def _explain_tensor(path: str, expected: Any, now: Any) -> tuple[str, str, str]:
    was, has = expected["sizes"], now["sizes"]
    for name in ("type", "dtype", "device", "layout", "requires_grad"):
        if expected[name] != now[name]:
            return f"{path}.{name}", str(expected[name]), str(now[name])
    if len(was) != len(has):
        return f"{path}.dim()", str(len(was)), str(len(has))
    for dim, (old, new) in enumerate(zip(was, has)):
        if old != new:
            return f"{path}.size({dim})", str(old), str(new)
    if expected["strides"] != now["strides"]:
        return f"{path}.stride()", str(tuple(expected["strides"])), str(tuple(now["strides"]))
    names = ("is_conj()", "is_neg()", "is_inference()", "_is_zerotensor()")
    which = next(i for i in range(len(names)) if expected["flags"][i] != now["flags"][i])
    return f"{path}.{names[which]}", str(expected["flags"][which]), str(now["flags"][which])


def _explain_container(path: str, expected: Any, value: Any) -> tuple[str, str, str]:
    kind, content = container_meta(value)
    if kind != expected[0]:
        return f"type of {path}", expected[0].partition(":")[2], kind.partition(":")[2]
    if isinstance(expected[1], list):
        names = [str([decode(key) for key in keys]) for keys in (expected[1], content)]
        return f"{'keys' if isinstance(value, dict) else 'elements'} of {path}", names[0], names[1]
    return f"len({path})", str(expected[1]), str(content)
