"""Tensors that Python data was made into: `torch.tensor([1, 2])`, `x[i] = 3.0`, `x[[0, 2]]`.

They reach the recorder as `lift_fresh` of a tensor that nobody has seen. It is a constant of the
program only if it was made of Python numbers, which are constants or guarded: as the arguments of
the maker show (trace.watch), or the line of code at which it is made.
"""

from __future__ import annotations

import dis
import math
from types import CodeType, FrameType
from typing import Any

import torch

from tracejit.ir.dtypes import NAME
from tracejit.trace.frames import before, named
from tracejit.trace.recording import Refused

LARGEST = 4096  # elements of a constant that is kept in the graph


def is_plain(data: Any) -> bool:
    """Whether data consists of Python numbers and their like."""
    if isinstance(data, (list, tuple)):
        return all(map(is_plain, data))
    if isinstance(data, dict):
        return all(map(is_plain, data.values()))
    return data is None or type(data) in PLAIN


PLAIN = frozenset({bool, int, float, complex, torch.dtype, torch.device, str})
_SUBSCRIPTS = frozenset({"BINARY_SUBSCR", "STORE_SUBSCR"})
_BYTES: dict[CodeType, bytes] = {}


def from_subscript(frame: FrameType) -> bool:
    """Whether the frame is at `x[…]` or `x[…] = …`: what that makes into a tensor is numbers."""
    code = frame.f_code
    text = _BYTES.get(code)
    if text is None:
        text = _BYTES[code] = code.co_code
    name = dis.opname[text[frame.f_lasti]]
    # From 3.14 on, BINARY_OP with the argument NB_SUBSCR.
    return name in _SUBSCRIPTS or (name == "BINARY_OP" and text[frame.f_lasti + 1] == 26)


def listed(frame: FrameType, tensor: torch.Tensor) -> bool:
    """Whether the frame's line spells `tensor`'s elements as constants, or names a list of numbers
    that has them.

    An index such as `[i, j]` is made into a tensor in C, which reads tensors among its items
    without a trace: so a list that is built of anything but constants does not count.
    """
    lines = [(a, b) for a, b, line in frame.f_code.co_lines() if line == frame.f_lineno]
    steps = [s for s in before(frame) if any(start <= s.offset < end for start, end in lines)]
    found: list[Any] = []
    for k, step in enumerate(steps):
        if step.opname in ("BUILD_LIST", "BUILD_TUPLE") and step.arg:
            parts = steps[max(k - step.arg, 0) : k]
            constant = all(p.opname == "LOAD_CONST" for p in parts)
            if step.opname == "BUILD_LIST" and not constant:
                return False
            found.append([p.argval for p in parts] if constant else None)
        elif step.opname == "LOAD_CONST":
            found.append(step.argval)
        elif step.opname.startswith("LOAD_"):
            found.append(named(frame, steps, k))
    data = tensor.flatten().tolist()
    return any(_numbers(value) == data for value in found)


def _numbers(value: Any) -> list[Any] | None:
    """The numbers in nested lists, tuples and ranges, in order; None for anything else in them."""
    if isinstance(value, (bool, int, float)):
        return [value]
    if not isinstance(value, (list, tuple, range)):
        return None
    parts = [_numbers(part) for part in value]
    return None if None in parts else [n for part in parts for n in part or ()]


def _spelled(number: Any) -> bool:
    """Whether Python reads a complex number's text as that number: not with a zero below zero."""
    parts = (number.real, number.imag)
    return all(math.isfinite(p) and (p or math.copysign(1.0, p) > 0) for p in parts)


def contents(tensor: torch.Tensor) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """The op that makes a constant: `aten.full`, or `tj.constant(data, dtype, sizes)`. Raises
    Refused.
    """
    complex_list = tensor.is_complex() and bool(tensor.shape or not _spelled(tensor.item()))
    if tensor.dtype not in NAME or complex_list or tensor.numel() > LARGEST:
        raise Refused("tensor", f"a constant of {tensor.numel()} elements of {tensor.dtype}")
    if not tensor.shape:
        return "aten.full", ((), tensor.item()), {"dtype": tensor.dtype}
    data = tuple(tensor.flatten().tolist())
    return "tj.constant", (data, NAME[tensor.dtype], tuple(tensor.shape)), {}
