"""Which C functions a recorded call may run: those known to depend only on their arguments and to
change only them.

One row of a table each: modules whose functions are pure, the exceptions in them, and types whose
methods are pure. What is in no row is not known to be pure, and makes the call eager. In-place
changes of containers are looked for afterwards (trace.effects), so `list.append` counts as pure
here; operators of torch are the recorder's business.
"""

from __future__ import annotations

import builtins
import collections
import contextvars
import enum
import functools
import io
import re
import threading
import types
import weakref
from typing import Any

import torch

from tracejit.runtime import private, settings
from tracejit.trace.watch import ESCAPES

PURE_MODULES = frozenset((
    "builtins", "math", "cmath", "_operator", "operator", "itertools", "_functools", "functools",
    "_collections", "collections", "_abc", "_struct", "_weakref", "_sre", "_string", "_json",
    "_bisect", "_heapq", "unicodedata", "binascii", "zlib", "_datetime", "_statistics", "_typing",
    "_stat", "_opcode", "_imp", "_codecs", "marshal", "copyreg", "_hashlib", "_sha2", "_sha256",
    "_md5", "numpy", "numpy._core", "numpy._core._multiarray_umath", "numpy._core.multiarray",
    "numpy.core.multiarray",
))  # fmt: skip

# Builtins that are not pure: they print, read, write, execute, or look at the interpreter's own
# state.
_IMPURE = frozenset(("print", "input", "open", "exec", "eval", "breakpoint", "globals", "locals"))

# Elsewhere, but pure.
PURE = frozenset((
    "sys.getrecursionlimit", "sys.intern", "sys.getsizeof", "sys.exc_info", "sys.setprofile",
    "sys.getprofile", "sys.exception", "sys.is_finalizing", "sys._getframe", "sys.getrefcount",
    "sys.audit", "gc.is_tracked", "gc.isenabled", "_thread.get_ident", "_thread.allocate_lock",
    "_thread.RLock", "_thread.lock", "posix.fspath", "posix._path_normpath",
    "datetime.timedelta.total_seconds", "_contextvars.copy_context",
    "itertools.chain.from_iterable",
))  # fmt: skip

# Pure where a library only keeps books; the user may compute with the answers, which differ between
# processes, threads and callers.
OF_THE_PROCESS = frozenset(
    ("id", "hash", "_getframe", "getrefcount", "get_ident", "__subclasses__", "getprofile")
    + ("isenabled", "is_tracked", "getrecursionlimit", "copy_context")
    + ("__import__", "exc_info", "exception")
)

# Builtins that code may call, but not hand on to C.
NOT_PASSED_ON = _IMPURE | (OF_THE_PROCESS & vars(builtins).keys())

# torch's C functions are pure for Python (operators are recorded) but for these.
_TORCH_IMPURE = re.compile(
    r"manual_seed|seed|set_rng|get_rng|memory|_cuda_set|event|record_|profiler|_save(?!d_tensors)|_load"
    r"|_fp32_precision_"
)
# Setters whose settings are guarded at every call, or last no longer than what calls them.
_SCOPED = re.compile(
    r"^_?(un)?set_(autocast|conj|neg|dispatch_mode|grad_enabled|multithreading|fwd_grad|view_replay"
    r"|torch_function_state|tracing_state|skip_next|cublas|float32_matmul|deterministic_algorithms)"
)
_SETTER = re.compile(r"^_?(un)?set_")
_SETTINGS = settings.SETTINGS | settings.SETS.keys()  # trace.observe guards and replays these
# Methods of tensors that no guard follows: data or memory leaves torch, or what is done later
# changes.
_TENSOR_ESCAPES = frozenset(
    ("_storage", "share_memory_", "register_hook", "_backward", "set_data", "__reduce_ex__")
    + ("__setstate__", "const_data_ptr", "mutable_data_ptr")
) | {name for name, (kind, _) in ESCAPES.items() if kind in ("data-dependent", "tensor")}

