"""Constants in guards: which values are constants, how JSON spells them, and when two are the same.

Two constants are the same if no operation can tell them apart: equal type and value, so 1, True and
1.0 differ, 0.0 and -0.0 differ, and a NaN is the same as another NaN.
"""

from __future__ import annotations

import enum
import functools
import json
import struct
import sys
from collections.abc import Callable
from typing import Any

import torch

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "absent"})()

_PLAIN = (type(None), bool, int, str)
_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_NESTED = (tuple, frozenset, torch.Size, slice)
LEAVES = frozenset(
    (*_PLAIN, float, complex, bytes, range, type(...), type(NotImplemented), *_TORCH)
)


def is_constant(value: Any, depth: int = 4) -> bool:
    """Whether a value is immutable all the way down and means the same in another process."""
    kind = type(value)
    if kind in LEAVES:
        return True
    if kind in _NESTED:
        if depth == 0:
            return False
        parts = (value.start, value.stop, value.step) if kind is slice else value
        return len(parts) <= 256 and all(is_constant(part, depth - 1) for part in parts)
    return isinstance(value, enum.Enum) or _numpy_scalar(value)


def _numpy_scalar(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic) and value.dtype.kind in "biufc"


def same(left: Any, right: Any) -> bool:
    """Whether two constants are indistinguishable."""
    kind = type(left)
    if kind is not type(right):
        return False
    if kind is float:
        return struct.pack("d", left) == struct.pack("d", right)
    if kind is complex:
        return same(left.real, right.real) and same(left.imag, right.imag)
    if kind is tuple or kind is torch.Size:
        return len(left) == len(right) and all(map(same, left, right))
    if kind is frozenset:
        return spell(left) == spell(right)
    if kind is slice:
        return same((left.start, left.stop, left.step), (right.start, right.stop, right.step))
    if isinstance(left, enum.Enum):
        return left is right
    if _numpy_scalar(left):
        return bool(left.tobytes() == right.tobytes())
    return bool(left == right)


def differ(left: Any, right: Any) -> bool:
    """The opposite of `same`; `right` is a constant, `left` may be anything."""
    return type(left) is not type(right) or not same(left, right)


def encode(value: Any) -> Any:
    """A constant as JSON. Ints, floats, strings, booleans and None stand for themselves, the rest
    is [tag, …].

    Raises TypeError for what is no constant.
    """
    if type(value) in _PLAIN:
        return value
    if type(value) is float:
        finite = value == value and abs(value) != float("inf")
        return value if finite else ["float", struct.pack(">d", value).hex()]
    return _encode_tagged(value)


def _encode_tagged(value: Any) -> Any:
    kind = type(value)
    if kind is tuple or kind is torch.Size:
        return ["tuple" if kind is tuple else "size", *map(encode, value)]
    if kind is frozenset:
        return ["frozenset", *sorted(map(encode, value), key=json.dumps)]
    if kind in (slice, range):
        return [kind.__name__, *map(encode, (value.start, value.stop, value.step))]
    if kind is bytes:
        return ["bytes", value.hex()]
    if kind is complex:
        return ["complex", encode(value.real), encode(value.imag)]
    if kind in _TORCH:
        return [kind.__name__, str(value).removeprefix("torch.")]
    if value is ... or value is NotImplemented:
        return ["builtin", repr(value)]
    if isinstance(value, enum.Enum):
        return ["enum", name_of(kind), value.name]
    if _numpy_scalar(value):
        return ["numpy", value.dtype.str, value.tobytes().hex()]
    raise TypeError(f"{kind.__name__} is no constant")


def decode(spelled: Any) -> Any:
    """The constant that `encode` spelled. Raises ValueError for anything else."""
    if not isinstance(spelled, list):
        return spelled
    tag, *parts = spelled
    if tag not in _DECODERS:
        raise ValueError(f"no constant is spelled {spelled!r}")
    return _DECODERS[tag](*parts)


def _enum(name: str, member: str) -> Any:
    kind = named(name)
    return kind[member] if isinstance(kind, enum.EnumMeta) else MISSING


def _numpy(dtype: str, data: str) -> Any:
    import numpy

    return numpy.frombuffer(bytes.fromhex(data), dtype)[0]


def _torch_constant(name: str) -> Any:
    return getattr(torch, name)


_DECODERS: dict[str, Callable[..., Any]] = {
    "float": lambda bits: struct.unpack(">d", bytes.fromhex(bits))[0],
    "tuple": lambda *parts: tuple(map(decode, parts)),
    "size": lambda *parts: torch.Size(map(decode, parts)),
    "frozenset": lambda *parts: frozenset(map(decode, parts)),
    "slice": lambda *parts: slice(*map(decode, parts)),
    "range": lambda *parts: range(*parts),
    "bytes": bytes.fromhex,
    "complex": lambda real, imag: complex(decode(real), decode(imag)),
    "dtype": _torch_constant,
    "layout": _torch_constant,
    "memory_format": _torch_constant,
    "device": torch.device,
    "builtin": {"Ellipsis": ..., "NotImplemented": NotImplemented}.__getitem__,
    "enum": _enum,
    "numpy": _numpy,
}


def spell(value: Any) -> str:
    """A constant as one line of JSON: the same line for the same constant."""
    return json.dumps(encode(value))


def name_of(value: Any) -> str:
    """`module:qualname` of a class or function."""
    module = getattr(value, "__module__", None) or "builtins"
    return f"{module}:{getattr(value, '__qualname__', getattr(value, '__name__', '?'))}"


def named(name: str) -> Any:
    """What `module:qualname` names in this process, MISSING if the module is not loaded or has no
    such name."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module, MISSING)
    return functools.reduce(lambda at, part: getattr(at, part, MISSING), path.split("."), found)