PURE_TYPES: tuple[type, ...] = (
    str, bytes, bytearray, memoryview, int, float, complex, bool, list, tuple, dict, set, frozenset,
    range, slice, type, enum.Enum, re.Pattern, re.Match, types.MappingProxyType, types.CodeType,
    collections.deque, collections.OrderedDict, collections.defaultdict, type({}.keys()),
    type({}.values()), type({}.items()), types.GeneratorType, BaseException,
    io.StringIO, io.BytesIO,
    functools.partial, weakref.ref, types.ModuleType, types.FunctionType, types.MethodType,
    types.TracebackType, types.SimpleNamespace, property, classmethod, staticmethod,
    type(threading.Lock()), type(threading.RLock()),
    torch.Size, torch.dtype, torch.device, torch.layout, private.variable_functions(),
)  # fmt: skip

# The type of the object that `object.__init__` and its like are called on says nothing: these names
# are pure anyway.
_PURE_ON_ANY = frozenset((
    "__init__", "__new__", "__init_subclass__", "__subclasshook__", "__format__", "__reduce_ex__",
    "__reduce__", "__sizeof__", "__dir__", "__getstate__", "__instancecheck__", "__subclasscheck__",
    "__class_getitem__", "mro", "__subclasses__", "__enter__", "__exit__",
))  # fmt: skip


def judge(function: Any) -> str | None:
    """None if a C function that is about to run is known to be pure, else its name."""
    owner = getattr(function, "__self__", None)
    name = function.__name__
    if isinstance(owner, torch.Tensor):
        return f"Tensor.{name}" if name in _TENSOR_ESCAPES else None
    if owner is None or isinstance(owner, types.ModuleType) or is_binding(owner):
        return _judge_module(function.__module__ or "torch", name)
    if isinstance(owner, type):
        return _judge_type(owner, name)
    return _judge_method(owner, name)


def is_binding(owner: Any) -> bool:
    """Whether the `__self__` of a C function is a record of pybind11's, not an object."""
    return type(owner).__module__ == "pybind11_builtins" or type(owner).__name__ == "PyCapsule"


def _judge_module(module: str, name: str) -> str | None:
    full = f"{module}.{name}"
    if module.partition(".")[0] == "torch":
        outer = module in ("torch", "torch._C") and _sets(name)
        return full if outer or _is_impure(name) else None
    if module in PURE_MODULES:
        return full if module == "builtins" and name in _IMPURE else None
    return None if full in PURE else full


def _is_impure(name: str) -> bool:
    """Whether one of torch's C functions does more than compute."""
    return name not in _SETTINGS and _TORCH_IMPURE.search(name) is not None


def _sets(name: str) -> bool:
    """Whether a function sets something that neither a guard nor a plan knows."""
    known = name in _SETTINGS or _SCOPED.match(name)
    return _SETTER.match(name) is not None and not known


def _judge_type(owner: type, name: str) -> str | None:
    """A class method of a C type, or `torch.add`, whose owner is a class."""
    module = owner.__module__
    if issubclass(owner, PURE_TYPES) or module.startswith("torch") or name in _PURE_ON_ANY:
        return f"torch.{name}" if module.startswith("torch") and _is_impure(name) else None
    full = f"{module}.{owner.__qualname__}.{name}"
    return None if full in PURE else full


def _judge_method(owner: Any, name: str) -> str | None:
    kind = type(owner)
    if kind is types.GeneratorType and name == "send":
        return "generator.send"  # what is sent arrives in a frame unseen
    if isinstance(owner, PURE_TYPES) or name in _PURE_ON_ANY:
        return None
    if isinstance(owner, contextvars.ContextVar):
        return None  # its value is guarded and compared by the observer
    if kind.__module__ == "torch._C":
        return None  # of run_backward, and methods of generators, the recorder decides
    if kind.__module__ == "numpy" and kind.__name__ in ("ndarray", "dtype", "ufunc"):
        return f"numpy.{kind.__name__}.{name}" if name in ("tofile", "dump", "at") else None
    full = f"{kind.__module__}.{kind.__qualname__}.{name}"
    return None if full in PURE else full


Key = tuple[Any, str]


def key_of(function: Any) -> Key:
    """What decides `judge(function)`: the owner's type (or the owner itself, if a module or class)
    and the name.
    """
    owner = getattr(function, "__self__", None)
    kind = type(owner)
    if kind is types.ModuleType or isinstance(owner, type):
        return owner, function.__name__
    if owner is None or is_binding(owner):
        return function.__module__, function.__name__
    return kind, function.__name__
